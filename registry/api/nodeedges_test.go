package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// anEdge returns a server that stands for an edge, with what it was asked.
func anEdge(t *testing.T, h http.HandlerFunc) (url string, asked func() string) {
	var mu sync.Mutex
	var lines []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		lines = append(lines, r.Method+" "+r.URL.RequestURI())
		mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer "+nodeSecret {
			t.Errorf("asked with %v", r.Header)
		}
		h(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(lines, ", ")
	}
}

func TestEdgesAreListedAsTheyAnnouncedThemselves(t *testing.T) {
	g := newRig(t, withNodes, func(o *Options) { o.Identity = crowd{} })
	g.as(nil)
	const node = "Authorization: Bearer " + nodeSecret
	if w := g.want(200, "GET /nearsight/edges", "", node); w.Body.String() != `{"edges":[]}` {
		t.Errorf("%s", w.Body)
	}
	const said = `{"name":"edge-1","url":"https://edge-1:9292","version":"1.2","started_at":"2026-01-02T04:04:05+01:00","seen_at":"2001-01-01T00:00:00Z",` +
		`"revision":7,"heard":true,"budget":100,"used":50,"images":3,"hits":8,"misses":9,"more":"of a newer one"}`
	for range 2 {
		g.want(204, "POST /nearsight/edges", said, node)
	}
	w := g.want(200, "GET /nearsight/edges", "", node)
	edge := decode(t, w)["edges"].([]any)[0].(map[string]any)
	seen, err := time.Parse(time.RFC3339, edge["seen_at"].(string))
	if err != nil || time.Since(seen) > time.Minute {
		t.Errorf("seen %v, %v", seen, err)
	}
	delete(edge, "seen_at")
	const want = "map[budget:100 heard:true hits:8 images:3 misses:9 name:edge-1 revision:7 started_at:2026-01-02T03:04:05Z url:https://edge-1:9292 used:50 version:1.2]"
	if fmt.Sprint(edge) != want {
		t.Errorf("%v, want %s", edge, want)
	}
	for _, body := range []string{
		``, `x`, `[]`, `{}`, `{"name":""}`, `{"name":".."}`, `{"name":"a/b"}`, `{"name":"a\nb"}`, `{"name":"` + strings.Repeat("x", 256) + `"}`, `{"name":1}`,
		`{"name":"a","url":"` + strings.Repeat("x", 256) + `"}`, `{"name":"a","version":"\u0000"}`, `{"name":"a","used":-1}`, `{"name":"a","started_at":"9999-12-31T23:59:59-01:00"}`,
	} {
		g.want(400, "POST /nearsight/edges", body, node)
	}
}

func TestOrdersReachTheEdge(t *testing.T) {
	const lines = "{\"done\":1,\"total\":2}\n{\"result\":{\"chunks\":3}}\n"
	for _, tt := range []struct {
		order, asked string // what the central is asked, and the edge then
		edge         http.HandlerFunc
		status       int
		want         string // in the body
	}{
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(200, lines), 200, lines},
		{"scrub?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/scrub", answers(200, lines), 200, lines},
		{"scrub", "POST /nearsight/cache/scrub", answers(200, lines), 200, lines},
		{"pin?image=" + id1, "PUT /nearsight/cache/images/" + id1 + "/pin", answers(204, ""), 200, "{\"result\":null}\n"},
		{"unpin?image=" + id1, "DELETE /nearsight/cache/images/" + id1 + "/pin", answers(204, ""), 200, "{\"result\":null}\n"},
		{"drop?image=" + id1, "DELETE /nearsight/cache/images/" + id1, answers(204, ""), 200, "{\"result\":null}\n"},

		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(200, "{\"done\":1,\"total\":2}\n{\"error\":\"no room\"}\nrest"), 200, "{\"error\":\"no room\"}\n"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(200, "{\"done\":1,\"total\":2}\n"), 200, "{\"error\":\"the edge broke off\"}\n"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(200, "<html>"), 200, "{\"error\":\"the edge broke off\"}\n"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(200, strings.Repeat("x", 100<<10)), 200, "cannot be understood"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(404, `{"detail":"image not found"}`), 404, "image not found"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(409, `{"detail":"no data to cache"}`), 409, "no data to cache"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(502, `{"detail":"the store is away"}`), 502, "the edge answers 502: the store is away"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", answers(401, ``), 502, "takes no orders"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 502, "answers 307"},
		{"warm?image=" + id1, "POST /nearsight/cache/images/" + id1 + "/warm", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 502, "cannot be reached"},

		{"warm", "", nil, 400, "it takes an image"},
		{"warm?image=x", "", nil, 400, "no id"},
		{"scrub?image=x", "", nil, 400, "no id"},
		{"destroy?image=" + id1, "", nil, 404, "no order"},
	} {
		t.Run(strings.ReplaceAll(tt.order, id1, "ID")+": "+tt.want, func(t *testing.T) {
			g := newRig(t, withNodes)
			g.as(nil)
			url, asked := anEdge(t, func(w http.ResponseWriter, r *http.Request) { tt.edge(w, r) })
			g.want(204, "POST /nearsight/edges", `{"name":"the edge","url":"`+url+`/"}`, "Authorization: Bearer "+nodeSecret)
			w := g.want(tt.status, "POST /nearsight/edges/the%20edge/cache/"+tt.order, "")
			if !strings.Contains(w.Body.String(), tt.want) || strings.Contains(w.Body.String(), "rest") {
				t.Errorf("%s, want %s", w.Body, tt.want)
			}
			if got := asked(); got != tt.asked {
				t.Errorf("the edge was asked %s, want %s", got, tt.asked)
			}
		})
	}
}

// answers returns a handler that gives this answer.
func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestOrdersToEdgesThatCannotBeReached(t *testing.T) {
	g := newRig(t, withNodes)
	g.as(nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	for url, status := range map[string]int{
		"": 409, "edge:9292": 409, "ftp://edge": 409, "http://user:pass@edge": 409, "http://edge/path": 409, "http://": 409, closed: 502,
	} {
		g.want(204, "POST /nearsight/edges", `{"name":"a","url":"`+url+`"}`, "Authorization: Bearer "+nodeSecret)
		if w := g.want(status, "POST /nearsight/edges/a/cache/warm?image="+id1, ""); strings.Contains(w.Body.String(), "pass@") {
			t.Errorf("%s", w.Body)
		}
	}
	g.want(404, "POST /nearsight/edges/b/cache/warm?image="+id1, "")
}

// Progress comes when it is made, and an order ends when who gave it leaves.
func TestProgressIsNotHeldBack(t *testing.T) {
	left := make(chan struct{})
	url, _ := anEdge(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "{\"done\":1,\"total\":2}\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(left)
	})
	g := newRig(t, withNodes)
	g.as(nil)
	g.want(204, "POST /nearsight/edges", `{"name":"a","url":"`+url+`"}`, "Authorization: Bearer "+nodeSecret)
	server := httptest.NewServer(g)
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/nearsight/edges/a/cache/warm?image="+id1, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line := make([]byte, 64)
	n, err := resp.Body.Read(line)
	if err != nil || string(line[:n]) != "{\"done\":1,\"total\":2}\n" {
		t.Errorf("%q, %v", line[:n], err)
	}
	leave()
	<-left
}
