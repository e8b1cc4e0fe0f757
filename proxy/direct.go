package proxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"nearsight/cache"
	"nearsight/proxy/wire"
	"nearsight/registry"
	"nearsight/registry/api"
)

const (
	dataPrefix = "/v2/images/"
	dataSuffix = "/file"
	dataRoute  = dataPrefix + ":id" + dataSuffix
	idLength   = 36
)

// Direct returns what answers the requests of one connection without net/http:
// those for data that can be answered by 200, 206 or 304. Every other answer, all
// that has to do with a failure among them, is getData's, which is asked again
// from the start. What both answer is the same, byte for byte but for Date and
// the id of the request; a test compares them.
func (p *Proxy) Direct(remote string) wire.Answerer { return &direct{p: p, remote: remote} }

// A direct remembers what the last request needed, because the next is nearly
// always for the same image.
type direct struct {
	p      *Proxy
	remote string
	dater  dater
	text   []byte           // of the header being sent
	id     []byte           // of the request
	caller *registry.Caller // of the request; nil where nobody is told apart

	// generation is that of the records when img was looked up.
	generation uint64
	img        *registry.Image
	rep        representation
	heads      *heads
	tally      *tally
	src        *source
	reader     *cache.Reader // closed between requests; nil until there is one
}

// Answer implements wire.Answerer.
func (d *direct) Answer(ctx context.Context, c *wire.Conn, r *wire.Request) wire.Verdict {
	start := c.Now()
	id, ok := strings.CutPrefix(r.Path, dataPrefix)
	if !ok || len(id) != idLength+len(dataSuffix) || id[idLength:] != dataSuffix || !d.know(ctx, id[:idLength], start) || !d.may(r.Header) {
		return wire.Declined
	}
	method := http.MethodGet
	if r.Head {
		method = http.MethodHead
	}
	status, spans := decide(method, r.Header, d.rep, start)
	a := blanks{status: status, size: d.rep.size, span: span{0, d.rep.size}, date: d.dater.at(start)}
	head := &d.heads.whole
	switch {
	case len(spans) > 1:
		return wire.Declined
	case status == http.StatusNotModified:
		head, a.span.n = &d.heads.notModified, 0
	case status == http.StatusPartialContent:
		head, a.span = &d.heads.partial, spans[0]
	case status != http.StatusOK:
		return wire.Declined
	case r.Head:
		head = &d.heads.none
	}
	t, why := d.p.limiter.enter(d.caller, d.remote, false)
	if why.limit != "" {
		return wire.Declined
	}
	defer t.end()
	d.p.metrics.inFlight.Inc()
	defer d.p.metrics.inFlight.Dec()
	body := !r.Head && status != http.StatusNotModified
	if body {
		if !d.ready(ctx, &a, start) {
			return wire.Declined
		}
		if a.found.Present < a.found.Chunks { // that took its time
			a.date = d.dater.at(c.Tick())
		}
	}
	d.id = api.AppendRequestID(d.id[:0])
	a.id = d.id
	d.text = head.appendTo(d.text[:0], &a)
	c.Delay(d.text)
	var sent int64
	var err error
	if body {
		sent, err = d.reader.Send(ctx, c, a.span.off, a.span.n)
		d.reader.Close()
		if err == nil && sent != a.span.n {
			err = io.ErrUnexpectedEOF
		}
	} else {
		err = c.Flush()
	}
	x := exchange{status: status, bytes: sent, route: dataRoute, image: d.img.ID, caller: d.caller, digest: d.img.Digest, err: err}
	if body {
		x.found = foundWord(a.found)
		d.tally.note(a.found, start)
	}
	d.p.ended(ctx, &visit{
		method: method, path: r.Path, ranges: r.Header["Range"], remote: d.remote, id: d.id,
		exchange: &x, dur: c.Tick().Sub(start), aborted: err != nil,
	})
	if err != nil {
		return wire.Broken
	}
	return wire.Answered
}

// may reports whether it is known from memory that whoever sends these fields may
// have the data of the image. Who may not is told so by the ordinary way.
func (d *direct) may(h http.Header) bool {
	p := d.p
	if p.identity == nil {
		return true
	}
	d.caller = nil
	if token, sent := api.TokenOf(h); sent && p.known != nil {
		d.caller = p.known.Remembered(token)
	} else if !sent && p.anonymous {
		d.caller = &stranger
	}
	return d.caller != nil && mayDownload(d.caller, d.img) == nil
}

// stranger is who sends no token.
var stranger = registry.Caller{Stranger: true}

// know looks the image up, unless it is the one known and nothing was forgotten
// since.
func (d *direct) know(ctx context.Context, id string, now time.Time) bool {
	records := d.p.records
	if d.img != nil && d.img.ID == id && d.generation == records.Generation() {
		return true
	}
	id = strings.Clone(id) // it lies in the connection's buffer
	img, generation := records.Remembered(id)
	for range 3 { // it may be forgotten in between: a change has its event behind it
		if img != nil || records.Generation() == 0 { // nothing is believed
			break
		}
		if _, err := records.Get(ctx, id); err != nil {
			return false
		}
		img, generation = records.Remembered(id)
	}
	if img == nil {
		return false // nothing is being remembered
	}
	d.generation = generation
	if img == d.img {
		return true
	}
	d.img, d.reader = nil, nil
	if img.ID != id || img.Status != registry.Active || img.Digest == "" || img.Size == nil || *img.Size == 0 || img.ActivatedAt.After(now) {
		return false
	}
	d.img, d.rep = img, represent(img, now)
	d.heads, d.src, d.tally = d.p.newHeads(img, d.rep), d.p.source(img), d.p.tallies.of(img.ID)
	return true
}

// ready gets the first byte of the span ready, as sendData does.
func (d *direct) ready(ctx context.Context, a *blanks, now time.Time) bool {
	var err error
	if d.reader == nil {
		d.reader, err = d.p.cache.Get(ctx, d.img.Digest, d.rep.size, d.src)
	} else {
		err = d.reader.Reopen(ctx, now)
	}
	if err != nil {
		d.reader = nil
		return false
	}
	if a.found, err = d.reader.Ready(ctx, a.span.off, a.span.n); err == nil && a.found.Present == a.found.Chunks {
		return true
	}
	// There was time for the image to change: what it is now counts.
	if err == nil && d.generation != d.p.records.Generation() {
		var img *registry.Image
		if img, d.generation = d.p.records.Remembered(d.img.ID); img != d.img {
			d.img = nil
		}
	}
	if err != nil || d.img == nil {
		d.reader.Close()
		return false
	}
	return true
}
