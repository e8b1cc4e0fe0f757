package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"nearsight/origin"
	"nearsight/registry"
)

// An Importer brings data into images: what was staged, what lies at a URL, what
// another registry has, and what an image has in one store into further ones. Every
// byte is hashed on its way in, or verified against the manifest of what was.
//
// An import into several stores that must all succeed shows nothing before all have
// the data; another one makes the image active with the first. An import that fails
// leaves the image queued, or as it was if it had data, and no object.
//
// All fields but Peer, Room, Limit and Log must be set, and nothing may be changed
// after the first use.
type Importer struct {
	Images    registry.Images
	Uploads   registry.Uploads
	Locations registry.Locations
	Stages    registry.Stages
	// Stores have the data, and take it. That of kind http reads URLs.
	Stores *origin.Set
	// Abort is Reaper.Abort, and Wake Reaper.Wake.
	Abort func(id string, loc origin.Location)
	Wake  func()
	// Peer returns another registry by the name of its region, for a caller with
	// that token; registry.ErrInvalid if there is none. nil means that there is
	// none at all.
	Peer func(region, token string) (*Peer, error)
	// Room returns how many bytes the images of owner may still take, -1 for any
	// number; nil means that. Limit bounds each image, in bytes; 0 means nothing.
	Room  func(ctx context.Context, owner string) (int64, error)
	Limit int64
	// Log hears of what failed and was got over; nil means slog.Default().
	Log *slog.Logger
}

// A Peer is another registry, as one caller sees it.
type Peer struct {
	// Get returns an image; registry.ErrNotFound if the caller does not see it.
	Get func(ctx context.Context, id string) (*registry.Image, error)
	// Store reads the data of images, which Locate locates.
	Store  origin.Store
	Locate func(id string) origin.Location
	// Close is called when it is not needed any more; nil means that nobody waits
	// for that.
	Close func()
}

// Handlers returns what an Importer does, for a Runner.
func (im *Importer) Handlers() map[string]Handler {
	return map[string]Handler{
		registry.TaskImageImport:    im,
		registry.TaskImport:         im,
		registry.TaskLocationImport: comparer{im},
	}
}

// Do implements Handler.
func (im *Importer) Do(ctx context.Context, j *Job) error {
	order, request, err := readOrder(j.Task)
	if err != nil {
		return err
	}
	if err := im.sweep(ctx, j); err != nil {
		return err
	}
	img, err := im.Images.Get(ctx, order.ImageID)
	if err != nil {
		return err
	}
	stores := order.Backend
	if len(stores) == 0 {
		stores = []string{im.Stores.Default()}
	}
	tr := &transfer{Importer: im, job: j, img: img, request: request, targets: stores, must: request.mustSucceed}
	defer tr.clear(ctx)
	if err := tr.run(ctx); err != nil {
		if len(j.failed) == 0 {
			j.failed = stores
		}
		return err
	}
	if j.Type == registry.TaskImport {
		j.Result = fmt.Appendf(nil, `{"image_id":%q}`, img.ID)
	}
	return nil
}

// End implements Handler.
func (im *Importer) End(j *Job, err error) func(*registry.Image) error {
	return func(img *registry.Image) error {
		if img.Properties == nil {
			img.Properties = make(map[string]string)
		}
		failed := j.failed
		if err != nil && failed == nil { // it did not come so far
			failed = strings.Split(img.Properties[ImportingProperty], ",")
		}
		img.Properties[ImportingProperty] = ""
		img.Properties[FailedProperty] = strings.Join(failed, ",")
		return release(img)
	}
}

// sweep gives up what earlier attempts at a task were writing when they died.
func (im *Importer) sweep(ctx context.Context, j *Job) error {
	if j.Attempts <= 1 {
		return nil
	}
	under, err := im.Uploads.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, u := range under {
		if u.ImageID == j.ImageID && u.Copy {
			im.Abort(u.ImageID, u.Location)
		}
	}
	return nil
}

// A transfer is one import under way.
type transfer struct {
	*Importer
	job     *Job
	img     *registry.Image
	request request
	targets []string // stores that lack the data
	must    bool

	from     []origin.Location // where the data can be read
	manifest *origin.Manifest  // of the data
	sum      origin.Summary    // of the data, for an image that has none yet
	adopt    bool              // staged data becomes the image's where it is
	active   bool              // the image has the data
	began    patience
	// amend, if not nil, is what else becomes of the image with its data.
	amend func(*registry.Image) error

	noted  []origin.Location // that are being written, or are and are not shown yet
	whole  []origin.Location // of noted
	placed int               // stores that have the data since this began
}

// run brings the data into all targets.
func (tr *transfer) run(ctx context.Context) error {
	tr.began = newPatience()
	if err := tr.begin(ctx); err != nil {
		return err
	}
	for len(tr.targets) > 0 {
		if !tr.must {
			if err := tr.show(ctx); err != nil {
				return err
			}
		}
		store := tr.targets[0]
		if err := tr.settle(ctx, store, tr.write(ctx, store)); err != nil {
			return err
		}
	}
	if tr.placed == 0 && len(tr.job.failed) > 0 {
		return &told{text: "every store failed: " + strings.Join(tr.job.failed, ", ")}
	}
	return tr.show(ctx)
}

// begin finds where the data is; data that comes from elsewhere is in the first
// store then.
func (tr *transfer) begin(ctx context.Context) error {
	switch method := tr.request.method; {
	case tr.img.Status == registry.Active: // a copy, or an import that came so far before
		return tr.fromImage(ctx)
	case tr.img.Status != registry.Importing:
		return fmt.Errorf("%w: the image is %s, and not importing", registry.ErrConflict, tr.img.Status)
	case method == GlanceDirect:
		return tr.fromStage(ctx)
	case method == WebDownload:
		return tr.fromURL(ctx)
	case method == GlanceDownload:
		return tr.fromPeer(ctx)
	default:
		return fmt.Errorf("%w: no method %.40q", registry.ErrInvalid, method)
	}
}

// settle notes that a store has the data, or that it failed. The error ends the
// import.
func (tr *transfer) settle(ctx context.Context, store string, err error) error {
	switch {
	case err == nil:
		tr.placed++
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case tr.must || errors.Is(err, origin.ErrRead) || isDecided(err):
		tr.job.failed = append(tr.job.failed, store)
		if errors.Is(err, origin.ErrRead) {
			tr.job.failed = append(tr.job.failed, without(tr.targets, store)...)
		}
		return err
	default:
		orLog(tr.Log).Warn("a store failed at an import, which goes on without it", "image", tr.img.ID, "store", store, "err", err)
		tr.job.failed = append(tr.job.failed, store)
	}
	tr.targets = without(tr.targets, store)
	return tr.tell(ctx)
}

// tell shows which stores lack the data, and which will not have it.
func (tr *transfer) tell(ctx context.Context) error {
	left, failed := strings.Join(tr.targets, ","), strings.Join(tr.job.failed, ",")
	return tr.persist(ctx, func() error {
		_, err := tr.Images.Update(ctx, tr.img.ID, func(img *registry.Image) error {
			if img.Properties[TaskProperty] == tr.job.ID {
				img.Properties[ImportingProperty], img.Properties[FailedProperty] = left, failed
			}
			return nil
		})
		return err
	})
}

// locate notes an object in a store, before anything is written there.
func (tr *transfer) locate(ctx context.Context, store string) (origin.WriteStore, origin.Location, error) {
	w, err := tr.Stores.Writer(store)
	if err != nil {
		return nil, origin.Location{}, &told{fmt.Sprintf("store %s takes no data", store), err}
	}
	loc := w.Locate(tr.img.ID)
	err = tr.Locations.BeginCopy(ctx, tr.img.ID, loc)
	if err == nil || !isDecided(err) { // it may have begun
		tr.noted = append(tr.noted, loc)
	}
	return w, loc, err
}

// write copies the data to a store, from where it can be read.
func (tr *transfer) write(ctx context.Context, store string) error {
	w, loc, err := tr.locate(ctx, store)
	if err != nil {
		return err
	}
	tr.job.Begin("writing to store "+store, tr.manifest.Size)
	data := newVerified(ctx, tr.Stores, slices.Clone(tr.from), tr.manifest, func(from origin.Location, err error) {
		orLog(tr.Log).Warn("a location failed while it was copied", "image", tr.img.ID, "err", err)
	})
	defer data.Close()
	body := &counted{r: data, job: tr.job, limit: -1}
	stored, err := w.Put(ctx, loc, tr.manifest.Size, body)
	if err != nil {
		if body.err != nil {
			return sourceError(body.err)
		}
		return storeError(store, err)
	}
	tr.whole = append(tr.whole, stored)
	return nil
}

// show makes the image active with the data that is there, and adds what else is.
func (tr *transfer) show(ctx context.Context) error {
	if !tr.active && (tr.adopt || len(tr.whole) > 0) {
		if err := tr.activate(ctx); err != nil {
			return err
		}
	}
	for len(tr.whole) > 0 {
		loc := tr.whole[0]
		if err := tr.add(ctx, loc); err != nil {
			return err
		}
		tr.shown(loc)
	}
	return nil
}

func (tr *transfer) activate(ctx context.Context) error {
	if tr.amend != nil {
		err := tr.persist(ctx, func() error {
			_, err := tr.Images.Update(ctx, tr.img.ID, tr.amend)
			return err
		})
		if err != nil {
			return err
		}
	}
	err := tr.persist(ctx, func() (err error) {
		if tr.adopt {
			_, err = tr.Stages.Adopt(ctx, tr.img.ID)
		} else {
			_, err = tr.Uploads.Finish(ctx, tr.img.ID, tr.whole[0], tr.sum)
		}
		return err
	})
	if err != nil {
		return err
	}
	tr.active = true
	if !tr.adopt {
		tr.shown(tr.whole[0])
	}
	return nil
}

// add adds a location to the image, which is active.
func (tr *transfer) add(ctx context.Context, loc origin.Location) error {
	return tr.persist(ctx, func() error {
		_, err := tr.Locations.AddLocation(ctx, tr.img.ID, loc, tr.manifest.Size, nil)
		if errors.Is(err, registry.ErrConflict) {
			// Perhaps it was done by a call that did not hear of it.
			if img, get := tr.Images.Get(ctx, tr.img.ID); get == nil && hasURL(img, loc.URL) {
				return nil
			}
		}
		return err
	})
}

// shown notes that the image has loc, which is the first of whole.
func (tr *transfer) shown(loc origin.Location) {
	tr.whole = tr.whole[1:]
	tr.noted = slices.DeleteFunc(tr.noted, func(n origin.Location) bool { return n.URL == loc.URL })
}

// persist tells the registry something, again and again for as long as the work up
// to now took: to do that anew would take longer.
func (tr *transfer) persist(ctx context.Context, call func() error) error {
	p := tr.began
	for {
		err := call()
		if err == nil || isDecided(err) {
			return err
		}
		wait, ok := p.next()
		if !ok {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// clear gives up what was noted and is not the image's. It is a shutdown's too.
func (tr *transfer) clear(ctx context.Context) {
	if len(tr.noted) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	for _, loc := range tr.noted {
		if err := tr.Uploads.Abort(ctx, tr.img.ID, loc); err != nil && !errors.Is(err, registry.ErrConflict) {
			tr.Abort(tr.img.ID, loc)
		}
	}
	tr.Wake()
}

func hasURL(img *registry.Image, url string) bool {
	return slices.ContainsFunc(img.Locations, func(loc origin.Location) bool { return loc.URL == url })
}
