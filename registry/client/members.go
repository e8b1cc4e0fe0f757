package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"nearsight/registry"
)

// wireMember is the JSON form of a member.
type wireMember struct {
	Project   string                `json:"member_id"`
	Status    registry.MemberStatus `json:"status"`
	CreatedAt time.Time             `json:"created_at"`
	UpdatedAt time.Time             `json:"updated_at"`
}

func (w wireMember) member() registry.Member {
	return registry.Member{Project: w.Project, Status: w.Status, CreatedAt: w.CreatedAt, UpdatedAt: w.UpdatedAt}
}

// Members returns the projects that the image id is shared with. A project that is
// one of them sees itself alone. ErrForbidden if the image's visibility is not
// shared.
func (c *Client) Members(ctx context.Context, id string) ([]registry.Member, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var list struct {
		Members []wireMember `json:"members"`
	}
	if err := c.getJSON(ctx, imagePath(id)+"/members", &list); err != nil {
		return nil, err
	}
	members := make([]registry.Member, 0, len(list.Members))
	for _, w := range list.Members {
		members = append(members, w.member())
	}
	return members, nil
}

// Member returns one of the projects that the image id is shared with. ErrNotFound
// if it is none, or may not be seen.
func (c *Client) Member(ctx context.Context, id, project string) (registry.Member, error) {
	return c.member(ctx, http.MethodGet, id, project, nil)
}

// AddMember shares the image id with a project, which has it in its lists when it
// accepts (SetMember). ErrConflict if it is shared with it already; ErrForbidden if
// the image is not the caller's or its visibility is not shared; ErrTooLarge if
// there are too many.
func (c *Client) AddMember(ctx context.Context, id, project string) (registry.Member, error) {
	if err := checkID(id); err != nil {
		return registry.Member{}, err
	}
	doc, err := json.Marshal(map[string]string{"member": project})
	if err != nil {
		return registry.Member{}, err
	}
	return readMember(c.call(ctx, http.MethodPost, imagePath(id)+"/members", "application/json", doc))
}

// SetMember says for a project what it says to being shared the image id with.
// ErrForbidden for the image's owner, whose word it is not.
func (c *Client) SetMember(ctx context.Context, id, project string, status registry.MemberStatus) (registry.Member, error) {
	doc, err := json.Marshal(map[string]registry.MemberStatus{"status": status})
	if err != nil {
		return registry.Member{}, err
	}
	return c.member(ctx, http.MethodPut, id, project, doc)
}

// RemoveMember shares the image id with a project no more. ErrNotFound if it was
// not shared with it.
func (c *Client) RemoveMember(ctx context.Context, id, project string) error {
	path, err := memberPath(id, project)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodDelete, path, "", nil)
	return err
}

func (c *Client) member(ctx context.Context, method, id, project string, doc []byte) (registry.Member, error) {
	path, err := memberPath(id, project)
	if err != nil {
		return registry.Member{}, err
	}
	contentType := ""
	if doc != nil {
		contentType = "application/json"
	}
	return readMember(c.call(ctx, method, path, contentType, doc))
}

func memberPath(id, project string) (string, error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	name, err := segment("project", project)
	return imagePath(id) + "/members/" + name, err
}

// segment returns a name as one segment of a path. Of . and .. a client or proxy on
// the way would make something else.
func segment(what, name string) (string, error) {
	if name == "" || name == "." || name == ".." {
		return "", fmt.Errorf("%w: %q is the name of no %s", registry.ErrInvalid, name, what)
	}
	return url.PathEscape(name), nil
}

func readMember(body []byte, err error) (registry.Member, error) {
	if err != nil {
		return registry.Member{}, err
	}
	var w wireMember
	if err := json.Unmarshal(body, &w); err != nil {
		return registry.Member{}, fmt.Errorf("%w: member: %w", errAnswer, err)
	}
	if w.Project == "" {
		return registry.Member{}, fmt.Errorf("%w: a member without a project", errAnswer)
	}
	return w.member(), nil
}
