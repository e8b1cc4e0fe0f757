package v1

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/api"
)

// timeLayout is how times are written: in UTC, which is not said.
const timeLayout = "2006-01-02T15:04:05.000000"

// A briefly is an image in a brief list.
type briefly struct {
	ID              string  `json:"id"`
	Name            *string `json:"name"`
	Size            int64   `json:"size"`
	DiskFormat      *string `json:"disk_format"`
	ContainerFormat *string `json:"container_format"`
	Checksum        *string `json:"checksum"`
}

// A fully is all that there is to be told of an image.
type fully struct {
	briefly
	Status     registry.Status   `json:"status"`
	Owner      *string           `json:"owner"`
	IsPublic   bool              `json:"is_public"`
	Protected  bool              `json:"protected"`
	MinRAM     int               `json:"min_ram"`
	MinDisk    int               `json:"min_disk"`
	CreatedAt  string            `json:"created_at"`
	UpdatedAt  string            `json:"updated_at"`
	DeletedAt  *string           `json:"deleted_at"`
	Deleted    bool              `json:"deleted"`
	Properties map[string]string `json:"properties"`
}

func newBriefly(img *registry.Image) briefly {
	return briefly{
		ID: img.ID, Name: img.Name, Size: sizeOf(img),
		DiskFormat: known(img.DiskFormat), ContainerFormat: known(img.ContainerFormat), Checksum: known(img.Checksum),
	}
}

func newFully(img *registry.Image) fully {
	return fully{
		briefly: newBriefly(img), Status: statusOf(img), Owner: img.Owner,
		IsPublic: img.Visibility == registry.Public, Protected: img.Protected,
		MinRAM: img.MinRAM, MinDisk: img.MinDisk,
		CreatedAt: written(img.CreatedAt), UpdatedAt: written(img.UpdatedAt), Properties: img.Properties,
	}
}

// sizeOf returns the size of the data, 0 while it is not known.
func sizeOf(img *registry.Image) int64 {
	if img.Size == nil {
		return 0
	}
	return *img.Size
}

func written(t time.Time) string { return t.UTC().Format(timeLayout) }

// brief and detail are the forms of an image in the lists and answers of this API.
func (v *API) brief(r *http.Request, img *registry.Image) any {
	return struct {
		briefly
		URI string `json:"uri"`
	}{newBriefly(img), v.uri(r, img)}
}

func (v *API) detail(r *http.Request, img *registry.Image) any {
	return struct {
		fully
		URI string `json:"uri"`
	}{newFully(img), v.uri(r, img)}
}

func (v *API) uri(r *http.Request, img *registry.Image) string {
	return v.api.Base(r) + "/v1/images/" + img.ID
}

// setMeta sets the fields that say all about an image. Names that have an underscore
// come with a dash too, as the documents have them.
func (v *API) setMeta(h http.Header, r *http.Request, img *registry.Image) {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	yes := func(b bool) string {
		if b {
			return "True"
		}
		return "False"
	}
	for _, f := range [...]struct{ name, value string }{
		{"id", img.ID},
		{"uri", v.uri(r, img)},
		{"name", text(img.Name)},
		{"status", string(statusOf(img))},
		{"size", strconv.FormatInt(sizeOf(img), 10)},
		{"checksum", img.Checksum},
		{"disk_format", img.DiskFormat},
		{"container_format", img.ContainerFormat},
		{"owner", text(img.Owner)},
		{"is_public", yes(img.Visibility == registry.Public)},
		{"protected", yes(img.Protected)},
		{"min_ram", strconv.Itoa(img.MinRAM)},
		{"min_disk", strconv.Itoa(img.MinDisk)},
		{"created_at", written(img.CreatedAt)},
		{"updated_at", written(img.UpdatedAt)},
		{"deleted_at", ""},
		{"deleted", "False"},
	} {
		value := []string{line(f.value)}
		h[metaPrefix+f.name] = value
		if dashed := strings.ReplaceAll(f.name, "_", "-"); dashed != f.name {
			h[metaPrefix+dashed] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(img.Properties)) {
		if isToken(name) { // others cannot be said here
			h[metaPrefix+"Property-"+name] = []string{line(img.Properties[name])}
		}
	}
}

// line returns a text as a field can hold it: on one line.
func line(s string) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, s))
}

// isToken reports whether s can be a part of a field's name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	}) < 0
}

// tagOf returns the entity tag of the data: its MD5, "" if that is not known.
func tagOf(img *registry.Image) string {
	if img.Checksum == "" {
		return ""
	}
	return `"` + img.Checksum + `"`
}

// head answers HEAD of an image: all that there is to know of it. What it says of the
// data is what a GET would.
func (v *API) head(c *gin.Context) {
	img, err := v.find(c.Request.Context(), c.Param("id"), registry.Show)
	if err != nil {
		v.api.Fail(c, err)
		return
	}
	h := c.Writer.Header()
	v.wear(h, c.Request, img)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(sizeOf(img), 10))
	if tag := tagOf(img); tag != "" {
		h["Etag"] = []string{tag}
	}
	c.Writer.WriteHeader(http.StatusOK)
	c.Writer.WriteHeaderNow()
}

// wear puts on a header what an answer about an image has in this API.
func (v *API) wear(h http.Header, r *http.Request, img *registry.Image) {
	v.setMeta(h, r, img)
	h.Set("Location", v.uri(r, img))
}

// show answers GET of an image: its fields, and its data.
func (v *API) show(send Sender) gin.HandlerFunc {
	return func(c *gin.Context) {
		img, err := v.readable(c)
		if err != nil {
			v.api.Fail(c, err)
			return
		}
		send(c, img, tagOf(img), func(h http.Header) {
			v.wear(h, c.Request, img)
			// The fields change without the data: whoever keeps an answer asks
			// whether they still hold.
			if strings.Contains(h.Get("Cache-Control"), "max-age") {
				h.Set("Cache-Control", "no-cache")
			}
		})
	}
}

// readable returns the image of a GET, whose data the caller may have.
func (v *API) readable(c *gin.Context) (*registry.Image, error) {
	ctx := c.Request.Context()
	img, err := v.find(ctx, c.Param("id"), registry.Show)
	if err != nil {
		return nil, err
	}
	action := registry.Download
	switch img.Status {
	case registry.Active:
	case registry.Deactivated:
		action = registry.ReadDeactivate
	default:
		return nil, api.Refuse(http.StatusNotFound, "the image is %s, and has no data", string(statusOf(img)))
	}
	return img, registry.CallerOf(ctx).May(action, img)
}
