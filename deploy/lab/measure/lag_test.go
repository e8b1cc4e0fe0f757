package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	var all []time.Duration
	for i := range 100 {
		all = append(all, time.Duration(i+1))
	}
	for _, tt := range []struct {
		name   string
		sorted []time.Duration
		q      float64
		want   time.Duration
	}{
		{"none", nil, 0.5, 0},
		{"one", all[:1], 0.99, 1},
		{"the middle", all, 0.5, 50},
		{"all but one in a hundred", all, 0.99, 99},
		{"the greatest", all, 1, 100},
		{"of few it is the greatest", all[:20], 0.99, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := percentile(tt.sorted, tt.q); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// Every change is one that the other project can see, and there are changes of each
// kind.
func TestChangesAreSeen(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	kinds := map[string]int{}
	i := image{id: "x"}
	for range 1000 {
		c := changeOf(i, r)
		if c.after.status() == i.status() && c.after.n == i.n {
			t.Fatalf("%+v becomes %+v by %s", i, c.after, c.kind)
		}
		kinds[c.kind]++
		if i = c.after; i.deleted {
			i = image{id: "x"}
		}
	}
	if len(kinds) != 8 {
		t.Errorf("kinds of changes: %v", kinds)
	}
}

// A lateServer is a central, and an edge that is late.
type lateServer struct {
	late time.Duration

	mu     sync.Mutex
	images map[string]*lateImage
}

type lateImage struct {
	image
	was    image
	change time.Time
}

func (s *lateServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := strings.Split(r.URL.Path, "/")
	if r.Method == http.MethodPost && r.URL.Path == "/v2/images" {
		id := fmt.Sprint(len(s.images))
		s.images[id] = &lateImage{}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":"%s"}`, id)
		return
	}
	i := s.images[parts[3]]
	shown := i.image
	if time.Since(i.change) < s.late {
		shown = i.was
	}
	was := i.image
	switch {
	case r.Method == http.MethodHead:
		w.WriteHeader(shown.status())
		return
	case r.Method == http.MethodGet:
		w.WriteHeader(shown.status())
		fmt.Fprintf(w, `{"n": "%d"}`, shown.n)
		return
	case r.Method == http.MethodPut:
		return
	case r.Method == http.MethodPatch:
		var ops []struct{ Path, Value string }
		json.NewDecoder(r.Body).Decode(&ops)
		if ops[0].Path == "/n" {
			fmt.Sscan(ops[0].Value, &i.n)
		} else {
			i.hidden = ops[0].Value == "private"
		}
	case strings.HasSuffix(r.URL.Path, "activate"):
		i.off = strings.HasSuffix(r.URL.Path, "/deactivate")
	case len(parts) > 4 && parts[4] == "members":
		i.unshared = r.Method == http.MethodDelete
	case r.Method == http.MethodDelete:
		i.deleted = true
	}
	if was != i.image {
		i.was, i.change = was, time.Now()
	}
}

func TestLagIsThatOfTheSlowestEdge(t *testing.T) {
	const late = 20 * time.Millisecond
	fake := &lateServer{late: late, images: map[string]*lateImage{}}
	server := httptest.NewServer(fake)
	defer server.Close()
	s := &site{centrals: urls{server.URL}, edges: urls{server.URL, server.URL}}
	var out bytes.Buffer
	if err := measureLag(t.Context(), s, 20, 3, 100, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	last := strings.Fields(lines[len(lines)-1])
	var p50 float64
	fmt.Sscan(last[2], &p50)
	if last[0] != "all" || last[1] != "20" || p50 < float64(late.Milliseconds())/2 {
		t.Errorf("got %s", out.String())
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	t.Setenv("LAB_CENTRALS", "")
	for _, args := range [][]string{nil, {"lag"}, {"speed", "-centrals", "http://x", "-edges", "http://y"}, {"lag", "-nonsense"}} {
		if err := run(t.Context(), args, new(bytes.Buffer)); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
	failed := errors.New("the fifth")
	if err := spread(100, func(i int) error {
		if i == 5 {
			return failed
		}
		return nil
	}); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := useOf(ctx, newClient(), "http://127.0.0.1:1"); err == nil {
		t.Error("no error")
	}
}
