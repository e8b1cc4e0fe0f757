package client

import (
	"context"
	"encoding/json"
	"net/http"
)

// A V1Member is a project that an image is shared with.
type V1Member struct {
	Project  string `json:"member_id"`
	CanShare bool   `json:"can_share"` // it may share the image with others
}

// A V1Shared is an image that is shared with a project.
type V1Shared struct {
	ImageID  string `json:"image_id"`
	CanShare bool   `json:"can_share"`
}

// Members returns the projects that an image is shared with.
func (v *V1) Members(ctx context.Context, id string) ([]V1Member, error) {
	path, err := v1Path(v1Images, id)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Members []V1Member `json:"members"`
	}
	err = v.c.getJSON(ctx, path+"/members", &doc)
	return doc.Members, err
}

// MemberImages returns the images that are shared with a project.
func (v *V1) MemberImages(ctx context.Context, project string) ([]V1Shared, error) {
	name, err := segment("project", project)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Shared []V1Shared `json:"shared_images"`
	}
	err = v.c.getJSON(ctx, "/v1/shared-images/"+name, &doc)
	return doc.Shared, err
}

// ReplaceMembers shares an image with these projects, and with no other.
func (v *V1) ReplaceMembers(ctx context.Context, id string, members []V1Member) error {
	path, err := v1Path(v1Images, id)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(map[string][]V1Member{"memberships": append([]V1Member{}, members...)})
	if err != nil {
		return err
	}
	_, err = v.c.call(ctx, http.MethodPut, path+"/members", "application/json", doc)
	return err
}

// AddMember shares an image with a project, or changes how it does.
func (v *V1) AddMember(ctx context.Context, id string, m V1Member) error {
	path, err := v1MemberPath(id, m.Project)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(map[string]map[string]bool{"member": {"can_share": m.CanShare}})
	if err != nil {
		return err
	}
	_, err = v.c.call(ctx, http.MethodPut, path, "application/json", doc)
	return err
}

// DeleteMember shares an image with a project no more. ErrNotFound if it was not
// shared with it.
func (v *V1) DeleteMember(ctx context.Context, id, project string) error {
	path, err := v1MemberPath(id, project)
	if err != nil {
		return err
	}
	_, err = v.c.call(ctx, http.MethodDelete, path, "", nil)
	return err
}

func v1MemberPath(id, project string) (string, error) {
	path, err := v1Path(v1Images, id)
	if err != nil {
		return "", err
	}
	name, err := segment("project", project)
	return path + "/members/" + name, err
}
