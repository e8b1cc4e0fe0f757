package wire

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"nearsight/cache"
)

func TestShutdown(t *testing.T) {
	t.Run("closes connections that ask nothing", func(t *testing.T) {
		s := newSite(t, nil, nil)
		fresh, used := s.dial(), s.dial()
		used.send(request("/short/a"))
		used.want("/short/a")
		s.idle(2)
		if err := s.server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		fresh.wantEnd()
		used.wantEnd()
	})
	t.Run("lets an answer end, and reads no further request", func(t *testing.T) {
		begun, goOn := make(chan struct{}), make(chan struct{})
		s := newSite(t, func(context.Context, *Conn, *Request) (Verdict, bool) {
			close(begun) // twice would panic
			<-goOn
			return Declined, false
		}, nil)
		c := s.dial()
		c.send(request("/short/a") + request("/short/b"))
		<-begun
		done := make(chan error, 1)
		go func() { done <- s.server.Shutdown(context.Background()) }()
		<-s.server.closed
		select {
		case err := <-done:
			t.Errorf("did not wait: %v", err)
		default:
		}
		close(goOn)
		c.want("/short/a")
		c.wantEnd()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("cuts what does not end in time", func(t *testing.T) {
		f, data := bigFile(t, 32<<20)
		const slow = 4
		begun, results := make(chan struct{}, 2*slow), make(chan error, 2*slow)
		s := newSite(t, func(ctx context.Context, c *Conn, r *Request) (Verdict, bool) {
			begun <- struct{}{}
			if r.Path == "/short/waits" {
				<-ctx.Done()
				results <- ctx.Err()
				return Broken, true
			}
			_, err := c.ReadFrom(&cache.Section{File: f, N: int64(len(data))})
			results <- err
			return Broken, true
		}, nil)
		for range slow {
			s.dial().send(request("/short/sends"))
			s.dial().send(request("/short/waits"))
		}
		for range 2 * slow {
			<-begun
		}
		if err := s.server.Shutdown(ended()); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		for range 2 * slow {
			if err := <-results; err == nil {
				t.Error("an answer ended well")
			}
		}
	})
	t.Run("has no error if nothing had to be cut", func(t *testing.T) {
		for range 20 {
			s := newSite(t, nil, nil)
			c := s.dial()
			s.idle(1)
			if err := s.server.Shutdown(ended()); err != nil {
				t.Fatal(err)
			}
			c.wantEnd()
		}
	})
	t.Run("closes what is accepted after it", func(t *testing.T) {
		s := newSite(t, nil, nil)
		s.server.Shutdown(t.Context())
		s.dial().wantEnd()
	})
}

// Every request that is answered at all is answered in whole while a Server stops.
func TestShutdownAmidRequests(t *testing.T) {
	for range 20 {
		s := newSite(t, nil, nil)
		var clients sync.WaitGroup
		var answered atomic.Int64
		for range 16 {
			c := s.dial()
			clients.Go(func() {
				for {
					if _, err := io.WriteString(c, request("/short/a")); err != nil {
						return
					}
					resp, err := http.ReadResponse(c.br, nil)
					if err != nil {
						return
					}
					if body, err := io.ReadAll(resp.Body); string(body) != "/short/a" || err != nil {
						t.Errorf("%q, %v", body, err)
						return
					}
					answered.Add(1)
				}
			})
		}
		until(t, "answers", func() bool { return answered.Load() > 100 })
		if err := s.server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		clients.Wait()
		if n := len(s.server.open); n != 0 {
			t.Errorf("%d connections are open", n)
		}
	}
}
