package client

import (
	"context"
	"net/http"
)

// Deactivate keeps the data of the image id from being downloaded by anybody but
// admins. It is no error if it is deactivated already; ErrForbidden if the image is
// not active, or not the caller's.
func (c *Client) Deactivate(ctx context.Context, id string) error {
	return c.act(ctx, id, "deactivate")
}

// Reactivate undoes Deactivate. It is no error if the image is active.
func (c *Client) Reactivate(ctx context.Context, id string) error {
	return c.act(ctx, id, "reactivate")
}

func (c *Client) act(ctx context.Context, id, action string) error {
	if err := checkID(id); err != nil {
		return err
	}
	_, err := c.exchange(ctx, message{method: http.MethodPost, path: imagePath(id) + "/actions/" + action, harmless: true})
	return err
}
