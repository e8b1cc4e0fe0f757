package client

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// A SignedURL is one with which anybody may read the data of an image, without a
// token, until Expires.
type SignedURL struct {
	URL    string `json:"url"`
	Image  string `json:"image"`
	Method string `json:"method"` // GET, which allows HEAD too, or HEAD
	// NotBefore is nil if the URL is good at once. Times are in UTC, by the clock of
	// the server.
	NotBefore *time.Time `json:"not_before,omitempty"`
	Expires   time.Time  `json:"expires_at"`
}

// SignOptions say what a signed URL is good for.
type SignOptions struct {
	// Method is GET, which allows HEAD too, or HEAD; "" means GET.
	Method string
	// Life is how long it is good for, in whole seconds; 0 means an hour. Servers
	// bound it by a week.
	Life time.Duration
	// NotBefore is from when on; zero means at once.
	NotBefore time.Time
}

// Sign has the server make a signed URL for the data of the image id. ErrForbidden if
// the caller may not have the data, or the server makes none; ErrConflict if there is
// no data yet. The URL stays good if the caller loses its right, and ends when the
// image is deleted or deactivated.
func (c *Client) Sign(ctx context.Context, id string, opt SignOptions) (SignedURL, error) {
	if err := checkID(id); err != nil {
		return SignedURL{}, err
	}
	wish := struct {
		Image     string     `json:"image"`
		Method    string     `json:"method,omitempty"`
		Seconds   int64      `json:"expires_in,omitempty"`
		NotBefore *time.Time `json:"not_before,omitempty"`
	}{Image: id, Method: opt.Method, Seconds: int64(opt.Life / time.Second)}
	if !opt.NotBefore.IsZero() {
		t := opt.NotBefore.UTC()
		wish.NotBefore = &t
	}
	text, err := json.Marshal(wish)
	if err != nil {
		return SignedURL{}, err
	}
	const path = "/nearsight/signed-urls"
	a, err := c.exchange(ctx, message{method: http.MethodPost, path: path, contentType: "application/json", body: text, harmless: true})
	if err != nil {
		return SignedURL{}, err
	}
	var s SignedURL
	return s, decode(path, a.body, &s)
}
