package proxy

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"

	"nearsight/cache"
	"nearsight/registry"
	"nearsight/registry/api"
)

// The fields of an answer with data are nearly all the same for one image. A head
// is the header of such an answer with holes for the rest, so that the short way
// of a request need only fill them. It is made of what the ordinary way sends,
// and in the same order: net/http sorts the fields and puts Date last.
type head struct {
	parts []headPart
}

// A headPart is bytes of the header and what comes after them.
type headPart struct {
	text string
	then hole
}

type hole byte

const (
	noHole hole = iota
	cacheStatusHole
	contentLengthHole
	contentRangeHole
	requestIDHole
	dateHole
)

// mark is how a hole stands in a field until the header is cut there. No field of
// ours has a zero byte.
func (h hole) mark() string { return "\x00" + string('0'+rune(h)) }

// heads are those of one image's answers.
type heads struct {
	whole, partial, none, notModified head // 200, 206, 200 to HEAD, 304
}

func (p *Proxy) newHeads(img *registry.Image, rep representation) *heads {
	validators := func() http.Header {
		h := make(http.Header)
		setValidators(h, img, rep)
		p.setFreshness(h, img)
		h[api.RequestIDHeader] = []string{requestIDHole.mark()}
		return h
	}
	content := func() http.Header {
		h := validators()
		setContent(h, img)
		h["Content-Length"] = []string{contentLengthHole.mark()}
		return h
	}
	body := func() http.Header {
		h := content()
		h["Cache-Status"] = []string{cacheStatusHole.mark()}
		return h
	}
	part := body()
	part["Content-Range"] = []string{contentRangeHole.mark()}
	return &heads{
		whole:       newHead(http.StatusOK, body()),
		partial:     newHead(http.StatusPartialContent, part),
		none:        newHead(http.StatusOK, content()),
		notModified: newHead(http.StatusNotModified, validators()),
	}
}

func newHead(status int, h http.Header) head {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	h.Write(&b) // a Buffer takes all
	b.WriteString("Date: " + dateHole.mark() + "\r\n\r\n")
	var parts []headPart
	text := b.String()
	for {
		i := strings.IndexByte(text, 0)
		if i < 0 {
			return head{append(parts, headPart{text, noHole})}
		}
		parts = append(parts, headPart{text[:i], hole(text[i+1] - '0')})
		text = text[i+2:]
	}
}

// The blanks are what fills the holes of a head.
type blanks struct {
	found  cache.Outcome
	span   span  // of the body
	size   int64 // of the whole
	date   string
	id     []byte // of the request
	status int
}

// appendTo appends the header with the holes filled.
func (h *head) appendTo(b []byte, a *blanks) []byte {
	for i := range h.parts {
		part := &h.parts[i]
		b = append(b, part.text...)
		switch part.then {
		case cacheStatusHole:
			b = append(b, cacheStatus(a.found)...)
		case contentLengthHole:
			b = strconv.AppendInt(b, a.span.n, 10)
		case contentRangeHole:
			b = appendContentRange(b, a.span, a.size)
		case requestIDHole:
			b = append(b, a.id...)
		case dateHole:
			b = append(b, a.date...)
		}
	}
	return b
}

// A dater writes dates for Date, each once.
type dater struct {
	second int64
	text   string
}

func (d *dater) at(now time.Time) string {
	if s := now.Unix(); s != d.second {
		d.second, d.text = s, now.UTC().Format(http.TimeFormat)
	}
	return d.text
}
