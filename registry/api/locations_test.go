package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/registry"
)

// A web is a store of strangers' URLs, which only tells what there is.
type web map[string]origin.Info

func (w web) Stat(_ context.Context, loc origin.Location) (origin.Info, error) {
	info, ok := w[loc.URL]
	switch {
	case !ok:
		return origin.Info{}, fmt.Errorf("stat: %w", origin.ErrNotFound)
	case info.ModTime.IsZero() && info.Validator == "down":
		return origin.Info{}, fmt.Errorf("stat: %w: dial 10.1.2.3:80", origin.ErrUnavailable)
	}
	return info, nil
}

func (w web) Open(context.Context, origin.Location, int64, int64) (*origin.Object, error) {
	return nil, errors.New("nobody reads here")
}

const (
	hello = "http://example.org/hello.img"
	again = "https://mirror.example.org/hello.img?signature=x"
	other = "http://example.org/other.img"
)

// locationRig is a rig with several stores, in which files are the default, and
// where images can be registered by URL.
type locationRig struct {
	*rig
	hashes int
}

func newLocationRig(t testing.TB, changes ...func(*Options)) *locationRig {
	t.Helper()
	lr := &locationRig{}
	dir := t.TempDir()
	open := func(name string) origin.Store {
		s, err := file.Open(file.Options{Dir: dir + "/" + name, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	site := web{
		hello: {Size: 5, Validator: `"v1"`}, again: {Size: 5, Validator: `"v2"`}, other: {Size: 7},
		"http://example.org/empty":   {Size: 0},
		"http://example.org/endless": {Size: -1},
		"http://example.org/down":    {Validator: "down"},
	}
	set, err := origin.NewSet("main",
		origin.Member{Name: "slow", Kind: "file", Store: open("slow"), Weight: -1, Description: "tapes"},
		origin.Member{Name: "main", Kind: "file", Store: open("main"), Weight: 10, Properties: map[string]string{"data_dir": "/images"}},
		origin.Member{Name: "web", Kind: "http", Store: site},
	)
	if err != nil {
		t.Fatal(err)
	}
	lr.rig = newRig(t, append([]func(*Options){func(o *Options) {
		o.Store, o.Stores = set, set
		o.Locations = lrBooks(o.Images)
		o.Check = func(_ context.Context, url string) error {
			if strings.Contains(url, "127.0.0.1") {
				return fmt.Errorf("check: %w: address 127.0.0.1 is loopback", origin.ErrLocation)
			}
			return nil
		}
		o.Hash = func() { lr.hashes++ }
	}}, changes...)...)
	return lr
}

// lrBooks returns the books of the registry that a rig has.
func lrBooks(images registry.Images) registry.Locations { return images.(registry.Locations) }

// locationsOf returns the URLs of an image as it is shown.
func (g *locationRig) locationsOf(id string) []string {
	g.Helper()
	var urls []string
	for _, l := range decode(g, g.want(200, "GET /v2/images/"+id, ""))["locations"].([]any) {
		urls = append(urls, l.(map[string]any)["url"].(string))
	}
	return urls
}

func locationText(url, metadata string) string {
	return fmt.Sprintf(`{"url":%q,"metadata":%s}`, url, metadata)
}

func TestTheFirstLocationActivatesAnImage(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	if urls := g.locationsOf(id1); len(urls) != 0 {
		t.Errorf("a fresh image has %q", urls)
	}
	w := g.want(200, "PATCH /v2/images/"+id1, `[{"add":"/locations/-","value":`+locationText(hello, `{"speed":"88mph","store":"web"}`)+`}]`, v20)
	v := decode(t, w)
	want := `[map[metadata:map[speed:88mph store:web] url:http://example.org/hello.img]]`
	if v["status"] != "active" || v["size"] != 5.0 || v["stores"] != "web" || v["os_hash_value"] != nil || fmt.Sprint(v["locations"]) != want {
		t.Errorf("%s", w.Body)
	}
	img := g.get(id1)
	if img.Locations[0].Validator != `"v1"` || !maps.Equal(img.LocationMetadata[hello], map[string]string{"speed": "88mph"}) {
		t.Errorf("recorded %+v, %v", img.Locations, img.LocationMetadata)
	}
	if g.hashes != 1 {
		t.Errorf("the hashing task was woken %d times", g.hashes)
	}
	if w := g.want(200, "GET /v2/images/"+id1+"/locations", ""); strings.TrimSpace(w.Body.String()) !=
		`[{"url":"http://example.org/hello.img","metadata":{"speed":"88mph","store":"web"}}]` {
		t.Errorf("%s", w.Body)
	}
	g.want(405, "PUT /v2/images/"+id1+"/locations", "{}")
	if tag := g.want(412, "PUT /v2/images/"+id1+"/file", "x", octets, "If-Match: *").Header().Get("Etag"); tag != "" {
		t.Errorf("data without a digest has the tag %s", tag)
	}
}

func TestLocationsByPatch(t *testing.T) {
	hash := strings.Repeat("0", 128)
	add := func(value string) string { return `[{"op":"add","path":"/locations/-","value":` + value + `}]` }
	for _, tt := range []struct {
		name, body, field string
		queued            bool // the image; else it is active with hello and again
		status            int
	}{
		{"add to a queued image", add(locationText(hello, `{}`)), v21, true, 200},
		{"add where it would be", `[{"op":"add","path":"/locations/0","value":` + locationText(hello, `{}`) + `}]`, v21, true, 200},
		{"add beyond the end", `[{"op":"add","path":"/locations/1","value":` + locationText(hello, `{}`) + `}]`, v21, true, 400},
		{"add nowhere", `[{"op":"add","path":"/locations/x","value":` + locationText(hello, `{}`) + `}]`, v21, true, 400},
		{"add too deep", `[{"op":"add","path":"/locations/0/url","value":"x"}]`, v21, true, 400},
		{"add without metadata", add(`{"url":"` + hello + `"}`), v21, true, 400},
		{"add metadata that is no object", add(locationText(hello, `[]`)), v21, true, 400},
		{"add metadata that is no string", add(locationText(hello, `{"a":1}`)), v21, true, 400},
		{"add without a URL", add(`{"metadata":{}}`), v21, true, 400},
		{"add what is no object", add(`"` + hello + `"`), v21, true, 400},
		{"add a file", add(locationText("file:///etc/passwd", `{}`)), v21, true, 400},
		{"add an object of a store of ours", add(locationText("file://main/x", `{}`)), v21, true, 400},
		{"add an unknown scheme", add(locationText("swift+config://x/y", `{}`)), v21, true, 400},
		{"add credentials", add(locationText("http://u:p@example.org/hello.img", `{}`)), v21, true, 400},
		{"add what is malformed", add(locationText("http://[", `{}`)), v21, true, 400},
		{"add without a host", add(locationText("http:///x", `{}`)), v21, true, 400},
		{"add what may not be read", add(locationText("http://127.0.0.1/x", `{}`)), v21, true, 400},
		{"add what is not there", add(locationText("http://example.org/no", `{}`)), v21, true, 400},
		{"add what does not answer", add(locationText("http://example.org/down", `{}`)), v21, true, 400},
		{"add no bytes", add(locationText("http://example.org/empty", `{}`)), v21, true, 400},
		{"add what does not tell its length", add(locationText("http://example.org/endless", `{}`)), v21, true, 200},
		{"add under the name of another store", add(locationText(hello, `{"store":"main"}`)), v21, true, 400},
		{"add twice", `[{"add":"/locations/-","value":` + locationText(hello, `{}`) + `},{"add":"/locations/-","value":` + locationText(hello, `{}`) + `}]`, v20, true, 400},
		{"add two, of other lengths", `[{"add":"/locations/-","value":` + locationText(hello, `{}`) + `},{"add":"/locations/-","value":` + locationText(other, `{}`) + `}]`, v20, true, 400},
		{"add two, the second is not there", `[{"add":"/locations/-","value":` + locationText(hello, `{}`) + `},{"add":"/locations/-","value":` + locationText("http://example.org/no", `{}`) + `}]`, v20, true, 400},
		{"replace nothing by two", `[{"op":"replace","path":"/locations","value":[` + locationText(hello, `{}`) + `,` + locationText(again, `{}`) + `]}]`, v21, true, 200},
		{"replace nothing by nothing", `[{"op":"replace","path":"/locations","value":[]}]`, v21, true, 403},
		{"replace by what is no array", `[{"op":"replace","path":"/locations","value":{}}]`, v21, true, 400},
		{"with a name before", `[{"op":"replace","path":"/name","value":"n"},` + add(locationText(hello, `{}`))[1:], v21, true, 200},
		{"and a format after: it is settled then", add(locationText(hello, `{}`))[:len(add(locationText(hello, `{}`)))-1] + `,{"op":"replace","path":"/disk_format","value":"qcow2"}]`, v21, true, 403},
		{"with a condition that holds", add(locationText(hello, `{}`)), v21 + "\nIf-Match: *", true, 200},
		{"with a condition that does not", add(locationText(hello, `{}`)), v21 + "\nIf-Match: \"x\"", true, 412},
		{"no hashes in validation_data", add(`{"url":"` + hello + `","metadata":{},"validation_data":{}}`), v21, true, 200},
		{"hashes for a queued image", add(`{"url":"` + hello + `","metadata":{},"validation_data":{"os_hash_algo":"sha512","os_hash_value":"` + hash + `"}}`), v21, true, 200},
		{"hashes of another algorithm", add(`{"url":"` + hello + `","metadata":{},"validation_data":{"os_hash_algo":"sha256","os_hash_value":"` + hash[:64] + `"}}`), v21, true, 409},
		{"hashes of another length", add(`{"url":"` + hello + `","metadata":{},"validation_data":{"os_hash_algo":"sha512","os_hash_value":"00"}}`), v21, true, 409},
		{"half of a hash", add(`{"url":"` + hello + `","metadata":{},"validation_data":{"os_hash_algo":"sha512"}}`), v21, true, 400},
		{"unknown validation_data", add(`{"url":"` + hello + `","metadata":{},"validation_data":{"x":"y"}}`), v21, true, 400},
		{"remove from a queued image", `[{"op":"remove","path":"/locations/0"}]`, v21, true, 409},

		{"hashes for an active image", add(`{"url":"` + other + `","metadata":{},"validation_data":{"os_hash_algo":"sha512","os_hash_value":"` + hash + `"}}`), v21, false, 409},
		{"add what is there", add(locationText(again, `{"other":"metadata"}`)), v21, false, 400},
		{"add another length", add(locationText(other, `{}`)), v21, false, 400},
		{"remove one", `[{"remove":"/locations/1"}]`, v20, false, 200},
		{"remove one beyond the end", `[{"remove":"/locations/2"}]`, v20, false, 400},
		{"remove the end", `[{"remove":"/locations/-"}]`, v20, false, 400},
		{"remove all", `[{"remove":"/locations/1"},{"remove":"/locations/0"}]`, v20, false, 403},
		{"swap", `[{"remove":"/locations/1"},{"add":"/locations/-","value":` + locationText(again, `{}`) + `}]`, v20, false, 200},
		{"replace by nothing", `[{"replace":"/locations","value":[]}]`, v20, false, 403},
		{"replace by another", `[{"replace":"/locations","value":[` + locationText(other, `{}`) + `]}]`, v20, false, 400},
		{"replace by fewer", `[{"replace":"/locations","value":[` + locationText(hello, `{}`) + `]}]`, v20, false, 400},
		{"replace by one twice", `[{"replace":"/locations","value":[` + locationText(hello, `{}`) + `,` + locationText(hello, `{}`) + `]}]`, v20, false, 400},
		{"replace by the same", `[{"replace":"/locations","value":[` + locationText(hello, `{"store":"web"}`) + `,` + locationText(again, `{}`) + `]}]`, v20, false, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newLocationRig(t)
			g.create(`"id":"` + id1 + `",` + formats)
			if !tt.queued {
				g.want(200, "PATCH /v2/images/"+id1, `[{"replace":"/locations","value":[`+locationText(hello, `{}`)+`,`+locationText(again, `{}`)+`]}]`, v20)
			}
			before := g.get(id1)
			w := g.do("PATCH /v2/images/"+id1, tt.body, strings.Split(tt.field, "\n")...)
			if w.Code != tt.status {
				t.Fatalf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			if strings.Contains(w.Body.String(), "10.1.2.3") || strings.Contains(w.Body.String(), "u:p@") || strings.Contains(w.Body.String(), "validation_data\":") {
				t.Errorf("the answer tells too much: %s", w.Body)
			}
			if after := g.get(id1); w.Code >= 400 && after.Revision != before.Revision {
				t.Errorf("a refused patch changed the image")
			}
		})
	}
}

func TestARefusedLocationSaysWhy(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	w := g.want(400, "PATCH /v2/images/"+id1, `[{"add":"/locations/-","value":`+locationText("http://127.0.0.1/x", `{}`)+`}]`, v20)
	if !strings.Contains(w.Body.String(), "address 127.0.0.1 is loopback") {
		t.Errorf("%s", w.Body)
	}
}

func TestALocationNeedsFormats(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `"`)
	g.want(400, "PATCH /v2/images/"+id1, `[{"add":"/locations/-","value":`+locationText(hello, `{}`)+`}]`, v20)
	g.want(400, "POST /v2/images/"+id1+"/locations", `{"url":"`+hello+`"}`)
	g.want(200, "PATCH /v2/images/"+id1, `[{"replace":"/disk_format","value":"raw"},{"replace":"/container_format","value":"bare"},
		{"add":"/locations/-","value":`+locationText(hello, `{}`)+`}]`, v20)
}

func TestTooManyLocationsAreRefused(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	full := refusing{g.db, registry.ErrTooLarge}
	g.api.locations = full
	g.want(413, "PATCH /v2/images/"+id1, `[{"add":"/locations/-","value":`+locationText(hello, `{}`)+`}]`, v20)
	g.want(413, "POST /v2/images/"+id1+"/locations", `{"url":"`+hello+`"}`)
}

// refusing are books that take no location.
type refusing struct {
	registry.Locations
	err error
}

func (r refusing) AddLocation(context.Context, string, origin.Location, int64, map[string]string) (*registry.Image, error) {
	return nil, r.err
}

func TestMetadataOfLocationsIsReplaced(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	replace := func(metadata string) string {
		return `{"replace":"/locations","value":[` + locationText(hello, metadata) + `]}`
	}
	for _, tt := range []struct{ name, patch, want string }{
		{"with a new location", `{"add":"/locations/-","value":` + locationText(hello, `{"a":"b"}`) + `}`, `{"a":"b","store":"web"}`},
		{"by others", replace(`{"store":"web","c":"d"}`), `{"c":"d","store":"web"}`},
		{"by none", replace(`{}`), `{"store":"web"}`},
		{"twice in one patch", replace(`{"a":"b"}`) + `,` + replace(`{"e":"f"}`), `{"e":"f","store":"web"}`},
		{"of a location that the same patch adds", `{"add":"/locations/-","value":` + locationText(again, `{"a":"b"}`) + `},` +
			`{"replace":"/locations","value":[` + locationText(hello, `{}`) + `,` + locationText(again, `{"g":"h"}`) + `]}`,
			`{"store":"web"}},{"url":"` + again + `","metadata":{"g":"h","store":"web"}`},
	} {
		g.want(200, "PATCH /v2/images/"+id1, `[`+tt.patch+`]`, v20)
		if got := g.want(200, "GET /v2/images/"+id1+"/locations", "").Body.String(); got != `[{"url":"`+hello+`","metadata":`+tt.want+`}]` {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
}

func TestMetadataOfDataInAStoreOfOursIsReplaced(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	g.put(id1, "hello")
	url := g.locationsOf(id1)[0]
	g.want(200, "PATCH /v2/images/"+id1, `[{"replace":"/locations","value":[`+locationText(url, `{"a":"b"}`)+`]}]`, v20)
	if got := g.want(200, "GET /v2/images/"+id1+"/locations", "").Body.String(); got != `[{"url":"`+url+`","metadata":{"a":"b","store":"main"}}]` {
		t.Errorf("%s", got)
	}
	g.want(400, "PATCH /v2/images/"+id1, `[{"replace":"/locations","value":[`+locationText(url+"x", `{}`)+`]}]`, v20)
	g.want(400, "PATCH /v2/images/"+id1, `[{"add":"/locations/-","value":`+locationText(url+"x", `{}`)+`}]`, v20)
}

// What the registry would refuse halfway is refused before anything was changed.
func TestARefusedPatchOfLocationsChangesNothing(t *testing.T) {
	add := func(url, metadata string) string {
		return `{"add":"/locations/-","value":` + locationText(url, metadata) + `}`
	}
	for _, tt := range []struct {
		name, patch string
		status      int
	}{
		{"one location too many", `{"add":"/p","value":"q"},` + add(hello, `{}`) + `,` + add(again, `{}`), 413},
		{"metadata with a name that is none", `{"add":"/p","value":"q"},` + add(hello, `{"a\u0007":"b"}`), 400},
		{"more metadata than there is room", add(hello, `{"a":"`+strings.Repeat("x", 70_000)+`"}`), 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			limits := registry.Limits{Locations: 1}
			g := newLocationRig(t, func(o *Options) { o.Limits = limits })
			g.create(`"id":"` + id1 + `",` + formats)
			before := g.want(200, "GET /v2/images/"+id1, "").Body.String()
			g.want(tt.status, "PATCH /v2/images/"+id1, `[`+tt.patch+`]`, v20)
			if after := g.want(200, "GET /v2/images/"+id1, "").Body.String(); after != before {
				t.Errorf("the image became %s", after)
			}
		})
	}
}

func TestRegisteringByURL(t *testing.T) {
	hash := func(n int) string { return strings.Repeat("a", n) }
	data := func(algo, hash string) string {
		return fmt.Sprintf(`{"url":%q,"validation_data":{"os_hash_algo":%q,"os_hash_value":%q}}`, hello, algo, hash)
	}
	for _, tt := range []struct {
		name, body string
		active     bool
		status     int
	}{
		{"a URL", `{"url":"` + hello + `"}`, false, 202},
		{"no hashes are none", `{"url":"` + hello + `","validation_data":null}`, false, 202},
		{"no URL", `{}`, false, 400},
		{"no object", `[]`, false, 400},
		{"a URL that is null", `{"url":null}`, false, 400},
		{"a file", `{"url":"file:///etc/passwd"}`, false, 400},
		{"what is not there", `{"url":"http://example.org/no"}`, false, 400},
		{"an active image", `{"url":"` + hello + `"}`, true, 409},
		{"hashes that nobody can compare", data("sha512", hash(128)), false, 400},
		{"an unknown algorithm", data("crc32", hash(8)), false, 400},
		{"a wrong length", data("sha256", hash(63)), false, 400},
		{"no hex", data("md5", strings.Repeat("g", 32)), false, 400},
		{"hashes for an active image", data("sha1", hash(40)), true, 409},
		{"an algorithm alone", `{"url":"` + hello + `","validation_data":{"os_hash_algo":"md5"}}`, false, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newLocationRig(t)
			g.create(`"id":"` + id1 + `",` + formats)
			if tt.active {
				g.put(id1, "hello")
			}
			w := g.want(tt.status, "POST /v2/images/"+id1+"/locations", tt.body)
			if w.Code != 202 {
				return
			}
			if img := g.get(id1); w.Body.Len() > 0 || img.Status != registry.Active || *img.Size != 5 || g.hashes != 1 || img.HashAlgo != "sha512" || img.HashValue != "" {
				t.Errorf("%d bytes, %+v, woken %d times", w.Body.Len(), img, g.hashes)
			}
		})
	}
	g := newLocationRig(t)
	g.want(404, "POST /v2/images/"+absent+"/locations", `{"url":"`+hello+`"}`)
	g.want(404, "GET /v2/images/"+absent+"/locations", "")
	g.want(404, "PATCH /v2/images/"+absent, `[{"add":"/locations/-","value":`+locationText(hello, `{}`)+`}]`, v20)
}

func TestWithoutBooksLocationsAreForbidden(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(403, "GET /v2/images/"+id1+"/locations", "")
	g.want(403, "POST /v2/images/"+id1+"/locations", `{"url":"`+hello+`"}`)
	if v := decode(t, g.want(200, "GET /v2/images/"+id1, "")); v["locations"] != nil || v["stores"] != nil {
		t.Errorf("%v", v)
	}
	hidden := newLocationRig(t, func(o *Options) { o.HideLocations, o.ShowDirectURL = true, true })
	hidden.create(`"id":"` + id1 + `",` + formats)
	hidden.put(id1, "hello")
	hidden.want(403, "GET /v2/images/"+id1+"/locations", "")
	v := decode(t, hidden.want(200, "GET /v2/images/"+id1, ""))
	if url, _ := v["direct_url"].(string); v["locations"] != nil || v["stores"] != "main" || !strings.HasPrefix(url, "file://main/") {
		t.Errorf("%v", v)
	}
}

func TestWithoutAGuardNoURLIsRead(t *testing.T) {
	g := newLocationRig(t, func(o *Options) { o.Check = nil })
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(400, "POST /v2/images/"+id1+"/locations", `{"url":"`+hello+`"}`)
}

func TestLocationsAreNotForCreation(t *testing.T) {
	g := newLocationRig(t)
	g.want(403, "POST /v2/images", `{"locations":[]}`)
	g.want(403, "POST /v2/images", `{"direct_url":"x"}`)
	g.want(403, "POST /v2/images", `{"stores":"main"}`)
}

// copyTo makes a second copy of the image's data known, as a copier would.
func (g *locationRig) copyTo(store, id string) {
	g.Helper()
	ctx := g.Context()
	w, err := g.api.places.stores.Writer(store)
	if err != nil {
		g.Fatal(err)
	}
	img := g.get(id)
	obj, err := g.api.store.Open(ctx, img.Locations[0], 0, -1)
	if err != nil {
		g.Fatal(err)
	}
	defer obj.Body.Close()
	loc := w.Locate(id)
	if err := g.db.BeginCopy(ctx, id, loc); err != nil {
		g.Fatal(err)
	}
	if loc, err = w.Put(ctx, loc, -1, io.LimitReader(obj.Body, obj.Length)); err != nil {
		g.Fatal(err)
	}
	if _, err := g.db.AddLocation(ctx, id, loc, *img.Size, nil); err != nil {
		g.Fatal(err)
	}
}

func TestTheHeaviestStoreIsShownFirst(t *testing.T) {
	g := newLocationRig(t, func(o *Options) { o.ShowDirectURL = true })
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(204, "PUT /v2/images/"+id1+"/file", "hello", octets, "X-Image-Meta-Store: slow")
	g.copyTo("main", id1)
	g.want(200, "PATCH /v2/images/"+id1, `[{"add":"/locations/-","value":`+locationText(hello, `{}`)+`}]`, v20)
	urls := g.locationsOf(id1)
	if len(urls) != 3 || !strings.HasPrefix(urls[0], "file://main/") || urls[1] != hello || !strings.HasPrefix(urls[2], "file://slow/") {
		t.Errorf("%q", urls)
	}
	v := decode(t, g.want(200, "GET /v2/images/"+id1, ""))
	if v["stores"] != "main,web,slow" || v["direct_url"] != urls[0] {
		t.Errorf("%v", v)
	}
	// Indices are those that were shown.
	g.want(200, "PATCH /v2/images/"+id1, `[{"remove":"/locations/2"}]`, v20)
	if left := g.locationsOf(id1); len(left) != 2 || left[0] != urls[0] || left[1] != hello {
		t.Errorf("%q", left)
	}
	if n := len(g.orphans()); n != 1 || g.wakes.Load() == 0 {
		t.Errorf("%d orphans, %d wakes", n, g.wakes.Load())
	}
}

func TestHashesInAPatchAreComparedWhereTheyAreKnown(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	g.put(id1, "hello")
	img := g.get(id1)
	body := func(url, hash string) string {
		return fmt.Sprintf(`[{"op":"add","path":"/locations/-","value":{"url":%q,"metadata":{},"validation_data":{"os_hash_algo":"sha512","os_hash_value":%q,"checksum":%q}}}]`,
			url, hash, img.Checksum)
	}
	g.want(409, "PATCH /v2/images/"+id1, body(hello, strings.Repeat("0", 128)), v21)
	g.want(200, "PATCH /v2/images/"+id1, body(hello, strings.ToUpper(img.HashValue)), v21)
}

// tempest's ImageLocationsTest with hashes: what the client says is shown until it is
// known better, it is never echoed as it was sent, and nothing else is taken later.
func TestHashesOfAQueuedImageAreNoted(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	value := func(url, checksum, hash string) string {
		return fmt.Sprintf(`{"url":%q,"metadata":{},"validation_data":{"checksum":%q,"os_hash_algo":"sha512","os_hash_value":%q}}`, url, checksum, hash)
	}
	ones, beef, dead := strings.Repeat("1", 32), strings.Repeat("deadbeef", 16), strings.Repeat("DEADBEEF", 16)
	patch := func(status int, value string) map[string]any {
		t.Helper()
		w := g.want(status, "PATCH /v2/images/"+id1, `[{"add":"/locations/-","value":`+value+`}]`, v20)
		if status != 200 {
			return nil
		}
		if strings.Contains(w.Body.String(), "validation_data") {
			t.Errorf("echoed: %s", w.Body)
		}
		return decode(t, w)
	}
	v := patch(200, value(hello, ones, dead))
	if v["status"] != "active" || v["checksum"] != ones || v["os_hash_algo"] != "sha512" || v["os_hash_value"] != beef {
		t.Errorf("%v", v)
	}
	if img := g.get(id1); img.Digest != "" || g.hashes != 1 {
		t.Errorf("digest %q, woken %d times", img.Digest, g.hashes)
	}
	patch(409, value(again, ones, strings.Repeat("0", 128)))
	patch(409, value(again, strings.Repeat("2", 32), beef))
	if v := patch(200, value(again, ones, beef)); len(v["locations"].([]any)) != 2 {
		t.Errorf("%v", v)
	}
	// An active image without hashes takes none.
	g.create(`"id":"` + id2 + `",` + formats)
	g.want(200, "PATCH /v2/images/"+id2, `[{"add":"/locations/-","value":`+locationText(hello, `{}`)+`}]`, v20)
	g.want(409, "PATCH /v2/images/"+id2, `[{"add":"/locations/-","value":`+value(again, ones, beef)+`}]`, v20)
	// Two at once: the first says what the second must say too.
	id := g.create(formats)
	both := func(second string) string {
		return `[{"op":"add","path":"/locations/-","value":` + value(hello, ones, beef) + `},{"op":"add","path":"/locations/-","value":` + second + `}]`
	}
	g.want(409, "PATCH /v2/images/"+id, both(value(again, ones, strings.Repeat("0", 128))), v21)
	if img := g.get(id); img.Status != registry.Queued || img.HashValue != "" {
		t.Errorf("%+v", img)
	}
	g.want(200, "PATCH /v2/images/"+id, both(value(again, ones, beef)), v21)
}

func TestDeletingFromOneStore(t *testing.T) {
	g := newLocationRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(409, "DELETE /v2/stores/main/"+id1, "") // it is queued
	g.put(id1, "hello")
	g.want(404, "DELETE /v2/stores/slow/"+id1, "")
	g.want(403, "DELETE /v2/stores/main/"+id1, "")
	g.copyTo("slow", id1)
	g.want(400, "DELETE /v2/stores/main/"+id1, "body")
	g.want(409, "DELETE /v2/stores/tape/"+id1, "")
	g.want(404, "DELETE /v2/stores/main/"+absent, "")
	g.want(404, "DELETE /v2/stores/main/x", "")
	g.want(405, "GET /v2/stores/main/"+id1, "")
	g.want(204, "DELETE /v2/stores/main/"+id1, "")
	if v := decode(t, g.want(200, "GET /v2/images/"+id1, "")); v["stores"] != "slow" || v["status"] != "active" {
		t.Errorf("%v", v)
	}
	if len(g.orphans()) != 1 || g.wakes.Load() == 0 {
		t.Error("the object stays, and nobody knows")
	}
	single := newRig(t)
	single.create(`"id":"` + id1 + `"`)
	single.want(404, "DELETE /v2/stores/main/"+id1, "")
}

func TestUploadsGoToTheStoreThatIsNamed(t *testing.T) {
	for _, tt := range []struct {
		name, field, store string
		status             int
		text               string
	}{
		{"none named", "", "main", 204, ""},
		{"the default", "X-Image-Meta-Store: main", "main", 204, ""},
		{"another", "x-image-meta-store: slow", "slow", 204, ""},
		{"an unknown one", "X-Image-Meta-Store: tape", "", 400, "no store is called \"tape\"; there are: slow, main, web"},
		{"one that takes no data", "X-Image-Meta-Store: web", "", 410, "read-only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newLocationRig(t, func(o *Options) {
				o.Imports = Imports{Tasks: o.Images.(registry.Tasks), Methods: []string{"copy-image"}}
			})
			w := g.want(201, "POST /v2/images", `{"id":"`+id1+`",`+formats+`}`)
			if h := w.Header(); h.Get("OpenStack-image-store-ids") != "slow,main" || h.Get("OpenStack-image-import-methods") != "copy-image" {
				t.Errorf("%v", h)
			}
			fields := []string{octets}
			if tt.field != "" {
				fields = append(fields, tt.field)
			}
			w = g.want(tt.status, "PUT /v2/images/"+id1+"/file", "hello", fields...)
			if !strings.Contains(w.Body.String(), tt.text) {
				t.Errorf("%s", w.Body)
			}
			if tt.store != "" {
				if url := g.get(id1).Locations[0].URL; !strings.HasPrefix(url, "file://"+tt.store+"/") {
					t.Errorf("it went to %s", url)
				}
			}
		})
	}
}

func TestStoresAreDescribed(t *testing.T) {
	g := newLocationRig(t)
	if w := g.want(200, "GET /v2/info/stores", ""); w.Body.String() !=
		`{"stores":[{"id":"slow","description":"tapes"},{"id":"main","default":"true"},{"id":"web","read-only":"true"}]}` {
		t.Errorf("%s", w.Body)
	}
	if w := g.want(200, "GET /v2/info/stores/detail", ""); w.Body.String() !=
		`{"stores":[{"id":"slow","description":"tapes","type":"file","weight":-1,"properties":{}},`+
			`{"id":"main","default":"true","type":"file","weight":10,"properties":{"data_dir":"/images"}},`+
			`{"id":"web","read-only":"true","type":"http","weight":0,"properties":{}}]}` {
		t.Errorf("%s", w.Body)
	}
	g.want(400, "GET /v2/info/stores", "body")
	if w := g.want(200, "GET /versions", ""); !strings.Contains(w.Body.String(), `{"id":"v2.17","status":"CURRENT"`) {
		t.Errorf("%s", w.Body)
	}
	g.create(`"id":"` + id1 + `"`)
	g.want(200, "GET /v2.8/images/"+id1, "")
	if w := g.want(200, "GET /v2/schemas/image", ""); strings.Contains(w.Body.String(), `"stores"`) {
		t.Error("glanceclient falls over a schema with stores")
	}
	newRig(t).want(404, "GET /v2/info/stores/detail", "")
}
