package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

const (
	maxEdgeText  = 255      // bytes of a name, a URL or a version
	maxEdgeLine  = 64 << 10 // bytes of a line of progress, or of an edge's error
	edgePatience = 5 * time.Second
)

func (a *API) listEdges(c *gin.Context) error {
	if hasBody(c.Request) {
		return errUnwantedBody
	}
	edges, err := a.nodes.Edges.Edges(c.Request.Context())
	if err != nil {
		return err
	}
	list := make([]registry.Edge, len(edges))
	for i, e := range edges {
		list[i] = registry.Edge(e)
	}
	WriteJSON(c.Writer, c.Request, http.StatusOK, struct {
		Edges []registry.Edge `json:"edges"`
	}{list})
	return nil
}

// announceEdge puts an edge on the list. The nodes' secret is sent to where it says that
// it is, so that admins may not say it, unless there is no secret.
func (a *API) announceEdge(c *gin.Context) error {
	if a.nodes.Secret != "" && !registry.CallerOf(c.Request.Context()).Is("node") {
		return fmt.Errorf("%w: nodes alone announce themselves", registry.ErrForbidden)
	}
	body, err := a.readBody(c.Writer, c.Request)
	if err != nil {
		return err
	}
	e, err := parseEdge(body)
	if err != nil {
		return err
	}
	if err := a.nodes.Edges.Announce(c.Request.Context(), e); err != nil {
		return err
	}
	noContent(c.Writer)
	return nil
}

// parseEdge reads what an edge says of itself. A newer one may say more.
func parseEdge(body []byte) (registry.Edge, error) {
	var said registry.Edge
	if err := json.Unmarshal(body, &said); err != nil {
		return registry.Edge{}, malformed("a JSON object that describes an edge", err)
	}
	e := registry.Edge(said)
	e.StartedAt, e.SeenAt = e.StartedAt.UTC(), time.Time{}
	for name, text := range map[string]string{"name": e.Name, "url": e.URL, "version": e.Version} {
		if len(text) > maxEdgeText || !utf8.ValidString(text) || hasControl(text) {
			return e, refuse(http.StatusBadRequest, "%s is not a line of at most %d bytes", name, maxEdgeText)
		}
	}
	if e.Name == "" || e.Name == "." || e.Name == ".." || strings.Contains(e.Name, "/") {
		return e, refuse(http.StatusBadRequest, "name %.80q is not like edge-1", e.Name)
	}
	if y := e.StartedAt.Year(); y < 0 || y > 9999 {
		return e, refuse(http.StatusBadRequest, "started_at is no time")
	}
	for name, n := range map[string]int64{
		"revision": e.Revision, "budget": e.Budget, "used": e.Used, "images": int64(e.Images), "hits": e.Hits, "misses": e.Misses,
	} {
		if n < 0 {
			return e, refuse(http.StatusBadRequest, "%s is negative", name)
		}
	}
	return e, nil
}

// edgeOrders are the calls about an edge's cache, by verb: with :id for the image, and
// without one if the order can do without.
var edgeOrders = map[string]struct{ method, one, all string }{
	"warm":  {http.MethodPost, "/nearsight/cache/images/:id/warm", ""},
	"pin":   {http.MethodPut, "/nearsight/cache/images/:id/pin", ""},
	"unpin": {http.MethodDelete, "/nearsight/cache/images/:id/pin", ""},
	"drop":  {http.MethodDelete, "/nearsight/cache/images/:id", ""},
	"scrub": {http.MethodPost, "/nearsight/cache/images/:id/scrub", "/nearsight/cache/scrub"},
}

// orderEdge has an edge do something with an image in its cache: warm, pin, unpin, drop
// or scrub, the last also with all. The answer is lines, as the edge itself answers warm
// and scrub: {"done":BYTES,"total":BYTES} any number of times, then {"result":...}, null
// for what has none, or {"error":TEXT}. What fails before has a status: the edge's own
// where that is about the image, and 502 where it is about the edge.
func (a *API) orderEdge(c *gin.Context) error {
	w, r := c.Writer, c.Request
	if hasBody(r) {
		return errUnwantedBody
	}
	order, known := edgeOrders[c.Param("verb")]
	if !known {
		return refuse(http.StatusNotFound, "there is no order %.80q", c.Param("verb"))
	}
	path, image := order.all, r.URL.Query().Get("image")
	switch {
	case registry.ValidID(image):
		path = strings.ReplaceAll(order.one, ":id", image)
	case image != "":
		return refuse(http.StatusBadRequest, "image %.80q is no id of an image", image)
	case path == "":
		return refuse(http.StatusBadRequest, "it takes an image: ?image=ID")
	}
	base, err := a.findEdge(r.Context(), c.Param("name"))
	if err != nil {
		return err
	}
	resp, err := a.nodes.tell(r.Context(), order.method, base+path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	if resp.StatusCode == http.StatusNoContent {
		w.Write([]byte("{\"result\":null}\n")) // a client that left needs no answer
		return nil
	}
	relayLines(w, resp.Body)
	return nil
}

// findEdge returns the base of the URLs of an edge.
func (a *API) findEdge(ctx context.Context, name string) (string, error) {
	edges, err := a.nodes.Edges.Edges(ctx)
	if err != nil {
		return "", err
	}
	for _, e := range edges {
		if e.Name != name {
			continue
		}
		u, err := url.Parse(e.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return "", refuse(http.StatusConflict, "edge %.80q does not say where it can be reached, as https://edge-1.example.org:9292", name)
		}
		return u.Scheme + "://" + u.Host, nil
	}
	return "", refuse(http.StatusNotFound, "there is no edge %.80q", name)
}

// tell gives an order to an edge. The answer has lines, or nothing.
func (n *nodes) tell(ctx context.Context, method, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, refuse(http.StatusBadGateway, "the URL of the edge is malformed")
	}
	if n.Secret != "" {
		req.Header.Set("Authorization", "Bearer "+n.Secret)
	}
	resp, err := n.Transport.RoundTrip(req) // and no client: a redirect would take the secret along
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, refuse(http.StatusBadGateway, "the edge cannot be reached")
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent {
		return resp, nil
	}
	defer resp.Body.Close()
	var problem struct {
		Detail string `json:"detail"`
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxEdgeLine))
	if json.Unmarshal(text, &problem) != nil || problem.Detail == "" {
		problem.Detail = http.StatusText(resp.StatusCode)
	}
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusConflict:
		return nil, refuse(resp.StatusCode, "%s", problem.Detail)
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, refuse(http.StatusBadGateway, "the edge takes no orders from this server: have they the same nodes.secret?")
	}
	return nil, refuse(http.StatusBadGateway, "the edge answers %d: %s", resp.StatusCode, problem.Detail)
}

// relayLines copies whole lines of JSON as they come, up to one with a result or an
// error. If there is none, the last line says so.
func relayLines(w gin.ResponseWriter, body io.Reader) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEdgeLine)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		var said map[string]json.RawMessage
		if len(line) == 0 {
			continue
		}
		if json.Unmarshal(line, &said) != nil {
			break
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return // the client left
		}
		w.Flush()
		if said["result"] != nil || said["error"] != nil {
			return
		}
	}
	why := "the edge broke off"
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		why = "the edge answers what cannot be understood"
	}
	w.Write(append(encodeJSON(map[string]string{"error": why}), '\n'))
}

// newEdgeTransport returns one that keeps no connection: orders are rare.
func newEdgeTransport() http.RoundTripper {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: edgePatience, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: edgePatience, DisableKeepAlives: true, DisableCompression: true,
		MaxResponseHeaderBytes: maxEdgeLine,
	}
}
