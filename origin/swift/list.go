package swift

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"nearsight/origin"
)

const (
	// page is how many entries one request lists, some 250 bytes each.
	page = 1000
	// maxPage bounds the answer to it, in bytes: names have up to 1024.
	maxPage = 8 << 20
	// deletions are sent side by side: Swift needs some 10 ms for one, and an
	// image may have a thousand segments.
	deletions = 8
)

// Delete implements origin.WriteStore. The object goes first, so that it is never
// visible without its segments; then all that is listed under its key. What the
// store does not list yet, List will show when it does.
func (s *Store) Delete(ctx context.Context, loc origin.Location) error {
	key, err := s.key(loc)
	if err != nil {
		return err
	}
	container := s.container(key)
	err = s.remove(ctx, container, key)
	if err == nil {
		names := func(yield func(string, error) bool) {
			for e, err := range s.walk(ctx, segments(container), key+"/") {
				if !yield(e.Name, err) {
					return
				}
			}
		}
		err = s.removeAll(ctx, segments(container), names)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", loc.URL, err)
	}
	return nil
}

// remove deletes an object, if it is there.
func (s *Store) remove(ctx context.Context, container, object string) error {
	_, err := s.ask(ctx, call{method: http.MethodDelete, container: container, object: object})
	if errors.Is(err, origin.ErrNotFound) {
		return nil
	}
	return err
}

// removeAll deletes the named objects, as many as it can, and returns the first
// error.
func (s *Store) removeAll(ctx context.Context, container string, names iter.Seq2[string, error]) error {
	var g errgroup.Group
	g.SetLimit(deletions)
	for name, err := range names {
		g.Go(func() error {
			if err == nil {
				err = s.remove(ctx, container, name)
			}
			return err
		})
	}
	return g.Wait()
}

// List implements origin.ListStore. What it finds is ours by its name: a valid
// key. It holds the keys of all large objects in memory.
func (s *Store) List(ctx context.Context) iter.Seq2[origin.Held, error] {
	return func(yield func(origin.Held, error) bool) {
		for i := range max(s.o.Containers, 1) {
			container := s.containerAt(i)
			for h, err := range s.list(ctx, container) {
				if err != nil {
					err = fmt.Errorf("list %scontainer %s: %w", s.prefix, container, err)
				}
				if !yield(h, err) || err != nil {
					return
				}
			}
		}
	}
}

// list lists one container. Segments are looked at first, so that an upload that
// ends meanwhile is whole, and not a leftover.
func (s *Store) list(ctx context.Context, container string) iter.Seq2[origin.Held, error] {
	return func(yield func(origin.Held, error) bool) {
		parts, err := s.largeObjects(ctx, container)
		if err != nil {
			yield(origin.Held{}, err)
			return
		}
		for e, err := range s.walk(ctx, container, "") {
			if err != nil {
				yield(origin.Held{}, err)
				return
			}
			if !origin.ValidKey(e.Name) || s.container(e.Name) != container {
				continue
			}
			h := origin.Held{Location: origin.Location{URL: s.prefix + e.Name}, Size: e.Bytes, ModTime: e.time()}
			if p := parts[e.Name]; p != nil && h.Size == 0 {
				h.Size = p.Size // a dynamic manifest is empty by itself
			}
			delete(parts, e.Name)
			if !yield(h, nil) {
				return
			}
		}
		for _, h := range parts {
			if !yield(*h, nil) {
				return
			}
		}
	}
}

// largeObjects returns, for each key that has segments, what it would be if these
// were all that there is.
func (s *Store) largeObjects(ctx context.Context, container string) (map[string]*origin.Held, error) {
	found := make(map[string]*origin.Held)
	for e, err := range s.walk(ctx, segments(container), "") {
		if err != nil {
			return nil, err
		}
		key, _, ok := strings.Cut(e.Name, "/")
		if !ok || !origin.ValidKey(key) || s.container(key) != container {
			continue
		}
		h := found[key]
		if h == nil {
			h = &origin.Held{Location: origin.Location{URL: s.prefix + key}, Partial: true}
			found[key] = h
		}
		h.Size += e.Bytes
		if t := e.time(); t.After(h.ModTime) {
			h.ModTime = t
		}
	}
	return found, nil
}

// An entry is a line of a listing.
type entry struct {
	Name     string `json:"name"`
	Bytes    int64  `json:"bytes"` // of a static large object: all of it
	Hash     string `json:"hash"`
	Modified string `json:"last_modified"`
}

// time returns the zero time if the entry tells none. It is in UTC, and some
// stores say so.
func (e entry) time() time.Time {
	t, _ := time.Parse("2006-01-02T15:04:05.999999999", strings.TrimSuffix(e.Modified, "Z"))
	return t
}

// walk lists the objects of a container whose names begin with prefix, in the
// order of their names. No container has no objects.
func (s *Store) walk(ctx context.Context, container, prefix string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		q := url.Values{"format": {"json"}, "limit": {strconv.Itoa(page)}, "prefix": {prefix}}
		for {
			entries, err := s.page(ctx, container, q)
			if err != nil {
				yield(entry{}, err)
				return
			}
			if len(entries) == 0 { // a short page need not be the last
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			last := entries[len(entries)-1].Name
			if last <= q.Get("marker") {
				yield(entry{}, fmt.Errorf("%w: its listing does not go on after %.100q", origin.ErrUnavailable, last))
				return
			}
			q.Set("marker", last)
		}
	}
}

func (s *Store) page(ctx context.Context, container string, q url.Values) ([]entry, error) {
	resp, err := s.do(ctx, call{method: http.MethodGet, container: container, query: q})
	if errors.Is(err, origin.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer discard(resp)
	if resp.StatusCode == http.StatusNoContent {
		return nil, nil
	}
	entries, err := parsePage(resp.Body)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	} else if err != nil {
		return nil, fmt.Errorf("%w: listing: %v", origin.ErrUnavailable, err)
	}
	return entries, nil
}

func parsePage(r io.Reader) (entries []entry, err error) {
	err = json.NewDecoder(io.LimitReader(r, maxPage)).Decode(&entries)
	return entries, err
}
