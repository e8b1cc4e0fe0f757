// Package registry knows every image record and tells which one changed.
//
// It owns the words for records: Image, Status, Visibility, Event. The data of
// an image is named here by its origin.Digest and kept elsewhere.
package registry

import (
	"context"
	"errors"
	"iter"
	"time"

	"nearsight/origin"
)

// Errors wrap at most one of these, and their text says what was wrong. Any
// other error means that the registry itself failed.
var (
	// ErrNotFound: there is no such image, or it was deleted.
	ErrNotFound = errors.New("image not found")
	// ErrInvalid: a value is malformed or out of its bounds.
	ErrInvalid = errors.New("invalid")
	// ErrForbidden: the image exists, and this may not be done to it.
	ErrForbidden = errors.New("forbidden")
	// ErrConflict: the image is not in the state for this, or its id is taken.
	ErrConflict = errors.New("conflict")
	// ErrTooLarge: a limit on the number of properties, tags, ... or on bytes.
	ErrTooLarge = errors.New("limit exceeded")
	// ErrUnavailable: the registry cannot be asked just now.
	ErrUnavailable = errors.New("registry unavailable")
)

// Status is where an image is in its life.
type Status string

// The words are Glance's. Importing, uploading, killed and pending_delete
// belong to imports and to the API of 2011.
const (
	Queued        Status = "queued"
	Saving        Status = "saving"
	Uploading     Status = "uploading"
	Importing     Status = "importing"
	Active        Status = "active"
	Deactivated   Status = "deactivated"
	Killed        Status = "killed"
	PendingDelete Status = "pending_delete"
	Deleted       Status = "deleted"
)

// Visibility says who sees an image.
type Visibility string

const (
	Public    Visibility = "public"
	Community Visibility = "community"
	Shared    Visibility = "shared"
	Private   Visibility = "private"
)

// An Image is one record. A *Image that was handed out by a Reader is shared:
// whoever wants to change it does so through Images.Update.
type Image struct {
	// ID is a UUID in its text form and never changes.
	ID string
	// Name and Owner are nil when they were never set (null in JSON).
	Name  *string
	Owner *string

	Status     Status
	Visibility Visibility
	Protected  bool // cannot be deleted
	Hidden     bool // left out of lists that do not ask for it

	// DiskFormat and ContainerFormat are "" while unset (null in JSON).
	DiskFormat      string
	ContainerFormat string
	MinRAM          int // MiB
	MinDisk         int // GiB

	// Size and VirtualSize are in bytes, nil while unknown.
	Size        *int64
	VirtualSize *int64
	Checksum    string // MD5 in hex, "" while unknown
	HashAlgo    string // "sha512", "" while unknown
	HashValue   string // in hex, "" while unknown
	// Digest names the data for the cache; "" while there is none, or while
	// data that came from elsewhere was not hashed yet.
	Digest origin.Digest
	// Locations say where the data is, best first.
	Locations []origin.Location

	Tags       []string          // a set, sorted
	Properties map[string]string // custom properties

	// Times are in UTC. ActivatedAt is when the data became complete, zero
	// before that; it is the data's Last-Modified (RFC 9110, section 8.8.2).
	CreatedAt, UpdatedAt, ActivatedAt time.Time
	// Revision is the number of the image's latest change: the Revision of
	// its latest Event.
	Revision int64
}

// A Reader looks images up. It is safe for concurrent use.
type Reader interface {
	// Get returns the image id, or ErrNotFound.
	Get(ctx context.Context, id string) (*Image, error)
	// List returns the images that match q, in q's order, at most q.Limit.
	// ErrInvalid if q.Marker names no image.
	List(ctx context.Context, q Query) ([]*Image, error)
	// Manifest returns the encoded manifest (origin.Manifest) with this digest,
	// or ErrNotFound. The caller must not change the bytes.
	Manifest(ctx context.Context, digest origin.Digest) ([]byte, error)
}

// Images is the registry's truth. Every change commits the record and its
// Event in one transaction, and both get the next revision.
type Images interface {
	Reader
	// Create adds a queued image. The registry sets Status, times, Revision
	// and, when it is empty, ID. ErrInvalid, ErrTooLarge as Image.Validate says;
	// ErrConflict if the id is in use, also by a deleted image (OSSN-0075).
	Create(ctx context.Context, img *Image) (*Image, error)
	// Update reads the image, lets change alter the copy, checks it
	// (Image.Validate) and stores it: all of it or nothing. Two updates never
	// overlap. change may be called more than once, must not keep the copy,
	// and its error is returned as it is. Status, digest, sizes, hashes,
	// locations, ids, revision and times are not for change: what it does to
	// them is ignored. A change that alters nothing is not stored, and makes
	// no event.
	Update(ctx context.Context, id string, change func(*Image) error) (*Image, error)
	// Delete makes the image unknown for good and leaves its locations to
	// Uploads.Orphans. ErrForbidden if it is protected.
	Delete(ctx context.Context, id string) error
}

// Uploads keeps the books of data on its way in and out, so that no crash
// leaves half an image visible or an object that nobody knows of.
type Uploads interface {
	// Begin moves the image from queued to saving and notes loc before
	// anything is written there. ErrConflict if it is not queued, ErrInvalid if
	// disk_format or container_format is unset.
	Begin(ctx context.Context, id string, loc origin.Location) (*Image, error)
	// Finish makes the image active with the data of sum at loc. ErrNotFound
	// if it was deleted meanwhile; loc is an orphan then.
	Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*Image, error)
	// Abort moves the image back from saving to queued and makes loc an
	// orphan. It is no error if the image was deleted meanwhile.
	Abort(ctx context.Context, id string, loc origin.Location) error
	// AbortAll does Abort for every upload that is under way. It is for the
	// start of the only process that uploads.
	AbortAll(ctx context.Context) error
	// Orphans returns locations whose objects must be deleted, oldest first,
	// at most limit.
	Orphans(ctx context.Context, limit int) ([]origin.Location, error)
	// Forget says that the object of an orphan is gone.
	Forget(ctx context.Context, loc origin.Location) error
}

// EventKind says what an Event changed.
type EventKind string

const (
	EventCreate EventKind = "create"
	EventUpdate EventKind = "update" // metadata, or a status without data
	EventData   EventKind = "data"   // data became readable
	EventDelete EventKind = "delete"
)

// An Event says that the record of an image changed. Revisions rise by one, so
// a reader sees a gap.
type Event struct {
	Revision int64
	ImageID  string
	Kind     EventKind
	// Digest names the data of the image before a delete, "" otherwise.
	Digest origin.Digest
}

// A Log is the table of all events: the truth that delivery brings along.
type Log interface {
	// Since returns the events after the given revision in order, at most
	// limit.
	Since(ctx context.Context, revision int64, limit int) ([]Event, error)
	// Revision returns the latest revision, 0 when nothing ever changed.
	Revision(ctx context.Context) (int64, error)
}

// Events tells what changed.
type Events interface {
	// Watch yields every event after the given revision, in order and without
	// a gap, and waits for the next. It ends when ctx does. After an error it
	// yields nothing more: the watcher must treat all it knows as stale and
	// watch anew.
	Watch(ctx context.Context, revision int64) iter.Seq2[Event, error]
}
