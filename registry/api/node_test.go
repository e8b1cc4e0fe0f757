package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/identity"
)

const nodeSecret = "a-secret-of-the-nodes-0123456789"

// withNodes makes a central of the rig.
func withNodes(o *Options) {
	d := o.Images.(*db.DB)
	o.Nodes = Nodes{Secret: nodeSecret, Images: d, Log: d, Events: bus.New(d), Edges: d}
}

// nodeCalls are all calls for nodes, with what they answer to one: a body if they need one.
var nodeCalls = []struct {
	line, body string
	status     int
}{
	{"GET /nearsight/events?after=0", "", 200},
	{"GET /nearsight/events", "", 200},
	{"GET /nearsight/records/" + absent, "", 404},
	{"POST /nearsight/records/list", `{"Limit":1}`, 200},
	{"GET /nearsight/manifests/" + strings.Repeat("0", 64), "", 404},
	{"POST /nearsight/identify", `{"token":"good"}`, 200},
	{"GET /nearsight/edges", "", 200},
	{"POST /nearsight/edges", `{"name":"edge-1"}`, 204},
	{"POST /nearsight/edges/edge-2/cache/warm?image=" + id1, "", 404},
}

func TestTheNodeAPIIsForNodesAndAdmins(t *testing.T) {
	people := crowd{
		"admin": {Project: "ops", Roles: []string{"admin"}}, "good": {Project: "home", Roles: []string{"member"}},
		"service": {Roles: []string{"service"}}, "called-node": {Roles: []string{"node", "member"}},
	}
	const announce = "POST /nearsight/edges"
	for _, tt := range []struct {
		name, fields string
		secret       string // of the server
		who          identity.Identifier
		status       int // 0: what a node gets
		announces    int // another status for that call
	}{
		{"the secret", "Authorization: Bearer " + nodeSecret, nodeSecret, people, 0, 0},
		{"the secret as a token", "X-Auth-Token: " + nodeSecret, nodeSecret, people, 0, 0},
		{"the secret where nobody is told apart", "Authorization: Bearer " + nodeSecret, nodeSecret, nil, 0, 0},
		{"another secret", "Authorization: Bearer x" + nodeSecret, nodeSecret, people, 401, 0},
		{"a part of the secret", "Authorization: Bearer " + nodeSecret[:31], nodeSecret, people, 401, 0},
		{"another secret where nobody is told apart", "Authorization: Bearer wrong", nodeSecret, nil, 401, 0},
		{"the secret twice", "Authorization: Bearer " + nodeSecret + "|Authorization: Bearer " + nodeSecret, nodeSecret, people, 401, 0},
		{"the secret as a password", "Authorization: Basic " + nodeSecret, nodeSecret, people, 401, 0},
		{"nothing", "", nodeSecret, people, 401, 0},
		{"an empty secret", "Authorization: Bearer ", "", people, 401, 0},
		{"a secret where there is none", "Authorization: Bearer " + nodeSecret, "", people, 401, 0},
		{"an admin, who may not say where the secret goes", "X-Auth-Token: admin", nodeSecret, people, 0, 403},
		{"an admin where there is no secret", "X-Auth-Token: admin", "", people, 0, 0},
		{"everybody where nobody is told apart, and there is no secret", "", "", nil, 0, 0},
		{"a member", "X-Auth-Token: good", nodeSecret, people, 403, 0},
		{"a member where there is no secret", "X-Auth-Token: good", "", people, 403, 0},
		{"a service", "X-Auth-Token: service", nodeSecret, people, 403, 0},
		{"a role that is called node", "X-Auth-Token: called-node", nodeSecret, people, 403, 0},
		{"what a proxy of others would say", "X-Roles: admin,node|X-Identity-Status: Confirmed|Nearsight-Node: 1", nodeSecret, people, 401, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, withNodes, func(o *Options) { o.Nodes.Secret, o.Identity = tt.secret, tt.who })
			g.as(nil)
			for _, call := range nodeCalls {
				want := call.status
				if tt.status != 0 {
					want = tt.status
				} else if tt.announces != 0 && call.line == announce {
					want = tt.announces
				}
				var fields []string
				if tt.fields != "" {
					fields = strings.Split(tt.fields, "|")
				}
				w := g.want(want, call.line, call.body, fields...)
				if want >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s: %v", call.line, w.Header())
				}
				if strings.Contains(w.Body.String(), nodeSecret[:8]) || strings.Contains(fmt.Sprint(w.Header()), nodeSecret[:8]) {
					t.Errorf("%s shows the secret: %s", call.line, w.Body)
				}
				if known := w.Header().Get(RevisionHeader) != ""; known != (tt.status == 0) {
					t.Errorf("%s: status %d with %s: %v", call.line, want, RevisionHeader, known)
				}
			}
		})
	}
}

func TestWithoutNodesThereIsNoNodeAPI(t *testing.T) {
	g := newRig(t)
	for _, call := range nodeCalls {
		g.want(404, call.line, call.body)
	}
}

func TestANodeIsKnownWherePeopleAre(t *testing.T) {
	g := newRig(t, withNodes, func(o *Options) { o.Identity = someone })
	who, _ := g.api.Identity()
	known, ok := who.(identity.Rememberer)
	if !ok {
		t.Fatal("who knows the callers remembers none")
	}
	if c := known.Remembered(nodeSecret); c == nil || !c.Is("node") || !c.Is("admin") {
		t.Errorf("the secret is that of %+v", c)
	}
	if c := known.Remembered("good"); c != nil {
		t.Errorf("%+v is remembered by who remembers nobody", c)
	}
	if c, err := who.Identify(t.Context(), "good"); err != nil || c.User != "anna" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestARecordForNodesIsWhole(t *testing.T) {
	g := newRig(t, withNodes)
	g.create(`"id":"` + id1 + `","name":"x","owner":"o","visibility":"shared","p":"v",` + formats)
	g.put(id1, "data")
	w := g.want(200, "GET /nearsight/records/"+id1, "")
	var got registry.Image
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := g.get(id1)
	if got.Revision != want.Revision || got.Digest != want.Digest || len(got.Locations) != 1 || got.Locations[0] != want.Locations[0] || got.Properties["p"] != "v" {
		t.Errorf("%+v, want %+v", got, *want)
	}
	if w := g.want(200, "HEAD /nearsight/records/"+id1, ""); w.Body.Len() != 0 {
		t.Errorf("HEAD has a body: %s", w.Body)
	}
	m := g.want(200, "GET /nearsight/manifests/"+string(want.Digest), "")
	if origin.DigestOf(m.Body.Bytes()) != want.Digest || m.Header().Get("Cache-Control") != manifestFreshness || m.Header().Get("Etag") != `"`+string(want.Digest)+`"` {
		t.Errorf("manifest %v", m.Header())
	}
	for _, path := range []string{"x", "11111111", id2} {
		g.want(404, "GET /nearsight/records/"+path, "")
		g.want(404, "GET /nearsight/manifests/"+path, "")
	}
	g.want(400, "GET /nearsight/records/"+id1, "x")
}

func TestListsForNodesAreBounded(t *testing.T) {
	g := newRig(t, withNodes)
	g.create(`"id":"` + id1 + `"`)
	for body, status := range map[string]int{
		`{"Limit":1000}`: 200, `{"Limit":1001}`: 400, `{}`: 200, `{"Limit":1,"Restrict":"x"}`: 400, `[]`: 400, ``: 400, `{"Limit":1}{}`: 400,
		`{"Limit":1,"Marker":"` + id2 + `"}`: 400, `{"Limit":1,"Sort":[{"Key":"owner"}]}`: 400, `{"Limit":"1"}`: 400,
		`{"Limit":10,"Caller":{"Project":"p","Roles":["member"]}}`: 200,
	} {
		w := g.want(status, "POST /nearsight/records/list", body)
		if status == 200 && !strings.HasPrefix(w.Body.String(), `{"images":[`) {
			t.Errorf("%s: %s", body, w.Body)
		}
	}
}

func TestTokensAreNamedForNodes(t *testing.T) {
	g := newRig(t, withNodes, func(o *Options) { o.Identity = someone })
	const node = "Authorization: Bearer " + nodeSecret
	g.as(nil)
	for _, tt := range []struct{ token, want string }{
		{"good", `{"caller":{"project":"home","user":"anna","roles":["member"]},"expires_in":30}`},
		{"bad", `{"caller":null,"expires_in":30}`},
		{"", `{"caller":null,"expires_in":30}`},
		{nodeSecret, `{"caller":null,"expires_in":30}`}, // no client of an edge may be a node of ours
	} {
		w := g.want(200, "POST /nearsight/identify", `{"token":"`+tt.token+`"}`, node)
		if w.Body.String() != tt.want || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%q: %s", tt.token, w.Body)
		}
	}
	if w := g.want(503, "POST /nearsight/identify", `{"token":"broken"}`, node); strings.Contains(w.Body.String(), "keystone") {
		t.Errorf("the answer tells too much: %s", w.Body)
	}
	for _, body := range []string{``, `x`, `[]`, `{"token":1}`, `{"tokens":"x"}`} {
		g.want(400, "POST /nearsight/identify", body, node)
	}
}

// An authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, &a.key.PublicKey)
	return a
}

func (a *authority) sign(c, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return signed
}

// holder returns a certificate of the authority for a client.
func (a *authority) holder(name string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

func TestACertificateMakesANodeOfItsHolder(t *testing.T) {
	nodesCA, clientsCA := newAuthority(t, "nodes"), newAuthority(t, "clients")
	g := newRig(t, withNodes, func(o *Options) {
		o.Identity, o.Nodes.CA, o.Nodes.Secret = crowd{"good": {Roles: []string{"member"}}}, []*x509.Certificate{nodesCA.cert}, ""
	})
	g.as(nil)
	server := httptest.NewUnstartedServer(g)
	server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: x509.NewCertPool()}
	server.TLS.ClientCAs.AddCert(nodesCA.cert)
	server.TLS.ClientCAs.AddCert(clientsCA.cert) // as tls.client_ca has
	server.StartTLS()
	defer server.Close()
	node, client := nodesCA.holder("edge-1"), clientsCA.holder("somebody")
	for _, tt := range []struct {
		name, field string
		cert        *tls.Certificate
		status      int
	}{
		{"a node's certificate", "", &node, 200},
		{"a client's certificate", "", &client, 401},
		{"no certificate", "", nil, 401},
		{"a token beside it, which says who it is for", "X-Auth-Token: good", &node, 403},
		{"a bad token beside it", "Authorization: Bearer bad", &node, 401},
		{"for somebody behind the node", "Via: 1.1 nearsight", &node, 401},
		{"for somebody behind the node, as others say it", "X-Forwarded-For: 10.0.0.1", &node, 401},
		{"for somebody behind the node, as the RFC says it", "Forwarded: for=10.0.0.1", &node, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := server.Client()
			transport := c.Transport.(*http.Transport).Clone()
			defer transport.CloseIdleConnections()
			if tt.cert != nil {
				transport.TLSClientConfig.Certificates = []tls.Certificate{*tt.cert}
			}
			req, err := http.NewRequest("GET", server.URL+"/nearsight/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			if name, value, ok := strings.Cut(tt.field, ": "); ok {
				req.Header.Set(name, value)
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
		})
	}
}

func TestACertificateEndsWithItsTimeOnAnOldConnectionToo(t *testing.T) {
	ca := newAuthority(t, "nodes")
	n := &nodes{Nodes: Nodes{CA: []*x509.Certificate{ca.cert}}}
	leaf := &x509.Certificate{NotAfter: time.Now()}
	r := httptest.NewRequest("GET", "/", nil)
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf, ca.cert}}}
	if !n.certified(r, leaf.NotAfter.Add(-time.Second)) || n.certified(r, leaf.NotAfter.Add(time.Second)) {
		t.Error("the time of the certificate does not count")
	}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if n.certified(r, time.Now()) {
		t.Error("a certificate counts that nobody verified")
	}
}

func FuzzNodeBodies(f *testing.F) {
	for _, body := range []string{
		`{"Limit":1}`, `{"Limit":10,"Caller":{"Project":"p","Roles":["member"]},"Times":[{"Column":"created_at","Op":"gt","Time":"2026-01-01T00:00:00Z"}]}`,
		`{"name":"edge-1","url":"https://edge-1:9292","version":"1","started_at":"2026-01-01T00:00:00Z","revision":3,"budget":1,"images":2}`, `{"name":".."}`, `{"name":"a/b"}`, `{"started_at":"9999-12-31T23:59:59-01:00","name":"a"}`,
		`{}`, `null`, `[]`, `{"token":"x"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if q, err := parseRecordsQuery(body); err == nil && q.Limit > maxRecords {
			t.Errorf("limit %d", q.Limit)
		}
		e, err := parseEdge(body)
		if err != nil {
			return
		}
		if e.Name == "" || strings.Contains(e.Name, "/") || len(e.Name) > maxEdgeText || e.Budget < 0 || !e.SeenAt.IsZero() {
			t.Errorf("edge %+v", e)
		}
		if _, err := json.Marshal(e); err != nil {
			t.Errorf("edge %+v: %v", e, err)
		}
	})
}

func FuzzEventsQuery(f *testing.F) {
	for _, query := range []string{"after=5&wait=1s", "", "wait=30s", "after=-1", "after=9223372036854775808", "wait=1h", "after=1&after=2", "%", "wait=1e9s"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		if after, wait, err := parseEvents(query); err == nil && (after < -1 || wait < 0 || wait > maxWait) {
			t.Errorf("%q: after %d, wait %v", query, after, wait)
		}
	})
}
