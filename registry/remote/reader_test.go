package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/remote"
)

// sentinels are all that an error of a registry wraps one of.
var sentinels = []error{
	registry.ErrNotFound, registry.ErrInvalid, registry.ErrForbidden, registry.ErrConflict,
	registry.ErrTooLarge, registry.ErrUnavailable, registry.ErrTooOld,
}

// wantErr checks that err wraps want and no other sentinel, and shows no secret.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error %v, want %v", what, err, want)
	}
	for _, other := range sentinels {
		if other != want && errors.Is(err, other) {
			t.Errorf("%s: error %v wraps %v too", what, err, other)
		}
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("%s: the error shows the secret: %v", what, err)
	}
}

const record = `{"ID":"` + id1 + `","Status":"active","Visibility":"public","Size":0,"Digest":"` + digest + `","Revision":3}`

func TestAnAnswerThatIsNoRecordIsNone(t *testing.T) {
	const ours = "Nearsight-Revision: 7"
	for _, tt := range []struct {
		name   string
		answer *http.Response
		err    error
	}{
		{"a record", reply(200, record, ours), nil},
		{"a record of a newer central", reply(200, strings.Replace(record, "{", `{"New":[1],`, 1), ours), nil},
		{"there is no such image", reply(404, `{"detail":"image not found"}`, ours), registry.ErrNotFound},
		{"there is nothing at the path, at another server", reply(404, `{"detail":"image not found"}`), registry.ErrUnavailable},
		{"a page of another server", reply(200, record), registry.ErrUnavailable},
		{"a revision that is none", reply(200, record, "Nearsight-Revision: -7"), registry.ErrUnavailable},
		{"the secret is wrong", reply(401, `{"detail":"`+secret+`"}`, ours), registry.ErrUnavailable},
		{"we may not ask", reply(403, `{}`, ours), registry.ErrUnavailable},
		{"it is malformed", reply(400, `{"detail":"invalid: x"}`, ours), registry.ErrInvalid},
		{"too much", reply(413, ``, ours), registry.ErrTooLarge},
		{"too often", reply(429, ``, ours), registry.ErrUnavailable},
		{"it fails", reply(500, `x`, ours), registry.ErrUnavailable},
		{"it cannot ask either", reply(503, `{"detail":"the registry cannot be asked just now"}`, ours), registry.ErrUnavailable},
		{"elsewhere", reply(302, ``, ours, "Location: http://elsewhere.example.org/"), registry.ErrUnavailable},
		{"another image", reply(200, strings.Replace(record, id1, id2, 1), ours), registry.ErrUnavailable},
		{"nothing", reply(200, ``, ours), registry.ErrUnavailable},
		{"null", reply(200, `null`, ours), registry.ErrUnavailable},
		{"no object", reply(200, `[]`, ours), registry.ErrUnavailable},
		{"an unknown status", reply(200, strings.Replace(record, "active", "visible", 1), ours), registry.ErrUnavailable},
		{"an unknown visibility", reply(200, strings.Replace(record, `"public"`, `"PUBLIC"`, 1), ours), registry.ErrUnavailable},
		{"a negative size", reply(200, strings.Replace(record, `"Size":0`, `"Size":-1`, 1), ours), registry.ErrUnavailable},
		{"a digest that is none", reply(200, strings.Replace(record, digest, "../../etc", 1), ours), registry.ErrUnavailable},
		{"a negative revision", reply(200, strings.Replace(record, `"Revision":3`, `"Revision":-3`, 1), ours), registry.ErrUnavailable},
		{"a record without end", reply(200, strings.Repeat(" ", 9<<20), ours), registry.ErrUnavailable},
		{"an error without end", reply(404, strings.Repeat(" ", 1<<20), ours), registry.ErrNotFound},
		{"nothing over the wire", nil, registry.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			c := overWire(t, func(r *http.Request) (*http.Response, error) {
				asked++
				if r.Header.Get("Authorization") != "Bearer "+secret || r.URL.String() != "http://central.example.org:9292/nearsight/records/"+id1 {
					t.Errorf("asked %s with %v", r.URL, r.Header)
				}
				if tt.answer == nil {
					return nil, errCut
				}
				return tt.answer, nil
			}, nil)
			img, err := c.Get(t.Context(), id1)
			if asked != 1 {
				t.Errorf("%d requests", asked)
			}
			if tt.err != nil {
				wantErr(t, "Get", err, tt.err)
			} else if err != nil || img.ID != id1 || img.Revision != 3 || img.Properties == nil {
				t.Errorf("%+v, %v", img, err)
			}
		})
	}
}

func TestIDsThatAreNoneAreNotAskedFor(t *testing.T) {
	c := overWire(t, func(r *http.Request) (*http.Response, error) {
		t.Errorf("asked %s", r.URL)
		return nil, errCut
	}, nil)
	for _, id := range []string{"", "x", "../edges", id1 + "/", id1 + "?x"} {
		_, err := c.Get(t.Context(), id)
		wantErr(t, "Get of "+id, err, registry.ErrNotFound)
		_, err = c.Manifest(t.Context(), origin.Digest(id))
		wantErr(t, "Manifest of "+id, err, registry.ErrNotFound)
	}
	_, err := c.List(t.Context(), registry.Query{Limit: 1, Times: []registry.TimeBound{{Column: "created_at", Op: "gt", Time: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)}}})
	wantErr(t, "List by a time that JSON has no word for", err, registry.ErrInvalid)
}

func TestAManifestIsWhatItsDigestNames(t *testing.T) {
	m := origin.Manifest{Size: 5, Sums: make([]byte, 32)}
	encoded := m.Encode()
	for _, tt := range []struct {
		name, body string
		err        error
	}{
		{"it is", string(encoded), nil},
		{"another", string(encoded[:len(encoded)-1]) + "x", registry.ErrUnavailable},
		{"half of it", string(encoded[:20]), registry.ErrUnavailable},
		{"nothing", "", registry.ErrUnavailable},
	} {
		c := overWire(t, func(*http.Request) (*http.Response, error) { return said(tt.body), nil }, nil)
		got, err := c.Manifest(t.Context(), origin.DigestOf(encoded))
		if tt.err != nil {
			wantErr(t, tt.name, err, tt.err)
		} else if err != nil || string(got) != tt.body {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

func TestLocationsThatCannotBeReadBecomeOneAtTheCentral(t *testing.T) {
	at := func(urls ...string) (locs []origin.Location) {
		for _, u := range urls {
			locs = append(locs, origin.Location{URL: u, Validator: "v"})
		}
		return locs
	}
	central := origin.Location{URL: "nearsight://central/" + id1, Validator: digest}
	for _, tt := range []struct {
		name  string
		has   []origin.Location
		reads string // prefix; "" for nothing
		want  []origin.Location
	}{
		{"none", nil, "", nil},
		{"one", at("file://default/1"), "", []origin.Location{central}},
		{"two", at("file://default/1", "s3://two/2"), "", []origin.Location{central}},
		{"one of two can be read", at("file://default/1", "s3://two/2"), "s3:", append(at("s3://two/2"), central)},
		{"all can be read", at("s3://one/1", "s3://two/2"), "s3:", at("s3://one/1", "s3://two/2")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := registry.Image{
				ID: id1, Status: registry.Active, Visibility: registry.Public, Size: new(int64), Digest: digest, Locations: tt.has,
				LocationMetadata: map[string]map[string]string{},
				Members:          []registry.Member{{Project: "b"}, {Project: "a"}}, // members are searched for
			}
			for _, loc := range tt.has {
				img.LocationMetadata[loc.URL] = map[string]string{"of": loc.URL}
			}
			text, err := json.Marshal(img)
			if err != nil {
				t.Fatal(err)
			}
			list := fmt.Appendf(nil, `{"images":[%s]}`, text)
			c := overWire(t, func(r *http.Request) (*http.Response, error) {
				if r.Method == http.MethodPost {
					return said(string(list)), nil
				}
				return said(string(text)), nil
			}, func(o *remote.Options) {
				if tt.reads != "" {
					o.Reads = func(loc origin.Location) bool { return strings.HasPrefix(loc.URL, tt.reads) }
				}
			})
			one, err := c.Get(t.Context(), id1)
			if err != nil {
				t.Fatal(err)
			}
			all, err := c.List(t.Context(), registry.Query{Limit: 10})
			if err != nil || len(all) != 1 {
				t.Fatalf("%v, %v", all, err)
			}
			for _, got := range []*registry.Image{one, all[0]} {
				if len(got.Locations) != len(tt.want) || len(tt.want) > 0 && !reflect.DeepEqual(got.Locations, tt.want) {
					t.Errorf("locations %v, want %v", got.Locations, tt.want)
				}
				for url := range got.LocationMetadata {
					if tt.reads == "" || !strings.HasPrefix(url, tt.reads) {
						t.Errorf("there is metadata of %s", url)
					}
				}
				if got.Member("a") == nil {
					t.Error("a member is not found")
				}
			}
		})
	}
}

func TestAListIsNoLongerThanAskedFor(t *testing.T) {
	c := overWire(t, func(*http.Request) (*http.Response, error) {
		return said(`{"images":[` + record + "," + record + `]}`), nil
	}, nil)
	for limit, want := range map[int]error{-1: registry.ErrUnavailable, 0: registry.ErrUnavailable, 1: registry.ErrUnavailable, 2: nil} {
		_, err := c.List(t.Context(), registry.Query{Limit: limit})
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// A question whose connection turns out to be dead is asked again on another, whatever
// its method.
func TestADeadConnectionIsNoFailure(t *testing.T) {
	drop := make(chan struct{}, 1)
	c := newCentral(t, nil, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-drop:
				io.ReadAll(r.Body)
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					conn.Close()
				}
			default:
				h.ServeHTTP(w, r)
			}
		})
	})
	r := c.remote(nil)
	for range 3 {
		if _, err := r.List(t.Context(), registry.Query{Limit: 1}); err != nil { // which leaves a connection
			t.Fatal(err)
		}
		drop <- struct{}{}
		if _, err := r.List(t.Context(), registry.Query{Limit: 1}); err != nil {
			t.Errorf("List: %v", err)
		}
		drop <- struct{}{}
		if _, err := r.Revision(t.Context()); err != nil {
			t.Errorf("Revision: %v", err)
		}
	}
}

func TestWhoIsNoNodeIsToldNothing(t *testing.T) {
	c := newCentral(t, func(o *api.Options) { o.Identity = people{} }, nil)
	for name, wrong := range map[string]string{"no secret": "", "another": "x" + secret, "half of it": secret[:10]} {
		r := c.remote(func(o *remote.Options) { o.Secret = wrong })
		_, err := r.Get(t.Context(), id1)
		wantErr(t, name, err, registry.ErrUnavailable)
		_, err = r.Identify(t.Context(), "anna's")
		wantErr(t, name, err, registry.ErrUnavailable)
		wantErr(t, name, r.Announce(t.Context(), registry.Edge{Name: "a"}), registry.ErrUnavailable)
	}
	if _, err := c.remote(nil).Get(t.Context(), id1); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("with the secret: %v", err)
	}
}

func TestTheSecretGoesNowhereElse(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("asked %s", r.URL) }))
	defer elsewhere.Close()
	there := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer there.Close()
	r := newRemote(t, there.URL, nil)
	_, err := r.Get(t.Context(), id1)
	wantErr(t, "Get", err, registry.ErrUnavailable)
	if _, err := r.Store().Open(t.Context(), origin.Location{URL: "nearsight://central/" + id1}, 0, -1); !errors.Is(err, origin.ErrUnavailable) {
		t.Errorf("Open: %v", err)
	}
}

func TestURLsAndSecretsThatCannotBe(t *testing.T) {
	for _, o := range []remote.Options{
		{}, {URL: "central:9292"}, {URL: "ftp://central"}, {URL: "http://"}, {URL: "http://user:pass@central"},
		{URL: "http://central/api"}, {URL: "http://central?x"}, {URL: "http://central", Secret: "a\nb"}, {URL: "http://central", Secret: "ä"},
	} {
		if c, err := remote.New(o); err == nil || strings.Contains(err.Error(), "pass") {
			t.Errorf("%q: %v, %v", o.URL, c, err)
		}
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	c := overWire(t, func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, id1); !errors.Is(err, context.Canceled) || errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("Get: %v", err)
	}
	for e, err := range c.Watch(ctx, 0) {
		t.Errorf("Watch yields %v, %v", e, err)
	}
}

var quiet = slog.New(slog.DiscardHandler)
