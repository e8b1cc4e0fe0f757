package api

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/identity"
)

const (
	// RevisionHeader names the field with a revision that the registry had before an
	// answer to a node was made: what the answer says is no older. Only the node API
	// sends it, so that no other server's 404 passes for its word.
	RevisionHeader = "Nearsight-Revision"

	// believed is how long another node may go by what this one says of a token: so
	// much later than here is one that was revoked refused there.
	believed = 30 * time.Second

	// maxRecords bounds a list for nodes; it is built in memory.
	maxRecords = 1000

	// manifestFreshness: what a digest names never changes, and nodes alone get it.
	manifestFreshness = "private, max-age=31536000, immutable"
)

// Nodes says what other servers of the same registry get here. The zero value:
// nothing, and nobody is one.
type Nodes struct {
	// Secret is the token by which nodes are known; "" means by none.
	Secret string
	// CA are the authorities whose certificates make a node of their holder. The
	// listener must ask for certificates and verify those that it gets; it is told
	// of the same authorities.
	CA []*x509.Certificate

	// Images and Log are the truth, and no memory of it: who hears of a change reads
	// the record at once. Without Images, Log and Events there is no node API.
	Images registry.Reader
	Log    registry.Log
	// Events wakes those who wait for news. API.Run must run.
	Events registry.Events
	// Edges keeps the list of edges; nil means that there is none.
	Edges registry.Edges
	// Transport carries requests to edges. nil means one over TCP and TLS with the
	// system's authorities.
	Transport http.RoundTripper

	// Waiters is how many requests may wait for news at a time, and WaitersEach how
	// many of one address. 0 means 4096 and 256.
	Waiters, WaitersEach int
}

// nodes is what of Nodes is at work.
type nodes struct {
	Nodes
	tokens  identity.Identifier // of those who are no nodes; nil: nobody is told apart
	node    *registry.Caller
	feed    *feed
	waiters waiters
}

// openNodes sets what has to do with other nodes. From here on the secret counts
// as a token.
func (a *API) openNodes(o Nodes) {
	n := &a.nodes
	n.Nodes, n.tokens = o, a.identity
	n.node = &registry.Caller{User: "node", Roles: []string{"node", "admin"}}
	n.waiters = newWaiters(o.Waiters, o.WaitersEach)
	if o.Images != nil && o.Log != nil && o.Events != nil {
		n.feed = newFeed(o.Log, o.Events, a.log)
	}
	if n.Transport == nil {
		n.Transport = newEdgeTransport()
	}
	if o.Secret != "" && a.identity != nil {
		a.identity = &nodeIdentity{nodes: n, next: a.identity}
	}
}

// registerNodes adds the calls for other nodes, and those about edges. They are for
// nodes, and for admins, but that only nodes announce themselves. Errors are problem
// documents (RFC 9457).
//
//	GET  /nearsight/events?after=R&wait=1s  200 {"revision":N,"proved":BOOL,"events":[EVENT...]}
//	GET  /nearsight/records/:id             200 registry.Image, whole; 404
//	POST /nearsight/records/list            registry.Query; 200 {"images":[registry.Image...]}
//	GET  /nearsight/manifests/:digest       200 octets; 404
//	POST /nearsight/identify                {"token":TEXT}; 200 {"caller":CALLER or null,"expires_in":SECONDS}
//	GET  /nearsight/edges                   200 {"edges":[EDGE...]}, by name
//	POST /nearsight/edges                   EDGE; 204
//	POST /nearsight/edges/:name/cache/:verb?image=ID  lines, see orderEdge
//
// EVENT is {"revision":N,"image":ID,"kind":WORD,"digest":TEXT,"at":TIME}. They come at
// once if there are any after R, at most 1000, and else after the time wait, at most
// 30 s, with none. proved says that the registry was at N since it was asked; else it
// is there at least. Without after there are no events: it asks for N alone. 410 means
// registry.ErrTooOld, and 503 also that too many wait.
//
// CALLER is {"project":TEXT,"user":TEXT,"roles":[WORD...]}, null for a token that is not
// known: 401 is about the node that asks. It may be believed for so many seconds.
func (a *API) registerNodes(r gin.IRoutes) {
	if a.nodes.feed != nil {
		a.forNodes(r, "GET", "/nearsight/events", a.showEvents)
		a.forNodes(r, "GET", "/nearsight/records/:id", a.showRecord)
		a.forNodes(r, "POST", "/nearsight/records/list", a.listRecords)
		a.forNodes(r, "GET", "/nearsight/manifests/:digest", a.showManifest)
		a.forNodes(r, "POST", "/nearsight/identify", a.identifyFor)
	}
	if a.nodes.Edges != nil {
		a.forNodes(r, "GET", "/nearsight/edges", a.listEdges)
		a.forNodes(r, "POST", "/nearsight/edges", a.announceEdge)
		a.forNodes(r, "POST", "/nearsight/edges/:name/cache/:verb", a.orderEdge)
	}
}

// forNodes adds a route for nodes and admins.
func (a *API) forNodes(r gin.IRoutes, method, path string, h func(c *gin.Context) error) {
	handle := func(c *gin.Context) {
		w, r := c.Writer, c.Request
		w.Header().Set("Cache-Control", "no-store")
		if a.identity == nil && a.nodes.mistaken(r) {
			a.challenge(w, r, "the token is not known, or not valid any more")
			return
		}
		err := registry.CallerOf(r.Context()).MayAtAll(registry.RunServers)
		if err == nil {
			a.nodes.sayRevision(w)
			err = h(c)
		}
		if err != nil {
			a.fail(c, err)
		}
	}
	r.Handle(method, path, handle)
	if method == http.MethodGet {
		r.HEAD(path, handle)
	}
}

// sayRevision puts the revision that is known from memory on the answer.
func (n *nodes) sayRevision(w http.ResponseWriter) {
	var revision int64
	if n.feed != nil {
		revision = n.feed.known()
	}
	w.Header().Set(RevisionHeader, strconv.FormatInt(revision, 10))
}

func (a *API) showRecord(c *gin.Context) error {
	if hasBody(c.Request) {
		return errUnwantedBody
	}
	if !registry.ValidID(c.Param("id")) {
		return registry.ErrNotFound
	}
	img, err := a.nodes.Images.Get(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	WriteJSON(c.Writer, c.Request, http.StatusOK, img)
	return nil
}

func (a *API) listRecords(c *gin.Context) error {
	body, err := a.readBody(c.Writer, c.Request)
	if err != nil {
		return err
	}
	q, err := parseRecordsQuery(body)
	if err != nil {
		return err
	}
	images, err := a.nodes.Images.List(c.Request.Context(), q)
	if err != nil {
		return err
	}
	if images == nil {
		images = []*registry.Image{}
	}
	WriteJSON(c.Writer, c.Request, http.StatusOK, struct {
		Images []*registry.Image `json:"images"`
	}{images})
	return nil
}

// parseRecordsQuery reads a registry.Query. What it does not know could be a
// restriction, and is refused.
func parseRecordsQuery(body []byte) (q registry.Query, err error) {
	if err := decodeStrictly(body, &q); err != nil {
		return q, err
	}
	if q.Limit > maxRecords {
		return q, refuse(http.StatusBadRequest, "a list of %d images is longer than %d", q.Limit, maxRecords)
	}
	return q, nil
}

// decodeStrictly reads a JSON document that has no other members than v.
func decodeStrictly(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return malformed("a JSON object of the members that are known here", err)
	}
	if d.More() {
		return refuse(http.StatusBadRequest, "there is more than one JSON document")
	}
	return nil
}

func (a *API) showManifest(c *gin.Context) error {
	w, r := c.Writer, c.Request
	if hasBody(r) {
		return errUnwantedBody
	}
	digest, err := origin.ParseDigest(c.Param("digest"))
	if err != nil {
		return registry.ErrNotFound
	}
	manifest, err := a.nodes.Images.Manifest(r.Context(), digest)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Cache-Control", manifestFreshness)
	h.Set("Etag", `"`+string(digest)+`"`)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(manifest)))
	if r.Method == http.MethodHead {
		manifest = nil
	}
	writeBody(w, http.StatusOK, manifest)
	return nil
}

// A nodeCaller is a registry.Caller in JSON.
type nodeCaller struct {
	Project string   `json:"project"`
	User    string   `json:"user"`
	Roles   []string `json:"roles"`
}

// identifyFor says to another node whom a token names.
func (a *API) identifyFor(c *gin.Context) error {
	body, err := a.readBody(c.Writer, c.Request)
	if err != nil {
		return err
	}
	var asked struct {
		Token string `json:"token"`
	}
	if err := decodeStrictly(body, &asked); err != nil {
		return err
	}
	answer := struct {
		Caller    *nodeCaller `json:"caller"`
		ExpiresIn int         `json:"expires_in"`
	}{ExpiresIn: int(believed / time.Second)}
	caller, err := registry.Everybody(), error(nil)
	if a.nodes.tokens != nil {
		caller, err = a.nodes.tokens.Identify(c.Request.Context(), asked.Token)
	}
	switch {
	case err == nil:
		answer.Caller = &nodeCaller{caller.Project, caller.User, append([]string{}, caller.Roles...)}
	case errors.Is(err, identity.ErrUnknown):
	case c.Request.Context().Err() != nil:
		return err
	default:
		a.log.Warn("a caller cannot be identified for a node", "request_id", c.Writer.Header().Get(RequestIDHeader), "err", err)
		return refuse(http.StatusServiceUnavailable, "it cannot be found out just now who that is")
	}
	WriteJSON(c.Writer, c.Request, http.StatusOK, answer)
	return nil
}
