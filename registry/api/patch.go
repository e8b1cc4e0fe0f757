package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// The two forms of a patch. Both are older than RFC 6902 and less.
const (
	patchV21 = "application/openstack-images-v2.1-json-patch" // {"op": "add", "path": "/x", "value": "y"}
	patchV20 = "application/openstack-images-v2.0-json-patch" // {"add": "/x", "value": "y"}
)

// A change is one operation of a patch.
type change struct {
	op   string // add, replace, remove
	name string // of a base field or a custom property, or locations
	set  setter // nil for remove, and for locations
	// Of a change of locations: those that it adds or puts in place of others,
	// and where.
	locations []location
	at        string // an index, or "-" for the end
	// fresh: add must not find something. It is what the v2.0 form means.
	fresh bool
}

// patch answers PATCH of an image record: all operations in order, or none.
func (a *API) patch(c *gin.Context) {
	w, r, id := c.Writer, c.Request, c.Param("id")
	form := mediaType(r)
	if form != patchV21 && form != patchV20 {
		w.Header().Set("Accept-Patch", patchV21+", "+patchV20)
		a.fail(c, refuse(http.StatusUnsupportedMediaType, "a patch must have one of the types %s and %s", patchV21, patchV20))
		return
	}
	body, err := a.readBody(w, r)
	if err != nil {
		a.fail(c, err)
		return
	}
	changes, err := a.parsePatch(body, form == patchV20)
	if err != nil {
		a.fail(c, err)
		return
	}
	img, err := a.change(r, id, changes)
	if err != nil {
		a.fail(c, err)
		return
	}
	a.writeChanged(c, http.StatusOK, img)
}

// change makes the changes under the conditions of r.
func (a *API) change(r *http.Request, id string, changes []change) (*registry.Image, error) {
	if slices.ContainsFunc(changes, func(ch change) bool { return ch.name == "locations" }) {
		return a.relocate(r, id, changes)
	}
	return a.images.Update(r.Context(), id, func(img *registry.Image) error {
		if err := a.mayPatch(r, img, changes); err != nil {
			return err
		}
		return applyAll(changes, img)
	})
}

// mayPatch is mayChange for a patch, whose operations need more rights than it.
func (a *API) mayPatch(r *http.Request, img *registry.Image, changes []change) error {
	if err := a.mayChange(r, img, registry.Modify); err != nil {
		return err
	}
	for _, ch := range changes {
		if err := registry.CallerOf(r.Context()).May(ch.needs(), img); err != nil {
			return err
		}
	}
	return nil
}

// needs returns what a caller must be allowed for the change.
func (ch change) needs() registry.Action {
	switch {
	case ch.name == "locations" && ch.op == "remove":
		return registry.DropLocation
	case ch.name == "locations":
		return registry.AddLocation
	case ch.name == "owner":
		return registry.GiveAway
	case ch.name == "visibility" && ch.set != nil:
		var probe registry.Image
		if ch.set(&probe); probe.Visibility == registry.Public {
			return registry.Publicize
		}
	}
	return registry.Modify
}

func applyAll(changes []change, img *registry.Image) error {
	for _, ch := range changes {
		if err := ch.apply(img); err != nil {
			return err
		}
	}
	return nil
}

// mediaType returns the request's media type without its parameters.
func mediaType(r *http.Request) string {
	t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// apply does the change to img.
func (ch change) apply(img *registry.Image) error {
	base := settable(ch.name)
	_, found := img.Properties[ch.name]
	found = found || base
	switch {
	case ch.op == "remove" && base:
		return refuse(http.StatusForbidden, "attribute %q cannot be removed", ch.name)
	case ch.op != "add" && !found:
		return refuse(http.StatusConflict, "there is no property %.80q to %s", ch.name, ch.op)
	case ch.op == "add" && found && ch.fresh:
		return refuse(http.StatusConflict, "there is a property %.80q already", ch.name)
	case ch.op == "remove":
		delete(img.Properties, ch.name)
		return nil
	case (ch.name == "disk_format" || ch.name == "container_format") &&
		img.Status != registry.Queued && img.Status != registry.Importing:
		return refuse(http.StatusForbidden, "attribute %q cannot change while the image is %s", ch.name, img.Status)
	}
	ch.set(img)
	return nil
}

// parsePatch reads the operations of a patch, in the v2.0 or the v2.1 form.
func (a *API) parsePatch(body []byte, v20 bool) ([]change, error) {
	elements, err := decodeArray(body)
	if err != nil {
		return nil, err
	}
	parse := parseOperationV21
	if v20 {
		parse = parseOperationV20
	}
	changes := make([]change, 0, len(elements))
	for _, e := range elements {
		fields, err := decodeObject(e)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "an operation of a patch must be an object")
		}
		op, pointer, err := parse(fields)
		if err != nil {
			return nil, err
		}
		value, hasValue := fields["value"]
		if !hasValue && op != "remove" {
			return nil, refuse(http.StatusBadRequest, "operation %s needs a value", op)
		}
		ch, err := a.parseChange(op, pointer, value)
		if err != nil {
			return nil, err
		}
		ch.fresh = v20
		changes = append(changes, ch)
	}
	return changes, nil
}

// parseOperationV21 reads {"op": OP, "path": POINTER}.
func parseOperationV21(fields map[string]json.RawMessage) (op, pointer string, err error) {
	op, ok := decodeString(fields["op"])
	if !ok || op != "add" && op != "replace" && op != "remove" {
		return "", "", refuse(http.StatusBadRequest, "member op of an operation must be add, replace or remove")
	}
	if pointer, ok = decodeString(fields["path"]); !ok {
		return "", "", refuse(http.StatusBadRequest, "an operation needs a path, which is a string")
	}
	return op, pointer, nil
}

// parseOperationV20 reads {OP: POINTER}.
func parseOperationV20(fields map[string]json.RawMessage) (op, pointer string, err error) {
	for _, name := range []string{"add", "replace", "remove"} {
		raw, found := fields[name]
		if !found {
			continue
		}
		if op != "" {
			return "", "", refuse(http.StatusBadRequest, "an operation is both %s and %s", op, name)
		}
		var ok bool
		if pointer, ok = decodeString(raw); !ok {
			return "", "", refuse(http.StatusBadRequest, "member %s of an operation must be a path", name)
		}
		op = name
	}
	if op == "" {
		return "", "", refuse(http.StatusBadRequest, "an operation must have a member add, replace or remove")
	}
	return op, pointer, nil
}

// parseChange checks an operation as far as that is possible without the image.
func (a *API) parseChange(op, pointer string, value json.RawMessage) (change, error) {
	path, err := parsePointer(pointer)
	if err != nil {
		return change{}, err
	}
	depth := 1
	if path[0] == "locations" && op != "replace" {
		depth = 2
	}
	if len(path) != depth {
		return change{}, refuse(http.StatusBadRequest, "path %.80q has %d parts, not %d", pointer, len(path), depth)
	}
	ch := change{op: op, name: path[0]}
	if ch.name == "locations" && a.places.locations {
		return a.parseRelocation(ch, path, value)
	}
	switch {
	case ch.name == "id":
		return change{}, refuse(http.StatusForbidden, `attribute "id" is read-only`)
	case ch.name == "stores" && op != "add":
		return change{}, refuse(http.StatusConflict, `there is no property "stores" to %s`, op)
	}
	if err := checkName(ch.name); err != nil {
		return change{}, err
	}
	if op != "remove" {
		ch.set, err = a.parseField(ch.name, value)
	}
	return ch, err
}

// parseRelocation is parseChange for locations.
func (a *API) parseRelocation(ch change, path []string, value json.RawMessage) (change, error) {
	values := []json.RawMessage{value}
	switch ch.op {
	case "remove":
		ch.at = path[1]
		return ch, nil
	case "add":
		ch.at = path[1]
	default:
		var err error
		if values, err = decodeArray(value); err != nil {
			return ch, wrongType("locations", "an array of locations")
		}
	}
	for _, v := range values {
		l, err := parseLocation(v)
		if err != nil {
			return ch, err
		}
		ch.locations = append(ch.locations, l)
	}
	return ch, nil
}

// parsePointer reads a JSON pointer (RFC 6901) that names something: it has no
// empty part.
func parsePointer(pointer string) ([]string, error) {
	rest, ok := strings.CutPrefix(pointer, "/")
	if !ok {
		return nil, refuse(http.StatusBadRequest, "path %.80q does not begin with /", pointer)
	}
	path := strings.Split(rest, "/")
	for i, part := range path {
		if strings.TrimSpace(part) == "" {
			return nil, refuse(http.StatusBadRequest, "path %.80q has an empty part", pointer)
		}
		bare := strings.NewReplacer("~0", "", "~1", "").Replace(part)
		if strings.Contains(bare, "~") {
			return nil, refuse(http.StatusBadRequest, "path %.80q has a ~ that is neither ~0 nor ~1", pointer)
		}
		path[i] = strings.NewReplacer("~0", "~", "~1", "/").Replace(part)
	}
	return path, nil
}
