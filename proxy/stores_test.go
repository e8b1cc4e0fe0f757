package proxy

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// A storesSite is a site with three stores, light, heavy and middle; light is the
// default.
type storesSite struct {
	*site
	set                  *origin.Set
	light, middle, heavy *origintest.Fake
}

func newStoresSite(t *testing.T) *storesSite {
	t.Helper()
	s := &storesSite{
		light: &origintest.Fake{Name: "light"}, middle: &origintest.Fake{Name: "middle"}, heavy: &origintest.Fake{Name: "heavy"},
	}
	var err error
	s.set, err = origin.NewSet("light",
		origin.Member{Name: "light", Kind: "fake", Store: s.light, Weight: 1},
		origin.Member{Name: "heavy", Kind: "fake", Store: s.heavy, Weight: 9},
		origin.Member{Name: "middle", Kind: "fake", Store: s.middle, Weight: 5},
	)
	if err != nil {
		t.Fatal(err)
	}
	s.site = newSite(t, siteConfig{store: s.set})
	return s
}

// everywhere adds an image whose data is in all three stores.
func (s *storesSite) everywhere(data []byte) *registry.Image {
	s.t.Helper()
	img := s.add(data, nil)
	locations := s.records.Locations(s.db)
	for _, store := range []*origintest.Fake{s.middle, s.heavy} {
		var err error
		img, err = locations.AddLocation(s.t.Context(), img.ID, store.Add("copy", data), int64(len(data)), nil)
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return img
}

// opens returns how often each store was opened: light, middle, heavy.
func (s *storesSite) opens() string {
	return fmt.Sprint(s.light.Opens.Load(), s.middle.Opens.Load(), s.heavy.Opens.Load())
}

func TestTheHeaviestStoreIsReadFirst(t *testing.T) {
	data := pattern(chunk, 1)
	for _, tt := range []struct {
		name, query string
		status      int
		opens       string // of light, middle and heavy
	}{
		{"without a wish", "", 200, "0 0 1"},
		{"with another parameter", "?x=y", 200, "0 0 1"},
		{"with a wish", "?prefer=light", 200, "1 0 0"},
		{"with two", "?prefer=middle,light", 200, "0 1 0"},
		{"with an empty one", "?prefer=", 400, "0 0 0"},
		{"with one that nobody can grant", "?prefer=light,tape", 400, "0 0 0"},
		{"with one that makes no sense", "?prefer=%zz", 400, "0 0 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStoresSite(t)
			img := s.everywhere(data)
			a := s.do("GET", "/v2/images/"+img.ID+"/file"+tt.query)
			if a.StatusCode != tt.status || tt.status == 200 && !bytes.Equal(a.body, data) {
				t.Errorf("status %d, %d bytes: %.200s", a.StatusCode, len(a.body), a.body)
			}
			if got := s.opens(); got != tt.opens {
				t.Errorf("opens %s, want %s", got, tt.opens)
			}
		})
	}
	single := newSite(t, siteConfig{})
	img := single.add(data, nil)
	if a := single.do("GET", "/v2/images/"+img.ID+"/file?prefer=light"); a.StatusCode != 400 {
		t.Errorf("where there is one store only: status %d", a.StatusCode)
	}
}

func TestAStoreWithWrongBytesIsPassedOver(t *testing.T) {
	data := pattern(20*chunk+5, 1)
	s := newStoresSite(t)
	img := s.everywhere(data)
	// The last byte, too: nothing of the body is left then that could be cut.
	s.heavy.Inject(origintest.Faults{Flip: []int64{3*chunk + 9, 20*chunk + 4}})
	s.middle.Inject(origintest.Faults{Flip: []int64{4*chunk + 9}})
	a := s.file("GET", img)
	if a.StatusCode != 200 || a.err != nil || !bytes.Equal(a.body, data) {
		t.Fatalf("status %d, %d bytes, %v", a.StatusCode, len(a.body), a.err)
	}
	if n := s.metric("nearsight_origin_lies_total"); n < 2 {
		t.Errorf("%v lies counted", n)
	}
	if got := strings.Count(s.log.String(), "gives out other data"); got != 2 {
		t.Errorf("the log tells of %d locations: %s", got, s.log)
	}
}

func TestOneRangeOfOneChunkFindsTheGoodCopy(t *testing.T) {
	data := pattern(chunk, 1)
	s := newStoresSite(t)
	img := s.everywhere(data)
	s.heavy.Inject(origintest.Faults{Flip: []int64{9}})
	s.middle.Inject(origintest.Faults{Flip: []int64{9}})
	if a := s.file("GET", img, "Range: bytes=0-99"); a.StatusCode != 206 || !bytes.Equal(a.body, data[:100]) {
		t.Errorf("status %d: %.200s", a.StatusCode, a.body)
	}
	if got := s.opens(); got != "1 1 1" {
		t.Errorf("opens %s", got)
	}
}

func TestAllStoresWithWrongBytesAreABadGateway(t *testing.T) {
	s := newStoresSite(t)
	img := s.everywhere(pattern(2*chunk, 1))
	for _, store := range []*origintest.Fake{s.light, s.middle, s.heavy} {
		store.Inject(origintest.Faults{Flip: []int64{9}})
	}
	a := s.file("GET", img)
	if a.StatusCode != 502 || !strings.Contains(string(a.body), "other bytes") {
		t.Errorf("status %d: %s", a.StatusCode, a.body)
	}
	s.file("GET", img)
	if got := strings.Count(s.log.String(), "gives out other data"); got != 3 {
		t.Errorf("the log tells of %d locations", got)
	}
	s.light.Inject(origintest.Faults{})
	if a := s.file("GET", img); a.StatusCode != 200 {
		t.Errorf("status %d although one is well again", a.StatusCode)
	}
}

func TestDataThatIsInNoStoreIsMissed(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		light, middle, heavy error
		status               int
	}{
		{"gone everywhere", origin.ErrNotFound, origin.ErrNotFound, origin.ErrChanged, 502},
		{"gone here, silent there", origin.ErrNotFound, origin.ErrUnavailable, origin.ErrNotFound, 503},
		{"in one that is not configured any more", origin.ErrLocation, origin.ErrLocation, origin.ErrLocation, 502},
		{"gone but for one", origin.ErrNotFound, nil, origin.ErrUnavailable, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStoresSite(t)
			img := s.everywhere(pattern(chunk, 1))
			s.light.Inject(origintest.Faults{Open: tt.light})
			s.middle.Inject(origintest.Faults{Open: tt.middle})
			s.heavy.Inject(origintest.Faults{Open: tt.heavy})
			a := s.file("GET", img)
			if a.StatusCode != tt.status {
				t.Errorf("status %d %s", a.StatusCode, a.body)
			}
			logged := strings.Contains(s.log.String(), `"level":"WARN"`) && strings.Contains(s.log.String(), `"err":`)
			if logged != (tt.status >= 500) {
				t.Errorf("the log: %s", s.log)
			}
		})
	}
}
