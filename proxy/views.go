package proxy

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/cache"
	"nearsight/origin/diskformat"
	"nearsight/registry"
	"nearsight/registry/api"
)

// viewUnavailable is the slug of views that there are not (rule S5).
const viewUnavailable = "view-unavailable"

// registerViews adds the calls that show the disk in an image as an image of another
// format. Each view has a URL of its own, so that caches in front tell them apart
// (rule S3), and answers as the data does under its own.
func (p *Proxy) registerViews(r gin.IRoutes) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r.Handle(method, "/v2/images/:id/file/:view", p.getView)
		r.Handle(method, "/v2/images/:id/views", p.listViews)
	}
}

// isView reports whether the part of a path that follows the id of an image is one of
// registerViews.
func isView(sub string) bool { return sub == "views" || strings.HasPrefix(sub, "file/") }

// getView answers GET and HEAD of a view as getData does those of the data. Its bytes
// are computed from stored ones, which the cache has or fetches: there is nothing to
// be converted or stored.
func (p *Proxy) getView(c *gin.Context) {
	d := p.forView(c)
	if d == nil {
		return
	}
	r, ctx := c.Request, c.Request.Context()
	v, err := p.openData(ctx, d)
	if err != nil {
		p.failData(c, d.img, err)
		return
	}
	defer v.Close()
	if onlyIfCached(r.Header) && !present(v.reader, []span{{0, *d.img.Size}}) {
		// Which part of the data a view needs is not known before it is read.
		api.FailStatus(c.Writer, r, http.StatusGatewayTimeout, "the data is not all in the cache")
		return
	}
	if err := v.show(ctx, c.Param("view")); err != nil {
		p.failData(c, d.img, err)
		return
	}
	// There was time for the image to change: what it is now counts.
	img, err := p.records.Get(ctx, d.img.ID)
	if err != nil {
		p.fail(c, err)
		return
	}
	if p.refused(d, img) {
		return
	}
	now := time.Now()
	rep := represent(img, now)
	rep.tag, rep.size = v.tag(), v.size
	status, spans := decide(r.Method, r.Header, rep, now)
	if p.concluded(d, rep, status) {
		return
	}
	if spans == nil {
		spans = []span{{0, rep.size}}
	}
	p.send(d, v, rep, status, spans)
}

// A viewEntry is a view in a list of them.
type viewEntry struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	URL  string `json:"url"`
	ETag string `json:"etag"`
}

// listViews answers GET of the views that an image has.
func (p *Proxy) listViews(c *gin.Context) {
	d := p.forView(c)
	if d == nil {
		return
	}
	views, err := p.viewsOf(c.Request.Context(), d)
	if err != nil && !errors.As(err, new(*viewError)) {
		p.failData(c, d.img, err)
		return
	}
	if d.img, err = p.records.Get(c.Request.Context(), d.img.ID); err != nil {
		p.fail(c, err)
		return
	}
	if p.refused(d, d.img) {
		return
	}
	p.setFreshness(c.Writer.Header(), d.img)
	api.WriteJSON(c.Writer, c.Request, http.StatusOK, struct {
		Views []viewEntry `json:"views"`
	}{append([]viewEntry{}, views...)})
}

// viewsOf returns the views that the image of d has. A viewError if it can have none.
func (p *Proxy) viewsOf(ctx context.Context, d *download) ([]viewEntry, error) {
	v, err := p.openData(ctx, d)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	var views []viewEntry
	for _, name := range diskformat.ViewNames() {
		switch err := v.show(ctx, name); {
		case errors.As(err, new(*viewError)):
		case err != nil:
			return nil, err
		default:
			views = append(views, viewEntry{name, v.size, dataPrefix + d.img.ID + dataSuffix + "/" + name, v.tag()})
		}
	}
	return views, nil
}

// forView returns what is known of a request for views, or answers it and returns nil.
// Data that nobody has hashed may change, and so has no views.
func (p *Proxy) forView(c *gin.Context) *download {
	w, r := c.Writer, c.Request
	if r.ContentLength > 0 {
		api.FailStatus(w, r, http.StatusBadRequest, "this call takes no body")
		return nil
	}
	img, err := p.records.Get(r.Context(), c.Param("id"))
	if err != nil {
		p.fail(c, err)
		return nil
	}
	// The hashes of the record are of the data as it is stored (rule S7).
	d := &download{c: c, caller: registry.CallerOf(r.Context()), dress: dress{fields: withoutHashes}}
	if p.refused(d, img) {
		return nil
	}
	if d.prefer, err = p.preferred(r); err != nil {
		api.FailStatus(w, r, http.StatusBadRequest, err.Error())
		return nil
	}
	switch {
	case img.Digest != "":
		exchangeOf(w).digest = img.Digest
		return d
	case p.pass != nil:
		p.passOn(c)
	default:
		p.fail(c, noView("the data is not hashed yet"))
	}
	return nil
}

func withoutHashes(h http.Header) {
	delete(h, "Repr-Digest")
	delete(h, "Content-Md5")
}

// A viewError says why a view cannot be offered: because of the image, and not of
// those who were asked for its bytes.
type viewError struct{ err error }

func (e *viewError) Error() string {
	var r *diskformat.Refusal
	switch {
	case !errors.As(e.err, &r):
		return viewUnavailable + ": decode: " + e.err.Error() // rule C1
	case r.Slug == viewUnavailable:
		return r.Error()
	}
	return viewUnavailable + ": " + r.Error()
}

func (e *viewError) Unwrap() error { return e.err }

// noView returns a viewError.
func noView(detail string) error {
	return &viewError{&diskformat.Refusal{Slug: viewUnavailable, Detail: detail}}
}

// formatOf returns the format of an image's data: that which was declared, because a
// format is never guessed.
func formatOf(img *registry.Image) (diskformat.Format, error) {
	switch img.ContainerFormat {
	case "docker", "compressed", "ova":
		return "", noView("the disk is wrapped as " + img.ContainerFormat)
	}
	switch f := diskformat.Format(img.DiskFormat); f {
	case "ami", "ari", "aki":
		return diskformat.Raw, nil
	case diskformat.Raw, diskformat.ISO, diskformat.QCOW2, diskformat.VMDK, diskformat.VHD, diskformat.VHDX, diskformat.VDI:
		return f, nil
	}
	return "", noView("images of format " + strconv.Quote(img.DiskFormat) + " cannot be read")
}

// imageNumber returns an id as a number, of which views make their own ids.
func imageNumber(id string) (n [16]byte) {
	b, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err == nil {
		copy(n[:], b)
	}
	return n
}

// A viewReader is one request's way to the views of an image. It is a body, the view
// being that which was shown last.
type viewReader struct {
	views  *views
	img    *registry.Image
	format diskformat.Format
	reader *cache.Reader
	found  cache.Outcome // in all that was read

	name    string
	version int
	size    int64 // bytes

	piece []byte // at an offset of the view; empty: none
	at    int64
}

var _ body = (*viewReader)(nil)

// openData returns a viewReader of the image of d, without a view. The caller closes it.
func (p *Proxy) openData(ctx context.Context, d *download) (*viewReader, error) {
	format, err := formatOf(d.img)
	if err != nil {
		return nil, err
	}
	reader, err := p.cache.Get(ctx, d.img.Digest, *d.img.Size, p.sourceOf(d.img, d.prefer))
	if err != nil {
		return nil, err
	}
	return &viewReader{views: &p.views, img: d.img, format: format, reader: reader}, nil
}

// show chooses a view. A viewError if there is none of that name.
func (v *viewReader) show(ctx context.Context, name string) error {
	if !slices.Contains(diskformat.ViewNames(), name) {
		return noView("there is no view " + strconv.Quote(name[:min(len(name), 40)]))
	}
	v.name, v.piece = name, v.piece[:0]
	return v.with(ctx, func(w *window) error {
		v.version, v.size = w.view.Version(), w.view.Size()
		return nil
	})
}

// tag returns the entity tag of the view: other bytes have another digest, another name
// or, if its layout was changed, another version (rule S3).
func (v *viewReader) tag() string {
	return `"` + string(v.img.Digest) + "-" + v.name + "-" + strconv.Itoa(v.version) + `"`
}

// with calls use with a window on the view that nobody else looks through meanwhile.
func (v *viewReader) with(ctx context.Context, use func(w *window) error) error {
	key := windowKey{bitmapKey{v.img.Digest, v.format}, v.img.ID, v.name}
	w := v.views.take(key)
	if w == nil {
		w = &window{key: key}
	}
	w.at = storedAt{ctx: ctx, reader: v.reader, size: *v.img.Size, found: &v.found}
	if w.view == nil {
		if err := v.views.open(ctx, w); err != nil {
			return err
		}
	}
	err := w.at.judge(use(w))
	w.at = storedAt{}
	v.views.giveBack(w)
	return err
}

// compute makes the piece of the view that begins at off, of n bytes at most. Pieces
// end at multiples of pieceSize, as the blocks of all formats do.
func (v *viewReader) compute(ctx context.Context, off, n int64) error {
	if v.piece == nil {
		v.piece = v.views.buffer()
	}
	n = min(n, viewPiece-off%viewPiece)
	v.at, v.piece = off, v.piece[:n]
	err := v.with(ctx, func(w *window) error {
		_, err := w.view.ReadAt(v.piece, off)
		return err
	})
	if err != nil {
		v.piece = v.piece[:0]
	}
	return err
}

// Ready computes the first piece. What it says was found is of what was read until
// then; of the rest nobody knows yet where it is.
func (v *viewReader) Ready(ctx context.Context, off, n int64) (cache.Outcome, error) {
	err := v.compute(ctx, off, n)
	return v.found, err
}

// Probe knows nothing: see Ready.
func (v *viewReader) Probe(int64, int64) cache.Outcome { return cache.Outcome{} }

// Sum knows nothing: what is hashed is what is stored.
func (v *viewReader) Sum(context.Context, int64, int64) (sum [32]byte, ok bool) { return sum, false }

// Send writes n bytes of the view from off on, and returns how many it wrote.
func (v *viewReader) Send(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	sent := int64(0)
	for sent < n {
		at := off + sent
		if at < v.at || at >= v.at+int64(len(v.piece)) {
			if err := v.compute(ctx, at, n-sent); err != nil {
				return sent, err
			}
		}
		b := v.piece[at-v.at:]
		k, err := w.Write(b[:min(int64(len(b)), n-sent)])
		sent += int64(k)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// Close ends the request.
func (v *viewReader) Close() error {
	if v.piece != nil {
		v.views.unbuffer(v.piece)
		v.piece = nil
	}
	return v.reader.Close()
}
