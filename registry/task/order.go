package task

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"nearsight/registry"
)

// The methods of imports. The words are Glance's.
const (
	GlanceDirect   = "glance-direct"   // data that was staged
	WebDownload    = "web-download"    // from a URL
	CopyImage      = "copy-image"      // from one store to others
	GlanceDownload = "glance-download" // from another registry
)

// Properties of images tell how an import of theirs goes.
const (
	// TaskProperty is the id of the task, as long as that is not ended.
	TaskProperty = "os_glance_import_task"
	// ImportingProperty lists the stores that lack the data yet, with commas.
	ImportingProperty = "os_glance_importing_to_stores"
	// FailedProperty lists those that will not get it.
	FailedProperty = "os_glance_failed_import"
)

// An Order is the Input of a task of type registry.TaskImageImport.
type Order struct {
	ImageID string `json:"image_id"`
	// Request is the body of the call that asked for it.
	Request json.RawMessage `json:"import_req"`
	// Backend are the names of the stores; empty means the default one.
	Backend []string `json:"backend"`
}

// A request is what an Importer needs to know of an Order's Request.
type request struct {
	method string
	// uri is where WebDownload finds the data.
	uri string
	// region and imageID name the image of GlanceDownload.
	region, imageID string
	// mustSucceed, which is so unless it is said otherwise, lets nothing come
	// of an import that one of the stores fails at.
	mustSucceed bool
}

// A Download is the Input of a task of type registry.TaskImport.
type Download struct {
	From       string          `json:"import_from"`
	Format     string          `json:"import_from_format"`
	Properties json.RawMessage `json:"image_properties"`
}

// A Comparison is the Input of a task of type registry.TaskLocationImport.
type Comparison struct {
	ImageID string `json:"image_id"`
	URL     string `json:"loc_url"`
	Hash    Hash   `json:"validation_data"`
}

// A Hash is what data must have, in hex: Value by Algo, which is md5, sha1, sha256 or
// sha512, and Checksum by MD5. Either may be missing.
type Hash struct {
	Algo     string `json:"os_hash_algo,omitempty"`
	Value    string `json:"os_hash_value,omitempty"`
	Checksum string `json:"checksum,omitempty"`
}

// New returns a task of that type for an image, with what the worker is to know.
func New(kind, imageID string, input any) *registry.Task {
	encoded, err := json.Marshal(input)
	if err != nil {
		panic("task: " + err.Error()) // an input of ours that JSON cannot say
	}
	return &registry.Task{ID: uuid.NewString(), Type: kind, Status: registry.TaskPending, ImageID: imageID, Input: encoded}
}

// Announce does to an image what Tasks.AddTask does as an import of it begins:
// it says which stores lack the data, and is importing unless it has data already.
func Announce(t *registry.Task, stores []string) func(*registry.Image) error {
	return func(img *registry.Image) error {
		if img.Status != registry.Active {
			if err := img.Become(registry.Importing); err != nil {
				return err
			}
		}
		if img.Properties == nil {
			img.Properties = make(map[string]string)
		}
		img.Properties[TaskProperty] = t.ID
		img.Properties[ImportingProperty] = strings.Join(stores, ",")
		img.Properties[FailedProperty] = ""
		return nil
	}
}

// readOrder returns the order of a task, and the request in it.
func readOrder(t *registry.Task) (o Order, r request, err error) {
	if t.Type == registry.TaskImport {
		var d Download
		err = json.Unmarshal(t.Input, &d)
		o.ImageID, r = t.ImageID, request{method: WebDownload, uri: d.From, mustSucceed: true}
	} else if err = json.Unmarshal(t.Input, &o); err == nil {
		r, err = readRequest(o.Request)
	}
	if err != nil {
		return o, r, fmt.Errorf("the input of the task cannot be read: %w", err)
	}
	return o, r, nil
}

// readRequest reads the body of a call as package api did when it checked it: names
// are compared byte by byte, and of members with equal names the last one counts. A
// struct would not do, since encoding/json takes URI for its uri too.
func readRequest(body json.RawMessage) (request, error) {
	r := request{mustSucceed: true}
	var members, method map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return r, err
	}
	if err := json.Unmarshal(members["method"], &method); err != nil {
		return r, err
	}
	for _, m := range []struct {
		raw json.RawMessage
		to  any
	}{
		{method["name"], &r.method}, {method["uri"], &r.uri}, {method["glance_region"], &r.region}, {method["glance_image_id"], &r.imageID},
		{members["all_stores_must_succeed"], &r.mustSucceed},
	} {
		if m.raw == nil {
			continue
		}
		if err := json.Unmarshal(m.raw, m.to); err != nil {
			return r, err
		}
	}
	return r, nil
}

// without returns names without one.
func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}
