package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

func TestEveryStatusHasItsError(t *testing.T) {
	want := map[int]error{
		204: registry.ErrConflict, 401: ErrUnauthorized, 403: registry.ErrForbidden, 404: registry.ErrNotFound,
		408: registry.ErrUnavailable, 409: registry.ErrConflict, 410: registry.ErrNotFound, 412: registry.ErrConflict,
		413: registry.ErrTooLarge, 429: registry.ErrUnavailable,
		502: registry.ErrUnavailable, 503: registry.ErrUnavailable, 504: registry.ErrUnavailable,
	}
	for status := 200; status < 600; status++ {
		sentinel := want[status]
		if sentinel == nil && status >= 400 && status < 500 {
			sentinel = registry.ErrInvalid
		}
		if got := (&Error{Status: status}).Unwrap(); got != sentinel {
			t.Errorf("%d wraps %v, want %v", status, got, sentinel)
		}
	}
	if !errors.Is(ErrUnauthorized, registry.ErrForbidden) {
		t.Error("who does not look for ErrUnauthorized does not find ErrForbidden")
	}
}

func TestServerURLs(t *testing.T) {
	for _, tt := range []struct{ name, server, base, err string }{
		{"a host and port", "http://127.0.0.1:9292", "http://127.0.0.1:9292", ""},
		{"slashes at the end do not count", "https://host//", "https://host", ""},
		{"a path goes before the API's", "https://host/image/", "https://host/image", ""},
		{"a scheme is needed", "127.0.0.1:9292", "", "server URL"},
		{"another scheme is none of ours", "ftp://host", "", "does not begin with http"},
		{"a host is needed", "http://", "", "not of the form"},
		{"a query has no place", "http://host/?a=b", "", "not of the form"},
		{"credentials have no place and are not shown", "http://u:secret@host", "", "http://u:xxxxx@host"},
		{"nothing is no server", "", "", "does not begin"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Options{Server: tt.server})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "secret") {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || c.base != tt.base {
				t.Errorf("base %v, %v; want %q", c, err, tt.base)
			}
		})
	}
}

func TestErrorsOfTheServer(t *testing.T) {
	for _, tt := range []struct {
		name, contentType, body string
		status                  int
		is                      error
		text                    string
	}{
		{"the Images API's JSON", "application/json", `{"message":"no such image","code":"404 Not Found","title":"Not Found"}`,
			404, registry.ErrNotFound, "no such image (404 Not Found)"},
		{"the same in an object", "application/json; charset=utf-8", `{"error":{"message":"taken"}}`,
			409, registry.ErrConflict, "taken (409 Conflict)"},
		{"a problem document", "application/problem+json", `{"type":"about:blank","title":"Forbidden","status":403,"detail":"it is protected"}`,
			403, registry.ErrForbidden, "it is protected (403 Forbidden)"},
		{"a problem without detail", "application/problem+json", `{"title":"Too large"}`,
			413, registry.ErrTooLarge, "Too large (413 Request Entity Too Large)"},
		{"plain text below its status line", "text/plain; charset=UTF-8", "400 Bad Request\n\nno such key\n",
			400, registry.ErrInvalid, "no such key (400 Bad Request)"},
		{"a page of a proxy", "text/html", "<h1>502</h1>",
			502, registry.ErrUnavailable, "the server answered 502 Bad Gateway, request req-1"},
		{"broken JSON", "application/json", `{"message":`,
			503, registry.ErrUnavailable, "the server answered 503 Service Unavailable, request req-1"},
		{"a failure names the request", "", "",
			500, nil, "the server answered 500 Internal Server Error, request req-1"},
		{"gone is not found", "", "", 410, registry.ErrNotFound, "the server answered 410 Gone"},
		{"who is not known is not allowed", "", "", 401, ErrUnauthorized, "the server answered 401 Unauthorized"},
		{"a wrong type is invalid", "", "", 415, registry.ErrInvalid, "the server answered 415 Unsupported Media Type"},
		{"a status without a name", "", "", 499, registry.ErrInvalid, "the server answered 499"},
		{"an answer that sends elsewhere", "", "", 300, nil, "the server answered 300 Multiple Choices"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept") != "application/json" {
					t.Errorf("Accept: %q", r.Header.Get("Accept"))
				}
				w.Header().Set("Content-Type", tt.contentType)
				w.Header().Set("X-Openstack-Request-Id", "req-1")
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}))
			_, err := c.Get(t.Context(), testID)
			var e *Error
			if !errors.As(err, &e) || e.Status != tt.status || e.RequestID != "req-1" || e.RetryAfter != 7*time.Second {
				t.Fatalf("error %#v", err)
			}
			if e.Error() != tt.text || tt.is != nil && !errors.Is(err, tt.is) || tt.is == nil && e.Unwrap() != nil {
				t.Errorf("error %q wraps %v; want %q, %v", e, e.Unwrap(), tt.text, tt.is)
			}
		})
	}
}

func TestErrorsWithoutAServer(t *testing.T) {
	s := httptest.NewServer(nil)
	s.Close()
	c, err := New(Options{Server: s.URL, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(t.Context(), testID)
	if !errors.Is(err, registry.ErrUnavailable) || !strings.HasPrefix(err.Error(), "cannot reach "+s.URL+": dial tcp") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, testID); !errors.Is(err, context.Canceled) || errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("error %v after a cancellation", err)
	}
}

func TestAServerThatDoesNotAnswerInTime(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	c.timeout = 10 * time.Millisecond
	_, err := c.Get(t.Context(), testID)
	if !errors.Is(err, registry.ErrUnavailable) || !strings.Contains(err.Error(), "no answer within 10ms") {
		t.Errorf("error %v", err)
	}
}

// A call is what a server saw of a request.
type call struct{ method, uri, contentType, body string }

// record starts a server that notes each request and gives this answer.
func record(t *testing.T, status int, answer string) (*Client, *[]call) {
	t.Helper()
	var seen []call
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, call{r.Method, r.RequestURI, r.Header.Get("Content-Type"), string(body)})
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	return c, &seen
}

const minimal = `{"id":"` + testID + `"}`

func TestCallsAsTheServerSeesThem(t *testing.T) {
	name := "n"
	const path = "/v2/images/" + testID
	const cache = "/nearsight/cache/images/" + testID
	for _, tt := range []struct {
		name   string
		answer string
		do     func(context.Context, *Client) error
		want   call
	}{
		{"create sends what is set", minimal, func(ctx context.Context, c *Client) error {
			_, err := c.Create(ctx, &registry.Image{Name: &name, Protected: true, MinRAM: 5, Tags: []string{"t"}, Properties: map[string]string{"a:b": "c"}})
			return err
		}, call{"POST", "/v2/images", "application/json", `{"a:b":"c","min_ram":5,"name":"n","protected":true,"tags":["t"]}`}},
		{"create of nothing sends an empty object", minimal, func(ctx context.Context, c *Client) error {
			_, err := c.Create(ctx, &registry.Image{})
			return err
		}, call{"POST", "/v2/images", "application/json", `{}`}},
		{"patch escapes names and keeps the order", minimal, func(ctx context.Context, c *Client) error {
			_, err := c.Patch(ctx, testID, Set("name", nil), Set("a/b~c", "d"), Set("protected", false), Unset("e"))
			return err
		}, call{"PATCH", path, patchType, `[{"op":"add","path":"/name","value":null},{"op":"add","path":"/a~1b~0c","value":"d"},` +
			`{"op":"add","path":"/protected","value":false},{"op":"remove","path":"/e"}]`}},
		{"patch of nothing sends an empty array", minimal, func(ctx context.Context, c *Client) error {
			_, err := c.Patch(ctx, testID)
			return err
		}, call{"PATCH", path, patchType, `[]`}},
		{"delete", "", func(ctx context.Context, c *Client) error { return c.Delete(ctx, testID) },
			call{"DELETE", path, "", ""}},
		{"a tag is escaped", "", func(ctx context.Context, c *Client) error { return c.AddTag(ctx, testID, "a/b c?") },
			call{"PUT", path + "/tags/a%2Fb%20c%3F", "", ""}},
		{"a tag goes", "", func(ctx context.Context, c *Client) error { return c.RemoveTag(ctx, testID, "t") },
			call{"DELETE", path + "/tags/t", "", ""}},
		{"drop", "", func(ctx context.Context, c *Client) error { return c.CacheDrop(ctx, testID) },
			call{"DELETE", cache, "", ""}},
		{"pin", "", func(ctx context.Context, c *Client) error { return c.CachePin(ctx, testID) },
			call{"PUT", cache + "/pin", "", ""}},
		{"unpin", "", func(ctx context.Context, c *Client) error { return c.CacheUnpin(ctx, testID) },
			call{"DELETE", cache + "/pin", "", ""}},
		{"warm", `{"result":{}}`, func(ctx context.Context, c *Client) error { _, err := c.CacheWarm(ctx, testID, nil); return err },
			call{"POST", cache + "/warm", "", ""}},
		{"scrub of one", `{"result":{}}`, func(ctx context.Context, c *Client) error { _, err := c.CacheScrub(ctx, testID, nil); return err },
			call{"POST", cache + "/scrub", "", ""}},
		{"scrub of all", `{"result":{}}`, func(ctx context.Context, c *Client) error { _, err := c.CacheScrub(ctx, "", nil); return err },
			call{"POST", "/nearsight/cache/scrub", "", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, seen := record(t, 200, tt.answer)
			if err := tt.do(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if len(*seen) != 1 || (*seen)[0] != tt.want {
				t.Errorf("the server saw %q, want %q", *seen, tt.want)
			}
		})
	}
}

func TestWhatNeverReachesTheServer(t *testing.T) {
	size := int64(1)
	for _, tt := range []struct {
		name string
		do   func(context.Context, *Client) error
		is   error
	}{
		{"an id with a path in it", func(ctx context.Context, c *Client) error { _, err := c.Get(ctx, "../../etc"); return err }, registry.ErrNotFound},
		{"an empty id", func(ctx context.Context, c *Client) error { return c.Delete(ctx, "") }, registry.ErrNotFound},
		{"an id that is too long", func(ctx context.Context, c *Client) error { return c.CacheDrop(ctx, testID+"0") }, registry.ErrNotFound},
		{"an id with another letter", func(ctx context.Context, c *Client) error { return c.CachePin(ctx, "g"+testID[1:]) }, registry.ErrNotFound},
		{"a tag that is a step in a path", func(ctx context.Context, c *Client) error { return c.AddTag(ctx, testID, "..") }, registry.ErrInvalid},
		{"a member without a name", func(ctx context.Context, c *Client) error { return c.RemoveMember(ctx, testID, "") }, registry.ErrInvalid},
		{"a member of what is no image", func(ctx context.Context, c *Client) error { _, err := c.AddMember(ctx, "x", "p"); return err }, registry.ErrNotFound},
		{"an import into what is no image", func(ctx context.Context, c *Client) error { return c.Import(ctx, "x", ImportOptions{}) }, registry.ErrNotFound},
		{"a wait for what is no image", func(ctx context.Context, c *Client) error { _, err := c.WaitImported(ctx, "x", nil); return err }, registry.ErrNotFound},
		{"an action on what is no image", func(ctx context.Context, c *Client) error { return c.Deactivate(ctx, "x") }, registry.ErrNotFound},
		{"the tasks of what is no image", func(ctx context.Context, c *Client) error { _, err := c.Tasks(ctx, "x"); return err }, registry.ErrNotFound},
		{"a task that is none", func(ctx context.Context, c *Client) error { _, err := c.Task(ctx, "../images"); return err }, registry.ErrNotFound},
		{"a list of tasks by image", func(ctx context.Context, c *Client) error {
			for _, err := range c.ListTasks(ctx, registry.TaskQuery{ImageID: testID}) {
				return err
			}
			return nil
		}, registry.ErrInvalid},
		{"a part of the cache that there is not", func(ctx context.Context, c *Client) error { return c.GlanceCacheClear(ctx, "both") }, registry.ErrInvalid},
		{"a schema that leads elsewhere", func(ctx context.Context, c *Client) error { _, err := c.Schema(ctx, "metadefs/../x"); return err }, registry.ErrInvalid},
		{"a schema without a name", func(ctx context.Context, c *Client) error { _, err := c.Schema(ctx, ""); return err }, registry.ErrInvalid},
		{"an empty tag", func(ctx context.Context, c *Client) error { return c.AddTag(ctx, testID, "") }, registry.ErrInvalid},
		{"a property called like a field", func(ctx context.Context, c *Client) error {
			_, err := c.Create(ctx, &registry.Image{Properties: map[string]string{"size": "1"}})
			return err
		}, registry.ErrInvalid},
		{"a range that ends before it begins", func(ctx context.Context, c *Client) error {
			_, err := c.Download(ctx, testID, Range{Offset: -1})
			return err
		}, registry.ErrInvalid},
		{"a list by digest", listError(registry.Query{Digests: []origin.Digest{"d"}}), registry.ErrInvalid},
		{"a list by a property that is a parameter", listError(registry.Query{Properties: map[string]string{"limit": "1"}}), registry.ErrInvalid},
		{"a list by two owners", listError(registry.Query{Match: []registry.Match{{Column: "owner", Values: []string{"a", "b"}}}}), registry.ErrInvalid},
		{"data that cannot be verified", func(ctx context.Context, c *Client) error {
			return c.Copy(ctx, &registry.Image{ID: testID, Size: &size}, io.Discard, quick)
		}, errAny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, seen := record(t, 200, minimal)
			err := tt.do(t.Context(), c)
			if err == nil || tt.is != errAny && !errors.Is(err, tt.is) || len(*seen) > 0 {
				t.Errorf("error %v after %d requests; want %v and none", err, len(*seen), tt.is)
			}
		})
	}
}

func FuzzErrorMessage(f *testing.F) {
	f.Add("application/json", []byte(`{"error":{"message":"m"}}`))
	f.Add("application/problem+json", []byte(`{"detail":1,"title":"\u0000t"}`))
	f.Add("text/plain; charset=UTF-8", []byte("404\n\nx\xff"))
	f.Add("text/plain", []byte(strings.Repeat("\u20ac", 400)))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		m := errorMessage(contentType, body)
		if len(m) > maxMessage || strings.ToValidUTF8(m, "") != m {
			t.Errorf("message %q", m)
		}
	})
}

func FuzzReadContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 1-9/10", "bytes */10", "bytes 0-9/*", "bytes 5-4/10", "bytes 0-99999999999999999999/1", "Bytes 0-0/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		var o origin.Object
		if readContentRange(field, &o) == nil && (o.Offset < 0 || o.Length < 1 || o.Offset > o.Size-o.Length) {
			t.Errorf("%q means %d bytes from %d of %d", field, o.Length, o.Offset, o.Size)
		}
	})
}
