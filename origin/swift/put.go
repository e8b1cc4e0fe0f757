package swift

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"nearsight/origin"
)

const (
	// undoTimeout bounds the removal of what a failed Put wrote.
	undoTimeout = 2 * time.Minute
	// uploadField tells an object from one that somebody else wrote there.
	uploadField = "X-Object-Meta-Nearsight-Upload"
)

// Put implements origin.WriteStore. An error of r is wrapped, and
// origin.ErrRead with it. It takes 2 MiB of memory.
//
// What is no longer than 1 MiB is sent with its MD5, which the store compares.
// What is longer goes out as it comes, and the MD5 that the store answers is
// compared. An object whose size was not said beforehand becomes a large one
// then, because it must not be visible before it is known to be whole. Nothing
// of a longer object can be sent again, save the first 1 MiB of each request. So
// before each segment the store is asked for its container, which renews the
// token if that has expired; a token that expires while a segment is under way
// does not matter.
//
// A Put that this Store has under way at the same location counts as an object
// there.
func (s *Store) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	if err := ctx.Err(); err != nil {
		return loc, err
	}
	key, err := s.key(loc)
	if err != nil {
		return loc, err
	}
	if !s.claim(key) {
		return loc, fmt.Errorf("put %s: %w: it is being written", loc.URL, origin.ErrExists)
	}
	defer s.release(key)
	u := &upload{s: s, key: key, id: origin.RandomName(), container: s.container(key)}
	etag, err := u.put(ctx, size, r)
	if err == nil {
		return origin.Location{URL: loc.URL, Validator: etag}, nil
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case u.src != nil && u.src.err != nil:
		err = u.src.err // and not what became of the request because of it
	}
	if left := u.undo(ctx); left != nil {
		err = fmt.Errorf("%w (and what was written could not be deleted: %v)", err, left)
	}
	return loc, fmt.Errorf("put %s: %w", loc.URL, err)
}

// claim makes sure that one Put at a time writes a key: Swift looks for an object
// when an upload begins, and of two that began before either ended, both succeed.
func (s *Store) claim(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing[key] {
		return false
	}
	s.writing[key] = true
	return true
}

func (s *Store) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, key)
}

// An upload is one Put.
type upload struct {
	s         *Store
	key       string
	id        string // its own, among the uploads of key
	container string
	src       *source
	begun     int  // segments, sent or half sent
	named     bool // a request for the object itself was made
}

// put returns the ETag of the object that it wrote.
func (u *upload) put(ctx context.Context, size int64, r io.Reader) (string, error) {
	// The store would find an object too, but after all the writing.
	_, err := u.s.ask(ctx, call{method: http.MethodHead, container: u.container, object: u.key})
	if err == nil {
		return "", origin.ErrExists
	} else if !errors.Is(err, origin.ErrNotFound) {
		return "", err
	}
	if u.src, err = newSource(ctx, r, size, u.s.block); err != nil {
		return "", err
	}
	if err := u.s.ensure(ctx, u.container); err != nil {
		return "", err
	}
	if u.src.whole() {
		sum := md5.Sum(u.src.cur)
		return u.plain(ctx, int64(len(u.src.cur)), http.Header{"Etag": {hex.EncodeToString(sum[:])}})
	}
	l, err := u.s.ability(ctx)
	if err != nil {
		return "", err
	}
	if size >= 0 && size <= l.segment(u.s.o.SegmentSize, 0) {
		return u.plain(ctx, size, http.Header{})
	}
	return u.large(ctx, l)
}

// ensure makes the container if it is missing. Asking first lets a store be used
// by those who may write into it, but make nothing.
func (s *Store) ensure(ctx context.Context, container string) error {
	_, err := s.ask(ctx, call{method: http.MethodHead, container: container})
	if errors.Is(err, origin.ErrNotFound) {
		_, err = s.ask(ctx, call{method: http.MethodPut, container: container})
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", container, err)
	}
	return nil
}

// plain writes an object of one piece.
func (u *upload) plain(ctx context.Context, size int64, header http.Header) (string, error) {
	return u.name(ctx, newPiece(u.src, size, true), header, nil)
}

// name makes the request that makes the object visible. It returns the ETag.
func (u *upload) name(ctx context.Context, p *piece, header http.Header, query url.Values) (string, error) {
	u.named = true
	header.Set("If-None-Match", "*")
	header.Set("Content-Type", "application/octet-stream")
	header.Set(uploadField, u.id)
	h, err := u.s.ask(ctx, call{
		method: http.MethodPut, container: u.container, object: u.key,
		query: query, header: header, body: p,
	})
	if err != nil {
		return "", err
	}
	etag := unquote(h.Get("Etag"))
	if query == nil { // else it is not that of the body
		err = same(etag, hex.EncodeToString(p.sum.Sum(nil)))
	}
	return etag, err
}

// same compares the ETag that the store answered with what was sent.
func same(etag, sent string) error {
	if etag != sent {
		return fmt.Errorf("%w: it stored data with the MD5 %.100q, not %q", origin.ErrUnavailable, etag, sent)
	}
	return nil
}

// A part is a segment as a static manifest names it.
type part struct {
	Path string `json:"path"`
	ETag string `json:"etag"`
	Size int64  `json:"size_bytes"`
}

// folder is the prefix of all segments of the upload.
func (u *upload) folder() string { return u.key + "/" + u.id + "/" }

// segment returns the name of segment i. Their order is that of the bytes.
func (u *upload) segment(i int) string { return fmt.Sprintf("%s%08d", u.folder(), i) }

// large writes segments and then the manifest.
func (u *upload) large(ctx context.Context, l limits) (string, error) {
	var parts []part
	var sent int64
	sums := md5.New()
	for u.src.more() {
		if len(parts) == l.segments {
			return "", fmt.Errorf("%w: after %d bytes, in as many segments (%d) as a manifest may name", origin.ErrFull, sent, l.segments)
		}
		p, err := u.send(ctx, l.segment(u.s.o.SegmentSize, len(parts)), sent)
		if err != nil {
			return "", fmt.Errorf("segment %d: %w", len(parts), err)
		}
		io.WriteString(sums, p.ETag)
		parts, sent = append(parts, p), sent+p.Size
	}
	if u.src.err != nil {
		return "", u.src.err
	}
	want := hex.EncodeToString(sums.Sum(nil))
	manifest := u.static
	if !l.slo {
		manifest = u.dynamic
	}
	etag, err := manifest(ctx, parts, sent)
	if err == nil {
		err = same(etag, want)
	}
	return etag, err
}

// send writes the next segment, of at most limit bytes.
func (u *upload) send(ctx context.Context, limit, sent int64) (part, error) {
	container := segments(u.container)
	if err := u.s.ensure(ctx, container); err != nil {
		return part{}, err
	}
	exact := u.src.size >= 0
	if exact {
		limit = min(limit, u.src.size-sent)
	}
	p, name := newPiece(u.src, limit, exact), u.segment(u.begun)
	u.begun++
	h, err := u.s.ask(ctx, call{method: http.MethodPut, container: container, object: name, body: p})
	if err != nil {
		return part{}, err
	}
	// The store may have answered a body that broke off.
	if u.src.err != nil {
		return part{}, u.src.err
	}
	sum := hex.EncodeToString(p.sum.Sum(nil))
	return part{"/" + container + "/" + name, sum, p.n}, same(unquote(h.Get("Etag")), sum)
}

// static writes a static manifest. The store checks all segments against it.
func (u *upload) static(ctx context.Context, parts []part, _ int64) (string, error) {
	b, err := json.Marshal(parts)
	if err != nil {
		return "", err
	}
	return u.name(ctx, bytesPiece(b), http.Header{}, url.Values{"multipart-manifest": {"put"}})
}

// dynamic writes a dynamic manifest. What that stands for is what the listing
// has, and a listing may lag behind the objects: so it is waited for.
func (u *upload) dynamic(ctx context.Context, parts []part, size int64) (string, error) {
	if err := u.awaitListing(ctx, parts); err != nil {
		return "", err
	}
	prefix := url.URL{Path: segments(u.container) + "/" + u.folder()}
	header := http.Header{"X-Object-Manifest": {prefix.EscapedPath()}}
	if _, err := u.name(ctx, bytesPiece(nil), header, nil); err != nil {
		return "", err
	}
	info, err := u.s.stat(ctx, origin.Location{}, u.key)
	if err == nil && info.Size != size {
		err = fmt.Errorf("%w: its dynamic manifest has %d bytes, not %d", origin.ErrUnavailable, info.Size, size)
	}
	return info.Validator, err
}

// awaitListing returns when the store lists the segments as they were written.
func (u *upload) awaitListing(ctx context.Context, parts []part) error {
	late := time.NewTimer(u.s.o.Timeout)
	defer late.Stop()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if ok, err := u.listed(ctx, parts); ok || err != nil {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
			continue
		case <-late.C:
		case <-ctx.Done():
		}
		t.Stop()
		return fmt.Errorf("%w: its listing lacks segments", origin.ErrUnavailable)
	}
}

// listed says whether it does now.
func (u *upload) listed(ctx context.Context, parts []part) (bool, error) {
	i := 0
	for e, err := range u.s.walk(ctx, segments(u.container), u.folder()) {
		if err != nil {
			return false, err
		}
		if i == len(parts) || "/"+segments(u.container)+"/"+e.Name != parts[i].Path || e.Hash != parts[i].ETag {
			return false, nil
		}
		i++
	}
	return i == len(parts), nil
}

// segment returns the length of segment i when the first are asked to have size
// bytes: it doubles after each quarter of those that a manifest may name.
func (l limits) segment(size int64, i int) int64 {
	for ; size < l.size && i >= max(l.segments/4, 1); i -= max(l.segments/4, 1) {
		size = min(size, l.size/2) * 2
	}
	return min(size, l.size)
}

// undo removes what a failed Put left, also when the request that failed was done
// nevertheless, or will be: Swift compares the times at which requests began, so
// what began before its deletion never appears after it. The object of somebody
// else stays.
func (u *upload) undo(ctx context.Context) error {
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer end()
	if u.named {
		h, err := u.s.ask(ctx, call{method: http.MethodHead, container: u.container, object: u.key})
		switch {
		case err == nil && h.Get(uploadField) != u.id:
		case err == nil, errors.Is(err, origin.ErrNotFound):
			if err := u.s.remove(ctx, u.container, u.key); err != nil {
				return err // its segments must stay too
			}
		default:
			return err
		}
	}
	names := func(yield func(string, error) bool) {
		for i := range u.begun {
			if !yield(u.segment(i), nil) {
				return
			}
		}
	}
	return u.s.removeAll(ctx, segments(u.container), names)
}
