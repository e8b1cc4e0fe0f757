package v1

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/api"
)

// A memberDocument is a member as an image's list shows it, and a sharedDocument an
// image in a member's list.
type (
	memberDocument struct {
		MemberID string `json:"member_id"`
		CanShare bool   `json:"can_share"`
	}
	sharedDocument struct {
		ImageID  string `json:"image_id"`
		CanShare bool   `json:"can_share"`
	}
)

// members answers GET of the members of an image.
func (v *API) members(c *gin.Context) {
	img, err := v.find(c.Request.Context(), c.Param("id"), registry.ListMembers)
	if err = named(c.Request, err); err != nil {
		v.api.Fail(c, err)
		return
	}
	caller := registry.CallerOf(c.Request.Context())
	list := []memberDocument{}
	if img.Visibility == registry.Shared {
		for _, m := range img.Members {
			// A member learns of no other.
			if caller.Is("admin") || caller.Owns(img) || m.Project == caller.Project {
				list = append(list, memberDocument{m.Project, m.CanShare})
			}
		}
	}
	writePrivate(c, map[string]any{"members": list})
}

// named makes a 401 of a refusal of those who named themselves by nothing.
func named(r *http.Request, err error) error {
	if err != nil && registry.CallerOf(r.Context()).Stranger {
		return api.Refuse(http.StatusUnauthorized, "this is for those who say who they are: send a token as X-Auth-Token")
	}
	return err
}

// shared answers GET of the images that are shared with a project, for that project
// and for admins.
func (v *API) shared(c *gin.Context) {
	list, err := v.sharedWith(c.Request.Context(), c.Param("member"))
	if err = named(c.Request, err); err != nil {
		v.api.Fail(c, err)
		return
	}
	writePrivate(c, map[string]any{"shared_images": list})
}

func (v *API) sharedWith(ctx context.Context, project string) ([]sharedDocument, error) {
	caller := registry.CallerOf(ctx)
	if !caller.Is("admin") && (project != caller.Project || !caller.Is("reader")) {
		return nil, api.Refuse(http.StatusForbidden, "you may not see what is shared with another project")
	}
	_, page := v.api.PageLimits()
	q := registry.Query{
		Caller:     &registry.Caller{Project: project, Roles: []string{"member"}},
		Visibility: registry.Shared, MemberStatus: registry.AllMemberStatuses, Limit: page,
	}
	list := []sharedDocument{}
	for {
		images, err := v.images.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, img := range images {
			if m := img.Member(project); m != nil {
				list = append(list, sharedDocument{img.ID, m.CanShare})
			}
		}
		if len(images) < page {
			return list, nil
		}
		q.Marker = images[page-1].ID
	}
}

// putMember answers PUT of one member: it is added, or may share from now on or not.
func (v *API) putMember(c *gin.Context) {
	canShare, err := v.readCanShare(c.Writer, c.Request)
	if err == nil {
		err = v.share(c.Request, c.Param("id"), func(img *registry.Image) error {
			return put(img, c.Param("member"), canShare)
		})
	}
	v.answerMembers(c, err)
}

// put adds a member, or changes it if canShare says so.
func put(img *registry.Image, project string, canShare *bool) error {
	m := img.Member(project)
	if m == nil {
		if err := img.AddMember(registry.Member{Project: project}); err != nil {
			return err
		}
		m = img.Member(project)
	}
	if canShare != nil {
		m.CanShare = *canShare
	}
	return nil
}

// replaceMembers answers PUT of all members. Those that stay keep what they said.
func (v *API) replaceMembers(c *gin.Context) {
	memberships, err := v.readMemberships(c.Writer, c.Request)
	if err == nil {
		err = v.share(c.Request, c.Param("id"), func(img *registry.Image) error {
			old := img.Members
			img.Members = nil
			for _, m := range memberships {
				status := registry.Pending
				for _, o := range old {
					if o.Project == m.project {
						status = o.Status
					}
				}
				if err := img.AddMember(registry.Member{Project: m.project, Status: status, CanShare: m.canShare}); err != nil {
					return api.Refuse(http.StatusBadRequest, "member %.80q is named twice", m.project)
				}
			}
			return nil
		})
	}
	v.answerMembers(c, err)
}

// deleteMember answers DELETE of one member.
func (v *API) deleteMember(c *gin.Context) {
	err := api.RefuseBody(c.Request)
	if err == nil {
		err = v.share(c.Request, c.Param("id"), func(img *registry.Image) error {
			return img.RemoveMember(c.Param("member"))
		})
	}
	v.answerMembers(c, err)
}

func (v *API) answerMembers(c *gin.Context, err error) {
	if err = named(c.Request, err); err != nil {
		v.api.Fail(c, err)
		return
	}
	noStore(c.Writer)
	api.WriteEmpty(c.Writer, http.StatusNoContent)
}

// share changes the members of an image that can have any.
func (v *API) share(r *http.Request, id string, change func(*registry.Image) error) error {
	caller := registry.CallerOf(r.Context())
	_, err := v.images.Update(r.Context(), id, func(img *registry.Image) error {
		if err := caller.May(registry.ShareWith, img); err != nil {
			return err
		}
		if img.Visibility != registry.Shared {
			return api.Refuse(http.StatusForbidden, "the image is %s, and so shared with nobody in particular", img.Visibility)
		}
		return change(img)
	})
	return err
}

// A membership is one that a client wants.
type membership struct {
	project  string
	canShare bool
}

// readCanShare reads {"member": {"can_share": BOOL}}, which may be missing.
func (v *API) readCanShare(w http.ResponseWriter, r *http.Request) (*bool, error) {
	if r.ContentLength == 0 {
		return nil, nil
	}
	body, err := v.api.ReadObject(w, r)
	if err != nil {
		return nil, err
	}
	var m struct {
		CanShare *bool `json:"can_share"`
	}
	if raw, ok := body["member"]; ok && json.Unmarshal(raw, &m) != nil {
		return nil, api.Refuse(http.StatusBadRequest, `a member is like {"member": {"can_share": true}}`)
	}
	return m.CanShare, nil
}

// readMemberships reads {"memberships": [{"member_id": ..., "can_share": BOOL}]}.
func (v *API) readMemberships(w http.ResponseWriter, r *http.Request) ([]membership, error) {
	body, err := v.api.ReadObject(w, r)
	if err != nil {
		return nil, err
	}
	var list []struct {
		MemberID string `json:"member_id"`
		CanShare bool   `json:"can_share"`
	}
	if json.Unmarshal(body["memberships"], &list) != nil || list == nil {
		return nil, api.Refuse(http.StatusBadRequest, `members are like {"memberships": [{"member_id": "...", "can_share": false}]}`)
	}
	wanted := make([]membership, 0, len(list))
	for _, m := range list {
		if strings.TrimSpace(m.MemberID) == "" {
			return nil, api.Refuse(http.StatusBadRequest, "a membership needs a member_id")
		}
		wanted = append(wanted, membership{m.MemberID, m.CanShare})
	}
	return wanted, nil
}
