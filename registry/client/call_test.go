package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/registry"
)

// say answers with a status; after, if not "", is its Retry-After.
func say(status int, after string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
		if status == http.StatusOK {
			io.WriteString(w, minimal)
		}
	}
}

// hangUp breaks the connection without an answer.
func hangUp(_ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	panic(http.ErrAbortHandler)
}

// inTurn answers each request with the next of these.
func inTurn(asked *atomic.Int32, answers ...http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(asked.Add(1))
		if n > len(answers) {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		answers[n-1](w, r)
	})
}

func TestWhatIsTriedAgain(t *testing.T) {
	get := func(ctx context.Context, c *Client) error { _, err := c.Get(ctx, testID); return err }
	remove := func(ctx context.Context, c *Client) error { return c.Delete(ctx, testID) }
	tag := func(ctx context.Context, c *Client) error { return c.AddTag(ctx, testID, "t") }
	patch := func(ctx context.Context, c *Client) error { _, err := c.Patch(ctx, testID); return err }
	create := func(ctx context.Context, c *Client) error { _, err := c.Create(ctx, &registry.Image{}); return err }
	deactivate := func(ctx context.Context, c *Client) error { return c.Deactivate(ctx, testID) }
	ok := say(200, "")
	for _, tt := range []struct {
		name    string
		do      func(context.Context, *Client) error
		answers []http.HandlerFunc
		asked   int32
		is      error
	}{
		{"a get after a broken connection", get, []http.HandlerFunc{hangUp, ok}, 2, nil},
		{"a get when the server asks for it", get, []http.HandlerFunc{say(503, "0"), say(429, "0"), ok}, 3, nil},
		{"a get as a date asks for it", get, []http.HandlerFunc{say(503, "Fri, 02 Jan 2026 03:04:05 GMT"), ok}, 2, nil},
		{"no get when the server does not ask for it", get, []http.HandlerFunc{say(503, "")}, 1, registry.ErrUnavailable},
		{"no get that failed", get, []http.HandlerFunc{say(502, "0")}, 1, registry.ErrUnavailable},
		{"no get that is refused", get, []http.HandlerFunc{say(404, "0")}, 1, registry.ErrNotFound},
		{"not for ever", get, []http.HandlerFunc{say(503, "0"), say(503, "0"), say(503, "0"), say(503, "0")}, 4, registry.ErrUnavailable},
		{"not when the server wants more time than there is", get, []http.HandlerFunc{say(503, "60")}, 1, registry.ErrUnavailable},
		{"a tag", tag, []http.HandlerFunc{hangUp, ok}, 2, nil},
		{"an action", deactivate, []http.HandlerFunc{hangUp, say(503, "0"), ok}, 3, nil},
		{"no patch, which may have been done", patch, []http.HandlerFunc{hangUp}, 1, registry.ErrUnavailable},
		{"no create, which may have been done", create, []http.HandlerFunc{say(503, "0")}, 1, registry.ErrUnavailable},
		{"a delete", remove, []http.HandlerFunc{hangUp, ok}, 2, nil},
		{"a delete that was done", remove, []http.HandlerFunc{hangUp, say(404, "")}, 2, nil},
		{"a delete of what was not there", remove, []http.HandlerFunc{say(503, "0"), say(404, "")}, 2, registry.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int32
			c := serveTo(t, inTurn(&asked, tt.answers...), Options{Backoff: time.Microsecond, Timeout: 50 * time.Second})
			err := tt.do(t.Context(), c)
			if !errors.Is(err, tt.is) || asked.Load() != tt.asked {
				t.Errorf("error %v after %d requests; want %v after %d", err, asked.Load(), tt.is, tt.asked)
			}
		})
	}
}

func TestWhatNeverReachedTheServerIsTriedAgain(t *testing.T) {
	var dials, asked atomic.Int32
	transport := newTransport()
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) < 3 {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("refused")}
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	c := serveTo(t, inTurn(&asked, say(200, "")), Options{HTTP: &http.Client{Transport: transport}, Backoff: time.Microsecond})
	if _, err := c.Create(t.Context(), &registry.Image{}); err != nil || dials.Load() != 3 || asked.Load() != 1 {
		t.Errorf("%v after %d dials and %d requests", err, dials.Load(), asked.Load())
	}
}

func TestAPauseEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	c := serveTo(t, inTurn(&asked, func(w http.ResponseWriter, r *http.Request) {
		say(503, "30")(w, r)
		time.AfterFunc(10*time.Millisecond, cancel)
	}), Options{})
	if _, err := c.Get(ctx, testID); !errors.Is(err, context.Canceled) || asked.Load() != 1 {
		t.Errorf("error %v after %d requests", err, asked.Load())
	}
}
