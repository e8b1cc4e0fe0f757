package s3

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

// lab returns the options for a fresh prefix on the server that the lab script
// started.
func lab(t testing.TB) Options {
	t.Helper()
	get := func(name string) string {
		v := os.Getenv(name)
		if v == "" {
			t.Fatalf("%s is not set: this test needs the server that deploy/lab/s3.sh starts, and the variables that it prints", name)
		}
		return v
	}
	return Options{
		Endpoint: get("S3_ENDPOINT"), Region: get("S3_REGION"), Bucket: get("S3_BUCKET"),
		AccessKey: get("S3_ACCESS_KEY"), SecretKey: get("S3_SECRET_KEY"),
		Prefix: "test/" + origin.RandomName(),
	}
}

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// held returns what a store lists, and nothing more if that fails.
func held(t testing.TB, s *Store) []origin.Held {
	t.Helper()
	var all []origin.Held
	for h, err := range s.List(context.WithoutCancel(t.Context())) {
		if err != nil {
			t.Errorf("List: %v", err)
			return nil
		}
		all = append(all, h)
	}
	return all
}

// labStore opens a store which, after the test, may hold whole objects only.
func labStore(t testing.TB, o Options) *Store {
	s := openStore(t, o)
	t.Cleanup(func() {
		for _, h := range held(t, s) {
			if h.Partial {
				t.Errorf("%s was left, with %d bytes", h.Location.URL, h.Size)
			}
			if err := s.Delete(context.WithoutCancel(t.Context()), h.Location); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
	})
	return s
}

func TestStore(t *testing.T) {
	origintest.TestStore(t, func(t *testing.T) origin.WriteStore { return labStore(t, lab(t)) })
}

// The fake takes smaller parts than a real server, so that all of the suite is
// stored in parts; and it may be of an age without If-None-Match.
func TestStoreInParts(t *testing.T) {
	for _, tt := range []struct {
		name           string
		ignore, refuse bool
	}{
		{"with If-None-Match", false, false},
		{"If-None-Match is ignored", true, false},
		{"If-None-Match is refused", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
				f := newFake(t)
				f.ignore, f.refuse = tt.ignore, tt.refuse
				t.Cleanup(func() {
					if _, n := f.left(); n != 0 {
						t.Errorf("%d uploads were left", n)
					}
				})
				s := openStore(t, f.options())
				s.o.PartSize, s.growEvery = 40<<10, 3
				return s
			})
		})
	}
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		text string
	}{
		{"no bucket", Options{}, "bad bucket"},
		{"a bucket with a path", Options{Bucket: "a/b"}, "bad bucket"},
		{"a bad name", Options{Bucket: "b", Name: "a/b"}, "bad name"},
		{"a prefix out of the bucket", Options{Bucket: "b", Prefix: "../x"}, "bad prefix"},
		{"a prefix with an empty folder", Options{Bucket: "b", Prefix: "a//b"}, "bad prefix"},
		{"an absolute prefix", Options{Bucket: "b", Prefix: "/a"}, "bad prefix"},
		{"half of the credentials", Options{Bucket: "b", AccessKey: "hush"}, "go together"},
		{"the other half", Options{Bucket: "b", SecretKey: "hush"}, "go together"},
		{"a token alone", Options{Bucket: "b", SessionToken: "hush"}, "go together"},
		{"two sources of credentials", Options{Bucket: "b", AccessKey: "a", SecretKey: "hush", Profile: "p"}, "either"},
		{"an unknown addressing", Options{Bucket: "b", Addressing: "dns"}, "addressing"},
		{"an unknown encryption", Options{Bucket: "b", SSE: "rot13"}, "encryption"},
		{"a key id without a key", Options{Bucket: "b", SSE: "AES256", SSEKeyID: "k"}, "key id"},
		{"parts too small for S3", Options{Bucket: "b", PartSize: minPart - 1}, "part size"},
		{"parts too large for memory", Options{Bucket: "b", PartSize: maxPart + 1}, "part size"},
		{"a negative concurrency", Options{Bucket: "b", Concurrency: -1}, "concurrency"},
		{"an endpoint without a scheme", Options{Bucket: "b", Endpoint: "host:9000"}, "endpoint"},
		{"an endpoint of another scheme", Options{Bucket: "b", Endpoint: "ftp://host"}, "endpoint"},
		{"an endpoint with credentials", Options{Bucket: "b", Endpoint: "http://key:hush@host"}, "settings of their own"},
		{"an endpoint with a query", Options{Bucket: "b", Endpoint: "http://host?hush"}, "endpoint"},
		{"an endpoint with credentials that is no URL", Options{Bucket: "b", Endpoint: "http://key:hush@host:port"}, "endpoint"},
		{"authorities that are not there", Options{Bucket: "b", Region: "r", CAFile: "/nowhere"}, "authorities"},
		{"no region", Options{Bucket: "b"}, "no region"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noAWS(t)
			_, err := Open(t.Context(), tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "hush") {
				t.Errorf("error %v; want one about %q, without the secret", err, tt.text)
			}
		})
	}
}

// noAWS hides what the machine has of AWS.
func noAWS(t *testing.T) {
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func TestLocations(t *testing.T) {
	f := newFake(t)
	s := openStore(t, f.options())
	for _, tt := range []struct{ name, url string }{
		{"no key", "s3://default/"},
		{"no name", "s3:///key"},
		{"another store", "s3://other/key"},
		{"another scheme", "http://default/key"},
		{"upper-case scheme", "S3://default/key"},
		{"its parent", "s3://default/.."},
		{"a key beside the prefix", "s3://default/../secret"},
		{"escaped separators", "s3://default/a%2Fb"},
		{"a folder", "s3://default/a/b"},
		{"a query", "s3://default/key?uploads"},
		{"a control character", "s3://default/a\nb"},
		{"not ASCII", "s3://default/é"},
		{"a name too long", "s3://default/" + strings.Repeat("a", 256)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			loc := origin.Location{URL: tt.url}
			_, statErr := s.Stat(t.Context(), loc)
			_, openErr := s.Open(t.Context(), loc, 0, -1)
			_, putErr := s.Put(t.Context(), loc, -1, strings.NewReader("x"))
			for _, err := range []error{statErr, openErr, putErr, s.Delete(t.Context(), loc)} {
				if !errors.Is(err, origin.ErrLocation) {
					t.Errorf("error %v; want %v", err, origin.ErrLocation)
				}
			}
		})
	}
	if len(f.requests) != 0 {
		t.Errorf("the server heard %d requests", len(f.requests))
	}
	if loc := s.Locate("7b1c"); !strings.HasPrefix(loc.URL, "s3://default/7b1c.") || len(loc.URL) != len("s3://default/7b1c.")+16 {
		t.Errorf("Locate = %q", loc.URL)
	}
}

func FuzzKey(f *testing.F) {
	for _, url := range []string{"s3://default/a", "s3://default/../a", "s3://default/a.b_c-d", "s3://default/a/b", "x"} {
		f.Add(url)
	}
	s := &Store{name: "s3://default/", prefix: "images/"}
	f.Fuzz(func(t *testing.T, url string) {
		key, err := s.key(origin.Location{URL: url})
		if err != nil {
			return
		}
		if loc, ok := s.locate(key); !ok || loc.URL != url || strings.Count(key, "/") != 1 {
			t.Errorf("%q is the key %q, and that is at %q", url, key, loc.URL)
		}
	})
}

func TestList(t *testing.T) {
	s := labStore(t, lab(t))
	deeper := s.o
	deeper.Prefix += "/deeper"
	want := make(map[string]int64)
	for i, store := range []*Store{s, s, s, labStore(t, deeper)} {
		data := origintest.Data(100+i, 1)
		loc, err := store.Put(t.Context(), store.Locate("i"), -1, strings.NewReader(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		if store == s {
			want[loc.URL] = int64(len(data))
		}
	}
	for _, h := range held(t, s) {
		if h.Partial || h.Size != want[h.Location.URL] || h.Location.Validator != "" || h.ModTime.IsZero() {
			t.Errorf("List shows %+v", h)
		}
		delete(want, h.Location.URL)
	}
	if len(want) != 0 {
		t.Errorf("List leaves out %v", want)
	}
	for range s.List(t.Context()) {
		break // and nothing more is yielded, or this panics
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for h, err := range s.List(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("List with a context that has ended yields %v, %v", h, err)
		}
	}
}

// Delete takes a location, and not a prefix: its neighbours stay.
func TestDeleteLeavesTheUploadsOfOthers(t *testing.T) {
	f := newFake(t)
	s := openStore(t, f.options())
	for i, key := range []string{"a", "a", "ab", "a.b"} {
		f.uploads[fmt.Sprint(i)] = &fakeUpload{key: key}
	}
	if err := s.Delete(t.Context(), origin.Location{URL: "s3://default/a"}); err != nil {
		t.Fatal(err)
	}
	if _, n := f.left(); n != 2 || f.uploads["2"] == nil || f.uploads["3"] == nil {
		t.Errorf("%d uploads are left: %v", n, f.uploads)
	}
}

// An upload that nobody finished must not cost the object that is there: Delete
// removes both.
func TestAnUploadBesideAnObjectIsNotListed(t *testing.T) {
	f := newFake(t)
	s := openStore(t, f.options())
	f.objects["whole"] = &fakeObject{data: []byte("whole")}
	f.uploads["1"] = &fakeUpload{key: "whole"}
	f.uploads["2"] = &fakeUpload{key: "partial", parts: map[int][]byte{1: make([]byte, 10), 2: make([]byte, 5)}}
	f.uploads["3"] = &fakeUpload{key: ".no-location"}
	partial := make(map[string]int64)
	for _, h := range held(t, s) {
		if h.Partial {
			partial[h.Location.URL] = h.Size
		}
	}
	if len(partial) != 1 || partial["s3://default/partial"] != 15 {
		t.Errorf("List shows the uploads %v", partial)
	}
}
