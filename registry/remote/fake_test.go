package remote_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"nearsight/registry/remote"
)

const (
	id1    = "11111111-1111-4111-8111-111111111111"
	id2    = "22222222-2222-4222-8222-222222222222"
	digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// A trip is an http.RoundTripper that answers by itself.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// overWire returns a Central whose requests f answers.
func overWire(t testing.TB, f trip, change func(*remote.Options)) *remote.Central {
	return newRemote(t, "http://central.example.org:9292", func(o *remote.Options) {
		o.Transport = f
		if change != nil {
			change(o)
		}
	})
}

// reply is an answer with fields as "Name: value".
func reply(status int, body string, fields ...string) *http.Response {
	h := http.Header{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		h.Add(name, value)
	}
	return &http.Response{StatusCode: status, Header: h, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}
}

// said is an answer of the node API.
func said(body string) *http.Response { return reply(200, body, "Nearsight-Revision: 7") }

var errCut = errors.New("the wire is cut")

// bodyOf returns the body of a request.
func bodyOf(r *http.Request) string {
	if r.Body == nil {
		return ""
	}
	text, _ := io.ReadAll(r.Body)
	return string(text)
}
