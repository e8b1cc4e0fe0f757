package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"nearsight/registry"
)

// A View is the disk in an image, shown as an image of some format: a file that the
// server computes as it is read.
type View struct {
	// Name is raw, qcow2, vdi, vhd, vhd-fixed, vhdx, vmdk or vmdk-stream, or what a
	// later server knows besides.
	Name string `json:"name"`
	// Size is the length of the view in bytes.
	Size int64 `json:"size"`
	// URL is the path of the view on the server.
	URL string `json:"url"`
	// ETag is strong. It is that of the same bytes on every server that has the image.
	ETag string `json:"etag"`
}

// Views returns the views of the image id, sorted by name: none if the disk in it
// cannot be read. ErrConflict if the image has no data yet.
func (c *Client) Views(ctx context.Context, id string) ([]View, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var list struct {
		Views []View `json:"views"`
	}
	path := imagePath(id) + "/views"
	body, err := c.call(ctx, http.MethodGet, path, "", nil)
	switch {
	case err != nil:
		return nil, err
	case len(body) == 0:
		return nil, &Error{Status: http.StatusNoContent, Message: "the image has no data yet"}
	}
	err = decode(path, body, &list)
	return list.Views, err
}

// view returns a view of an image by its name.
func (c *Client) view(ctx context.Context, img *registry.Image, name string) (View, error) {
	views, err := c.Views(ctx, img.ID)
	if err != nil {
		return View{}, err
	}
	var names []string
	for _, v := range views {
		if v.Name == name {
			if v.Size < 0 || !strings.HasPrefix(v.ETag, `"`) {
				return View{}, fmt.Errorf("%w: view %s of image %s has %d bytes and the tag %.80q", errAnswer, name, img.ID, v.Size, v.ETag)
			}
			return v, nil
		}
		names = append(names, v.Name)
	}
	has := "none"
	if names != nil {
		has = strings.Join(names, ", ")
	}
	return View{}, fmt.Errorf("%w: image %s has no view %.40q; it has %s", registry.ErrNotFound, img.ID, name, has)
}
