package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// defaultMinAge is longer than any upload that goes on.
const defaultMinAge = 24 * time.Hour

// A Check compares the registry with the stores. It changes nothing but what Repair
// says, and may run while the server works. Its memory does not grow with what is
// stored.
//
// Books, Images and Stores must be set.
type Check struct {
	Books  registry.Books
	Images registry.Reader
	Stores *origin.Set
	// Deep reads all data and compares it with its manifest, which tells even
	// where a store is wrong about what it holds. Data without a digest is
	// passed over.
	Deep bool
	// Repair deletes the objects and leftovers that nobody knows of, if their
	// age is known. The registry is asked once more right before. It must be
	// the one and only registry of the stores: what another one wrote there
	// nobody knows of either. Nothing else is repaired.
	Repair bool
	// MinAge is the age from which on what nobody knows of is reported; 0 means
	// a day.
	MinAge time.Duration
}

// A FindingKind says what is wrong.
type FindingKind string

const (
	// Missing: the registry knows of an object that the store does not have.
	Missing FindingKind = "missing"
	// Changed: the object is not the one that was recorded: another validator.
	Changed FindingKind = "changed"
	// WrongSize: the object has another length than the image.
	WrongSize FindingKind = "wrong-size"
	// WrongData: the object has other bytes than the image.
	WrongData FindingKind = "wrong-data"
	// Unchecked: the store could not be asked, or there is none for the
	// location. Without a URL: the store could not list what it holds.
	Unchecked FindingKind = "unchecked"
	// Orphan: the store has an object that the registry does not know of.
	Orphan FindingKind = "orphan"
	// Leftover: the store has part of one, which a write left that was cut off.
	Leftover FindingKind = "leftover"
)

// A Finding is one thing that is wrong.
type Finding struct {
	Kind FindingKind
	// Store is the name of the store, "" if the location is of none.
	Store string
	// URL is the location, without what may be a credential.
	URL string
	// ImageID is that of the image whose location it is, "" for what nobody
	// knows of.
	ImageID string
	// Size is what the store says that it holds, in bytes; -1 if that is
	// unknown.
	Size int64
	// ModTime is when what nobody knows of was written, in UTC.
	ModTime time.Time
	// Repaired: it was deleted.
	Repaired bool
	// Detail says more, for people.
	Detail string
}

// Run yields what is wrong: first image by image, then store by store. An error
// ends it, and is that of the registry or of ctx: what a store fails at is a
// Finding.
func (c *Check) Run(ctx context.Context) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		more, err := c.images(ctx, yield)
		for _, m := range c.Stores.Members() {
			if err != nil || !more {
				break
			}
			more, err = c.store(ctx, m, yield)
		}
		if err != nil && more {
			yield(Finding{}, fmt.Errorf("check: %w", err))
		}
	}
}

// images looks at what the registry knows. It says whether yield wants more.
func (c *Check) images(ctx context.Context, yield func(Finding, error) bool) (bool, error) {
	for after := ""; ; {
		page, err := c.Books.Placed(ctx, after, pageSize)
		if err != nil {
			return true, err
		}
		for _, img := range page {
			for _, loc := range img.Locations {
				f, err := c.location(ctx, img, loc)
				if err != nil {
					return true, err
				}
				if f.Kind != "" && !yield(f, nil) {
					return false, nil
				}
			}
		}
		if len(page) < pageSize {
			return true, nil
		}
		after = page[len(page)-1].ID
	}
}

// location looks at one location of an image. The Finding has no Kind if all is
// well.
func (c *Check) location(ctx context.Context, img *registry.Image, loc origin.Location) (Finding, error) {
	size, wrong, err := c.compare(ctx, img, loc)
	if ctx.Err() != nil {
		return Finding{}, context.Cause(ctx)
	}
	if err == nil && wrong == nil {
		return Finding{}, nil
	}
	// Unless the image was changed since it was looked up.
	now, get := c.Images.Get(ctx, img.ID)
	switch {
	case errors.Is(get, registry.ErrNotFound):
		return Finding{}, nil
	case get != nil:
		return Finding{}, get
	case !slices.Contains(now.Locations, loc) || now.Digest != img.Digest:
		return Finding{}, nil
	case err != nil:
		return Finding{}, err
	}
	f := Finding{Kind: kindOf(wrong), URL: shown(loc), ImageID: img.ID, Size: size, Detail: wrong.Error()}
	f.Store, _ = c.Stores.NameOf(loc)
	return f, nil
}

// compare returns how many bytes the store has at loc, as far as it says, and what
// is wrong with them. err is that of the registry.
func (c *Check) compare(ctx context.Context, img *registry.Image, loc origin.Location) (size int64, wrong, err error) {
	info, wrong := c.Stores.Stat(ctx, loc)
	if errors.Is(wrong, origin.ErrChanged) {
		// Its length tells more than that something is different.
		if now, err := c.Stores.Stat(ctx, origin.Location{URL: loc.URL}); err == nil {
			if isWrong := wrongSize(img, now); isWrong != nil {
				wrong = fmt.Errorf("%w; %w", isWrong, wrong)
			}
			return now.Size, wrong, nil
		}
	}
	if wrong != nil {
		return -1, wrong, nil
	}
	if wrong = wrongSize(img, info); wrong != nil || !c.Deep || img.Digest == "" {
		return info.Size, wrong, nil
	}
	encoded, err := c.Images.Manifest(ctx, img.Digest)
	if err != nil {
		return info.Size, nil, err
	}
	m, err := origin.DecodeManifest(encoded)
	if err != nil {
		return info.Size, nil, err
	}
	data := newVerified(ctx, c.Stores, []origin.Location{loc}, m, nil)
	defer data.Close()
	_, wrong = io.CopyBuffer(onlyWriter{io.Discard}, data, make([]byte, copySize))
	return info.Size, wrong, nil
}

func wrongSize(img *registry.Image, info origin.Info) error {
	if img.Size == nil || info.Size < 0 || info.Size == *img.Size {
		return nil
	}
	return fmt.Errorf("%w: %d bytes, not %d", errWrongSize, info.Size, *img.Size)
}

// kindOf says what an error of a location means.
func kindOf(err error) FindingKind {
	for _, k := range []struct {
		err  error
		kind FindingKind
	}{
		{errWrongData, WrongData}, {errWrongSize, WrongSize}, {origin.ErrNotFound, Missing}, {origin.ErrChanged, Changed},
	} {
		if errors.Is(err, k.err) {
			return k.kind
		}
	}
	return Unchecked
}

// store looks at what one store holds, if it can tell. It says whether yield wants
// more.
func (c *Check) store(ctx context.Context, m origin.Member, yield func(Finding, error) bool) (bool, error) {
	list, ok := origin.As[origin.ListStore](m.Store)
	if !ok {
		return true, nil
	}
	for held, err := range list.List(ctx) {
		if ctx.Err() != nil {
			return true, context.Cause(ctx)
		}
		if err != nil {
			return yield(Finding{Kind: Unchecked, Store: m.Name, Size: -1, Detail: err.Error()}, nil), nil
		}
		f, err := c.held(ctx, m, held)
		if err != nil {
			return true, err
		}
		if f.Kind != "" && !yield(f, nil) {
			return false, nil
		}
	}
	return true, nil
}

// held looks at one thing that a store holds. The Finding has no Kind if all is
// well.
func (c *Check) held(ctx context.Context, m origin.Member, held origin.Held) (Finding, error) {
	if time.Since(held.ModTime) < orDefault(c.MinAge, defaultMinAge) {
		return Finding{}, nil
	}
	known, err := c.Books.Knows(ctx, held.Location.URL)
	if err != nil || known {
		return Finding{}, err
	}
	f := Finding{Kind: Leftover, Store: m.Name, URL: shown(held.Location), Size: held.Size, ModTime: held.ModTime}
	if !held.Partial {
		f.Kind = Orphan
		// The Reaper may have deleted it since it was listed.
		if _, err := m.Store.Stat(ctx, held.Location); errors.Is(err, origin.ErrNotFound) {
			return Finding{}, nil
		}
	}
	if !c.Repair {
		return f, nil
	}
	if held.ModTime.IsZero() {
		f.Detail = "kept: nobody knows how old it is"
		return f, nil
	}
	return c.repair(ctx, f, held.Location)
}

// repair deletes what f says nobody knows of.
func (c *Check) repair(ctx context.Context, f Finding, loc origin.Location) (Finding, error) {
	w, err := c.Stores.Writer(f.Store)
	if err != nil {
		f.Detail = err.Error()
		return f, nil
	}
	known, err := c.Books.Knows(ctx, loc.URL)
	if err != nil || known {
		return Finding{}, err
	}
	dctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	if err := w.Delete(dctx, loc); err != nil {
		if ctx.Err() != nil {
			return Finding{}, context.Cause(ctx)
		}
		f.Detail = "could not be deleted: " + err.Error()
		return f, nil
	}
	f.Repaired = true
	return f, nil
}
