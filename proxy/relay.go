package proxy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/api"
)

// relayStatus is Cache-Status for data that has no digest yet (RFC 9211).
const relayStatus = `nearsight; fwd=bypass; detail="not hashed yet"`

// relay answers GET and HEAD of data that was registered by its URL and that
// nobody has hashed yet. It comes straight from the first location that has it;
// nothing is verified, since there is nothing to verify it by, and nothing kept.
// All reads of one answer are under one validator, so that it never mixes two
// versions. How long a store may be silent is the store's to say.
//
// Once the first byte is there the answer belongs to its location: another one
// may hold other bytes.
func (p *Proxy) relay(d *download) {
	c, img := d.c, d.img
	w, r := c.Writer, c.Request
	if onlyIfCached(r.Header) {
		api.FailStatus(w, r, http.StatusGatewayTimeout, "the data is not hashed yet, and so not in the cache")
		return
	}
	errs := []error{}
	for _, loc := range p.order(img.Locations, d.prefer) {
		a, err := p.approach(r, img, loc)
		if err == nil {
			defer a.close()
			p.sendRelayed(d, a)
			return
		}
		if r.Context().Err() != nil {
			p.fail(c, err)
			return
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, fmt.Errorf("image %s has no location: %w", img.ID, origin.ErrNotFound))
	}
	p.failData(c, img, errors.Join(errs...))
}

// An approach is how far a request has come at one location.
type approach struct {
	loc    origin.Location // with the validator that it has now
	rep    representation  // with a size of -1 if it is unknown
	status int
	spans  []span // of a 206

	// first yields the bytes of the first span, or of all, the first of which is
	// there. Nil if the answer needs none.
	first io.Reader
	body  io.Closer
}

func (a *approach) close() {
	if a.body != nil {
		a.body.Close()
	}
}

// approach asks one location what it has, decides what r gets of that, and gets
// the first byte ready.
func (p *Proxy) approach(r *http.Request, img *registry.Image, loc origin.Location) (*approach, error) {
	ctx, now := r.Context(), time.Now()
	info, err := p.store.Stat(ctx, loc)
	if err != nil {
		return nil, err
	}
	if img.Size != nil && info.Size >= 0 && info.Size != *img.Size {
		return nil, fmt.Errorf("%s has %d bytes and had %d: %w", shown(loc), info.Size, *img.Size, origin.ErrChanged)
	}
	loc.Validator = info.Validator
	a := &approach{loc: loc, rep: relayed(loc, info, now)}
	if a.rep.size >= 0 {
		a.status, a.spans = decide(r.Method, r.Header, a.rep, now)
	} else if a.status = precondition(r.Header, a.rep, now); a.status == 0 {
		a.status = http.StatusOK // there is no range of what has no end
	}
	if len(a.spans) > 1 && loc.Validator == "" {
		a.status, a.spans = http.StatusOK, nil // the second read might be of another version
	}
	if r.Method == http.MethodHead || a.rep.size == 0 || a.status != http.StatusOK && a.status != http.StatusPartialContent {
		return a, nil
	}
	if err := p.openFirst(ctx, img, a); err != nil {
		return nil, err
	}
	return a, nil
}

// relayed returns what conditions and ranges on data at a location are about. The
// tag is ours: what others write into theirs is not for headers of ours.
func relayed(loc origin.Location, info origin.Info, now time.Time) representation {
	rep := representation{size: max(info.Size, -1)}
	if strong(loc) {
		sum := sha256.Sum256([]byte(loc.URL + "\x00" + loc.Validator))
		rep.tag = `"` + hex.EncodeToString(sum[:16]) + `"` // shorter than a digest, and so never one
	}
	if !info.ModTime.IsZero() {
		rep.modified = info.ModTime.UTC().Truncate(time.Second)
		if rep.modified.After(now) {
			rep.modified = now.UTC().Truncate(time.Second)
		}
	}
	return rep
}

// strong reports whether the validator of loc changes with every change of a byte:
// any of a store that we write does, but of those of web servers only an entity
// tag, which stands in its quotes.
func strong(loc origin.Location) bool {
	if strings.HasPrefix(loc.URL, "http:") || strings.HasPrefix(loc.URL, "https:") {
		return strings.HasPrefix(loc.Validator, `"`)
	}
	return loc.Validator != ""
}

// openFirst opens the first span, or all, and waits for its first byte. A store
// that cannot read from the middle is answered with the whole, as RFC 9110,
// section 14.2, permits.
func (p *Proxy) openFirst(ctx context.Context, img *registry.Image, a *approach) error {
	want, n := span{0, a.rep.size}, int64(-1)
	if a.spans != nil {
		want = a.spans[0]
		n = want.n
	}
	obj, err := p.store.Open(ctx, a.loc, want.off, n)
	if err != nil {
		return err
	}
	if a.spans != nil && obj.Offset == 0 && obj.Size == a.rep.size && obj.Length == obj.Size && obj.Length != want.n {
		a.status, a.spans, want = http.StatusOK, nil, span{0, a.rep.size}
	}
	if err := p.compare(img, a, obj, want); err != nil {
		obj.Body.Close()
		return err
	}
	first := bufio.NewReader(obj.Body)
	if _, err := first.Peek(1); err != nil && (err != io.EOF || want.n > 0) {
		obj.Body.Close()
		return fmt.Errorf("read %s: %w", shown(a.loc), unexpected(err))
	}
	a.first, a.body = first, obj.Body
	return nil
}

// compare holds an answer of a store against what was asked.
func (p *Proxy) compare(img *registry.Image, a *approach, obj *origin.Object, want span) error {
	if a.rep.size >= 0 && obj.Size >= 0 && obj.Size != a.rep.size {
		return fmt.Errorf("%s has %d bytes and had %d: %w", shown(a.loc), obj.Size, a.rep.size, origin.ErrChanged)
	}
	if obj.Offset != want.off || want.n >= 0 && obj.Length >= 0 && obj.Length != want.n {
		p.doubts.lied(img, a.loc)
		return fmt.Errorf("%s holds %d bytes from %d, not %d from %d: %w",
			shown(a.loc), obj.Length, obj.Offset, want.n, want.off, origin.ErrUnavailable)
	}
	return nil
}

// unexpected returns the error of a body that ended before its end.
func unexpected(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", origin.ErrUnavailable, io.ErrUnexpectedEOF)
	}
	return err
}

// sendRelayed answers with what was approached.
func (p *Proxy) sendRelayed(d *download, a *approach) {
	c, img := d.c, d.img
	w, r := c.Writer, c.Request
	// There was time for the image to change: what it is now counts.
	if now, err := p.records.Get(r.Context(), img.ID); err != nil {
		p.fail(c, err)
		return
	} else if p.refused(d, now) {
		return
	}
	if p.concluded(d, a.rep, a.status) {
		return
	}
	if a.rep.size < 0 && !r.ProtoAtLeast(1, 1) {
		api.FailStatus(w, r, http.StatusHTTPVersionNotSupported, "the length of the data is not known yet, and HTTP/1.0 could not tell its end from a failure")
		return
	}
	h := w.Header()
	p.setValidators(h, d, a.rep)
	setContent(h, d.img)
	h["Cache-Status"] = []string{relayStatus}
	length := a.rep.size
	var parts byteranges
	switch {
	case len(a.spans) > 1:
		parts = frame(a.spans, a.rep.size)
		length = parts.length
		h["Content-Type"] = []string{"multipart/byteranges; boundary=" + parts.boundary}
	case a.status == http.StatusPartialContent:
		length = a.spans[0].n
		h["Content-Range"] = []string{contentRange(a.spans[0], a.rep.size)}
	}
	setLength(h, length)
	d.wear(h)
	x := exchangeOf(w)
	x.found = "bypass"
	w.WriteHeader(a.status)
	w.WriteHeaderNow()
	if err := p.relayBody(r.Context(), x, img, a, parts); err != nil {
		x.err = err
		panic(http.ErrAbortHandler)
	}
}

// relayBody writes the body of an approach.
func (p *Proxy) relayBody(ctx context.Context, x *exchange, img *registry.Image, a *approach, parts byteranges) error {
	if len(a.spans) < 2 {
		n := a.rep.size
		if a.spans != nil {
			n = a.spans[0].n
		}
		if n < 0 {
			return copyAll(x, a.first, img.Size)
		}
		return copyExactly(x, a.first, n)
	}
	for i, s := range a.spans {
		if _, err := io.WriteString(x, parts.heads[i]); err != nil {
			return err
		}
		if i == 0 {
			if err := copyExactly(x, a.first, s.n); err != nil {
				return err
			}
		} else if err := p.relaySpan(ctx, x, img, a, s); err != nil {
			return err
		}
	}
	_, err := io.WriteString(x, parts.tail)
	return err
}

// relaySpan writes another span of the same version.
func (p *Proxy) relaySpan(ctx context.Context, x *exchange, img *registry.Image, a *approach, s span) error {
	obj, err := p.store.Open(ctx, a.loc, s.off, s.n)
	if err != nil {
		return err
	}
	defer obj.Body.Close()
	if err := p.compare(img, a, obj, s); err != nil {
		return err
	}
	return copyExactly(x, obj.Body, s.n)
}

// copyAll copies all that there is. It is an error if that is not as long as was
// recorded, which is told by leaving out the last chunk (RFC 9112, section 8).
func copyAll(w io.Writer, r io.Reader, recorded *int64) error {
	n, err := io.Copy(w, r)
	if err == nil && recorded != nil && n != *recorded {
		err = fmt.Errorf("%d bytes came, and there were %d: %w", n, *recorded, origin.ErrChanged)
	}
	return err
}

// copyExactly copies n bytes. It is an error if there are fewer.
func copyExactly(w io.Writer, r io.Reader, n int64) error {
	copied, err := io.Copy(w, io.LimitReader(r, n))
	if err == nil && copied < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}
