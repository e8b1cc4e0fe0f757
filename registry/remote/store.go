package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// Kind and Name are those of the store of a Central in an origin.Set.
const (
	Kind = "nearsight"
	Name = "central"
)

const (
	centralPrefix = Kind + "://" + Name + "/"
	maxRetryAfter = 24 * time.Hour
)

// Store returns the image data that the central serves, as an origin.Store. A location is
// nearsight://central/IMAGE_ID, and its validator the entity tag of the data, without its
// quotes: the digest.
//
// An error that wraps origin.ErrUnavailable may have the method RetryAfter()
// time.Duration, for errors.As: how long the central asked to be left alone, or 0.
func (c *Central) Store() origin.Store { return &store{c} }

type store struct{ central *Central }

// Stat implements origin.Store.
func (s *store) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	id, err := imageAt(loc)
	if err != nil {
		return origin.Info{}, fmt.Errorf("stat: %w", err)
	}
	info, err := s.stat(ctx, id, loc.Validator)
	if err != nil {
		return origin.Info{}, fmt.Errorf("stat %s: %w", loc.URL, err)
	}
	return info, nil
}

// Open implements origin.Store. A negative offset is served as 0, and says so.
func (s *store) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	id, err := imageAt(loc)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	o, err := s.open(ctx, id, loc.Validator, max(off, 0), n)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", loc.URL, err)
	}
	return o, nil
}

// imageAt returns the id in a location of ours.
func imageAt(loc origin.Location) (string, error) {
	id, ours := strings.CutPrefix(loc.URL, centralPrefix)
	if !ours || !registry.ValidID(id) {
		return "", fmt.Errorf("%w: it is not of the form %sIMAGE_ID", origin.ErrLocation, centralPrefix)
	}
	if strings.ContainsFunc(loc.Validator, func(c rune) bool { return c <= ' ' || c == '"' || c >= 0x7f }) {
		return "", fmt.Errorf("%w: the validator is no entity tag", origin.ErrLocation)
	}
	return id, nil
}

func (s *store) stat(ctx context.Context, id, validator string) (origin.Info, error) {
	resp, err := s.ask(ctx, http.MethodHead, id, validator, "")
	if err != nil {
		return origin.Info{}, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return origin.Info{}, badData("it answers %d", resp.StatusCode)
	}
	return describe(resp, validator, resp.ContentLength)
}

func (s *store) open(ctx context.Context, id, validator string, off, n int64) (*origin.Object, error) {
	if n == 0 { // no range says so
		return s.nothing(ctx, id, validator, off)
	}
	ranges := ""
	if off > 0 || n > 0 {
		ranges = byteRange(off, n)
	}
	resp, err := s.ask(ctx, http.MethodGet, id, validator, ranges)
	if err != nil {
		return nil, err
	}
	o, err := object(ctx, resp, validator)
	if err != nil || o == nil {
		resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	if o == nil {
		o, err := s.nothing(ctx, id, validator, off)
		if err == nil && off < o.Size {
			return nil, badData("it has %d bytes and refuses those from %d on", o.Size, off)
		}
		return o, err
	}
	return o, nil
}

// nothing returns no bytes at off.
func (s *store) nothing(ctx context.Context, id, validator string, off int64) (*origin.Object, error) {
	info, err := s.stat(ctx, id, validator)
	if err != nil {
		return nil, err
	}
	return &origin.Object{Info: info, Offset: off, Body: http.NoBody}, nil
}

// byteRange is the Range field for n bytes from off on; n < 0 means all.
func byteRange(off, n int64) string {
	s := "bytes=" + strconv.FormatInt(off, 10) + "-"
	if n < 0 || n-1 > math.MaxInt64-off {
		return s
	}
	return s + strconv.FormatInt(off+n-1, 10)
}

// ask sends a request for the data of an image. The answer, whose body the caller
// closes, is 200, 206 or 416.
func (s *store) ask(ctx context.Context, method, id, validator, ranges string) (*http.Response, error) {
	c := s.central
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	req, err := c.newRequest(ctx, method, "/v2/images/"+id+"/file", "", nil)
	if err != nil {
		return nil, badData("%v", err)
	}
	if validator != "" {
		req.Header.Set("If-Match", `"`+validator+`"`)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, cut(ctx, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone, http.StatusNoContent: // the last: no data yet
		return nil, fmt.Errorf("%w: the central answers %d", origin.ErrNotFound, resp.StatusCode)
	case http.StatusPreconditionFailed:
		return nil, fmt.Errorf("%w: the central answers %d", origin.ErrChanged, resp.StatusCode)
	}
	return nil, &refused{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"))}
}

// object makes one of an answer, nil for one that there is no such range.
func object(ctx context.Context, resp *http.Response, validator string) (*origin.Object, error) {
	length := resp.ContentLength
	o := &origin.Object{Length: length}
	size := length
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return nil, nil
	case http.StatusPartialContent:
		fields := resp.Header.Values("Content-Range")
		if len(fields) != 1 {
			return nil, badData("a part of the data that is not one range")
		}
		first, n, total, err := parseContentRange(fields[0])
		if err != nil || length >= 0 && length != n {
			return nil, badData("%d bytes for Content-Range: %.80q", length, fields[0])
		}
		o.Offset, o.Length, size = first, n, total
	}
	var err error
	if o.Info, err = describe(resp, validator, size); err != nil {
		return nil, err
	}
	o.Body = &body{ctx: ctx, r: resp.Body, left: o.Length}
	return o, nil
}

// describe says what an answer is about, if it is what the validator names. The central
// knows how much there is.
func describe(resp *http.Response, validator string, size int64) (origin.Info, error) {
	info := origin.Info{Size: size, Validator: tagOf(resp.Header.Get("Etag"))}
	switch coding := resp.Header.Get("Content-Encoding"); {
	case validator != "" && info.Validator != validator:
		return origin.Info{}, fmt.Errorf("%w: entity tag %.80q, not %.80q", origin.ErrChanged, info.Validator, validator)
	case coding != "" && coding != "identity":
		return origin.Info{}, badData("the data comes in encoding %.40q, which was not asked for", coding)
	case size < 0:
		return origin.Info{}, badData("the answer has no length")
	}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		info.ModTime = t.UTC()
	}
	return info, nil
}

// tagOf returns the text of a strong entity tag (RFC 9110, section 8.8.3), "" for what is
// none.
func tagOf(field string) string {
	if len(field) < 2 || field[0] != '"' || field[len(field)-1] != '"' {
		return ""
	}
	tag := field[1 : len(field)-1]
	if strings.ContainsFunc(tag, func(c rune) bool { return c <= ' ' || c == '"' || c >= 0x7f }) {
		return ""
	}
	return tag
}

// parseContentRange reads the field for n bytes from first on of size, which the central
// always knows (RFC 9110, section 14.4).
func parseContentRange(s string) (first, n, size int64, err error) {
	bad := errors.New("bad Content-Range")
	span, total, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	from, to, ok2 := strings.Cut(span, "-")
	if !strings.HasPrefix(s, "bytes ") || !ok || !ok2 {
		return 0, 0, 0, bad
	}
	var numbers [3]int64
	for i, text := range []string{from, to, total} {
		u, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return 0, 0, 0, bad
		}
		numbers[i] = int64(u)
	}
	first, last, size := numbers[0], numbers[1], numbers[2]
	if last < first || last >= size {
		return 0, 0, 0, bad
	}
	return first, last - first + 1, size, nil
}

// A body yields exactly left bytes of r.
type body struct {
	ctx  context.Context
	r    io.ReadCloser
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.left == 0 { // the end of the answer gives its connection back
		n, err := io.ReadFull(b.r, make([]byte, 1))
		if n > 0 {
			err = badData("more data than it said")
		}
		return 0, b.failed(err)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, b.failed(err)
}

func (b *body) failed(err error) error {
	switch {
	case err == nil, err == io.EOF:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	return cut(b.ctx, err)
}

// Close ends the transfer, if it still goes on, together with its connection.
func (b *body) Close() error { return b.r.Close() }

// A refused is an answer without data.
type refused struct {
	status int
	after  time.Duration
}

func (e *refused) Error() string {
	why := http.StatusText(e.status)
	if e.status == http.StatusUnauthorized || e.status == http.StatusForbidden {
		why = "it takes us for no node"
	}
	return fmt.Sprintf("%v: the central answers %d (%s)", origin.ErrUnavailable, e.status, why)
}

func (e *refused) Unwrap() error { return origin.ErrUnavailable }

// RetryAfter is how long the central asked to be left alone; 0 if it does not.
func (e *refused) RetryAfter() time.Duration { return e.after }

// retryAfter reads the seconds of a Retry-After field, which is all that a central sends.
func retryAfter(field string) time.Duration {
	n, err := strconv.ParseUint(field, 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}

// badData is the error of an answer that cannot be used.
func badData(format string, args ...any) error {
	return fmt.Errorf("%w: central: "+format, append([]any{origin.ErrUnavailable}, args...)...)
}

// cut makes an error of one of the transport.
func cut(ctx context.Context, err error) error {
	if end := ctx.Err(); end != nil {
		return end
	}
	if errors.Is(err, origin.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: central: %v", origin.ErrUnavailable, err)
}
