package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"nearsight/registry"
)

// The methods of Import.
const (
	Direct      = "glance-direct"   // data that was staged
	WebDownload = "web-download"    // data at URI
	PeerImage   = "glance-download" // an image of another region
	CopyImage   = "copy-image"      // further stores of an image that is active
)

// ImportOptions say where data comes from and where it goes.
type ImportOptions struct {
	// Method is one of the constants above.
	Method string
	// URI is for WebDownload, Region and RegionImageID are for PeerImage.
	URI, Region, RegionImageID string
	// Stores are where the data goes: none means the default store, AllStores each
	// that takes data.
	Stores    []string
	AllStores bool
	// AllowFailures makes do with the stores that could be written, if there is
	// one. Else one that fails undoes all.
	AllowFailures bool
}

// Import has the server bring data into the image id. It returns when that is
// ordered: WaitImported follows it.
//
// ErrConflict if the image is not in the status that the method wants (uploading for
// Direct, active for CopyImage, queued for the others), lacks a format, is being
// imported, or if there is no such store; ErrInvalid if the server has no such method
// or does not read such a URI; ErrForbidden, ErrTooLarge as for Upload.
func (c *Client) Import(ctx context.Context, id string, opt ImportOptions) error {
	if err := checkID(id); err != nil {
		return err
	}
	type method struct {
		Name    string `json:"name"`
		URI     string `json:"uri,omitempty"`
		Region  string `json:"glance_region,omitempty"`
		ImageID string `json:"glance_image_id,omitempty"`
	}
	wish := struct {
		Method      method   `json:"method"`
		Stores      []string `json:"stores,omitempty"`
		AllStores   bool     `json:"all_stores,omitempty"`
		MustSucceed *bool    `json:"all_stores_must_succeed,omitempty"`
	}{Method: method{opt.Method, opt.URI, opt.Region, opt.RegionImageID}, Stores: opt.Stores, AllStores: opt.AllStores}
	if opt.AllowFailures {
		wish.MustSucceed = new(bool)
	}
	doc, err := json.Marshal(wish)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodPost, imagePath(id)+"/import", "application/json", doc)
	return err
}

// CopyTo has the data of the image id copied to further stores; none means all
// that take data and lack it. It returns when the copies are ordered: each shows
// among the Locations when it is whole.
//
// ErrInvalid if a store that is named has the data already or takes none;
// ErrConflict if there is no such store or the image is not active and hashed.
func (c *Client) CopyTo(ctx context.Context, id string, stores ...string) error {
	return c.Import(ctx, id, ImportOptions{Method: CopyImage, Stores: stores, AllStores: len(stores) == 0})
}

// Progress is how far an import is.
type Progress struct {
	// Status is the image's.
	Status registry.Status
	// Done are the bytes that are there, Total those there will be: 0 while unknown.
	Done, Total int64
	// Pending and Failed are stores.
	Pending, Failed []string
	// Message is what the server says about it, for people; it may be empty, and
	// may hold control characters.
	Message string
}

// A TaskError is a task that failed. It wraps nothing: the server said why in words.
type TaskError struct{ Task *registry.Task }

func (e *TaskError) Error() string {
	return fmt.Sprintf("task %s failed: %s", e.Task.ID, cmp.Or(clip(e.Task.Message, maxMessage), "the server does not say why"))
}

// The properties by which servers tell how far an import is (Images API v2,
// "import").
const (
	importTask   = "os_glance_import_task"
	importStores = "os_glance_importing_to_stores"
	importFailed = "os_glance_failed_import"
)

// WaitImported waits until what was ordered by Import, CopyTo or AddLocation has
// ended, and returns the image. progress, if not nil, is called from the calling
// goroutine whenever it changed. The import goes on when ctx ends.
//
// A *TaskError if it failed, which tells why; ErrNotFound if the image was deleted
// meanwhile. A server that cannot be reached for a while is asked again.
func (c *Client) WaitImported(ctx context.Context, id string, progress func(Progress)) (*registry.Image, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var last string
	var img *registry.Image
	err := c.until(ctx, func() (bool, error) {
		// Tasks first: an image that was read after its task ended is as the task left it.
		task, err := c.latestTask(ctx, id)
		if err != nil {
			return false, err
		}
		if img, err = c.Get(ctx, id); err != nil {
			return false, err
		}
		p := progressOf(img, task)
		if now := fmt.Sprint(p); now != last && progress != nil {
			last = now
			progress(p)
		}
		return importEnded(img, task)
	})
	if err != nil {
		return nil, err
	}
	return img, nil
}

// latestTask returns the newest task of the image that brings data, nil if the
// server shows none.
func (c *Client) latestTask(ctx context.Context, id string) (*registry.Task, error) {
	tasks, err := c.Tasks(ctx, id)
	switch {
	case errors.Is(err, registry.ErrNotFound): // Get finds out whether it is the image that is not there
		return nil, nil
	case err != nil:
		return nil, err
	}
	var latest *registry.Task
	for _, t := range tasks {
		// One that is under way comes before those that ended.
		if latest == nil || ended(latest) && (!ended(t) || t.CreatedAt.After(latest.CreatedAt)) {
			latest = t
		}
	}
	return latest, nil
}

func ended(t *registry.Task) bool {
	return t.Status == registry.TaskSuccess || t.Status == registry.TaskFailure
}

func progressOf(img *registry.Image, task *registry.Task) Progress {
	p := Progress{
		Status:  img.Status,
		Pending: storeList(img.Properties[importStores]),
		Failed:  storeList(img.Properties[importFailed]),
	}
	if img.Size != nil {
		p.Total = *img.Size
	}
	if task == nil {
		return p
	}
	p.Message = task.Message
	var far struct {
		Bytes int64 `json:"bytes"`
		Size  int64 `json:"size"`
	}
	if json.Unmarshal(task.Result, &far) == nil {
		p.Done, p.Total = max(0, far.Bytes), max(0, far.Size, p.Total)
	}
	return p
}

func storeList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// importEnded reports whether nothing more will come. task may be nil: then only
// what is in the image tells.
func importEnded(img *registry.Image, task *registry.Task) (bool, error) {
	switch {
	case task != nil && task.Status == registry.TaskFailure:
		return true, &TaskError{task}
	case task != nil && !ended(task):
		return false, nil
	case img.Status == registry.Active || img.Status == registry.Deactivated:
		return task != nil || img.Properties[importStores] == "", nil
	case img.Status == registry.Importing, img.Status == registry.Saving:
		return false, nil
	case task == nil && img.Properties[importTask] != "":
		return false, nil
	}
	message := "the image is " + string(img.Status) + " again"
	if failed := img.Properties[importFailed]; failed != "" {
		message += ", and failed are " + failed
	}
	return true, &TaskError{&registry.Task{ID: cmp.Or(img.Properties[importTask], "of an import"), ImageID: img.ID, Status: registry.TaskFailure, Message: message}}
}

// WaitTask waits until a task ends and returns it, for admins. progress, if not
// nil, is called from the calling goroutine whenever the task changed. A *TaskError
// if it failed.
func (c *Client) WaitTask(ctx context.Context, id string, progress func(*registry.Task)) (*registry.Task, error) {
	var task *registry.Task
	var last string
	err := c.until(ctx, func() (done bool, err error) {
		if task, err = c.Task(ctx, id); err != nil {
			return false, err
		}
		if now := fmt.Sprint(task.Status, task.Message, string(task.Result)); now != last && progress != nil {
			last = now
			progress(task)
		}
		if task.Status == registry.TaskFailure {
			return true, &TaskError{task}
		}
		return ended(task), nil
	})
	if err != nil {
		return nil, err
	}
	return task, nil
}

const (
	maxPoll = 3 * time.Second
	// maxSilence is how long a server may be away while somebody waits for it.
	maxSilence = 2 * time.Minute
)

// until calls look until it is done or fails, with growing pauses, and again when
// the server cannot be reached.
func (c *Client) until(ctx context.Context, look func() (done bool, err error)) error {
	heard := time.Now()
	for wait := c.poll; ; wait = min(maxPoll, wait*3/2) {
		done, err := look()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			heard = time.Now()
		case !errors.Is(err, registry.ErrUnavailable) || time.Since(heard) > maxSilence:
			return err
		}
		if done {
			return nil
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}
