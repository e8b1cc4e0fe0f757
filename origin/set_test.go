package origin_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/origin/origintest"
)

// readOnly hides that a store can be written.
type readOnly struct{ origin.Store }

// A wrapped store shows what it wraps.
type wrapped struct{ origin.Store }

func (w wrapped) Unwrap() origin.Store { return w.Store }

// A listStore is a Fake that knows what it holds.
type listStore struct {
	*origintest.Fake
	held []origin.Held
	err  error
}

func (s listStore) List(ctx context.Context) iter.Seq2[origin.Held, error] {
	return func(yield func(origin.Held, error) bool) {
		for _, h := range s.held {
			if ctx.Err() != nil {
				yield(origin.Held{}, ctx.Err())
				return
			}
			if !yield(h, nil) {
				return
			}
		}
		if s.err != nil {
			yield(origin.Held{}, s.err)
		}
	}
}

func openFiles(t *testing.T, name string) *file.Store {
	t.Helper()
	s, err := file.Open(file.Options{Dir: t.TempDir(), Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newSet(t *testing.T, def string, members ...origin.Member) *origin.Set {
	t.Helper()
	s, err := origin.NewSet(def, members...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASetKeepsTheContract(t *testing.T) {
	others := func() []origin.Member {
		return []origin.Member{
			{Name: "far", Kind: "fake", Store: &origintest.Fake{Name: "far"}, Weight: 7},
			{Name: "web", Kind: "http", Store: readOnly{new(origintest.Fake)}},
		}
	}
	t.Run("file", func(t *testing.T) {
		origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
			// "default" is the store of databases that knew no other.
			return newSet(t, "default", append(others(), origin.Member{Name: "default", Kind: "file", Store: openFiles(t, "")})...)
		})
	})
	t.Run("another", func(t *testing.T) {
		origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
			s := newSet(t, "far", append(others(), origin.Member{Name: "default", Kind: "file", Store: openFiles(t, "")})...)
			return struct{ origin.WriteStore }{s} // a location of the Fake has no path
		})
	})
}

func TestWhatIsNoSet(t *testing.T) {
	store := new(origintest.Fake)
	m := func(name, kind string) origin.Member { return origin.Member{Name: name, Kind: kind, Store: store} }
	for _, tt := range []struct {
		name, def string
		members   []origin.Member
		text      string
	}{
		{"no store", "a", nil, `no store is called "a"`},
		{"an unknown default", "b", []origin.Member{m("a", "file")}, "there are: a"},
		{"a default that cannot be written", "a", []origin.Member{{Name: "a", Kind: "http", Store: readOnly{store}}}, "read-only"},
		{"two stores of a name", "a", []origin.Member{m("a", "file"), m("a", "s3")}, "two stores are called a"},
		{"two stores for the URLs of strangers", "a", []origin.Member{m("a", "http"), m("b", "http")}, "both of kind http"},
		{"no name", "", []origin.Member{m("", "file")}, "a name has"},
		{"a name with capitals", "A", []origin.Member{m("A", "file")}, "a name has"},
		{"a name with a slash", "a/b", []origin.Member{m("a/b", "file")}, "a name has"},
		{"a name that begins with a dot", ".a", []origin.Member{m(".a", "file")}, "a name has"},
		{"a long name", "a", []origin.Member{m(strings.Repeat("a", 65), "file")}, "a name has"},
		{"a kind of its own for https", "a", []origin.Member{m("a", "https")}, "bad kind"},
		{"no kind", "a", []origin.Member{m("a", "")}, "bad kind"},
		{"a member without its store", "a", []origin.Member{{Name: "a", Kind: "file"}}, "no store"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := origin.NewSet(tt.def, tt.members...); err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v; want one with %q", err, tt.text)
			}
		})
	}
}

func TestASetAsksTheStoreThatTheLocationNames(t *testing.T) {
	a, b, web := &origintest.Fake{Name: "a"}, &origintest.Fake{Name: "b"}, new(origintest.Fake)
	s := newSet(t, "b", origin.Member{Name: "a", Kind: "fake", Store: a}, origin.Member{Name: "b", Kind: "fake", Store: b},
		origin.Member{Name: "strangers", Kind: "http", Store: readOnly{web}})
	for _, tt := range []struct {
		name, url string
		store     string // "": none
		text      string // of the error if it is none
	}{
		{name: "the one", url: "fake://a/x", store: "a"},
		{name: "the other", url: "fake://b/x", store: "b"},
		{name: "a key with a host in it", url: "fake://b/fake://a/x", store: "b"},
		{name: "http", url: "http://a/x", store: "strangers"},
		{name: "https", url: "https://example.org:8443/x?y", store: "strangers"},
		{name: "an unknown store", url: "fake://c/x", text: "unknown store fake://c"},
		{name: "the name of another kind", url: "s3://a/x", text: "unknown store s3://a"},
		{name: "the name of the http store", url: "fake://strangers/x", text: "unknown store fake://strangers"},
		{name: "no store", url: "fake:///x", text: "names no store"},
		{name: "credentials", url: "s3://key:secret@a/x", text: "names no store"},
		{name: "no scheme", url: "//a/x", text: "KIND://STORE/KEY"},
		{name: "a scheme in capitals", url: "FAKE://a/x", text: "KIND://STORE/KEY"},
		{name: "nothing", text: "KIND://STORE/KEY"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := a.Stats.Load() + b.Stats.Load() + web.Stats.Load()
			loc := origin.Location{URL: tt.url}
			name, ok := s.NameOf(loc)
			if name != tt.store || ok != (tt.store != "") {
				t.Errorf("it is of %q, %v; want %q", name, ok, tt.store)
			}
			_, err := s.Stat(t.Context(), loc)
			if tt.store != "" {
				asked := map[string]*origintest.Fake{"a": a, "b": b, "strangers": web}[tt.store]
				if asked.Stats.Swap(0) != 1 {
					t.Errorf("store %s was not asked", tt.store)
				}
				return
			}
			if !errors.Is(err, origin.ErrLocation) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v; want one with %q", err, tt.text)
			}
			if after := a.Stats.Load() + b.Stats.Load() + web.Stats.Load(); after != before {
				t.Error("a store was asked")
			}
		})
	}
}

func TestASetWritesWhereItIsTold(t *testing.T) {
	files := openFiles(t, "files")
	far := &origintest.Fake{Name: "far"}
	s := newSet(t, "files", origin.Member{Name: "far", Kind: "fake", Store: far},
		origin.Member{Name: "files", Kind: "file", Store: files},
		origin.Member{Name: "web", Kind: "http", Store: readOnly{far}})
	if name, _ := s.NameOf(s.Locate("i")); name != "files" || s.Default() != "files" {
		t.Errorf("the default is %q, and data goes to %q", s.Default(), name)
	}
	for name, want := range map[string]string{"": "files", "files": "files", "far": "far"} {
		w, err := s.Writer(name)
		if err != nil {
			t.Fatalf("Writer(%q): %v", name, err)
		}
		loc, err := s.Put(t.Context(), w.Locate("i"), 3, strings.NewReader("abc"))
		if err != nil {
			t.Fatalf("Put in %q: %v", name, err)
		}
		if got, _ := s.NameOf(loc); got != want {
			t.Errorf("Writer(%q) writes to %q; want %q", name, got, want)
		}
		if _, err := w.Stat(t.Context(), loc); err != nil {
			t.Errorf("the store itself: %v", err)
		}
		path, err := s.LocalPath(loc)
		if want == "files" {
			if data, _ := os.ReadFile(path); err != nil || string(data) != "abc" {
				t.Errorf("file %q has %q, %v", path, data, err)
			}
		} else if !errors.Is(err, origin.ErrLocation) {
			t.Errorf("a path %q in memory, %v", path, err)
		}
	}
	if _, err := s.Writer("nobody"); !errors.Is(err, origin.ErrLocation) || errors.Is(err, origin.ErrReadOnly) || !strings.Contains(err.Error(), "far, files, web") {
		t.Errorf("an unknown store: %v", err)
	}
	web := origin.Location{URL: "https://example.org/x"}
	_, writer := s.Writer("web")
	_, put := s.Put(t.Context(), web, 1, strings.NewReader("x"))
	for what, err := range map[string]error{"Writer": writer, "Put": put, "Delete": s.Delete(t.Context(), web)} {
		if !errors.Is(err, origin.ErrReadOnly) || !errors.Is(err, origin.ErrLocation) || !strings.Contains(err.Error(), "web") {
			t.Errorf("%s at a store of strangers: %v", what, err)
		}
	}
}

func TestOrder(t *testing.T) {
	store := new(origintest.Fake)
	s := newSet(t, "b",
		origin.Member{Name: "b", Kind: "fake", Store: store, Weight: 5},
		origin.Member{Name: "a", Kind: "fake", Store: store, Weight: 5},
		origin.Member{Name: "heavy", Kind: "fake", Store: store, Weight: 9},
		origin.Member{Name: "light", Kind: "fake", Store: store, Weight: -1},
		origin.Member{Name: "web", Kind: "http", Store: store})
	for _, tt := range []struct{ name, given, prefer, want string }{
		{"none", "", "", ""},
		{"the heaviest comes first", "fake://light/1 http://x/2 fake://b/3 fake://heavy/4", "", "fake://heavy/4 fake://b/3 http://x/2 fake://light/1"},
		{"ties go by name", "fake://b/1 fake://a/2", "", "fake://a/2 fake://b/1"},
		{"and then by the given order", "fake://a/3 fake://a/1 fake://a/2", "", "fake://a/3 fake://a/1 fake://a/2"},
		{"a preferred store comes first", "fake://heavy/1 fake://light/2 fake://light/3", "light", "fake://light/2 fake://light/3 fake://heavy/1"},
		{"a preferred store that has nothing changes nothing", "fake://b/1 fake://heavy/2", "web", "fake://heavy/2 fake://b/1"},
		{"nor does one that nobody knows", "fake://b/1 fake://heavy/2", "x", "fake://heavy/2 fake://b/1"},
		{"unknown stores come last", "s3://gone/1 fake://light/2 swift://gone/3", "gone", "fake://light/2 s3://gone/1 swift://gone/3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var given []origin.Location
			for _, url := range strings.Fields(tt.given) {
				given = append(given, origin.Location{URL: url, Validator: url})
			}
			kept := slices.Clone(given)
			var got []string
			for _, loc := range s.Order(given, tt.prefer) {
				if loc.Validator != loc.URL {
					t.Errorf("%s lost its validator", loc.URL)
				}
				got = append(got, loc.URL)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("order %q; want %q", got, tt.want)
			}
			if !slices.Equal(given, kept) {
				t.Error("the argument was changed")
			}
		})
	}
}

func TestASetListsWhoeverCan(t *testing.T) {
	held := func(urls ...string) (all []origin.Held) {
		for _, url := range urls {
			all = append(all, origin.Held{Location: origin.Location{URL: url}})
		}
		return all
	}
	one, two := listStore{Fake: new(origintest.Fake), held: held("1", "2")}, listStore{Fake: new(origintest.Fake), held: held("3")}
	broken := two
	broken.err = origin.ErrUnavailable
	mute := origin.Member{Name: "mute", Kind: "fake", Store: new(origintest.Fake)}
	set := func(stores ...origin.Store) *origin.Set {
		members := []origin.Member{mute}
		for i, s := range stores {
			members = append(members, origin.Member{Name: string(rune('a' + i)), Kind: "fake", Store: s})
		}
		return newSet(t, "mute", members...)
	}
	for _, tt := range []struct {
		name string
		set  *origin.Set
		want string
		err  error
	}{
		{"nobody can", set(), "", nil},
		{"two can", set(one, two), "1 2 3", nil},
		{"one does it through a wrapper", set(wrapped{one}, readOnly{two}), "1 2", nil},
		{"one fails", set(broken, one), "3", origin.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			var failed error
			for h, err := range tt.set.List(t.Context()) {
				if failed != nil {
					t.Fatal("it goes on after an error")
				}
				if failed = err; err == nil {
					got = append(got, h.Location.URL)
				}
			}
			if strings.Join(got, " ") != tt.want || !errors.Is(failed, tt.err) || (failed == nil) != (tt.err == nil) {
				t.Errorf("%q, %v; want %q, %v", got, failed, tt.want, tt.err)
			}
			for range tt.set.List(t.Context()) {
				break // is no misuse
			}
		})
	}
}

func TestTheMembersOfASetAreItsOwn(t *testing.T) {
	members := []origin.Member{
		{Name: "b", Kind: "fake", Store: new(origintest.Fake), Description: "the second", Weight: 3, Properties: map[string]string{"rack": "7"}},
		{Name: "a", Kind: "fake", Store: new(origintest.Fake)},
	}
	s := newSet(t, "b", members...)
	members[0].Name = "changed"
	s.Members()[1].Name = "changed"
	got := s.Members()
	if got[0].Name != "b" || got[1].Name != "a" || got[0].Description != "the second" || got[0].Weight != 3 ||
		!maps.Equal(got[0].Properties, map[string]string{"rack": "7"}) {
		t.Errorf("members %+v", got)
	}
}

func FuzzLocationsOfASet(f *testing.F) {
	for _, seed := range []string{"", "file://default/x", "http://h/x", "s3://key:secret@h/x", "file:///", "://", "file://default", "file://DEFAULT/x", "file://default\x00/x"} {
		f.Add(seed)
	}
	fake := &origintest.Fake{Name: "default"}
	s, err := origin.NewSet("default", origin.Member{Name: "default", Kind: "file", Store: fake}, origin.Member{Name: "web", Kind: "http", Store: readOnly{fake}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, url string) {
		loc := origin.Location{URL: url}
		name, ok := s.NameOf(loc)
		_, err := s.Stat(t.Context(), loc)
		switch {
		case ok && name == "default" && (url == "file://default" || strings.HasPrefix(url, "file://default/")):
		case ok && name == "web" && (strings.HasPrefix(url, "http://") || strings.HasPrefix(url, "https://")):
		case !ok && name == "" && errors.Is(err, origin.ErrLocation):
			if at := strings.IndexByte(url, '@'); at > 0 && strings.Contains(err.Error(), url[:at+1]) {
				t.Errorf("the error %q shows what may be credentials", err)
			}
		default:
			t.Errorf("%q is of %q, %v, and Stat says %v", url, name, ok, err)
		}
		if err == nil || !errors.Is(err, origin.ErrLocation) && !errors.Is(err, origin.ErrNotFound) {
			t.Errorf("Stat of %q: %v", url, err)
		}
	})
}
