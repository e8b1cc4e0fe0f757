package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"nearsight/registry"
)

// patchType is the media type of the patches of this package: operations have
// op, path and value (Images API v2.1).
const patchType = "application/openstack-images-v2.1-json-patch"

func imagePath(id string) string { return "/v2/images/" + id }

// Create adds an image without data and returns it as the server made it. Of
// img it uses ID (made by the server if ""), Name, Owner, Visibility,
// Protected, Hidden, the formats, MinRAM, MinDisk, Tags and Properties.
// ErrConflict if the id was ever used.
func (c *Client) Create(ctx context.Context, img *registry.Image) (*registry.Image, error) {
	doc, err := newImage(img)
	if err != nil {
		return nil, err
	}
	return readImage(c.call(ctx, http.MethodPost, "/v2/images", "application/json", doc))
}

// Get returns the image id, or ErrNotFound.
func (c *Client) Get(ctx context.Context, id string) (*registry.Image, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return readImage(c.call(ctx, http.MethodGet, imagePath(id), "", nil))
}

// Delete removes the image id for good; its id cannot be used again.
// ErrForbidden if it is protected.
func (c *Client) Delete(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	_, err := c.call(ctx, http.MethodDelete, imagePath(id), "", nil)
	return err
}

// AddTag gives the image a tag. It is no error if it had it.
func (c *Client) AddTag(ctx context.Context, id, tag string) error {
	return c.tag(ctx, http.MethodPut, id, tag)
}

// RemoveTag takes a tag from the image. ErrNotFound if it had none such.
func (c *Client) RemoveTag(ctx context.Context, id, tag string) error {
	return c.tag(ctx, http.MethodDelete, id, tag)
}

func (c *Client) tag(ctx context.Context, method, id, tag string) error {
	if err := checkID(id); err != nil {
		return err
	}
	name, err := segment("tag", tag)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, method, imagePath(id)+"/tags/"+name, "", nil)
	return err
}

// A Change is one operation of a Patch. Set and Unset make them.
type Change struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitzero"`
}

// Set gives a field or custom property a value, whether it had one or not.
// Names are those of the API, such as min_disk.
func Set(name string, value any) Change {
	if value == nil {
		value = json.RawMessage("null")
	}
	return Change{Op: "add", Path: pointer(name), Value: value}
}

// Unset removes a custom property. A Patch that removes one which is not there
// fails with ErrConflict.
func Unset(property string) Change {
	return Change{Op: "remove", Path: pointer(property)}
}

// pointer returns the JSON pointer to a member (RFC 6901).
func pointer(name string) string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// Patch makes all the changes, in order, or none, and returns the new record.
func (c *Client) Patch(ctx context.Context, id string, changes ...Change) (*registry.Image, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	doc, err := json.Marshal(append([]Change{}, changes...)) // [] for none, not null
	if err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	return readImage(c.call(ctx, http.MethodPatch, imagePath(id), patchType, doc))
}

// List yields the images that match q, in q's order, page by page. q.Limit is
// the length of a page, 0 leaves it to the server: whoever wants fewer images
// stops the loop. After an error it yields nothing more. q.Digests is not
// something that the API can ask for, and q.Caller is who has the client's token.
func (c *Client) List(ctx context.Context, q registry.Query) iter.Seq2[*registry.Image, error] {
	return func(yield func(*registry.Image, error) bool) {
		values, err := queryValues(q)
		if err != nil {
			yield(nil, err)
			return
		}
		pages(values, yield, func(query string) ([]*registry.Image, string, error) { return c.page(ctx, query) })
	}
}

// page fetches one page and returns the link to the next, "" if it is the last.
func (c *Client) page(ctx context.Context, query string) (images []*registry.Image, next string, err error) {
	body, err := c.call(ctx, http.MethodGet, withQuery("/v2/images", query), "", nil)
	if err != nil {
		return nil, "", err
	}
	var list struct {
		Images []json.RawMessage `json:"images"`
		Next   string            `json:"next"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, "", fmt.Errorf("%w: list: %w", errAnswer, err)
	}
	for _, raw := range list.Images {
		img, err := readImage(raw, nil)
		if err != nil {
			return nil, "", err
		}
		images = append(images, img)
	}
	return images, list.Next, nil
}

// notFilters are query parameters that are no filters by property.
var notFilters = []string{
	"limit", "marker", "sort", "sort_key", "sort_dir", "member_status", "tag", "changes-since",
	"size_min", "size_max", "min_ram_min", "min_ram_max", "min_disk_min", "min_disk_max",
}

// queryValues writes q as the query string of a list.
func queryValues(q registry.Query) (url.Values, error) {
	v := url.Values{}
	for _, m := range q.Match {
		value, err := matchValue(m)
		if err != nil {
			return nil, err
		}
		v.Add(m.Column, value)
	}
	for _, b := range q.Bounds {
		if b.Min != nil {
			v.Add(b.Column+"_min", strconv.FormatInt(*b.Min, 10))
		}
		if b.Max != nil {
			v.Add(b.Column+"_max", strconv.FormatInt(*b.Max, 10))
		}
	}
	for _, t := range q.Times {
		v.Add(t.Column, t.Op+":"+t.Time.UTC().Format(time.RFC3339))
	}
	for name, value := range q.Properties {
		if slices.Contains(notProperties, name) || slices.Contains(notFilters, name) {
			return nil, fmt.Errorf("list: %w: %q is not a custom property", registry.ErrInvalid, name)
		}
		v.Set(name, value)
	}
	if len(q.Digests) > 0 {
		return nil, fmt.Errorf("list: %w: the API has no filter by digest", registry.ErrInvalid)
	}
	if q.Visibility != "" {
		v.Set("visibility", string(q.Visibility))
	}
	if q.MemberStatus != "" {
		v.Set("member_status", string(q.MemberStatus))
	}
	if q.Hidden != nil {
		v.Set("os_hidden", strconv.FormatBool(*q.Hidden))
	}
	if q.Protected != nil {
		v.Set("protected", strconv.FormatBool(*q.Protected))
	}
	for _, tag := range q.Tags {
		v.Add("tag", tag)
	}
	var order []string
	for _, o := range q.Sort {
		order = append(order, o.Key+":"+direction(o))
	}
	if len(order) > 0 {
		v.Set("sort", strings.Join(order, ","))
	}
	if q.Marker != "" {
		v.Set("marker", q.Marker)
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v, nil
}

func direction(o registry.Order) string {
	if o.Desc {
		return "desc"
	}
	return "asc"
}

// matchValue writes the values of a Match. The operator is always written where
// there is one, because a colon in a bare value would be read as such.
func matchValue(m registry.Match) (string, error) {
	switch m.Column {
	case "name", "id", "status", "disk_format", "container_format":
		if len(m.Values) == 1 {
			return "eq:" + m.Values[0], nil
		}
		quoted := make([]string, len(m.Values))
		for i, s := range m.Values {
			quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
		}
		return "in:" + strings.Join(quoted, ","), nil
	}
	if len(m.Values) != 1 {
		return "", fmt.Errorf("list: %w: the API takes one value for %s", registry.ErrInvalid, m.Column)
	}
	return m.Values[0], nil
}
