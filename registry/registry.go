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
	// ErrTooOld: events after that revision are not kept any more. Who watches
	// forgets all that it knows, and watches from the latest revision.
	ErrTooOld = errors.New("events are not kept any more")
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
	// Locations say where the data is, in the order in which they were added.
	Locations []origin.Location
	// LocationMetadata is what clients wrote beside locations, by URL; nil for
	// none. Only those beside which something was written have an entry.
	LocationMetadata map[string]map[string]string

	Tags       []string          // a set, sorted
	Properties map[string]string // custom properties
	// Members are the projects that it is shared with, sorted by project.
	Members []Member

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
	// and its error is returned as it is. Digest, sizes, hashes, locations,
	// ids, revision and times are not for change: what it does to them is
	// ignored, as is LocationMetadata of what is no location. Only of an active
	// image without a digest are the hashes for change: they are what a client
	// says that the data has, until Hashed says what it has. Of the status only
	// those steps are that need no data: active to deactivated and back, and
	// queued to killed; ErrConflict for another. A change that alters nothing is
	// not stored, and makes no event. One of members alone leaves UpdatedAt.
	Update(ctx context.Context, id string, change func(*Image) error) (*Image, error)
	// Delete makes the image unknown for good and leaves its locations to
	// Uploads.Orphans. ErrForbidden if it is protected. check, if not nil,
	// then sees the record as it is deleted, before it is: no change can come
	// between. It must not alter it, may be called more than once, and its
	// error is returned as it is and leaves the image alone.
	Delete(ctx context.Context, id string, check func(*Image) error) error
}

// Uploads keeps the books of data on its way in and out, so that no crash
// leaves half an image visible or an object that nobody knows of. A call that
// failed without one of the errors named here may have been done nevertheless;
// Finish, Abort and Forget may be repeated then.
type Uploads interface {
	// Begin moves the image from queued to saving and notes loc before
	// anything is written there. ErrConflict if it is not queued, ErrInvalid if
	// disk_format or container_format is unset. After any other error the
	// upload may have begun: Abort makes sure that it has not.
	Begin(ctx context.Context, id string, loc origin.Location) (*Image, error)
	// Finish makes the image active with the data of sum at loc. ErrNotFound
	// if it was deleted meanwhile, ErrConflict if the upload was aborted; loc
	// is an orphan then. Repeated, with the same loc and digest, it returns the
	// image as it is now and changes nothing.
	Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*Image, error)
	// Abort moves the image back from saving to queued and makes loc an
	// orphan. It is no error if the image was deleted meanwhile, or if the
	// upload was aborted before or never began. After a Finish that was stored,
	// also one that returned an error, it is ErrConflict and changes nothing.
	Abort(ctx context.Context, id string, loc origin.Location) error
	// Unfinished returns the uploads that are under way, oldest first. At the
	// start of the only process that uploads they are those that a crash cut.
	Unfinished(ctx context.Context) ([]Upload, error)
	// Orphans returns locations whose objects must be deleted now, ordered by
	// URL, those after the URL after, at most limit. What an upload left is
	// one at once; the data of a deleted image only after a grace that the
	// registry is set to, so that downloads under way can end.
	Orphans(ctx context.Context, after string, limit int) ([]origin.Location, error)
	// Forget says that the object of an orphan is gone. What is no orphan is
	// left alone.
	Forget(ctx context.Context, loc origin.Location) error
}

// Locations keeps the books of where data is beyond its upload: images
// registered by URL, and copies in several stores.
type Locations interface {
	// AddLocation adds loc, with what a client wrote beside it, as the last
	// location of an image. A queued image becomes active with it and has size
	// bytes, -1 if that is unknown: it has no digest then until Hashed says what
	// the bytes are. For an active one the caller has made sure that loc holds
	// the same bytes. If loc was noted by BeginCopy it is no longer under way.
	// ErrConflict in another status, or if the image has the URL already;
	// ErrInvalid if the formats of a queued image are unset; ErrTooLarge above
	// Limits.Locations.
	AddLocation(ctx context.Context, id string, loc origin.Location, size int64, metadata map[string]string) (*Image, error)
	// RemoveLocation takes a location away from an active image. The object
	// there becomes an orphan after the grace, if a store of ours wrote it.
	// ErrNotFound if the image has no such location; ErrForbidden for the last.
	RemoveLocation(ctx context.Context, id, url string) (*Image, error)
	// BeginCopy notes loc as under way for an active or an importing image, before
	// anything is written there. Uploads.Abort ends it without effect on the image's
	// status. What is not ours nobody writes: of http and https URLs, which many
	// images may have, it only says whether AddLocation or Finish would take it.
	BeginCopy(ctx context.Context, id string, loc origin.Location) error
	// Hashed says what the bytes at loc, the first location of an image without
	// a digest, are: digest, sums, size. loc brings the validator under which
	// they were read. ErrNotFound if the image was deleted, ErrConflict if it
	// has no such location any more or has a digest already, or if a client said
	// that the data has other hashes.
	Hashed(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*Image, error)
	// Unhashed returns active images without a digest, ordered by id, those
	// after the id after, at most limit.
	Unhashed(ctx context.Context, after string, limit int) ([]*Image, error)
}

// An Upload is one that is under way: data for an image, being written to a
// location.
type Upload struct {
	ImageID  string
	Location origin.Location
	// Copy: it was noted by Locations.BeginCopy, so the image has its data
	// already.
	Copy bool
}

// EventKind says what an Event changed.
type EventKind string

const (
	EventCreate EventKind = "create"
	EventUpdate EventKind = "update" // metadata, or a status without data
	EventData   EventKind = "data"   // data became readable
	EventDelete EventKind = "delete"
	// EventNone changed nothing: it is a sign of life. Everything up to its
	// Revision was heard.
	EventNone EventKind = ""
)

// An Event says that the record of an image changed. Revisions rise by one, so
// a reader sees a gap.
type Event struct {
	Revision int64
	ImageID  string
	Kind     EventKind
	// Digest names the data of the image before a delete, "" otherwise.
	Digest origin.Digest
	// At is when it was committed, in UTC.
	At time.Time
}

// A Log is the table of all events: the truth that delivery brings along.
type Log interface {
	// Since returns the events after the given revision in order, at most
	// limit. ErrTooOld if some of them were pruned.
	Since(ctx context.Context, revision int64, limit int) ([]Event, error)
	// Revision returns the latest revision, 0 when nothing ever changed.
	Revision(ctx context.Context) (int64, error)
}

// A Pruner forgets old events.
type Pruner interface {
	// PruneEvents forgets events from before a time, but never the newest keep of
	// them, and returns how many that were.
	PruneEvents(ctx context.Context, before time.Time, keep int) (int64, error)
}

// Events tells what changed.
type Events interface {
	// Watch yields every event after the given revision, in order and without
	// a gap, and waits for the next. It ends when ctx does. After an error it
	// yields nothing more: the watcher must treat all it knows as stale and
	// watch anew; after ErrTooOld from the latest revision. Where the registry
	// is elsewhere a sign of life (EventNone) comes at least every second.
	Watch(ctx context.Context, revision int64) iter.Seq2[Event, error]
}
