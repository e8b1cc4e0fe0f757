package proxy

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

// A central that nothing comes from, and nobody says that it is gone, keeps nobody who
// has only so much time from the other for more than one request.
func TestASilentCentralIsLeft(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and that is all
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	works := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer works.Close()
	for _, tt := range []struct {
		name  string
		limit func(context.Context) (context.Context, context.CancelFunc)
		left  bool
	}{
		{"when the time is up", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 20*time.Millisecond)
		}, true},
		{"not when the client leaves", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(20*time.Millisecond, cancel)
			return ctx, cancel
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := NewCentrals([]*url.URL{{Scheme: "http", Host: silent.Addr().String()}, {Scheme: "http", Host: works.Listener.Addr().String()}}, nil)
			defer c.Close()
			ask := func() error {
				ctx, cancel := tt.limit(t.Context())
				defer cancel()
				r, err := http.NewRequestWithContext(ctx, "GET", "http://central/", nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := c.RoundTrip(r)
				if err == nil {
					res.Body.Close()
				}
				return err
			}
			if err := ask(); err == nil {
				t.Fatal("a silent central answered")
			}
			if left := c.first.Load() == 1; left != tt.left {
				t.Errorf("the other is asked next: %v", left)
			}
		})
	}
}
