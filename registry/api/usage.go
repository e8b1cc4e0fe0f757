package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// A quota is one line of the usage, in MiB or in numbers of images. A limit of -1 is
// none.
type quota struct {
	Limit int64 `json:"limit"`
	Usage int64 `json:"usage"`
}

// usage answers GET of what the images of the caller's project take.
func (a *API) usage(c *gin.Context) {
	r := c.Request
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	lines := map[string]quota{}
	if q := a.quotas; q.Soft() {
		u, err := q.Usages.Usage(r.Context(), registry.CallerOf(r.Context()).Project)
		if err != nil {
			a.fail(c, err)
			return
		}
		lines["image_size_total"] = quota{inMiB(orUnlimited(q.Size)), inMiB(u.Bytes)}
		lines["image_stage_total"] = quota{inMiB(orUnlimited(q.Stage)), inMiB(u.Staged)}
		lines["image_count_total"] = quota{orUnlimited(q.Images), u.Images}
		lines["image_count_uploading"] = quota{orUnlimited(q.Uploading), u.Uploading}
	}
	c.Writer.Header().Set("Cache-Control", "private, no-store")
	writeJSON(c.Writer, r, http.StatusOK, encodeJSON(map[string]any{"usage": lines}))
}

func orUnlimited(limit int64) int64 {
	if limit <= 0 {
		return -1
	}
	return limit
}

// inMiB returns whole MiB, and leaves -1 as it is.
func inMiB(bytes int64) int64 {
	if bytes < 0 {
		return bytes
	}
	return bytes >> 20
}

// checkRoom holds an upload against the quotas of the image's owner. The body may be
// as long as the owner has room, which the plan says then.
func (a *API) checkRoom(r *http.Request, id string, plan *uploadPlan) error {
	if a.quotas == nil {
		return nil
	}
	ctx := r.Context()
	img, err := a.images.Get(ctx, id)
	if err != nil {
		return err
	}
	// Another status is told by the books, which know best.
	if img.Status != registry.Queued {
		return nil
	}
	owner, size := ownerOf(img), max(plan.size, 0)
	if plan.staged {
		err = a.quotas.ForStage(ctx, owner, size)
	} else {
		err = a.quotas.ForUpload(ctx, owner, size)
	}
	if err != nil {
		return err
	}
	room, err := a.quotas.Room(ctx, owner)
	switch {
	case err != nil:
		return err
	case room < 0 || plan.limit >= 0 && plan.limit <= room:
	case plan.size > room:
		return noRoom(room)
	default:
		plan.limit = room
	}
	return nil
}

func noRoom(room int64) error {
	return refuse(http.StatusRequestEntityTooLarge, "the project may store %d bytes more, and the image is larger", room)
}
