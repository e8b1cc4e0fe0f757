package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"

	"nearsight/origin"
	"nearsight/registry"
)

// Stores is what the proxy needs to know of the stores; an *origin.Set is one.
type Stores interface {
	// Members returns the stores, always the same.
	Members() []origin.Member
	// NameOf returns the name of the store that loc belongs to.
	NameOf(loc origin.Location) (string, bool)
	// Order returns a new slice with the locations in the order in which they
	// should be read.
	Order(locs []origin.Location, prefer string) []origin.Location
}

// order returns the locations in the order in which they are to be read: those in
// the stores called prefer, in its order, then the others as they are ranked.
func (p *Proxy) order(locs []origin.Location, prefer []string) []origin.Location {
	if p.stores == nil || len(locs) < 2 {
		return locs
	}
	ordered := p.stores.Order(locs, "")
	if len(prefer) == 0 {
		return ordered
	}
	rank := func(loc origin.Location) int {
		name, _ := p.stores.NameOf(loc)
		if i := slices.Index(prefer, name); i >= 0 {
			return i
		}
		return len(prefer)
	}
	slices.SortStableFunc(ordered, func(a, b origin.Location) int { return rank(a) - rank(b) })
	return ordered
}

// errPrefer is wrapped by what is wrong with a parameter prefer.
var errPrefer = errors.New("parameter prefer")

// preferred reads the parameter prefer of a download: the names of stores to read
// from first, with commas between them.
func (p *Proxy) preferred(r *http.Request) ([]string, error) {
	if !strings.Contains(r.URL.RawQuery, "prefer") { // as nearly always
		return nil, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: the query is malformed", errPrefer)
	}
	values, found := query["prefer"]
	if !found {
		return nil, nil
	}
	var known []string
	if p.stores != nil {
		for _, m := range p.stores.Members() {
			known = append(known, m.Name)
		}
	}
	if len(known) < 2 {
		return nil, fmt.Errorf("%w: this server has one store only, and it has no name", errPrefer)
	}
	var names []string
	for name := range strings.SplitSeq(strings.Join(values, ","), ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%w: no store is called %.70q; there are: %s", errPrefer, name, strings.Join(known, ", "))
		}
		names = append(names, name)
	}
	return names, nil
}

// maxDoubts is how many locations the log has told of and will not tell of again.
const maxDoubts = 1000

// doubts keep count of stores that give out what they were not asked for. The log
// tells of each location once.
type doubts struct {
	stores Stores // nil: one store without a name
	lies   *prometheus.CounterVec
	log    *slog.Logger

	mu   sync.Mutex
	told *simplelru.LRU[origin.Location, struct{}] // nil until there is one
}

// nameOf returns the name of the store that loc belongs to, for labels and the log.
func (d *doubts) nameOf(loc origin.Location) string {
	if d.stores == nil {
		return "default"
	}
	name, ok := d.stores.NameOf(loc)
	if !ok {
		return "unknown"
	}
	return name
}

// lied counts an answer about the data of img that was not what it should be.
func (d *doubts) lied(img *registry.Image, loc origin.Location) {
	store := d.nameOf(loc)
	d.lies.WithLabelValues(store).Inc()
	if d.first(loc) {
		d.log.Error("a store gives out other data than that of the image; other locations are read where there are any",
			"store", store, "location", shown(loc), "image", img.ID, "digest", img.Digest)
	}
}

// first reports whether loc was not seen before, or so long ago that it is
// forgotten.
func (d *doubts) first(loc origin.Location) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.told == nil {
		d.told, _ = simplelru.NewLRU[origin.Location, struct{}](maxDoubts, nil) // fails only for sizes below 1
	}
	if d.told.Contains(loc) {
		return false
	}
	d.told.Add(loc, struct{}{})
	return true
}

// shown returns the URL of loc without its query, where signatures stand.
func shown(loc origin.Location) string {
	u, _, _ := strings.Cut(loc.URL, "?")
	return u
}
