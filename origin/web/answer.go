package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"nearsight/origin"
)

const (
	// modifiedPrefix begins a validator that is a Last-Modified field; that of
	// an ETag is a quote.
	modifiedPrefix = "modified:"
	// maxSkip bytes are read and dropped to get at an offset of a server without
	// ranges. Further on it would be a second download.
	maxSkip = 1 << 20
	// maxRetryAfter bounds what a server may ask for.
	maxRetryAfter = 24 * time.Hour
)

// isStrong says whether v is a strong entity tag (RFC 9110, section 8.8.3).
func isStrong(v string) bool {
	if len(v) < 2 || v[0] != '"' || v[len(v)-1] != '"' {
		return false
	}
	for _, c := range []byte(v[1 : len(v)-1]) {
		if c <= ' ' || c == '"' || c == 0x7f {
			return false
		}
	}
	return true
}

// validatorOf returns the validator of an answer, of the same kind as recorded if
// the answer has that.
func validatorOf(h http.Header, recorded string) string {
	modified := h.Get("Last-Modified")
	if _, err := http.ParseTime(modified); err != nil {
		modified = ""
	}
	if etag := h.Get("Etag"); isStrong(etag) && (modified == "" || !strings.HasPrefix(recorded, modifiedPrefix)) {
		return etag
	}
	if modified != "" {
		return modifiedPrefix + modified
	}
	return ""
}

// describe says what the answer is about, if it is what recorded names. An answer
// that names nothing is about something else.
func describe(resp *http.Response, recorded string) (origin.Info, error) {
	info := origin.Info{Size: resp.ContentLength, Validator: validatorOf(resp.Header, recorded)}
	if recorded != "" && info.Validator != recorded {
		return origin.Info{}, fmt.Errorf("%w: validator %.200q, not %.200q", origin.ErrChanged, info.Validator, recorded)
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return origin.Info{}, oddAnswer("the data comes in encoding %.40q, which was not asked for", coding)
	}
	if resp.StatusCode == http.StatusOK && resp.Request.Method == http.MethodGet &&
		resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
		return origin.Info{}, oddAnswer("neither a length nor chunks: data that was cut would look whole")
	}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		info.ModTime = t.UTC()
	}
	return info, nil
}

// describeEmpty does so for an answer of 416 to a request for the first byte: there
// is none. Servers leave the validator out of it, so that of HEAD counts.
func describeEmpty(resp *http.Response, recorded string, head origin.Info) (origin.Info, error) {
	if field := resp.Header.Get("Content-Range"); field != "" {
		if p, err := parseContentRange(field); err != nil || p.length > 0 || p.size != 0 {
			return origin.Info{}, oddAnswer("there is no first byte, but Content-Range: %.80q", field)
		}
	}
	if head.Size == 0 {
		return head, nil
	}
	info, err := describe(resp, recorded)
	info.Size = 0
	return info, err
}

// describePart does so for an answer of 206, whose length is that of the part.
func describePart(resp *http.Response, recorded string) (origin.Info, contentRange, error) {
	info, err := describe(resp, recorded)
	if err != nil {
		return info, contentRange{}, err
	}
	fields := resp.Header.Values("Content-Range")
	if len(fields) != 1 || strings.HasPrefix(strings.ToLower(resp.Header.Get("Content-Type")), "multipart/byteranges") {
		return origin.Info{}, contentRange{}, oddAnswer("a part of the data that is not one range")
	}
	p, err := parseContentRange(fields[0])
	if err != nil || p.length == 0 {
		return origin.Info{}, contentRange{}, oddAnswer("a part of the data with Content-Range: %.80q", fields[0])
	}
	if resp.ContentLength >= 0 && resp.ContentLength != p.length {
		return origin.Info{}, contentRange{}, oddAnswer("%d bytes for Content-Range: %.80q", resp.ContentLength, fields[0])
	}
	info.Size = p.size
	return info, p, nil
}

// A contentRange is a Content-Range field: length bytes from first on of size. An
// unknown size is -1. It is unsatisfied if length is 0.
type contentRange struct{ first, length, size int64 }

var errContentRange = errors.New("bad Content-Range")

// parseContentRange reads the field as RFC 9110, section 14.4, has it.
func parseContentRange(s string) (contentRange, error) {
	unit, rest, _ := strings.Cut(s, " ")
	span, total, ok := strings.Cut(rest, "/")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return contentRange{}, errContentRange
	}
	size := int64(-1)
	if total != "*" {
		var err error
		if size, err = parseCount(total); err != nil {
			return contentRange{}, err
		}
	}
	if span == "*" {
		if size < 0 {
			return contentRange{}, errContentRange
		}
		return contentRange{size: size}, nil
	}
	from, to, _ := strings.Cut(span, "-")
	first, err := parseCount(from)
	if err != nil {
		return contentRange{}, err
	}
	last, err := parseCount(to)
	if err != nil || last < first || last-first+1 <= 0 || size >= 0 && last >= size {
		return contentRange{}, errContentRange
	}
	return contentRange{first, last - first + 1, size}, nil
}

// parseCount reads digits; a sign is none.
func parseCount(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, errContentRange
	}
	return int64(n), nil
}

// part is the Object of an answer of 206, whatever was asked.
func part(ctx context.Context, resp *http.Response, r *request) (*origin.Object, error) {
	info, p, err := describePart(resp, r.validator)
	if err != nil {
		return nil, err
	}
	b := &body{ctx: ctx, url: r.url, r: resp.Body, left: p.length, exact: true}
	return &origin.Object{Info: info, Offset: p.first, Length: p.length, Body: b}, nil
}

// whole is the Object of an answer of 200 to a request for n bytes from off on.
func whole(ctx context.Context, resp *http.Response, r *request, off, n int64) (*origin.Object, error) {
	info, err := describe(resp, r.validator)
	if err != nil {
		return nil, err
	}
	b := &body{ctx: ctx, url: r.url, r: resp.Body, left: unbounded}
	if info.Size >= 0 {
		b.left, b.exact = info.Size, true
	}
	o := &origin.Object{Info: info, Length: info.Size, Body: b}
	if info.Size >= 0 && off >= info.Size {
		o.Offset, o.Length = off, 0
		b.left, b.exact = 0, false
		return o, nil
	}
	if off > maxSkip {
		return o, nil
	}
	o.Offset = off
	switch skipped, err := io.CopyN(io.Discard, b, off); {
	case err == io.EOF:
		o.Size, o.Length = skipped, 0
		return o, nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, oddAnswer("the data ends after %d bytes", skipped)
	case err != nil:
		return nil, err
	}
	if n >= 0 && n < b.left {
		b.left, b.exact = n, false
	}
	if info.Size >= 0 {
		o.Length = b.left
	}
	return o, nil
}

// A refused is an answer that has no data.
type refused struct {
	status int
	after  time.Duration
}

func (e *refused) Error() string {
	s := fmt.Sprintf("%v: the server answers %d", origin.ErrUnavailable, e.status)
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		s += ": credentials refused, or none given"
	default:
		if text := http.StatusText(e.status); text != "" {
			s += " (" + text + ")"
		}
	}
	return s
}

func (e *refused) Unwrap() error { return origin.ErrUnavailable }

// RetryAfter is how long the server asks to be left alone; 0 if it does not.
func (e *refused) RetryAfter() time.Duration { return e.after }

// refusal makes an error of an answer that is not what was asked for.
func refusal(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%w: the server answers %d", origin.ErrNotFound, resp.StatusCode)
	case http.StatusPreconditionFailed:
		if resp.Request.Header.Get("If-Match") != "" || resp.Request.Header.Get("If-Unmodified-Since") != "" {
			return fmt.Errorf("%w: the server answers %d", origin.ErrChanged, resp.StatusCode)
		}
	}
	return &refused{resp.StatusCode, retryAfter(resp.Header, time.Now())}
}

// retryAfter reads a Retry-After field (RFC 9110, section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	field := h.Get("Retry-After")
	if n, err := parseCount(field); err == nil {
		return time.Duration(min(n, int64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(field)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date // the two are of one clock
	}
	return max(0, min(at.Sub(now), maxRetryAfter))
}

// oddAnswer is the error of an answer that cannot be used.
func oddAnswer(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{origin.ErrUnavailable}, args...)...)
}

// unanswered makes an error of one of the transport, or of a body.
func unanswered(ctx context.Context, err error) error {
	if end := ctx.Err(); end != nil {
		return end
	}
	if errors.Is(err, origin.ErrLocation) || errors.Is(err, origin.ErrUnavailable) {
		return err // the Guard's
	}
	return fmt.Errorf("%w: %v", origin.ErrUnavailable, err)
}
