package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"nearsight/origin"
)

const (
	// mark is the name in an object's metadata of what tells the Put that
	// wrote it from all others.
	mark = "nearsight-put"
	// defaultGrace is what a step that cannot be called off half-way, or that
	// cleans up, gets after ctx has ended.
	defaultGrace = time.Minute
	// looks is how often a request for what became of an upload is made, each
	// of them patiently.
	looks = 3
)

// Put implements origin.WriteStore. An error of r is wrapped, and origin.ErrRead
// with it.
//
// A server that knows If-None-Match (AWS, and most others by now) never replaces
// an object. At one that ignores it, only the Puts of this Store are kept from
// replacing each other, and objects that were there before are left; that is
// enough for locations that Locate returned, of which no two are equal.
//
// If the server is lost in the very moment in which the object appears, Put
// fails and cannot remove it: Delete does, and List shows it.
func (s *Store) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	if err := ctx.Err(); err != nil {
		return loc, err
	}
	key, err := s.key(loc)
	if err != nil {
		return loc, err
	}
	p := &put{s: s, key: key, src: source{r: r, size: size}, mark: origin.RandomName()}
	etag, err := p.run(ctx)
	switch {
	case err == nil:
		return origin.Location{URL: loc.URL, Validator: etag}, nil
	case errors.Is(err, origin.ErrRead), errors.Is(err, origin.ErrSize), errors.Is(err, origin.ErrFull):
		return loc, fmt.Errorf("put %s: %w", loc.URL, err)
	}
	return loc, s.failedWrite(ctx, "put", loc, err)
}

// A put stores one object.
type put struct {
	s    *Store
	key  string
	src  source
	mark string
}

// run stores what fits in one part by one request, and the rest in parts.
func (p *put) run(ctx context.Context) (etag string, err error) {
	n := p.s.partSize(0, p.src.size)
	if p.src.size >= 0 && p.src.size < n {
		n = p.src.size + 1 // the byte too many shows the end
	}
	buf := make([]byte, n)
	k, end, err := p.src.fill(ctx, buf)
	if err != nil {
		return "", err
	}
	if !end {
		return p.multipart(ctx, buf)
	}
	return p.commit(ctx, func(ctx context.Context, ifNoneMatch *string) (*string, error) {
		out, err := p.s.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &p.s.o.Bucket, Key: &p.key, Body: bytes.NewReader(buf[:k]), ContentLength: aws.Int64(int64(k)),
			ContentType: aws.String(contentType), Metadata: map[string]string{mark: p.mark}, IfNoneMatch: ifNoneMatch,
			ChecksumAlgorithm: p.s.checksum(), StorageClass: types.StorageClass(p.s.o.StorageClass),
			ServerSideEncryption: types.ServerSideEncryption(p.s.o.SSE), SSEKMSKeyId: optional(p.s.o.SSEKeyID),
		}, patiently)
		if err != nil {
			return nil, err
		}
		return out.ETag, nil
	})
}

const contentType = "application/octet-stream"

// checksum is of the data that is sent. CRC32 is what the SDK, and every server
// that has checksums at all, knows.
func (s *Store) checksum() types.ChecksumAlgorithm {
	if s.o.NoChecksums {
		return ""
	}
	return types.ChecksumAlgorithmCrc32
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// commit lets the object appear: do is the request that does it, with the
// If-None-Match that it is given. It does not end with ctx but somewhat later,
// since nobody could tell what became of it.
func (p *put) commit(ctx context.Context, do func(ctx context.Context, ifNoneMatch *string) (*string, error)) (etag string, err error) {
	unlock, err := p.s.writing.lock(ctx, p.key)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := p.s.head(ctx, p.key, nil); err == nil {
		return "", errExists
	} else if !isMissing(err) {
		return "", err
	}
	late, cancel := afterwards(ctx, p.s.grace)
	defer cancel()
	tag, err := do(late, aws.String("*"))
	if isCode(err, "NotImplemented") {
		tag, err = do(late, nil)
	}
	if err == nil && aws.ToString(tag) != "" {
		return *tag, nil
	}
	// A request that failed may have done its work: its answer was lost, and
	// the next attempt was refused because of what the first had written.
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.s.grace)
	defer cancel()
	out, herr := p.look(look)
	switch ours := herr == nil && out.Metadata[mark] == p.mark; {
	case ours && late.Err() != nil: // nobody waits for it any more
		_, _ = p.s.client.DeleteObject(look, &s3.DeleteObjectInput{Bucket: &p.s.o.Bucket, Key: &p.key})
		return "", late.Err()
	case ours:
		return aws.ToString(out.ETag), nil
	case herr == nil && err != nil && isConflict(err):
		return "", errExists
	case err == nil:
		return "", herr
	case isConflict(err):
		return "", fmt.Errorf("refused because of an object that is not to be seen: %v", reason(err))
	}
	return "", err
}

// look asks for the object whose request failed, again and again: all that was
// sent depends on it. The first answer may be about the rest of a body that the
// server refused and did not read.
func (p *put) look(ctx context.Context) (out *s3.HeadObjectOutput, err error) {
	for range looks {
		if out, err = p.s.head(ctx, p.key, nil, patiently); err == nil || isMissing(err) {
			break
		}
	}
	return out, err
}

// afterwards returns a context that ends some time after ctx.
func afterwards(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return late, func() {
		stop()
		cancel()
	}
}

// A source is the data of a put: r, which should have size bytes, or any number
// if size < 0.
type source struct {
	r    io.Reader
	size int64
	pos  int64 // bytes that were read
}

// fill reads until buf is full or the data ends. It is not io.ReadFull: that one
// says io.ErrUnexpectedEOF at the end of r, and cut HTTP bodies say so too.
func (s *source) fill(ctx context.Context, buf []byte) (n int, end bool, err error) {
	for n < len(buf) && !end {
		if err := ctx.Err(); err != nil {
			return n, false, err
		}
		k, err := s.r.Read(buf[n:])
		n, s.pos = n+k, s.pos+int64(k)
		switch {
		case err == io.EOF:
			end = true
		case err != nil:
			return n, false, fmt.Errorf("%w: after %d bytes: %w", origin.ErrRead, s.pos, err)
		}
		if s.size >= 0 && (s.pos > s.size || end && s.pos < s.size) {
			return n, end, fmt.Errorf("%w: expected %d bytes, received %d", origin.ErrSize, s.size, s.pos)
		}
	}
	return n, end, nil
}

// locks are one lock for every key. They are held during requests, so waiting for
// one ends with a context.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when unlocked
}

func (l *locks) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		ch := l.held[key]
		if ch == nil {
			ch = make(chan struct{})
			if l.held == nil {
				l.held = make(map[string]chan struct{})
			}
			l.held[key] = ch
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(ch)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
