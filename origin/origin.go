// Package origin hands out the bytes of an image from where they are kept for
// good. It owns the words for those bytes: Location says where they are,
// Manifest and Digest say what they are.
//
// The package speaks of bytes only. It knows no image records, no cache and no
// HTTP; a backend translates the errors of its own client into the sentinels
// below and nothing else does.
package origin

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Every error of a Store that is not about its context, nor about the data that
// Put was given, wraps exactly one of these.
var (
	// ErrNotFound: there is no such object. Do not retry.
	ErrNotFound = errors.New("object not found")
	// ErrUnavailable: the store could not be asked or did not answer. Try
	// again, or try the image's next location.
	ErrUnavailable = errors.New("store unavailable")
	// ErrChanged: the object is there, but it is no longer the one that the
	// location's validator names. Do not retry here; try the next location.
	ErrChanged = errors.New("object changed")
	// ErrFull: the store has no room for what is being written.
	ErrFull = errors.New("store full")
	// ErrExists: Put found an object at its location. Objects never change,
	// so it is left as it is.
	ErrExists = errors.New("object exists")
	// ErrLocation: the location is not one that this store can read, because
	// it is malformed or belongs to another store.
	ErrLocation = errors.New("bad location")
)

// A Location says where the bytes of an image are kept.
type Location struct {
	// URL names the object: scheme://store/key, where store is the name that
	// the store has in the configuration, so that a bucket or directory can
	// move. For http and https it is the URL of the data, which no store of
	// ours wrote. It holds no credentials.
	URL string
	// Validator, when not empty, is the Info.Validator that the object had
	// when the location was recorded. An Open or Stat that finds another
	// one fails with ErrChanged.
	Validator string
}

// Info describes an object.
type Info struct {
	// Size is the complete length in bytes.
	Size int64
	// Validator changes whenever the bytes do (an ETag, or size and time).
	// Empty when the store cannot tell.
	Validator string
	// ModTime is when the object was written, in UTC.
	ModTime time.Time
}

// An Object is one answer of a store: bytes and what they belong to, together,
// so that a validator never meets other bytes.
type Object struct {
	Info
	// Offset and Length say which bytes Body holds, as the store itself said
	// it (RFC 9110, section 14.4), which need not be what was asked. Whoever
	// opened the object compares.
	Offset, Length int64
	// Body yields Length bytes; one that ends early yields
	// io.ErrUnexpectedEOF, not io.EOF. Whoever opened the object closes it.
	Body io.ReadCloser
}

// A Store reads image data from one kind of backend. It is safe for concurrent
// use and keeps no state between calls.
type Store interface {
	// Stat reports on the object at loc without reading its data.
	Stat(ctx context.Context, loc Location) (Info, error)
	// Open returns n bytes of loc from byte offset off; n < 0 means to the
	// end, and what lies beyond the end is left out. An offset beyond the end
	// yields an Object of Length 0. Cancelling ctx ends the body too.
	Open(ctx context.Context, loc Location, off, n int64) (*Object, error)
}

// A WriteStore also takes image data. Objects are written once and never
// changed.
type WriteStore interface {
	Store
	// Locate returns a location for the data of the image id. Every call
	// returns another one, so that a late deletion of a broken upload can
	// never hit the upload that came after it.
	Locate(id string) Location
	// Put stores r until io.EOF at loc, which came from Locate. size is the
	// expected length or -1 if that is unknown; the error for another length
	// wraps ErrSize, and one of r wraps its cause. The object is durable and whole when Put returns nil, and it never was
	// visible before. After any error nothing of it is left. The result is
	// loc with its Validator set.
	Put(ctx context.Context, loc Location, size int64, r io.Reader) (Location, error)
	// Delete removes the object at loc, whatever its validator, and all that a
	// Put which was cut off left of it: parts, segments. A missing object is
	// not an error: it is what the caller wants.
	Delete(ctx context.Context, loc Location) error
}

// A ListStore can say what it holds.
type ListStore interface {
	Store
	// List yields every object of the store in no particular order, and what
	// writes that were cut off left, as far as the store can tell. What is
	// written or deleted meanwhile may be missing. It ends after an error.
	List(ctx context.Context) iter.Seq2[Held, error]
}

// Held is an object, or a part of one, that a store holds.
type Held struct {
	// Location is what Delete takes to remove it, without a validator.
	Location Location
	// Size is in bytes; of leftovers it is what is known.
	Size int64
	// ModTime is when it was written last, in UTC.
	ModTime time.Time
	// Partial: no whole object is there, only what a write left.
	Partial bool
}

// A LocalStore keeps objects as plain files on a file system of this machine.
type LocalStore interface {
	Store
	// LocalPath returns the path of the file that holds exactly the bytes of
	// loc. The file is for reading only; it may vanish at any time.
	LocalPath(loc Location) (string, error)
}
