package api

import (
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/task"
)

// stage answers PUT of data that waits for its import.
func (a *API) stage(c *gin.Context) {
	if err := a.receiveStage(c.Writer, c.Request, c.Param("id")); err != nil {
		a.fail(c, err)
		return
	}
	noContent(c.Writer)
}

// receiveStage is receive for the staging store and the books of stages.
func (a *API) receiveStage(w http.ResponseWriter, r *http.Request, id string) error {
	if !slices.Contains(a.importMethods(), task.GlanceDirect) {
		return refuse(http.StatusNotFound, "import method glance-direct is not enabled here, so that nothing is staged")
	}
	plan, err := a.planUpload(r)
	if err != nil {
		return err
	}
	plan.staged, plan.store = true, a.imports.Staging
	plan.begin, plan.finish = a.imports.Stages.BeginStage, a.imports.Stages.FinishStage
	_, err = a.take(w, r, id, plan)
	return err
}

// importLocation has the data at a location compared with the hashes that a client
// gave. The image is importing meanwhile, and active if they are those of the data.
func (a *API) importLocation(w http.ResponseWriter, r *http.Request, id string, l location) error {
	t := a.newTask(w, r, registry.TaskLocationImport, id, task.Comparison{
		ImageID: id, URL: l.url, Hash: task.Hash{Algo: l.hashes.algo, Value: l.hashes.hash, Checksum: l.hashes.checksum},
	})
	ctx := r.Context()
	return a.addTask(ctx, t, func(img *registry.Image) error {
		if err := registry.CallerOf(ctx).May(registry.AddLocation, img); err != nil {
			return err
		}
		if img.Status != registry.Queued {
			return refuse(http.StatusConflict, "the image is %s, and not queued", img.Status)
		}
		return img.Become(registry.Importing)
	})
}

// ownerOf returns the project that owns img, "" for none.
func ownerOf(img *registry.Image) string {
	if img.Owner == nil {
		return ""
	}
	return *img.Owner
}
