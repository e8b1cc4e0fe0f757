package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"nearsight/origin"
	"nearsight/registry"
)

// Upload stores r as the data of the queued image id. size is its length in
// bytes, or -1 if that is unknown; an r of another length is an error, and
// nothing is stored then. The server is asked before a byte is read from r, so
// that a refusal costs nothing.
//
// ErrConflict if the image is not queued, ErrInvalid if it lacks a format,
// ErrTooLarge if there is a limit or no room. Errors of r are wrapped. Upload
// does not close r, and after an error a last Read of r may still be under way.
func (c *Client) Upload(ctx context.Context, id string, r io.Reader, size int64) error {
	return c.upload(ctx, "", id, r, size)
}

// upload is UploadTo; store may be "".
func (c *Client) upload(ctx context.Context, store, id string, r io.Reader, size int64) error {
	if err := checkID(id); err != nil {
		return err
	}
	body := &uploadBody{r: r, left: size}
	stream := newInterruptible(body)
	defer stream.Close()
	// Else a cancelled request would wait for an r that brings nothing.
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	if size == 0 {
		if err := body.wantEnd(); err != nil {
			return fmt.Errorf("upload: %w", err)
		}
	}
	req, err := c.request(ctx, http.MethodPut, imagePath(id)+"/file", stream)
	if err != nil {
		return err
	}
	if size == 0 {
		req.Body = http.NoBody // with another body a length of 0 would mean an unknown one
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if store != "" {
		req.Header.Set("X-Image-Meta-Store", store)
	}
	if size != 0 {
		req.Header.Set("Expect", "100-continue")
	}
	if size >= 0 {
		req.ContentLength = size
		req.Header.Set("X-Openstack-Image-Size", strconv.FormatInt(size, 10))
	}
	resp, err := c.send(req)
	ended, readErr := body.outcome()
	var refused *Error
	switch {
	case err == nil:
		resp.Body.Close()
		if !ended && size != 0 {
			return fmt.Errorf("upload: %w: it did not wait for all bytes", errAnswer)
		}
		return nil
	case readErr != nil && !errors.As(err, &refused):
		return fmt.Errorf("upload: %w", readErr) // else it would look like the server's fault
	}
	return fmt.Errorf("upload: %w", err)
}

// An uploadBody reads exactly as many bytes as were announced and remembers why
// it could not.
type uploadBody struct {
	r    io.Reader
	left int64 // bytes still to come; -1: any number

	mu    sync.Mutex // the transport may still read when its request has ended
	ended bool       // r was read to its end
	err   error      // what r failed with
}

func (b *uploadBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		n, err := b.r.Read(p)
		return n, b.note(err)
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0 && (err == nil || err == io.EOF):
		// The last bytes go out only when they are the last: a body that got
		// its announced length is stored.
		if err := b.wantEnd(); err != nil {
			return 0, b.note(err)
		}
		return n, b.note(io.EOF)
	case err == io.EOF:
		err = fmt.Errorf("%d bytes fewer than announced: %w", b.left, io.ErrUnexpectedEOF)
	}
	return n, b.note(err)
}

// wantEnd checks that there is nothing more.
func (b *uploadBody) wantEnd() error {
	var one [1]byte
	switch n, err := io.ReadFull(b.r, one[:]); {
	case n > 0:
		return fmt.Errorf("%w: more bytes than announced", registry.ErrInvalid)
	case err != io.EOF:
		return err
	}
	return nil
}

func (b *uploadBody) note(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch err {
	case nil:
	case io.EOF:
		b.ended = true
	default:
		b.err = err
	}
	return err
}

func (b *uploadBody) outcome() (ended bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended, b.err
}

// An interruptible is a body whose Close ends a Read that is under way, as the
// transport expects it of bodies.
type interruptible struct {
	r     io.Reader
	begin sync.Once
	out   *io.PipeReader
	in    *io.PipeWriter
}

func newInterruptible(r io.Reader) *interruptible {
	out, in := io.Pipe()
	return &interruptible{r: r, out: out, in: in}
}

// Read reads from r, which nobody touches before the first Read.
func (i *interruptible) Read(p []byte) (int, error) {
	i.begin.Do(func() {
		go func() {
			_, err := io.CopyBuffer(i.in, i.r, make([]byte, copyBuffer))
			i.in.CloseWithError(err)
		}()
	})
	return i.out.Read(p)
}

func (i *interruptible) Close() error { return i.out.Close() }

// A Range says which bytes of an image to download. The zero Range is all.
type Range struct {
	// Offset is the first byte. Length is the number of bytes, 0 means all
	// that follow; what lies beyond the end is left out.
	Offset, Length int64
	// ETag, if not empty, is the version that the bytes must belong to, in
	// the form of an ETag field.
	ETag string
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
	req, err := c.request(ctx, http.MethodGet, imagePath(id)+"/file", nil)
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
