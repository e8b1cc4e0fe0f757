package api

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// registerMembers adds the calls about those with whom an image is shared.
func (a *API) registerMembers(image gin.IRoutes) {
	for _, m := range []string{http.MethodGet, http.MethodHead} {
		image.Handle(m, "/members", a.listMembers)
		image.Handle(m, "/members/:member", a.showMember)
	}
	image.POST("/members", a.addMember)
	image.PUT("/members/:member", a.setMember)
	image.DELETE("/members/:member", a.removeMember)
}

// listMembers answers GET of the members. A member sees itself alone.
func (a *API) listMembers(c *gin.Context) {
	r := c.Request
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	img, err := a.find(r.Context(), c.Param("id"), registry.Show)
	if err == nil {
		err = mayOnMembers(r.Context(), img, registry.ListMembers)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	caller := registry.CallerOf(r.Context())
	b := []byte(`{"members":[`)
	for i := range img.Members {
		if m := &img.Members[i]; caller.SeesMember(img, m.Project) {
			if b[len(b)-1] != '[' {
				b = append(b, ',')
			}
			b = appendMember(b, img, m)
		}
	}
	a.writeDocument(c, newDocument(append(b, `],"schema":"/v2/schemas/members"}`...)))
}

// showMember answers GET of a member. It never tells apart what is not there and what
// the caller may not see.
func (a *API) showMember(c *gin.Context) {
	r := c.Request
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	img, err := a.find(r.Context(), c.Param("id"), registry.Show)
	if err != nil {
		a.fail(c, err)
		return
	}
	m, err := memberOf(r.Context(), img, c.Param("member"))
	if err != nil {
		a.fail(c, errNoMember)
		return
	}
	a.writeDocument(c, newDocument(appendMember(nil, img, m)))
}

// addMember answers POST of a project that the image is shared with from now on. The
// status of the answer is 200: clients take no other.
func (a *API) addMember(c *gin.Context) {
	w, r := c.Writer, c.Request
	body, err := a.readBody(w, r)
	if err != nil {
		a.fail(c, err)
		return
	}
	project, err := parseMember(body, "member")
	if err != nil {
		a.fail(c, err)
		return
	}
	a.changeMember(c, project, func(img *registry.Image) error {
		if err := mayOnMembers(r.Context(), img, registry.ShareWith); err != nil {
			return err
		}
		return img.AddMember(registry.Member{Project: project})
	})
}

// setMember answers PUT of what a member says to the sharing.
func (a *API) setMember(c *gin.Context) {
	w, r, project := c.Writer, c.Request, c.Param("member")
	body, err := a.readBody(w, r)
	if err != nil {
		a.fail(c, err)
		return
	}
	status, err := parseMemberStatus(body)
	if err != nil {
		a.fail(c, err)
		return
	}
	a.changeMember(c, project, func(img *registry.Image) error {
		m, err := memberOf(r.Context(), img, project)
		if err != nil {
			return err
		}
		if err := mayOnMembers(r.Context(), img, registry.AnswerSharing); err != nil {
			return err
		}
		m.Status = status
		return nil
	})
}

// changeMember does a change of the image's members and answers with that of the
// project.
func (a *API) changeMember(c *gin.Context, project string, change func(*registry.Image) error) {
	r := c.Request
	img, err := a.images.Update(r.Context(), c.Param("id"), change)
	if err != nil {
		a.fail(c, err)
		return
	}
	m := img.Member(project)
	if m == nil { // no registry of ours loses it
		a.fail(c, errNoMember)
		return
	}
	c.Writer.Header().Set("Cache-Control", "no-store")
	writeJSON(c.Writer, r, http.StatusOK, appendMember(nil, img, m))
}

// removeMember answers DELETE of a member.
func (a *API) removeMember(c *gin.Context) {
	r, project := c.Request, c.Param("member")
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	_, err := a.images.Update(r.Context(), c.Param("id"), func(img *registry.Image) error {
		if _, err := memberOf(r.Context(), img, project); err != nil {
			return err
		}
		if err := mayOnMembers(r.Context(), img, registry.ShareWith); err != nil {
			return err
		}
		return img.RemoveMember(project)
	})
	if err != nil {
		a.fail(c, err)
		return
	}
	noContent(c.Writer)
}

// mayOnMembers reports whether the caller of ctx may do action, which is about
// members, with an image that has some.
func mayOnMembers(ctx context.Context, img *registry.Image, action registry.Action) error {
	caller := registry.CallerOf(ctx)
	if err := caller.May(registry.Show, img); err != nil {
		return err
	}
	if img.Visibility != registry.Shared {
		return refuse(http.StatusForbidden, "only shared images have members, and this one is %s", img.Visibility)
	}
	return caller.May(action, img)
}

var errNoMember = refuse(http.StatusNotFound, "the image is not shared with this project")

// memberOf returns the member of that project, if the caller of ctx sees it.
func memberOf(ctx context.Context, img *registry.Image, project string) (*registry.Member, error) {
	if err := mayOnMembers(ctx, img, registry.ListMembers); err != nil {
		return nil, err
	}
	m := img.Member(project)
	if m == nil || !registry.CallerOf(ctx).SeesMember(img, project) {
		return nil, errNoMember
	}
	return m, nil
}

// parseMember returns the string that a body has as its member of that name.
func parseMember(body []byte, name string) (string, error) {
	fields, err := decodeObject(body)
	if err != nil {
		return "", err
	}
	value, ok := decodeString(fields[name])
	if !ok || value == "" {
		return "", refuse(http.StatusBadRequest, "the body must have a member %q, a string that is not empty", name)
	}
	return value, nil
}

// parseMemberStatus reads {"status": ...}.
func parseMemberStatus(body []byte) (registry.MemberStatus, error) {
	word, err := parseMember(body, "status")
	if err != nil {
		return "", err
	}
	switch status := registry.MemberStatus(word); status {
	case registry.Pending, registry.Accepted, registry.Rejected:
		return status, nil
	}
	return "", refuse(http.StatusBadRequest, "%.80q is none of pending, accepted and rejected", word)
}

// appendMember appends the JSON form of a member.
func appendMember(b []byte, img *registry.Image, m *registry.Member) []byte {
	b = append(b, `{"member_id":`...)
	b = appendString(b, m.Project)
	b = append(b, `,"image_id":`...)
	b = appendString(b, img.ID)
	b = append(b, `,"status":`...)
	b = appendString(b, string(m.Status))
	b = append(b, `,"created_at":"`...)
	b = appendTime(b, m.CreatedAt)
	b = append(b, `","updated_at":"`...)
	b = appendTime(b, m.UpdatedAt)
	return append(b, `","schema":"/v2/schemas/member"}`...)
}
