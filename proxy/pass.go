package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/api"
)

// passRoute stands for the route of a request that was passed on.
const passRoute = "pass"

// PassOptions say where an edge passes on what it does not answer itself. Centrals and
// Records are required.
type PassOptions struct {
	// Centrals are asked in turn until one can be reached, the one that could last
	// first.
	Centrals *Centrals
	// Records forgets the images that answers tell of having changed.
	Records *Records
	// Name is what the edge calls itself in Via. It is a token (RFC 9110, section
	// 5.6.2); "" means nearsight.
	Name string
	// Trusted are the networks of proxies in front whose word on who asked, at which
	// host and how, is passed on.
	Trusted []netip.Prefix
	// Stall is for how long a client may send nothing of a body; 0 means 120 s.
	Stall time.Duration
	// Log gets what no client can be told; nil means slog.Default().
	Log *slog.Logger
}

// A Pass passes requests on to a central, streaming both ways and unchanged but for
// what RFC 9110, section 7.6, wants of one in the middle. What breaks off at one side
// breaks off at the other.
type Pass struct {
	PassOptions
	proxy httputil.ReverseProxy
}

// NewPass returns a Pass. It starts nothing.
func NewPass(o PassOptions) *Pass {
	if o.Name == "" {
		o.Name = "nearsight"
	}
	if o.Stall <= 0 {
		o.Stall = 120 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	p := &Pass{PassOptions: o}
	p.proxy = httputil.ReverseProxy{
		Rewrite: p.rewrite, Transport: o.Centrals, FlushInterval: -1,
		ModifyResponse: p.answered, ErrorHandler: p.failed,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), // the access record has it
	}
	return p
}

// ServeHTTP implements http.Handler.
func (p *Pass) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(w)
	x.stale = false // it is the central's answer
	if x.route == "" {
		x.route, x.image = passRoute, imageIn(r.URL.Path)
	}
	if p.looped(r) {
		api.FailStatus(w, r, http.StatusLoopDetected, "the request comes from this server: its central is itself")
		return
	}
	if r.ContentLength != 0 {
		body := &passedBody{body: r.Body, rc: http.NewResponseController(w), stall: p.Stall}
		r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, body))
		r.Body = body
		defer body.takeBack()
	}
	if g, ok := w.(gin.ResponseWriter); ok {
		w = ginWriter{g}
	}
	p.proxy.ServeHTTP(w, r)
}

// looped reports whether the request was here before.
func (p *Pass) looped(r *http.Request) bool {
	for _, line := range r.Header["Via"] {
		for hop := range strings.SplitSeq(line, ",") {
			if words := strings.Fields(hop); len(words) > 1 && words[1] == p.Name {
				return true
			}
		}
	}
	return false
}

// rewrite makes of a request the one that is passed on: for the same target, whatever
// was made of it here.
func (p *Pass) rewrite(r *httputil.ProxyRequest) {
	in, out := r.In, r.Out
	target := &url.URL{Path: in.URL.Path, RawPath: in.URL.RawPath, RawQuery: in.URL.RawQuery}
	if strings.HasPrefix(in.RequestURI, "/") {
		if u, err := url.ParseRequestURI(in.RequestURI); err == nil {
			target = u
		}
	}
	out.URL, out.Host = target, in.Host
	h := out.Header
	h.Del("Connection") // nothing is switched to another protocol here
	h.Del("Upgrade")
	if trusted(p.Trusted, in.RemoteAddr) {
		for _, name := range []string{"X-Forwarded-For", "Forwarded"} {
			if lines := in.Header[name]; len(lines) > 0 {
				h[name] = slices.Clone(lines)
			}
		}
	}
	r.SetXForwarded()
	host, proto := in.Host, "http"
	if in.TLS != nil {
		proto = "https"
	}
	if trusted(p.Trusted, in.RemoteAddr) {
		for name, to := range map[string]*string{"X-Forwarded-Host": &host, "X-Forwarded-Proto": &proto} {
			if lines := in.Header[name]; len(lines) > 0 {
				h[name] = slices.Clone(lines)
				*to = lines[0]
			}
		}
	}
	h.Add("Forwarded", forwarded(in.RemoteAddr, host, proto))
	h.Add("Via", fmt.Sprintf("%d.%d %s", in.ProtoMajor, in.ProtoMinor, p.Name))
	if x, ok := in.Context().Value(exchangeKey{}).(*exchange); ok {
		if id := x.Header().Get(api.RequestIDHeader); id != "" { // one name for both
			h[api.RequestIDHeader] = []string{id}
		}
	}
}

// trusted reports whether remote, an address with a port, is in one of the networks.
func trusted(networks []netip.Prefix, remote string) bool {
	at, err := netip.ParseAddrPort(remote)
	return err == nil && slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(at.Addr().Unmap()) })
}

// forwarded returns an element of Forwarded (RFC 7239, section 4).
func forwarded(remote, host, proto string) string {
	who := "unknown"
	if at, err := netip.ParseAddrPort(remote); err == nil {
		if who = at.Addr().Unmap().WithZone("").String(); strings.Contains(who, ":") {
			who = `"[` + who + `]"`
		}
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	return fmt.Sprintf(`for=%s;host="%s";proto="%s"`, who, quoted.Replace(host), quoted.Replace(proto))
}

// answered is called with the header of an answer. Who changed an image here shall
// find it changed here: the central's event may still be on its way.
func (p *Pass) answered(res *http.Response) error {
	r := res.Request
	h := res.Header
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		for _, name := range []string{api.RequestIDHeader, "Connection"} {
			if x.Header().Get(name) != "" { // it would stand there twice
				h.Del(name)
			}
		}
	}
	h.Add("Via", fmt.Sprintf("%d.%d %s", res.ProtoMajor, res.ProtoMinor, p.Name))
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if err := p.compare(res); err != nil {
			return err
		}
		status := "nearsight; fwd=bypass"
		if keep, ok := r.Context().Value(captureKey{}).(func(*http.Response)); ok {
			status = "nearsight; fwd=miss"
			keep(res)
		}
		h.Add("Cache-Status", status)
	default:
		if res.StatusCode/100 == 2 {
			p.forget(r.URL.Path)
			p.forget(h.Get("Location"))
		}
	}
	return nil
}

// errBehind: a central knows less of an image than was shown here already.
var errBehind = errors.New("the central is behind")

// compare sees to it that a record that a central shows and what is remembered of it
// never tell a client of two times in the wrong order: what is remembered and older is
// forgotten, and an older answer is not passed on.
func (p *Pass) compare(res *http.Response) error {
	x, ok := res.Request.Context().Value(exchangeKey{}).(*exchange)
	if !ok || x.route != recordRoute {
		return nil
	}
	switch revision, err := strconv.ParseInt(res.Header.Get(api.ImageRevisionHeader), 10, 64); {
	case err == nil && !p.Records.overtake(x.image, revision):
		return errBehind
	case res.StatusCode == http.StatusNotFound: // and the caller saw it by what is remembered
		p.Records.forget(x.image)
		img, err := p.Records.Get(res.Request.Context(), x.image)
		if err == nil {
			err = x.caller.May(registry.Show, img)
		}
		if !errors.Is(err, registry.ErrNotFound) {
			return errBehind
		}
	}
	return nil
}

// forget forgets the images that are named in a path.
func (p *Pass) forget(path string) {
	for segment := range strings.SplitSeq(path, "/") {
		if registry.ValidID(segment) {
			p.Records.forget(segment)
		}
	}
}

// imageIn returns the id of the image that a path names first, or "".
func imageIn(path string) string {
	for segment := range strings.SplitSeq(path, "/") {
		if registry.ValidID(segment) {
			return segment
		}
	}
	return ""
}

// failed answers a request that got no answer from a central.
func (p *Pass) failed(w http.ResponseWriter, r *http.Request, err error) {
	exchangeOf(w).err = err
	var body *passedBody
	if body, _ = r.Context().Value(bodyKey{}).(*passedBody); body != nil && body.failure() == nil {
		body = nil
	}
	if body != nil || r.ContentLength != 0 {
		w.Header().Set("Connection", "close") // what follows of the body is nobody's
	}
	var timeout net.Error
	switch {
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler)
	case body != nil && errors.As(body.failure(), &timeout) && timeout.Timeout():
		api.FailStatus(w, r, http.StatusRequestTimeout, "the rest of the body did not come")
	case body != nil:
		api.FailStatus(w, r, http.StatusBadRequest, "the body is malformed or was cut off")
	case errors.Is(err, errBehind):
		api.FailStatus(w, r, http.StatusServiceUnavailable, "the registry is just catching up")
	case errors.Is(err, errUnreachable):
		api.FailStatus(w, r, http.StatusServiceUnavailable, "the registry cannot be reached just now")
	default:
		api.FailStatus(w, r, http.StatusBadGateway, "the registry broke off without an answer; what was asked for may have been done")
	}
}

// captureKey is that of what sees the answer to a request that may be kept.
type captureKey struct{}

// A ginWriter writes through gin's writer, which knows one status only, and writes it
// late.
type ginWriter struct{ gin.ResponseWriter }

func (w ginWriter) WriteHeader(status int) {
	if status < 200 {
		exchangeOf(w.ResponseWriter).WriteHeader(status)
		return
	}
	w.ResponseWriter.WriteHeader(status)
	w.WriteHeaderNow()
}
