package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"nearsight/origin"
	"nearsight/registry"
)

// A Range says which bytes of an image to download. The zero Range is all.
type Range struct {
	// Offset is the first byte. Length is the number of bytes, 0 means all
	// that follow; what lies beyond the end is left out.
	Offset, Length int64
	// ETag, if not empty, is the version that the bytes must belong to, in
	// the form of an ETag field.
	ETag string
	// Prefer names stores, in the order in which what is not cached is read from
	// them. ErrInvalid if the server has none such.
	Prefer []string
	// View, if not empty, is the name of a view to download instead of the data.
	View string
}

// Download returns bytes of the image id. Of the object, Info.Validator is the
// ETag, Info.Size the length of the image, and Offset and Length say what Body
// holds. A server may answer a range with the whole image (RFC 9110, section
// 14.2): the caller compares Offset. A body that is cut yields an error, never
// io.EOF. The caller closes it, and cancelling ctx ends it.
//
// ErrConflict if there is no data yet; origin.ErrChanged if the data is not the
// version r.ETag; ErrUnavailable also for an answer that contradicts itself or
// the request.
func (c *Client) Download(ctx context.Context, id string, r Range) (*origin.Object, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if r.Offset < 0 || r.Length < 0 {
		return nil, fmt.Errorf("download: %w: %d bytes from offset %d", registry.ErrInvalid, r.Length, r.Offset)
	}
	query := url.Values{}
	if len(r.Prefer) > 0 {
		query.Set("prefer", strings.Join(r.Prefer, ","))
	}
	path := imagePath(id) + "/file"
	if r.View != "" {
		path += "/" + url.PathEscape(r.View)
	}
	req, err := c.request(ctx, http.MethodGet, withQuery(path, query.Encode()), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/octet-stream, application/json;q=0.9")
	req.Header.Set("Accept-Encoding", "identity")
	if r.ETag != "" {
		req.Header.Set("If-Match", r.ETag)
	}
	switch {
	case r.Length > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.Offset, r.Offset+r.Length-1))
	case r.Offset > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.Offset))
	}
	resp, err := c.send(req)
	if err != nil {
		var e *Error
		if errors.As(err, &e) && e.Status == http.StatusPreconditionFailed {
			err = fmt.Errorf("%w: %w", origin.ErrChanged, err)
		}
		return nil, fmt.Errorf("download: %w", err)
	}
	obj, err := c.object(resp, r)
	if err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("download: %w", err)
	}
	return obj, nil
}

// object checks a 2xx answer to a download against its request.
func (c *Client) object(resp *http.Response, r Range) (*origin.Object, error) {
	obj := &origin.Object{Body: resp.Body}
	obj.Validator = resp.Header.Get("ETag")
	obj.ModTime, _ = http.ParseTime(resp.Header.Get("Last-Modified")) // zero if there is none
	switch {
	case resp.StatusCode == http.StatusNoContent:
		return nil, &Error{Status: http.StatusNoContent, Message: "the image has no data yet"}
	case resp.ContentLength < 0:
		return nil, unusable("it does not say how many bytes follow")
	case resp.StatusCode == http.StatusOK:
		obj.Size, obj.Length = resp.ContentLength, resp.ContentLength
	case resp.StatusCode == http.StatusPartialContent:
		if err := readContentRange(resp.Header.Get("Content-Range"), obj); err != nil {
			return nil, err
		}
		want := obj.Size - r.Offset
		if r.Length > 0 {
			want = min(want, r.Length)
		}
		if obj.Offset != r.Offset || obj.Length != want {
			return nil, unusable("it holds %d bytes from %d, and %d from %d were asked for", obj.Length, obj.Offset, want, r.Offset)
		}
		if resp.ContentLength != obj.Length {
			return nil, unusable("its Content-Range means %d bytes and its Content-Length %d", obj.Length, resp.ContentLength)
		}
	default:
		return nil, unusable("its status is %d", resp.StatusCode)
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, unusable("it is coded as %.40q", coding)
	}
	switch {
	case r.ETag == "" || obj.Validator == r.ETag:
	case obj.Validator == "":
		return nil, unusable("it does not say which version it is")
	default:
		return nil, fmt.Errorf("%w: it is %.80s now and was %.80s", origin.ErrChanged, obj.Validator, r.ETag)
	}
	return obj, nil
}

// unusable is an error about an answer that another try may not repeat.
func unusable(format string, args ...any) error {
	return &unavailable{"the answer cannot be used: " + fmt.Sprintf(format, args...), nil}
}

// readContentRange reads "bytes FIRST-LAST/SIZE" (RFC 9110, section 14.4).
func readContentRange(field string, obj *origin.Object) error {
	spec, ok := strings.CutPrefix(field, "bytes ")
	span, total, ok2 := strings.Cut(spec, "/")
	from, to, ok3 := strings.Cut(span, "-")
	first, err1 := strconv.ParseUint(from, 10, 63)
	last, err2 := strconv.ParseUint(to, 10, 63)
	size, err3 := strconv.ParseUint(total, 10, 63)
	if !ok || !ok2 || !ok3 || err1 != nil || err2 != nil || err3 != nil || first > last || last >= size {
		return unusable("its Content-Range is %.80q", field)
	}
	obj.Size, obj.Offset, obj.Length = int64(size), int64(first), int64(last-first)+1
	return nil
}
