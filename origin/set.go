package origin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
)

// ErrReadOnly: the store that the location or the name means takes no data, and
// gives none up. It is an ErrLocation.
var ErrReadOnly = fmt.Errorf("%w: its store is read-only", ErrLocation)

// maxName bounds the name of a store. It is long for a person and short for a
// header, a label or a column.
const maxName = 64

// A Member is one store of a Set, and what users and operators are told about it.
type Member struct {
	// Name is the store's name in its locations: at most 64 letters a-z,
	// digits, '.', '_' and '-', of which the first is a letter or a digit.
	Name string
	// Kind is the scheme of its locations: file, s3 or swift; or it is http,
	// which also stands for https.
	Kind string
	// Description is for people.
	Description string
	// Store may be a WriteStore. Other abilities are found with As.
	Store Store
	// Weight says how much reads like this store: more is better.
	Weight int
	// Properties are for operators. They hold no credentials.
	Properties map[string]string
}

// A Set is several stores with one face. Every call goes to the store that its
// location names: the one called NAME for KIND://NAME/KEY, and the one of kind
// http for the http and https URLs of strangers. For a location of no member the
// error is ErrLocation; for one whose store lacks the ability, too.
//
// It is safe for concurrent use.
type Set struct {
	members []Member // never changed
	def     Member
	writer  WriteStore // of def
}

var _ interface {
	WriteStore
	LocalStore
	ListStore
} = (*Set)(nil)

// NewSet returns the members as one store. defaultName names the WriteStore that
// Locate chooses.
func NewSet(defaultName string, members ...Member) (*Set, error) {
	s := &Set{members: slices.Clone(members)}
	for i, m := range s.members {
		switch {
		case !validName(m.Name):
			return nil, fmt.Errorf("store %q: a name has at most %d of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit", m.Name, maxName)
		case m.Kind == "https" || !validName(m.Kind):
			return nil, fmt.Errorf("store %s: bad kind %q", m.Name, m.Kind)
		case m.Store == nil:
			return nil, fmt.Errorf("store %s: no store", m.Name)
		}
		for _, other := range s.members[:i] {
			if other.Name == m.Name {
				return nil, fmt.Errorf("two stores are called %s", m.Name)
			}
			if other.Kind == "http" && m.Kind == "http" {
				return nil, fmt.Errorf("stores %s and %s are both of kind http: a URL could not tell them apart", other.Name, m.Name)
			}
		}
	}
	var err error
	if s.def, err = s.named(defaultName); err != nil {
		return nil, fmt.Errorf("default store: %w", err)
	}
	if s.writer, err = s.def.writer(); err != nil {
		return nil, fmt.Errorf("default store: %w", err)
	}
	return s, nil
}

func validName(name string) bool {
	if name == "" || len(name) > maxName || strings.ContainsRune("._-", rune(name[0])) {
		return false
	}
	return !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-'
	})
}

// writer returns the store as one that takes data, or ErrReadOnly.
func (m Member) writer() (WriteStore, error) {
	w, ok := m.Store.(WriteStore)
	if !ok {
		return nil, fmt.Errorf("store %s: %w", m.Name, ErrReadOnly)
	}
	return w, nil
}

// Members returns the stores in the order of the configuration.
func (s *Set) Members() []Member { return slices.Clone(s.members) }

// Default returns the name of the store that Locate chooses.
func (s *Set) Default() string { return s.def.Name }

// Writer returns the store of that name for writing; "" means the default. The
// error is ErrLocation for an unknown name, and ErrReadOnly for a store that
// takes no data.
func (s *Set) Writer(name string) (WriteStore, error) {
	if name == "" {
		return s.writer, nil
	}
	m, err := s.named(name)
	if err != nil {
		return nil, err
	}
	return m.writer()
}

func (s *Set) named(name string) (Member, error) {
	var names []string
	for _, m := range s.members {
		if m.Name == name {
			return m, nil
		}
		names = append(names, m.Name)
	}
	return Member{}, fmt.Errorf("%w: no store is called %.70q; there are: %s", ErrLocation, name, strings.Join(names, ", "))
}

// NameOf returns the name of the store that loc belongs to; false if it is none
// of the set.
func (s *Set) NameOf(loc Location) (string, bool) {
	m, err := s.of(loc)
	return m.Name, err == nil
}

// of returns the member that loc belongs to. Its errors show no location, because
// those of other programs hold credentials.
func (s *Set) of(loc Location) (Member, error) {
	kind, rest, ok := strings.Cut(loc.URL, "://")
	if !ok || !validName(kind) {
		return Member{}, fmt.Errorf("%w: it is not of the form KIND://STORE/KEY", ErrLocation)
	}
	name, _, _ := strings.Cut(rest, "/")
	web := kind == "http" || kind == "https"
	for _, m := range s.members {
		if web && m.Kind == "http" || !web && m.Kind == kind && m.Name == name {
			return m, nil
		}
	}
	switch {
	case web:
		return Member{}, fmt.Errorf("%w: no store reads %s", ErrLocation, kind)
	case !validName(name):
		return Member{}, fmt.Errorf("%w: a %s location that names no store", ErrLocation, kind)
	}
	return Member{}, fmt.Errorf("%w: unknown store %s://%s", ErrLocation, kind, name)
}

// Order returns the locations in the order in which they should be read: those in
// the store called prefer, if there is such a store, and then the heaviest
// weight first. Ties go by the name of the store, and then by the given order.
// Locations of no member come last.
func (s *Set) Order(locs []Location, prefer string) []Location {
	type ranked struct {
		loc    Location
		known  bool
		member Member
	}
	rs := make([]ranked, len(locs))
	for i, loc := range locs {
		m, err := s.of(loc)
		rs[i] = ranked{loc, err == nil, m}
	}
	slices.SortStableFunc(rs, func(a, b ranked) int {
		return cmp.Or(
			first(a.known, b.known),
			first(a.member.Name == prefer, b.member.Name == prefer),
			cmp.Compare(b.member.Weight, a.member.Weight),
			cmp.Compare(a.member.Name, b.member.Name),
		)
	})
	ordered := make([]Location, len(rs))
	for i, r := range rs {
		ordered[i] = r.loc
	}
	return ordered
}

// first compares two answers: yes comes before no.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// Stat implements Store.
func (s *Set) Stat(ctx context.Context, loc Location) (Info, error) {
	m, err := s.of(loc)
	if err != nil {
		return Info{}, err
	}
	return m.Store.Stat(ctx, loc)
}

// Open implements Store.
func (s *Set) Open(ctx context.Context, loc Location, off, n int64) (*Object, error) {
	m, err := s.of(loc)
	if err != nil {
		return nil, err
	}
	return m.Store.Open(ctx, loc, off, n)
}

// Locate implements WriteStore. The location is in the default store; Writer has
// those of the others.
func (s *Set) Locate(id string) Location { return s.writer.Locate(id) }

// Put implements WriteStore. The error is ErrReadOnly if the location's store
// takes no data.
func (s *Set) Put(ctx context.Context, loc Location, size int64, r io.Reader) (Location, error) {
	w, err := s.writerOf(loc)
	if err != nil {
		return loc, err
	}
	return w.Put(ctx, loc, size, r)
}

// Delete implements WriteStore. The error is ErrReadOnly if the location's store
// gives nothing up: the data of strangers is theirs to delete.
func (s *Set) Delete(ctx context.Context, loc Location) error {
	w, err := s.writerOf(loc)
	if err != nil {
		return err
	}
	return w.Delete(ctx, loc)
}

func (s *Set) writerOf(loc Location) (WriteStore, error) {
	m, err := s.of(loc)
	if err != nil {
		return nil, err
	}
	return m.writer()
}

// LocalPath implements LocalStore. The error is ErrLocation if the location's
// store keeps no files on this machine: read it then like any other.
func (s *Set) LocalPath(loc Location) (string, error) {
	m, err := s.of(loc)
	if err != nil {
		return "", err
	}
	local, ok := As[LocalStore](m.Store)
	if !ok {
		return "", fmt.Errorf("%w: store %s keeps no files on this machine", ErrLocation, m.Name)
	}
	return local.LocalPath(loc)
}

// List implements ListStore: one member after the other, as far as they can tell
// what they hold. Whoever wants to go on with the others after an error of one
// lists the Members.
func (s *Set) List(ctx context.Context) iter.Seq2[Held, error] {
	return func(yield func(Held, error) bool) {
		for _, m := range s.members {
			list, ok := As[ListStore](m.Store)
			if !ok {
				continue
			}
			for held, err := range list.List(ctx) {
				if err != nil {
					yield(Held{}, fmt.Errorf("list store %s: %w", m.Name, err))
					return
				}
				if !yield(held, nil) {
					return
				}
			}
		}
	}
}

// As finds the ability T, such as LocalStore, in s or in what s wraps. A wrapper
// shows what it wraps with a method
//
//	Unwrap() Store
//
// and has none if what it does to s must not be got around. WriteStore is asked
// of the store itself, since a wrapper without it is meant to be read only.
func As[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		w, ok := s.(interface{ Unwrap() Store })
		if !ok {
			break
		}
		s = w.Unwrap()
	}
	var none T
	return none, false
}
