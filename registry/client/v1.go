package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"nearsight/registry"
)

// A V1 speaks the Images API v1, as the Client class of 2011 did: records travel in
// headers, and data with them. It is safe for concurrent use.
//
// Errors are as of Client. Those of 2011 had other names: Invalid is
// registry.ErrInvalid, NotAuthorized registry.ErrForbidden (ErrUnauthorized if it is
// for want of a token), NotFound and Duplicate registry.ErrNotFound and ErrConflict,
// ClientConnectionError registry.ErrUnavailable. The calls of that class for the cache
// are Client's that begin with GlanceCache.
type V1 struct{ c *Client }

// NewV1 returns a client for opt.Server. It does not connect.
func NewV1(opt Options) (*V1, error) {
	c, err := New(opt)
	if err != nil {
		return nil, err
	}
	return &V1{c}, nil
}

// Close closes the connections that are idle. The client can still be used.
func (v *V1) Close() { v.c.Close() }

// A V1Image is an image as the API of 2011 knows it. Pointers are nil for what is
// unknown or is not to be changed.
type V1Image struct {
	ID, Name                    string
	Status                      registry.Status // the server's to say
	Size                        *int64          // in bytes
	DiskFormat, ContainerFormat string
	Public, Protected           *bool
	MinRAM, MinDisk             *int   // MiB, GiB
	Owner                       string // admins may set it
	Checksum                    string // MD5 in hex; sent along, the server compares it
	// Location is where the data is: to register an image, and told by registries.
	Location string
	// CopyFrom is a URL that the server is to fetch the data from, and Store the
	// store that it shall put it in. They are in requests alone.
	CopyFrom, Store string
	Properties      map[string]string // names in lower case, without -

	// URI is in lists. The rest is the server's to say: times are UTC, zero for none.
	URI                             string
	Deleted                         bool
	CreatedAt, UpdatedAt, DeletedAt time.Time
}

// A V1Query says which images are listed, in what order. The zero value is all that
// the caller has listed without asking, newest first.
type V1Query struct {
	// Filters by name: name, status, container_format, disk_format, size_min,
	// size_max, min_ram, min_disk, is_public, protected, changes-since, and
	// property-NAME.
	Filters map[string]string
	SortKey string // id, name, status, disk_format, container_format, size, created_at, updated_at
	SortDir string // asc or desc
	Marker  string // the id of the image before the first one
	Limit   int    // length of a page; 0 leaves it to the server
}

func (q V1Query) values() url.Values {
	v := url.Values{}
	for name, value := range q.Filters {
		v.Set(name, value)
	}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("sort_key", q.SortKey)
	set("sort_dir", q.SortDir)
	set("marker", q.Marker)
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

const v1Images = "/v1/images"

// Images yields the images that match q, with few of their fields, page by page: whoever
// wants fewer stops the loop. After an error it yields nothing more.
func (v *V1) Images(ctx context.Context, q V1Query) iter.Seq2[*V1Image, error] {
	return v.c.v1List(ctx, v1Images, q)
}

// ImagesDetailed is Images with all fields.
func (v *V1) ImagesDetailed(ctx context.Context, q V1Query) iter.Seq2[*V1Image, error] {
	return v.c.v1List(ctx, v1Images+"/detail", q)
}

// v1List yields the pages of a list, which name no next one: it comes after the last
// image, until there is none. Servers of early 2011 have no pages, and always
// answer the same.
func (c *Client) v1List(ctx context.Context, path string, q V1Query) iter.Seq2[*V1Image, error] {
	return func(yield func(*V1Image, error) bool) {
		for first := ""; ; {
			var list struct {
				Images []*wireV1 `json:"images"`
			}
			if err := c.getJSON(ctx, withQuery(path, q.values().Encode()), &list); err != nil {
				yield(nil, err)
				return
			}
			for i, w := range list.Images {
				img, err := w.image()
				if err != nil {
					yield(nil, err)
					return
				}
				if i == 0 && img.ID == first {
					return
				} else if i == 0 {
					first = img.ID
				}
				if !yield(img, nil) {
					return
				}
				q.Marker = img.ID
			}
			if len(list.Images) == 0 {
				return
			}
		}
	}
}

// Image returns an image and its data, which the caller closes. id may be a URI that
// ends in /images/ID. The data is compared with the checksum, if there is one: the
// last Read gives ErrIntegrity then instead of io.EOF.
func (v *V1) Image(ctx context.Context, id string) (*V1Image, io.ReadCloser, error) {
	path, err := v1Path(v1Images, id)
	if err != nil {
		return nil, nil, err
	}
	req, err := v.c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/octet-stream, application/json;q=0.9")
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := v.c.send(req)
	if err != nil {
		return nil, nil, err
	}
	img, err := readV1Header(resp.Header)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = unusable("its status is %d", resp.StatusCode)
	}
	if err != nil {
		resp.Body.Close()
		return nil, nil, err
	}
	if img.Checksum == "" {
		return img, resp.Body, nil
	}
	return img, newCheckedBody(resp.Body, img.Checksum), nil
}

// ImageMeta returns an image without its data.
func (v *V1) ImageMeta(ctx context.Context, id string) (*V1Image, error) {
	path, err := v1Path(v1Images, id)
	if err != nil {
		return nil, err
	}
	a, err := v.c.exchange(ctx, message{method: http.MethodHead, path: path})
	if err != nil {
		return nil, err
	}
	return readV1Header(a.header)
}

// AddImage adds an image and returns it as the server made it. img may be nil. data is what it
// holds, nil for none: then it is at img.Location or img.CopyFrom, or the image stays
// queued until UpdateImage brings it. img.Size says how long data is, nil that this is
// unknown; another length is an error.
//
// The server sees the record before the data, so a refusal may come before data is
// read. ErrConflict if the id is taken. After any other error there may be an image
// that is killed.
func (v *V1) AddImage(ctx context.Context, img *V1Image, data io.Reader) (*V1Image, error) {
	header, err := v1Header(img)
	if err != nil {
		return nil, err
	}
	return v.sendImage(ctx, http.MethodPost, v1Images, header, img, data)
}

// UpdateImage changes what is set of img, and returns the image. purge removes the
// properties that img has not. A queued image can be given its data, as by AddImage;
// ErrConflict if another one is.
func (v *V1) UpdateImage(ctx context.Context, id string, img *V1Image, data io.Reader, purge bool) (*V1Image, error) {
	path, err := v1Path(v1Images, id)
	if err != nil {
		return nil, err
	}
	header, err := v1Header(img)
	if err != nil {
		return nil, err
	}
	header.Set("X-Glance-Registry-Purge-Props", strconv.FormatBool(purge))
	return v.sendImage(ctx, http.MethodPut, path, header, img, data)
}

// sendImage sends a record, with data unless that is nil, and reads the record that
// comes back.
func (v *V1) sendImage(ctx context.Context, method, path string, header http.Header, img *V1Image, data io.Reader) (*V1Image, error) {
	if data == nil {
		a, err := v.c.exchange(ctx, message{method: method, path: path, fields: header})
		if err != nil {
			return nil, err
		}
		return readV1Image(a.body)
	}
	req, err := v.c.request(ctx, method, path, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	length := int64(-1)
	if img != nil && img.Size != nil {
		length = *img.Size
	}
	_, resp, err := v.c.transmit(req, data, length, rewinder(data))
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, v.c.transportError(ctx, err)
	}
	return readV1Image(body)
}

// DeleteImage removes an image for good. ErrForbidden if it is protected.
func (v *V1) DeleteImage(ctx context.Context, id string) error {
	path, err := v1Path(v1Images, id)
	if err != nil {
		return err
	}
	_, err = v.c.call(ctx, http.MethodDelete, path, "", nil)
	return err
}

// v1Path returns the path of an image. Ids of 2011 are numbers, those of later UUIDs.
func v1Path(below, id string) (string, error) {
	if _, rest, ok := strings.Cut(id, "/images/"); ok {
		id = rest
	}
	if id == "" || len(id) > 255 || strings.ContainsFunc(id, func(r rune) bool { return !isWord(r) }) {
		return "", fmt.Errorf("%.80q is no image id: %w", id, registry.ErrNotFound)
	}
	return below + "/" + id, nil
}

func isWord(r rune) bool {
	return r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// readV1Image reads {"image": {...}}.
func readV1Image(body []byte) (*V1Image, error) {
	var doc struct {
		Image *wireV1 `json:"image"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("%w: image: %w", errAnswer, err)
	}
	return doc.Image.image()
}
