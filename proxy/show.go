package proxy

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"nearsight/registry"
	"nearsight/registry/api"
)

const (
	recordRoute = dataPrefix + ":id"

	// maxDocuments records are kept as the central wrote them, and none of more than
	// maxDocument bytes.
	maxDocuments = 10_000
	maxDocument  = 32 << 10
)

// keptFields are those of an answer with a record that are the same for everybody.
var keptFields = []string{
	"Cache-Control", "Cache-Groups", "Content-Type", "Etag", "Vary", "X-Content-Type-Options", "Xkey",
}

// documents keeps records as the central wrote them: it knows of stores and settings
// that an edge does not. The zero value is ready.
type documents struct {
	mu   sync.Mutex
	kept *simplelru.LRU[string, *document] // nil until there is one
}

// A document is the answer to a GET of the record img. It is right for as long as
// Records returns this very record.
type document struct {
	img    *registry.Image
	header http.Header
	body   []byte
	rep    representation
}

func (d *documents) get(img *registry.Image) *document {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kept == nil {
		return nil
	}
	if doc, ok := d.kept.Get(img.ID); ok && doc.img == img {
		return doc
	}
	return nil
}

func (d *documents) keep(doc *document) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kept == nil {
		d.kept, _ = simplelru.NewLRU[string, *document](maxDocuments, nil) // fails only for sizes below 1
	}
	d.kept.Add(doc.img.ID, doc)
}

// show answers GET and HEAD of a record at an edge: as the central did when it was
// asked last, if nothing changed since, and whoever asks may see it. What differs from
// caller to caller is passed on.
func (p *Proxy) show(w http.ResponseWriter, r *http.Request, id string) {
	x := exchangeOf(w)
	x.route, x.image, x.caller = recordRoute, id, registry.CallerOf(r.Context())
	if r.ContentLength != 0 {
		p.pass.ServeHTTP(w, r)
		return
	}
	img, err := p.records.Get(r.Context(), id)
	if err == nil {
		err = x.caller.May(registry.Show, img)
	}
	if err != nil {
		x.err = err
		api.Fail(w, r, err)
		return
	}
	if img.Status == registry.Deactivated { // admins are told more of it
		p.pass.ServeHTTP(w, r)
		return
	}
	if doc := p.documents.get(img); doc != nil {
		doc.write(w, r)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), captureKey{}, func(res *http.Response) { p.capture(img, res) }))
	p.pass.ServeHTTP(w, r)
}

// write answers with the document, or as a condition of the request wants.
func (d *document) write(w http.ResponseWriter, r *http.Request) {
	status := precondition(r.Header, d.rep, time.Now())
	if status == http.StatusPreconditionFailed {
		api.FailStatus(w, r, status, "the record is not what the request's condition names")
		return
	}
	h := w.Header()
	for name, lines := range d.header {
		h[name] = lines
	}
	h["Cache-Status"] = []string{hitStatus}
	if status == http.StatusNotModified {
		h.Del("Content-Type")
		w.WriteHeader(status)
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(d.body))}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(d.body) // a client that left needs no answer
	}
}

// capture keeps the answer of a central with the record of img, when all of it has
// come.
func (p *Proxy) capture(img *registry.Image, res *http.Response) {
	tag := res.Header.Get("Etag")
	if res.Header.Get(api.ImageRevisionHeader) != strconv.FormatInt(img.Revision, 10) || // of another time
		res.Request.Method != http.MethodGet || res.StatusCode != http.StatusOK || tag == "" ||
		res.ContentLength <= 0 || res.ContentLength > maxDocument || res.Header.Get("Content-Encoding") != "" {
		return
	}
	doc := &document{img: img, header: make(http.Header), body: make([]byte, 0, res.ContentLength), rep: representation{tag: tag, size: res.ContentLength}}
	for _, name := range keptFields {
		if lines := res.Header[name]; len(lines) > 0 {
			doc.header[name] = lines
		}
	}
	res.Body = &captured{ReadCloser: res.Body, doc: doc, keep: p.documents.keep}
}

// A captured body becomes that of a document.
type captured struct {
	io.ReadCloser
	doc  *document
	keep func(*document)
}

// Read implements io.Reader.
func (c *captured) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if d := c.doc; n > 0 && len(d.body) < int(d.rep.size) {
		d.body = append(d.body, b[:n]...)
		if len(d.body) == int(d.rep.size) {
			c.keep(d)
		}
	}
	return n, err
}
