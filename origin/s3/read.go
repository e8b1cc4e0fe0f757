package s3

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

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"nearsight/origin"
)

// Stat implements origin.Store.
func (s *Store) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	return s.stat(ctx, "stat", loc)
}

func (s *Store) stat(ctx context.Context, op string, loc origin.Location) (origin.Info, error) {
	if err := ctx.Err(); err != nil {
		return origin.Info{}, err
	}
	key, err := s.key(loc)
	if err != nil {
		return origin.Info{}, err
	}
	out, err := s.head(ctx, key, ifMatch(loc))
	if isMissing(err) && s.bucketIsMissing(ctx) {
		err = errNoBucket
	}
	if err != nil {
		return origin.Info{}, s.failed(ctx, op, loc, err)
	}
	return check(loc, origin.Info{
		Size:      aws.ToInt64(out.ContentLength),
		Validator: aws.ToString(out.ETag),
		ModTime:   modTime(out.LastModified),
	})
}

func (s *Store) head(ctx context.Context, key string, ifMatch *string, tune ...func(*s3.Options)) (*s3.HeadObjectOutput, error) {
	return s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: &key, IfMatch: ifMatch}, tune...)
}

// bucketIsMissing tells apart the two things that a 404 to HEAD may mean: that
// has no body to say which. An image must not look lost because of a typing error
// in a configuration.
func (s *Store) bucketIsMissing(ctx context.Context) bool {
	_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.o.Bucket})
	return isMissing(err)
}

// ifMatch returns the precondition that the object is the one that loc means, if
// it can be written down: a server may answer anything to what is no entity tag.
func ifMatch(loc origin.Location) *string {
	tag := loc.Validator
	if len(tag) < 2 || tag[0] != '"' || tag[len(tag)-1] != '"' || strings.ContainsFunc(tag[1:len(tag)-1], func(c rune) bool {
		return c <= ' ' || c == '"' || c > '~'
	}) {
		return nil
	}
	return &tag
}

// check returns info if it is of the object that loc means. The server has looked
// already, unless it ignores preconditions.
func check(loc origin.Location, info origin.Info) (origin.Info, error) {
	if loc.Validator != "" && loc.Validator != info.Validator {
		return origin.Info{}, fmt.Errorf("%s: %w: validator %.100s, not %.100s", loc.URL, origin.ErrChanged, info.Validator, loc.Validator)
	}
	return info, nil
}

func modTime(t *time.Time) time.Time { return aws.ToTime(t).UTC() }

// Open implements origin.Store. A negative offset is served as 0, and says so.
func (s *Store) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, err := s.key(loc)
	if err != nil {
		return nil, err
	}
	off = max(off, 0)
	if n == 0 || off == math.MaxInt64 { // no range says this
		return s.openNothing(ctx, loc, off)
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.o.Bucket, Key: &key, Range: byteRange(off, n), IfMatch: ifMatch(loc),
	})
	if statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
		return s.openNothing(ctx, loc, off)
	}
	if err != nil {
		return nil, s.failed(ctx, "open", loc, err)
	}
	o, err := describe(out)
	if err != nil {
		out.Body.Close()
		return nil, s.failed(ctx, "open", loc, err)
	}
	if o.Info, err = check(loc, o.Info); err != nil {
		out.Body.Close()
		return nil, err
	}
	o.Body = &body{ctx: ctx, rc: out.Body, url: loc.URL, left: o.Length}
	return o, nil
}

// openNothing answers for an object that has no byte of what was asked.
func (s *Store) openNothing(ctx context.Context, loc origin.Location, off int64) (*origin.Object, error) {
	info, err := s.stat(ctx, "open", loc)
	if err != nil {
		return nil, err
	}
	return &origin.Object{Info: info, Offset: off, Body: &body{ctx: ctx, rc: io.NopCloser(strings.NewReader("")), url: loc.URL}}, nil
}

// byteRange returns the Range field for n bytes from off on, all if n < 0; nil
// means the whole object.
func byteRange(off, n int64) *string {
	switch {
	case n < 0 && off == 0:
		return nil
	case n < 0 || n > math.MaxInt64-off:
		return aws.String(fmt.Sprintf("bytes=%d-", off))
	}
	return aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))
}

// describe says what the answer holds, by what the server said.
func describe(out *s3.GetObjectOutput) (*origin.Object, error) {
	if out.ContentLength == nil {
		return nil, errors.New("an answer without Content-Length")
	}
	o := &origin.Object{Length: *out.ContentLength}
	o.Size, o.Validator, o.ModTime = o.Length, aws.ToString(out.ETag), modTime(out.LastModified)
	if out.ContentRange == nil {
		return o, nil
	}
	first, last, size, ok := parseContentRange(*out.ContentRange)
	if !ok || last-first+1 != o.Length {
		return nil, fmt.Errorf("an answer of %d bytes with Content-Range %.80q", o.Length, *out.ContentRange)
	}
	o.Offset, o.Size = first, size
	return o, nil
}

// parseContentRange takes "bytes FIRST-LAST/SIZE" (RFC 9110, section 14.4) apart.
// It is not ok if any of the three is missing or does not fit the others.
func parseContentRange(field string) (first, last, size int64, ok bool) {
	unit, rest, _ := strings.Cut(field, " ")
	span, total, _ := strings.Cut(rest, "/")
	from, to, _ := strings.Cut(span, "-")
	var bad [3]error
	first, bad[0] = parseDigits(from)
	last, bad[1] = parseDigits(to)
	size, bad[2] = parseDigits(total)
	ok = strings.EqualFold(unit, "bytes") && bad == [3]error{} && first <= last && last < size
	return first, last, size, ok
}

// parseDigits is strconv.ParseInt without signs.
func parseDigits(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// A body yields the bytes that are left of an answer.
type body struct {
	ctx  context.Context
	rc   io.ReadCloser
	url  string
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.rc.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case err == nil || err == io.EOF && b.left == 0:
		return n, nil // the next Read says that it was the end
	case b.ctx.Err() != nil:
		return n, b.ctx.Err()
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		return n, io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("read %s: %w: %s", b.url, origin.ErrUnavailable, reason(err))
}

func (b *body) Close() error { return b.rc.Close() }
