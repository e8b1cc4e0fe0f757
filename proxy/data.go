package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/cache"
	"nearsight/registry"
	"nearsight/registry/api"
)

// getData answers GET and HEAD of an image's data:
//
//   - the record, from memory or the registry, says whether the caller may have
//     the data, whether there is any, and whether that was hashed: if not, relay
//     is its way;
//   - the request's conditions and ranges decide the status. HEAD, 304, 412 and
//     416 end here and cost neither cache nor origin anything;
//   - the cache gets the first byte ready, and only then does the header go out,
//     so that a failing origin still gets its own status;
//   - the rest follows. A failure now can only be told by cutting the
//     connection (RFC 9112, section 8): there is no Recovery on this route.
func (p *Proxy) getData(c *gin.Context) {
	w, r := c.Writer, c.Request
	if r.ContentLength > 0 {
		api.FailStatus(w, r, http.StatusBadRequest, "this call takes no body")
		return
	}
	img, err := p.records.Get(r.Context(), c.Param("id"))
	if err != nil {
		p.fail(c, err)
		return
	}
	p.serveData(c, img, dress{})
}

// serveData answers a request for the data of img as it is known now.
func (p *Proxy) serveData(c *gin.Context, img *registry.Image, as dress) {
	w, r := c.Writer, c.Request
	d := &download{c: c, caller: registry.CallerOf(r.Context()), dress: as}
	if p.refused(d, img) {
		return
	}
	var err error
	if d.prefer, err = p.preferred(r); err != nil {
		api.FailStatus(w, r, http.StatusBadRequest, err.Error())
		return
	}
	if img.Digest == "" && p.pass != nil {
		p.passOn(c)
		return
	}
	if img.Digest == "" {
		p.relay(d)
		return
	}
	exchangeOf(w).digest = img.Digest
	now := time.Now()
	rep := represent(img, now)
	if as.tag != "" {
		rep.tag = as.tag
	}
	status, spans := decide(r.Method, r.Header, rep, now)
	if !p.concluded(d, rep, status) {
		p.sendData(d, rep, status, spans)
	}
}

// concluded answers a request that needs no bytes, and reports whether it did.
func (p *Proxy) concluded(d *download, rep representation, status int) bool {
	w, r := d.c.Writer, d.c.Request
	h := w.Header()
	switch {
	case status == http.StatusPreconditionFailed:
		api.FailStatus(w, r, status, "the data is not what the request's condition names")
	case status == http.StatusRequestedRangeNotSatisfiable:
		h["Content-Range"] = []string{"bytes */" + strconv.FormatInt(rep.size, 10)}
		api.FailStatus(w, r, status, "the data has no such range of bytes")
	case status == http.StatusNotModified:
		p.setValidators(h, d, rep)
		d.wear(h)
		w.WriteHeader(status)
		w.WriteHeaderNow()
	case r.Method == http.MethodHead || rep.size == 0:
		p.setValidators(h, d, rep)
		setContent(h, d.img)
		setLength(h, rep.size)
		d.wear(h)
		w.WriteHeader(status)
		w.WriteHeaderNow()
	default:
		return false
	}
	return true
}

// A body is what an answer with data reads: the data as it is stored, or a view of it.
// Its methods are those of cache.Reader.
type body interface {
	Ready(ctx context.Context, off, n int64) (cache.Outcome, error)
	Probe(off, n int64) cache.Outcome
	Sum(ctx context.Context, off, n int64) (s [sha256.Size]byte, ok bool)
	Send(ctx context.Context, w io.Writer, off, n int64) (int64, error)
}

// sendData answers 200 or, with spans, 206.
func (p *Proxy) sendData(d *download, rep representation, status int, spans []span) {
	c, img := d.c, d.img
	w, r := c.Writer, c.Request
	ctx := r.Context()
	reader, err := p.cache.Get(ctx, img.Digest, rep.size, p.sourceOf(img, d.prefer))
	if err != nil {
		p.failData(c, img, err)
		return
	}
	defer reader.Close()
	if spans == nil {
		spans = []span{{0, rep.size}}
	}
	if onlyIfCached(r.Header) && !present(reader, spans) {
		api.FailStatus(w, r, http.StatusGatewayTimeout, "the data is not all in the cache")
		return
	}
	p.send(d, reader, rep, status, spans)
}

// send answers 200 with the one span that is all, or 206, out of reader.
func (p *Proxy) send(d *download, reader body, rep representation, status int, spans []span) {
	c, img := d.c, d.img
	w, r := c.Writer, c.Request
	ctx := r.Context()
	found, err := reader.Ready(ctx, spans[0].off, spans[0].n)
	if err != nil {
		p.failData(c, img, err)
		return
	}
	for _, s := range spans[1:] {
		o := reader.Probe(s.off, s.n)
		found.Chunks += o.Chunks
		found.Present += o.Present
	}
	if found.Present < found.Chunks {
		// There was time for the image to change: what it is now counts.
		if img, err = p.records.Get(ctx, img.ID); err != nil {
			p.fail(c, err)
			return
		}
		if p.refused(d, img) {
			return
		}
	}
	x := exchangeOf(w)
	x.found = foundWord(found)
	p.tallies.of(img.ID).note(found, time.Now())
	h := w.Header()
	p.setValidators(h, d, rep)
	setContent(h, img)
	h["Cache-Status"] = []string{cacheStatus(found)}
	var parts byteranges
	length := spans[0].n
	if len(spans) > 1 {
		parts = frame(spans, rep.size)
		length = parts.length
		h["Content-Type"] = []string{"multipart/byteranges; boundary=" + parts.boundary}
	} else {
		if status == http.StatusPartialContent {
			h["Content-Range"] = []string{contentRange(spans[0], rep.size)}
		}
		if wantsSHA256(r.Header) {
			if sum, ok := reader.Sum(ctx, spans[0].off, spans[0].n); ok {
				h["Content-Digest"] = []string{contentDigest(sum)}
			}
		}
	}
	setLength(h, length)
	d.wear(h)
	w.WriteHeader(status)
	w.WriteHeaderNow()
	if err := sendSpans(c, x, reader, spans, parts); err != nil {
		x.err = err
		panic(http.ErrAbortHandler)
	}
}

// sendSpans writes the body, to x and not to gin's writer: that one hides the
// ReadFrom by which a file becomes a sendfile.
func sendSpans(c *gin.Context, x *exchange, reader body, spans []span, parts byteranges) error {
	for i, s := range spans {
		if parts.heads != nil {
			if _, err := io.WriteString(x, parts.heads[i]); err != nil {
				return err
			}
		}
		n, err := reader.Send(c.Request.Context(), x, s.off, s.n)
		if err != nil {
			return err
		}
		if n != s.n {
			return io.ErrUnexpectedEOF
		}
	}
	if parts.heads != nil {
		_, err := io.WriteString(x, parts.tail)
		return err
	}
	return nil
}

// present reports whether all of the spans is in the cache.
func present(reader *cache.Reader, spans []span) bool {
	for _, s := range spans {
		if o := reader.Probe(s.off, s.n); o.Present < o.Chunks {
			return false
		}
	}
	return true
}

// onlyIfCached reports whether Cache-Control says so (RFC 9111, section
// 5.2.1.7). It is the one directive of a request that means something here:
// bytes under a digest cannot be stale, so nobody can have them fetched again.
func onlyIfCached(h http.Header) bool {
	for _, line := range h["Cache-Control"] {
		for directive := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "only-if-cached") {
				return true
			}
		}
	}
	return false
}

// failData answers a request for which the data of img cannot be had. If the
// image was deleted meanwhile, then that is the reason.
func (p *Proxy) failData(c *gin.Context, img *registry.Image, err error) {
	if _, gone := p.records.Get(c.Request.Context(), img.ID); errors.Is(gone, registry.ErrNotFound) {
		err = gone
	}
	p.fail(c, err)
}

// fail answers a request with the status of err, before anything was written,
// and leaves err to the access record. A client that left gets no answer.
func (p *Proxy) fail(c *gin.Context, err error) {
	w, r := c.Writer, c.Request
	if !errors.Is(err, registry.ErrNotFound) {
		exchangeOf(w).err = err
	}
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	var none *viewError
	switch {
	case errors.As(err, &none):
		api.FailStatus(w, r, http.StatusNotFound, none.Error())
	case errors.Is(err, cache.ErrCorrupt):
		api.FailStatus(w, r, http.StatusBadGateway, "the store of the image delivers other bytes than it was given")
	case errors.Is(err, cache.ErrClosed):
		api.FailStatus(w, r, http.StatusServiceUnavailable, "the server is stopping")
	case errors.Is(err, cache.ErrNotCached):
		api.FailStatus(w, r, http.StatusNotFound, "the cache has nothing of this image")
	case errors.Is(err, errQueueFull):
		api.FailStatus(w, r, http.StatusServiceUnavailable, errQueueFull.Error())
	case errors.Is(err, cache.ErrNoRoom):
		api.FailStatus(w, r, http.StatusInsufficientStorage, "there is no room in the cache")
	default:
		api.Fail(w, r, err)
	}
}
