package v1

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/api"
)

// A form is how an image is written in a list.
type form func(r *http.Request, img *registry.Image) any

// list answers GET of a list of images in some form.
func (v *API) list(as form) gin.HandlerFunc {
	return func(c *gin.Context) {
		found, err := v.listed(c.Request)
		if err != nil {
			v.api.Fail(c, err)
			return
		}
		list := make([]any, 0, len(found))
		for _, img := range found {
			list = append(list, as(c.Request, img))
		}
		writePrivate(c, map[string]any{"images": list})
	}
}

// writePrivate answers a GET with what only its caller may be shown.
func writePrivate(c *gin.Context, v any) {
	c.Writer.Header().Set("Cache-Control", "private, no-cache")
	api.WriteJSON(c.Writer, c.Request, http.StatusOK, v)
}

func (v *API) listed(r *http.Request) ([]*registry.Image, error) {
	if err := api.RefuseBody(r); err != nil {
		return nil, err
	}
	usual, largest := v.api.PageLimits()
	s, err := newSearch(r.URL.RawQuery, registry.CallerOf(r.Context()), usual, largest)
	if err != nil {
		return nil, err
	}
	return s.run(r.Context(), v.images, largest)
}

// A search is a query of this API.
type search struct {
	registry.Query
	notPublic bool // which a registry.Query cannot say
	nothing   bool // of what is deleted nothing is kept
}

// newSearch translates the parameters of a list. What it does not know it passes
// over; of what is repeated the first counts.
//
// Everybody sees what is public, their own, and what is shared with them, whatever
// they said to that. Admins ask with is_public for more, and otherwise see what is
// public.
func newSearch(rawQuery string, caller *registry.Caller, usual, largest int) (*search, error) {
	params, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, api.Refuse(http.StatusBadRequest, "the query cannot be read")
	}
	s := &search{Query: registry.Query{Caller: caller, MemberStatus: registry.AllMemberStatuses, Limit: usual}}
	var order registry.Order
	for name, values := range params {
		value := values[0]
		if !utf8.ValidString(name+value) || strings.ContainsRune(name+value, 0) {
			return nil, api.Refuse(http.StatusBadRequest, "the query is not UTF-8 in %.80q", name)
		}
		switch name {
		case "limit":
			s.Limit, err = limitOf(value, largest)
		case "marker":
			s.Marker = value
		case "sort_key":
			order.Key, err = value, oneOf(name, value, sortKeys)
		case "sort_dir":
			err = oneOf(name, value, []string{"asc", "desc"})
		default:
			err = s.filter(name, value)
		}
		if err != nil {
			return nil, err
		}
	}
	order.Desc = params.Get("sort_dir") != "asc"
	if order.Key == "" && params.Has("sort_dir") {
		order.Key = "created_at"
	}
	if order.Key != "" {
		s.Sort = []registry.Order{order}
	}
	if caller.Is("admin") {
		err = s.forAdmin(params, caller)
	}
	return s, err
}

var sortKeys = []string{"name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"}

// oneOf checks a parameter against the words that it can be.
func oneOf(name, value string, words []string) error {
	if slices.Contains(words, value) {
		return nil
	}
	return badQuery(name, value, "one of "+strings.Join(words, ", "))
}

func badQuery(name, value, want string) error {
	return api.Refuse(http.StatusBadRequest, "parameter %s: %.80q is not %s", name, value, want)
}

func limitOf(value string, largest int) (int, error) {
	n, err := integer("limit", value)
	return int(min(n, int64(largest))), err
}

// integer reads a number of a query, which is not negative.
func integer(name, value string) (int64, error) {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return 0, badQuery(name, value, "a number")
	}
	return int64(n), nil
}

// filter adds the filter that a parameter is.
func (s *search) filter(name, value string) error {
	switch name {
	case "name", "container_format", "disk_format":
		s.match(name, value)
	case "status":
		if value == string(registry.Saving) {
			s.match(name, value, string(registry.Uploading), string(registry.Importing))
		} else {
			s.match(name, value)
		}
	case "size_min", "size_max", "min_ram", "min_disk":
		n, err := integer(name, value)
		if err != nil {
			return err
		}
		b := registry.Bound{Column: name, Min: &n, Max: &n}
		switch name {
		case "size_min":
			b = registry.Bound{Column: "size", Min: &n}
		case "size_max":
			b = registry.Bound{Column: "size", Max: &n}
		}
		s.Bounds = append(s.Bounds, b)
	case "protected":
		protected, err := boolean(name, value)
		s.Protected = &protected
		return err
	case "changes-since":
		t, ok := parseTime(value)
		if !ok {
			return badQuery(name, value, "a time like 2011-02-22T19:20:53Z")
		}
		s.Times = append(s.Times, registry.TimeBound{Column: "updated_at", Op: "gte", Time: t})
	default:
		if key, ok := strings.CutPrefix(name, "property-"); ok {
			if s.Properties == nil {
				s.Properties = map[string]string{}
			}
			s.Properties[key] = value
		}
	}
	return nil
}

func (s *search) match(column string, values ...string) {
	s.Match = append(s.Match, registry.Match{Column: column, Values: values})
}

// boolean reads a boolean of a query, which must be one.
func boolean(name, value string) (bool, error) {
	if truth(value) {
		return true, nil
	}
	return false, oneOf(name, strings.ToLower(value), []string{"false", "0", "off", "no", "f", "n"})
}

// parseTime reads a time; without a zone it is in UTC.
func parseTime(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			if t = t.UTC().Truncate(time.Second); t.Year() >= 1 && t.Year() <= 9999 {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

// forAdmin reads what only admins may ask for.
func (s *search) forAdmin(params url.Values, caller *registry.Caller) error {
	if params.Has("deleted") && !strings.EqualFold(params.Get("deleted"), "none") {
		deleted, err := boolean("deleted", params.Get("deleted"))
		if err != nil {
			return err
		}
		s.nothing = deleted
	}
	switch public := params.Get("is_public"); {
	case !params.Has("is_public") && caller.Project != "":
		s.Caller = &registry.Caller{Project: caller.Project, Roles: []string{"member"}}
	case !params.Has("is_public"):
		s.Visibility = registry.Public
	case strings.EqualFold(public, "none"):
		s.Visibility = registry.AllVisibilities
	default:
		yes, err := boolean("is_public", public)
		if err != nil {
			return err
		}
		if s.Visibility = registry.Public; !yes {
			s.Visibility, s.notPublic = registry.AllVisibilities, true
		}
	}
	return nil
}

// run returns a page of what was searched. page is how many images are looked at at
// a time.
func (s *search) run(ctx context.Context, images registry.Images, page int) ([]*registry.Image, error) {
	if s.nothing {
		return nil, nil
	}
	if !s.notPublic {
		return images.List(ctx, s.Query)
	}
	q := s.Query
	q.Limit = page
	var found []*registry.Image
	for len(found) < s.Limit {
		some, err := images.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, img := range some {
			if img.Visibility != registry.Public && len(found) < s.Limit {
				found = append(found, img)
			}
		}
		if len(some) < page {
			break
		}
		q.Marker = some[page-1].ID
	}
	return found, nil
}
