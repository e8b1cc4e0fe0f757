package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/faultproxy"
)

// troubleSize is that of the objects, in bytes: more than is read at once on the
// way, so that faults in the middle are in the middle.
const troubleSize = 2 << 20

// TestTrouble checks what a store does when its server, or the way there, is in
// trouble: that every call ends, with the right error, that nothing is left of an
// upload that failed, and that all is well once the trouble is over. target is
// the URL of the server, such as http://127.0.0.1:8080. open returns a store that
// finds its server at the URL given, which is that of a faultproxy; its first
// calls meet no faults. A store that repeats calls or stops making them must do
// this at intervals that a test can bear.
func TestTrouble(t *testing.T, target string, open func(t *testing.T, url string) origin.WriteStore) {
	TestReadTrouble(t, target, open)
	t.Run("put", func(t *testing.T) { testPutTrouble(t, target, open) })
	t.Run("delete", func(t *testing.T) { testDeleteTrouble(t, target, open) })
}

// TestReadTrouble is the part of TestTrouble that asks nothing of Put and Delete:
// for a store that is read-only, and written behind the proxy's back.
func TestReadTrouble(t *testing.T, target string, open func(t *testing.T, url string) origin.WriteStore) {
	t.Run("no answer", func(t *testing.T) { testNoAnswer(t, target, open) })
	t.Run("a spoiled body", func(t *testing.T) { testSpoiledBody(t, target, open) })
	t.Run("a slow answer", func(t *testing.T) { testSlowAnswer(t, target, open) })
}

type opener = func(t *testing.T, url string) origin.WriteStore

// A scene is a store with one object behind a proxy.
type scene struct {
	proxy *faultproxy.Proxy
	store origin.WriteStore
	loc   origin.Location
	data  []byte
}

func newScene(t *testing.T, target string, open opener) *scene {
	t.Helper()
	p := faultproxy.New(t, target)
	s := &scene{proxy: p, store: open(t, p.URL), data: Data(troubleSize, 9)}
	s.loc = put(t, s.store, "trouble", s.data)
	read(t, s.store, s.loc, 0, 1)
	t.Cleanup(func() {
		p.Inject()
		s.store.Delete(context.WithoutCancel(t.Context()), s.loc) // or the next test of a shared server finds it
	})
	return s
}

// over ends the trouble and checks that the store forgot it.
func (s *scene) over(t *testing.T) {
	t.Helper()
	s.proxy.Inject()
	info, err := s.store.Stat(t.Context(), s.loc)
	if err != nil || info.Size != troubleSize {
		t.Errorf("after the trouble, Stat says %+v, %v", info, err)
	}
	if _, got := read(t, s.store, s.loc, 0, -1); !bytes.Equal(got, s.data) {
		t.Error("after the trouble, it reads other bytes")
	}
}

// refusals are what servers say that cannot or will not answer.
var refusals = []struct {
	name  string
	fault faultproxy.Fault
}{
	{"the port is closed", faultproxy.Fault{Refuse: true}},
	{"an internal error", faultproxy.Fault{Status: 500}},
	{"a bad gateway", faultproxy.Fault{Status: 502}},
	{"out of service", faultproxy.Fault{Status: 503}},
	{"out of service for a time", faultproxy.Fault{Status: 503, RetryAfter: 7 * time.Second}},
	{"a gateway that waits no longer", faultproxy.Fault{Status: 504}},
	{"too many requests", faultproxy.Fault{Status: 429, RetryAfter: 7 * time.Second}},
	{"credentials that expired", faultproxy.Fault{Status: 401}},
	{"access denied", faultproxy.Fault{Status: 403}},
}

// wantUnavailable checks the error, and that it passes on when to come back.
func wantUnavailable(t *testing.T, what string, err error, after time.Duration) {
	t.Helper()
	wantErr(t, what, err, origin.ErrUnavailable)
	if after == 0 {
		return
	}
	var r interface{ RetryAfter() time.Duration }
	if !errors.As(err, &r) || r.RetryAfter() != after {
		t.Errorf("%s: error %v does not say to come back after %v", what, err, after)
	}
}

func testNoAnswer(t *testing.T, target string, open opener) {
	for _, tt := range append(refusals, struct {
		name  string
		fault faultproxy.Fault
	}{"every answer is lost", faultproxy.Fault{Lost: true}}) {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, target, open)
			s.proxy.Inject(tt.fault)
			_, err := s.store.Stat(t.Context(), s.loc)
			wantUnavailable(t, "Stat", err, tt.fault.RetryAfter)
			for _, n := range []int64{-1, 10} {
				_, err = s.store.Open(t.Context(), s.loc, 0, n)
				wantUnavailable(t, "Open", err, tt.fault.RetryAfter)
			}
			s.over(t)
		})
	}
}

func isGet(r *http.Request) bool { return r.Method == http.MethodGet }

// testSpoiledBody: a store need not see that bytes are wrong, since whoever reads
// has their digest. But it must not make too few of them look like enough.
func testSpoiledBody(t *testing.T, target string, open opener) {
	at := func(n int64) *int64 { return &n }
	for _, tt := range []struct {
		name  string
		fault faultproxy.Fault
		flip  int64 // this byte may be wrong; -1: none
		fails bool  // or else it need not
	}{
		{"it is reset before the first byte", faultproxy.Fault{Reset: at(0)}, -1, true},
		{"it is reset after the first byte", faultproxy.Fault{Reset: at(1)}, -1, true},
		{"it is reset in the middle", faultproxy.Fault{Reset: at(1 << 20)}, -1, true},
		{"it is shorter than was said", faultproxy.Fault{Length: 10}, -1, false},
		{"it is longer than was said", faultproxy.Fault{Length: -10}, -1, false},
		{"it is nothing, as was said", faultproxy.Fault{Length: -troubleSize}, -1, false},
		{"a byte is flipped", faultproxy.Fault{Flip: at(100)}, 100, false},
	} {
		for _, r := range []struct{ off, n int64 }{{0, -1}, {1000, 3 << 19}} {
			t.Run(fmt.Sprintf("%s, from %d", tt.name, r.off), func(t *testing.T) {
				s := newScene(t, target, open)
				tt.fault.Match = isGet
				s.proxy.Inject(tt.fault)
				want := bytes.Clone(s.data[r.off:])
				if r.n >= 0 {
					want = want[:r.n]
				}
				o, err := s.store.Open(t.Context(), s.loc, r.off, r.n)
				if err != nil {
					wantErr(t, "Open", err, origin.ErrUnavailable)
					s.over(t)
					return
				}
				got, err := io.ReadAll(o.Body)
				o.Body.Close()
				if tt.flip >= 0 && int64(len(got)) > tt.flip {
					got[tt.flip] = want[tt.flip]
				}
				if !bytes.HasPrefix(want, got) {
					t.Error("other bytes came")
				}
				switch {
				case err == nil && (tt.fails || int64(len(got)) != o.Length):
					t.Errorf("%d bytes pass for %d", len(got), o.Length)
				case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
					wantErr(t, "body", err, origin.ErrUnavailable)
				}
				s.over(t)
			})
		}
	}
}

func testSlowAnswer(t *testing.T, target string, open opener) {
	calls := map[string]func(ctx context.Context, s *scene) error{
		"stat": func(ctx context.Context, s *scene) error {
			_, err := s.store.Stat(ctx, s.loc)
			return err
		},
		"open": func(ctx context.Context, s *scene) error {
			o, err := s.store.Open(ctx, s.loc, 0, -1)
			if err != nil {
				return err
			}
			defer o.Body.Close()
			n, err := io.Copy(io.Discard, o.Body)
			if err == nil && n != troubleSize {
				return fmt.Errorf("%d bytes", n)
			}
			return err
		},
	}
	for _, tt := range []struct {
		name, call string
		at         int64
	}{
		{"stat waits for its answer", "stat", -1},
		{"open waits for its answer", "open", -1},
		{"a body waits for its first byte", "open", 0},
		{"a body waits in the middle", "open", 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, target, open)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for _, then := range []func(*faultproxy.Gate){
				func(*faultproxy.Gate) { cancel() },
				func(g *faultproxy.Gate) { close(g.Pass) },
			} {
				gate := faultproxy.NewGate(tt.at)
				fault := faultproxy.Fault{Gate: gate, Times: 1}
				if tt.at >= 0 {
					fault.Match = isGet // others have no body
				}
				s.proxy.Inject(fault)
				done := make(chan error)
				go func() { done <- calls[tt.call](ctx, s) }()
				select {
				case <-gate.Reached:
					then(gate)
				case err := <-done:
					t.Fatalf("it ended before the answer: %v", err)
				}
				if err := <-done; ctx.Err() != nil {
					wantErr(t, "after the end of ctx", err, context.Canceled)
				} else if err != nil {
					t.Errorf("an answer that came late: %v", err)
				}
				ctx = t.Context()
			}
			s.over(t)
		})
	}
}

func isWrite(r *http.Request) bool { return r.Method == http.MethodPut || r.Method == http.MethodPost }

func testPutTrouble(t *testing.T, target string, open opener) {
	at := func(n int64) *int64 { return &n }
	type trouble struct {
		name  string
		fault faultproxy.Fault
		want  error
		maybe bool // the store may find a way to succeed
	}
	scripts := []trouble{
		{"the store is full", faultproxy.Fault{Status: 507}, origin.ErrFull, false},
		{"the object is too large", faultproxy.Fault{Status: 413}, origin.ErrFull, false},
		{"it is reset before its first byte", faultproxy.Fault{ResetUpload: at(0)}, origin.ErrUnavailable, false},
		{"it is reset in the middle", faultproxy.Fault{ResetUpload: at(1 << 20)}, origin.ErrUnavailable, false},
		{"it is stored, and every answer is lost", faultproxy.Fault{Lost: true}, origin.ErrUnavailable, true},
		{"it is stored, and one answer is lost", faultproxy.Fault{Lost: true, Times: 1}, origin.ErrUnavailable, true},
	}
	for _, r := range refusals {
		scripts = append(scripts, trouble{r.name, r.fault, origin.ErrUnavailable, false})
	}
	for _, tt := range scripts {
		for _, size := range []int64{troubleSize, -1} {
			t.Run(fmt.Sprintf("%s, size %d", tt.name, size), func(t *testing.T) {
				s := newScene(t, target, open)
				tt.fault.Match = isWrite
				s.proxy.Inject(tt.fault)
				at := s.store.Locate("troubled")
				loc, err := s.store.Put(t.Context(), at, size, bytes.NewReader(s.data))
				s.proxy.Inject()
				switch {
				case err == nil && !tt.maybe:
					t.Error("Put noticed nothing")
				case err == nil:
					if _, got := read(t, s.store, loc, 0, -1); !bytes.Equal(got, s.data) {
						t.Error("Put succeeded, and other bytes are there")
					}
					if err := s.store.Delete(t.Context(), loc); err != nil {
						t.Errorf("Delete: %v", err)
					}
				case tt.want == origin.ErrUnavailable:
					wantUnavailable(t, "Put", err, tt.fault.RetryAfter)
				default:
					wantErr(t, "Put", err, tt.want)
				}
				wantNothing(t, s.store, at)
				s.over(t)
			})
		}
	}
	t.Run("the caller leaves before the answer", func(t *testing.T) {
		s := newScene(t, target, open)
		gate := faultproxy.NewGate(-1)
		s.proxy.Inject(faultproxy.Fault{Match: isWrite, Gate: gate})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		at, done := s.store.Locate("troubled"), make(chan error)
		go func() {
			_, err := s.store.Put(ctx, at, troubleSize, bytes.NewReader(s.data))
			done <- err
		}()
		select {
		case <-gate.Reached:
			cancel()
		case err := <-done:
			t.Fatalf("it ended before the answer: %v", err)
		}
		wantErr(t, "Put", <-done, context.Canceled)
		s.proxy.Inject()
		wantNothing(t, s.store, at)
		s.over(t)
	})
}

func testDeleteTrouble(t *testing.T, target string, open opener) {
	for _, tt := range append(refusals, struct {
		name  string
		fault faultproxy.Fault
	}{"every answer is lost", faultproxy.Fault{Lost: true}}) {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, target, open)
			s.proxy.Inject(tt.fault)
			wantUnavailable(t, "Delete", s.store.Delete(t.Context(), s.loc), tt.fault.RetryAfter)
			if !tt.fault.Lost {
				s.over(t)
			}
			s.proxy.Inject()
			if err := s.store.Delete(t.Context(), s.loc); err != nil {
				t.Errorf("after the trouble, Delete says %v", err)
			}
			wantNothing(t, s.store, s.loc)
		})
	}
}
