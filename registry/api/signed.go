package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/identity"
)

// defaultLife is how long a signed URL is good for if its maker does not say.
const defaultLife = time.Hour

// registerSigned adds the call by which signed URLs are made.
func (a *API) registerSigned(r gin.IRoutes) {
	r.POST("/nearsight/signed-urls", a.sign)
}

// signedFor returns the image whose data r asks for with a signed URL, good or bad.
// Such a URL says all of who asks: a token beside it means nothing.
func signedFor(r *http.Request) (image string, ok bool) {
	if !identity.IsSigned(r.URL.RawQuery) {
		return "", false
	}
	image, ok = strings.CutPrefix(r.URL.Path, "/v2/images/")
	if ok {
		image, ok = strings.CutSuffix(image, "/file")
	}
	return image, ok && registry.ValidID(image)
}

// identifySigned returns r, which has a signed URL for the data of image, with the
// caller that may have those and nothing else, or answers it and returns nil.
func (a *API) identifySigned(w http.ResponseWriter, r *http.Request, image string) *http.Request {
	ctx := r.Context()
	if a.urlKeys == nil {
		FailStatus(w, r, http.StatusForbidden, "this server takes no signed URLs")
		return nil
	}
	caller, err := a.urlKeys.Verify(ctx, r.Method, image, r.URL.RawQuery, time.Now())
	switch {
	case err == nil:
		return r.WithContext(registry.WithCaller(ctx, caller))
	case ctx.Err() != nil:
		FailStatus(w, r, StatusClientLeft, "the request was given up")
	default:
		FailStatus(w, r, http.StatusForbidden, err.Error())
	}
	return nil
}

// sign answers POST of a wish for a signed URL: who may have the data of an image now
// gives that right away, for some time.
func (a *API) sign(c *gin.Context) {
	w, r := c.Writer, c.Request
	body, err := a.readBody(w, r)
	if err != nil {
		a.fail(c, err)
		return
	}
	now := time.Now()
	wish, err := parseWish(body, now)
	if err == nil {
		err = a.maySign(r, wish.Image)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	wish.Project = registry.CallerOf(r.Context()).Project
	w.Header().Set("Cache-Control", "no-store")
	answer := struct {
		URL       string     `json:"url"`
		Image     string     `json:"image"`
		Method    string     `json:"method"`
		NotBefore *time.Time `json:"not_before,omitempty"`
		Expires   time.Time  `json:"expires_at"`
	}{URL: a.base(r) + a.urlKeys.Sign(wish), Image: wish.Image, Method: wish.Method, Expires: wish.Expires}
	if !wish.NotBefore.IsZero() {
		answer.NotBefore = &wish.NotBefore
	}
	WriteJSON(w, r, http.StatusCreated, answer)
}

// maySign returns nil if the caller of r may give away the right to read the data of
// an image, for which there must be some. Strangers may not: they would keep what they
// have only as long as the image is public.
func (a *API) maySign(r *http.Request, id string) error {
	caller := registry.CallerOf(r.Context())
	if a.urlKeys == nil {
		return fmt.Errorf("%w: this server makes no signed URLs", registry.ErrForbidden)
	}
	if caller.Stranger {
		return fmt.Errorf("%w: who signs must say who it is", registry.ErrForbidden)
	}
	img, err := a.find(r.Context(), id, registry.Download)
	if err != nil {
		return err
	}
	switch img.Status {
	case registry.Active:
		return nil
	case registry.Deactivated:
		return fmt.Errorf("%w: the image is deactivated", registry.ErrForbidden)
	case registry.Deleted, registry.PendingDelete:
		return registry.ErrNotFound
	}
	return fmt.Errorf("%w: the image has no data yet", registry.ErrConflict)
}

// parseWish reads what the body of a wish for a signed URL says.
func parseWish(body []byte, now time.Time) (s identity.SignedURL, err error) {
	var wish struct {
		Image     string     `json:"image"`
		Method    string     `json:"method"`
		Seconds   *int64     `json:"expires_in"`
		NotBefore *time.Time `json:"not_before"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&wish); err != nil {
		return s, malformedWish(err)
	}
	if d.More() {
		return s, refuse(http.StatusBadRequest, "there is more than one JSON document")
	}
	if !registry.ValidID(wish.Image) {
		return s, refuse(http.StatusBadRequest, "image %.80q is no id of an image", wish.Image)
	}
	s = identity.SignedURL{Image: wish.Image, Method: wish.Method}
	switch s.Method {
	case "":
		s.Method = http.MethodGet
	case http.MethodGet, http.MethodHead:
	default:
		return s, refuse(http.StatusBadRequest, "method %.80q is not GET, which allows HEAD too, or HEAD", s.Method)
	}
	seconds := int64(defaultLife / time.Second)
	if wish.Seconds != nil {
		seconds = *wish.Seconds
	}
	if longest := int64(identity.MaxLife / time.Second); seconds < 1 || seconds > longest {
		return s, refuse(http.StatusBadRequest, "expires_in must be 1 to %d seconds", longest)
	}
	s.Expires = now.Add(time.Duration(seconds) * time.Second).UTC().Truncate(time.Second)
	if wish.NotBefore != nil {
		s.NotBefore = wish.NotBefore.UTC().Truncate(time.Second)
		if s.NotBefore.Unix() < 0 || !s.NotBefore.Before(s.Expires) {
			return s, refuse(http.StatusBadRequest, "not_before must be earlier than the end")
		}
	}
	return s, nil
}

// malformedWish is malformed, and names the member that cannot be read.
func malformedWish(err error) error {
	var typed *json.UnmarshalTypeError
	if errors.As(err, &typed) && typed.Field != "" {
		return refuse(http.StatusBadRequest, "%s cannot be a JSON %s", typed.Field, typed.Value)
	}
	if _, name, ok := strings.Cut(err.Error(), "unknown field "); ok {
		return refuse(http.StatusBadRequest, "there is no member %.80q", strings.Trim(name, `"`))
	}
	return malformed("a JSON object with image, method, expires_in (seconds) and not_before", err)
}
