package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/task"
)

// maxImport bounds the body of an import, in bytes: it is kept with the task, and a
// thousand tasks are shown at once. It has room for a URL of maxURL and many stores.
const maxImport = 16 << 10

// Imports says what can be imported, and who does it. The zero Imports: nothing.
type Imports struct {
	// Tasks keeps the books of the work, which a task.Runner does. nil means that
	// nothing is imported, and that there are no tasks.
	Tasks registry.Tasks
	// Wake is called when there is a new task. It must return at once. nil means
	// that nobody waits.
	Wake func()
	// Methods are those that are enabled, as far as they can work; nil means all
	// that can.
	Methods []string
	// Stages keeps the books of data that waits for its import, and Staging takes
	// it. nil means that nothing is staged.
	Stages  registry.Stages
	Staging origin.WriteStore
	// Regions are the names of other registries.
	Regions []string
}

// withDefaults returns i with the methods that are enabled and can work, where check
// says whether URLs are read.
func (i Imports) withDefaults(check bool) Imports {
	var can []string
	if i.Tasks != nil {
		if i.Stages != nil && i.Staging != nil {
			can = append(can, task.GlanceDirect)
		}
		if check {
			can = append(can, task.WebDownload)
		}
		can = append(can, task.CopyImage)
		if len(i.Regions) > 0 {
			can = append(can, task.GlanceDownload)
		}
	}
	if i.Methods != nil {
		can = slices.DeleteFunc(can, func(m string) bool { return !slices.Contains(i.Methods, m) })
	}
	i.Methods = can
	if i.Wake == nil {
		i.Wake = func() {}
	}
	return i
}

// importMethods returns the methods that are enabled.
func (a *API) importMethods() []string { return a.imports.Methods }

// listImportMethods answers GET of the import methods.
func (a *API) listImportMethods(c *gin.Context) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	type methods struct {
		Description string   `json:"description"`
		Type        string   `json:"type"`
		Value       []string `json:"value"`
	}
	a.writeDocument(c, newDocument(encodeJSON(map[string]methods{
		"import-methods": {"Import methods available.", "array", append([]string{}, a.importMethods()...)},
	})))
}

// importData answers POST of an import, which becomes a task.
func (a *API) importData(c *gin.Context) {
	if err := a.startImport(c.Writer, c.Request, c.Param("id")); err != nil {
		a.fail(c, err)
		return
	}
	accepted(c.Writer)
}

// accepted answers 202 to a call whose work goes on.
func accepted(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	writeBody(w, http.StatusAccepted, nil)
}

// startImport keeps the order of Glance's checks, because clients tell a 409 from
// a 400.
func (a *API) startImport(w http.ResponseWriter, r *http.Request, id string) error {
	body, err := a.readBody(w, r)
	if err != nil {
		return err
	}
	if len(body) > maxImport {
		return refuse(http.StatusRequestEntityTooLarge, "the body of an import is larger than %d bytes", maxImport)
	}
	wanted, err := a.parseImport(body)
	if err != nil {
		return err
	}
	return a.beginImport(w, r, id, body, wanted)
}

// beginImport is what follows when the body of an import, which wanted is, was read.
func (a *API) beginImport(w http.ResponseWriter, r *http.Request, id string, body []byte, wanted wish) error {
	ctx := r.Context()
	img, err := a.find(ctx, id, registry.Show)
	if err != nil {
		return err
	}
	may := func(img *registry.Image) error { return registry.CallerOf(ctx).May(wanted.action(), img) }
	denied := may(img)
	if denied == nil { // else what the project has is not for the caller to know
		if err := a.quotas.ForImport(ctx, ownerOf(img), wanted.knownSize(img), wanted.downloads()); err != nil {
			return err
		}
	}
	if err := wanted.fits(img); err != nil {
		return err
	}
	if err := a.checkMethod(wanted); err != nil {
		return err
	}
	if denied != nil {
		return denied
	}
	if img.Properties[task.TaskProperty] != "" {
		return refuse(http.StatusConflict, "another import of the image is under way")
	}
	targets, err := a.targets(wanted, r.Header.Get(storeHeader), img)
	if err != nil {
		return err
	}
	if wanted.name == task.WebDownload {
		if err := a.check(ctx, wanted.uri); err != nil {
			return badLocation(err)
		}
	}
	if wanted.name == task.CopyImage && len(targets) == 0 {
		return nil // it is everywhere
	}
	t := a.newTask(w, r, registry.TaskImageImport, id, task.Order{ImageID: id, Request: body, Backend: targets})
	if wanted.name == task.GlanceDownload {
		t.Secret, _ = TokenOf(r.Header)
	}
	announce := task.Announce(t, targets)
	return a.addTask(ctx, t, func(img *registry.Image) error {
		if err := may(img); err != nil {
			return err
		}
		if err := wanted.fits(img); err != nil {
			return err
		}
		return announce(img)
	})
}

// newTask returns a task of the caller of r.
func (a *API) newTask(w http.ResponseWriter, r *http.Request, kind, id string, input any) *registry.Task {
	t := task.New(kind, id, input)
	caller := registry.CallerOf(r.Context())
	t.Owner, t.User, t.RequestID = caller.Project, caller.User, w.Header().Get(RequestIDHeader)
	return t
}

// addTask adds a task and tells who does it.
func (a *API) addTask(ctx context.Context, t *registry.Task, begin func(*registry.Image) error) error {
	if _, err := a.imports.Tasks.AddTask(ctx, t, begin); err != nil {
		return err
	}
	a.imports.Wake()
	return nil
}

// A wish is the body of an import.
type wish struct {
	name, uri       string // the method, and its arguments
	region, imageID string
	stores          []string
	all             bool
	mustSucceed     bool
}

// downloads reports whether the data comes from elsewhere.
func (w wish) downloads() bool { return w.name == task.WebDownload || w.name == task.GlanceDownload }

// knownSize returns how many bytes will come, 0 if that is unknown.
func (w wish) knownSize(img *registry.Image) int64 {
	if w.downloads() || img.Size == nil {
		return 0
	}
	return *img.Size
}

// action returns what the caller must be allowed to do.
func (w wish) action() registry.Action {
	if w.name == task.CopyImage {
		return registry.CopyToStore
	}
	return registry.Modify
}

// fits refuses an image that is not in the status for the method, or lacks formats.
func (w wish) fits(img *registry.Image) error {
	want := registry.Queued
	switch w.name {
	case task.GlanceDirect:
		want = registry.Uploading
	case task.CopyImage:
		want = registry.Active
	}
	switch {
	case img.Status != want:
		return refuse(http.StatusConflict, "the image is %s; %s needs one that is %s", img.Status, w.name, want)
	case img.DiskFormat == "" || img.ContainerFormat == "":
		return refuse(http.StatusConflict, "disk_format and container_format must be set before an import")
	case w.name == task.CopyImage && img.Digest == "":
		return refuse(http.StatusConflict, "the data of the image is not hashed yet, so that a copy could not be verified")
	}
	return nil
}

// checkMethod refuses a method without its arguments.
func (a *API) checkMethod(w wish) error {
	switch {
	case w.name == task.WebDownload:
		return checkURI(w.uri)
	case w.name != task.GlanceDownload:
	case w.region == "":
		return refuse(http.StatusBadRequest, "method glance-download needs glance_region, the name of a region")
	case w.imageID == "":
		return refuse(http.StatusBadRequest, "method glance-download needs glance_image_id")
	case !registry.ValidID(w.imageID):
		return refuse(http.StatusBadRequest, "glance-download: image id does not look like a UUID")
	case !slices.Contains(a.imports.Regions, w.region):
		return refuse(http.StatusBadRequest, "there is no region %.80q here", w.region)
	}
	return nil
}

// checkURI refuses what cannot be downloaded from, whatever lies there.
func checkURI(uri string) error {
	if u, err := url.Parse(uri); err != nil || u.Host == "" || u.User != nil {
		return refuse(http.StatusBadRequest, "a download needs a uri: an http or https URL without credentials")
	}
	return nil
}

// parseImport reads {"method": {"name": ...}, "stores": [...], ...}.
func (a *API) parseImport(body []byte) (wish, error) {
	wanted := wish{mustSucceed: true}
	fields, err := decodeObject(body)
	if err != nil {
		return wanted, err
	}
	method, err := decodeObject(fields["method"])
	if err != nil {
		return wanted, refuse(http.StatusBadRequest, "an import needs a method, which is an object")
	}
	for name, to := range map[string]*string{
		"name": &wanted.name, "uri": &wanted.uri, "glance_region": &wanted.region, "glance_image_id": &wanted.imageID,
	} {
		raw, found := method[name]
		if !found || isNull(raw) {
			continue
		}
		var ok bool
		if *to, ok = decodeString(raw); !ok {
			return wanted, wrongType(name, "a string")
		}
	}
	switch {
	case wanted.name == "":
		return wanted, refuse(http.StatusBadRequest, "the method of an import needs a name")
	case !slices.Contains(a.importMethods(), wanted.name):
		return wanted, refuse(http.StatusBadRequest, "import method %.80q is not enabled here", wanted.name)
	}
	if raw, found := fields["stores"]; found && !isNull(raw) {
		if wanted.stores, err = decodeNames(raw); err != nil {
			return wanted, err
		}
	}
	for name, to := range map[string]*bool{"all_stores": &wanted.all, "all_stores_must_succeed": &wanted.mustSucceed} {
		raw, found := fields[name]
		if !found {
			continue
		}
		if *to = string(raw) == "true"; !*to && string(raw) != "false" {
			return wanted, wrongType(name, "true or false")
		}
	}
	return wanted, nil
}

// decodeNames reads an array of names that are not empty.
func decodeNames(raw json.RawMessage) ([]string, error) {
	elements, err := decodeArray(raw)
	if err != nil {
		return nil, wrongType("stores", "an array of names")
	}
	var names []string
	for _, e := range elements {
		name, ok := decodeString(e)
		if !ok || name == "" {
			return nil, wrongType("stores", "an array of names")
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// targets returns the stores that are to have the data of img and lack it. header is
// the one that X-Image-Meta-Store names. Where there is one store, nothing that is
// said about stores has a meaning.
func (a *API) targets(wanted wish, header string, img *registry.Image) ([]string, error) {
	if !a.places.several {
		switch {
		case !wanted.mustSucceed:
			return nil, refuse(http.StatusBadRequest, "all_stores_must_succeed means nothing where there is one store only")
		case wanted.name == task.CopyImage:
			return nil, refuse(http.StatusBadRequest, "the image is in the one store that there is")
		}
		return a.defaultTargets(), nil
	}
	names := wanted.stores
	switch {
	case wanted.all && (len(names) > 0 || header != ""):
		return nil, refuse(http.StatusBadRequest, "all_stores leaves no stores to be named")
	case len(names) > 0 && header != "":
		return nil, refuse(http.StatusBadRequest, "the stores are named in the body, and another one in x-image-meta-store")
	case wanted.all:
		names = a.places.writable()
	case header != "":
		names = []string{header}
	case len(names) == 0:
		names = a.defaultTargets()
	}
	for _, name := range names {
		switch {
		case !a.knows(name):
			return nil, refuse(http.StatusConflict, "there is no store %.80q here", name)
		case !slices.Contains(a.places.writable(), name):
			return nil, refuse(http.StatusBadRequest, "store %.80q is read-only", name)
		}
	}
	have := a.places.names(img.Locations)
	var targets []string
	for _, name := range names {
		switch {
		case !slices.Contains(have, name):
			targets = append(targets, name)
		case !wanted.all:
			return nil, refuse(http.StatusBadRequest, "the image is in store %.80q already", name)
		}
	}
	return targets, nil
}

// defaultTargets are the stores of an import that names none.
func (a *API) defaultTargets() []string {
	if a.places.stores == nil {
		return []string{}
	}
	return []string{a.places.stores.Default()}
}

// storeHeader names the field by which a client chooses the store of an upload.
const storeHeader = "X-Image-Meta-Store"

// storeOf returns the store that an upload goes to: the one that its header
// names, as long as there is a choice.
func (a *API) storeOf(r *http.Request) (origin.WriteStore, error) {
	name := r.Header.Get(storeHeader)
	if name == "" || !a.places.several {
		return a.store, nil
	}
	s, err := a.places.stores.Writer(name)
	if err != nil {
		if a.knows(name) {
			return nil, refuse(http.StatusGone, "store %.80q is read-only", name)
		}
		return nil, refuse(http.StatusBadRequest, "%s", explain(err, origin.ErrLocation)) // it lists those that there are
	}
	return s, nil
}
