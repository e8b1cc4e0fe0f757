package registry

import (
	"context"
	"encoding/json"
	"time"

	"nearsight/origin"
)

// TaskStatus is where a task is in its life.
type TaskStatus string

const (
	TaskPending    TaskStatus = "pending"
	TaskProcessing TaskStatus = "processing"
	TaskSuccess    TaskStatus = "success"
	TaskFailure    TaskStatus = "failure"
)

// The types of tasks. The words are Glance's.
const (
	TaskImageImport    = "api_image_import" // of an import of any method, copy-image too
	TaskLocationImport = "location_import"
	TaskImport         = "import" // asked for through the tasks API
)

// TaskLife is how long a task is kept after it ended.
const TaskLife = 48 * time.Hour

// A Task is slow work for an image that outlives the request and the process that
// asked for it. Who holds its lease works on it.
type Task struct {
	ID     string // a UUID
	Type   string
	Status TaskStatus
	// Owner and User are those of the caller, "" for none.
	Owner, User string
	// ImageID is the image that it is for, "" while that is not made yet.
	ImageID   string
	RequestID string // of the request that asked for it
	// Input says what is to be done, for the worker. Result is what came of it, or
	// while the task is being processed how far it is: {"bytes": N, "size": N};
	// nil for none. Both are JSON objects that clients see: they hold no secret.
	Input, Result json.RawMessage
	Message       string // for people: why it failed, or what is being done
	// Secret goes to the worker alone, and is forgotten when the task ends.
	Secret string
	// Attempts is how often somebody took the lease.
	Attempts int
	// Times are in UTC. ExpiresAt is zero until the task has ended.
	CreatedAt, UpdatedAt, ExpiresAt time.Time
}

// A TaskQuery says which tasks are listed. The zero value is all.
type TaskQuery struct {
	ImageID, Owner, Type string // "" for any
	Status               TaskStatus
	Sort                 []Order // keys: id, type, status, created_at, updated_at, expires_at; as in Query
	Marker               string
	Limit                int // 0 returns none
}

// Tasks keeps the books of slow work, for several processes on one database.
type Tasks interface {
	// AddTask adds a pending task, with an id if it has none. If begin is not nil
	// it gets the image t.ImageID to alter it in the same transaction, as
	// Images.Update does, and may besides move it from queued or uploading to
	// importing (Image.Become). ErrConflict if the image has another task that has
	// not ended; ErrNotFound if there is no such image; errors of begin as they
	// are.
	AddTask(ctx context.Context, t *Task, begin func(*Image) error) (*Task, error)
	// GetTask returns a task that is not expired, or ErrNotFound.
	GetTask(ctx context.Context, id string) (*Task, error)
	// ListTasks lists those that are not expired. ErrInvalid for an unknown marker.
	ListTasks(ctx context.Context, q TaskQuery) ([]*Task, error)
	// LeaseTask gives holder the oldest task that nobody works on, for the time of
	// d: one that is pending, or whose lease ran out. It is processing then.
	// ErrNotFound if there is none.
	LeaseTask(ctx context.Context, holder string, d time.Duration) (*Task, error)
	// RenewTask prolongs the lease to d from now, and notes how far the work is.
	// ErrConflict if holder has the lease no more, or if the task was ended: the
	// work must stop.
	RenewTask(ctx context.Context, id, holder string, d time.Duration, message string, result json.RawMessage) error
	// ReleaseTask gives the lease up without ending the task, so that the next one
	// need not wait. It is no error if holder has it no more.
	ReleaseTask(ctx context.Context, id, holder string) error
	// EndTask ends a task, as success or failure. If end is not nil it alters the
	// image in the same transaction, as begin of AddTask does, and may move it from
	// importing back to queued (its staged data becomes an orphan then); it is not
	// called if the image was deleted. ErrConflict as RenewTask. A deleted image
	// ends its tasks as failures.
	EndTask(ctx context.Context, t *Task, holder string, end func(*Image) error) error
}

// Stages keeps the books of data that waits for its import.
type Stages interface {
	// BeginStage moves the image from queued to uploading and notes loc before
	// anything is written there, as Uploads.Begin does; formats may be unset.
	// Uploads.Abort ends it.
	BeginStage(ctx context.Context, id string, loc origin.Location) (*Image, error)
	// FinishStage says that loc has all of the data, which is sum. The image stays
	// in uploading and has its size now. ErrNotFound and ErrConflict as
	// Uploads.Finish.
	FinishStage(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*Image, error)
	// Staged returns the staged data of an image that is uploading or importing,
	// with the encoded manifest, or ErrNotFound.
	Staged(ctx context.Context, id string) (origin.Location, origin.Summary, error)
	// Adopt makes the importing image active with its staged data, where it is.
	// Repeated it returns the image as it is.
	Adopt(ctx context.Context, id string) (*Image, error)
}

// For data on its way into an importing image the other books serve: a worker notes
// its object with Locations.BeginCopy, which takes importing images too, and makes
// the image active with Uploads.Finish, or adds the object to an active one with
// Locations.AddLocation. What it only read, at a URL of others, it does not note. Uploads.Abort gives the object up and leaves the status
// alone: that is EndTask's. When an image becomes active by Finish, staged data that
// was not adopted becomes an orphan.

// Usage is what a project's images take.
type Usage struct {
	Bytes     int64 // of stored data, each location counted
	Staged    int64 // bytes that wait for their import
	Images    int64
	Uploading int64 // images in saving, uploading or importing
}

// Usages counts.
type Usages interface {
	// Usage returns what the images of owner take.
	Usage(ctx context.Context, owner string) (Usage, error)
}
