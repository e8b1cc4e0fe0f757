package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// A client speaks the Images API with one server at a time.
type client struct{ http *http.Client }

func newClient() *client {
	return &client{&http.Client{
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		Timeout:   30 * time.Second,
	}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// do sends a request, and returns what is answered.
func (c *client) do(ctx context.Context, token, method, url, kind, body string) (status int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	req.Header.Set("X-Auth-Token", token)
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// must is do for what must be good.
func (c *client) must(ctx context.Context, token, method, url, kind, body string) (string, error) {
	status, text, err := c.do(ctx, token, method, url, kind, body)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("%s %s: status %d: %.200s", method, url, status, text)
	}
	return text, err
}

// create makes an image, with some bytes of data, that is shared with the other
// project; without data it stays queued.
func (c *client) create(ctx context.Context, s *site, central, data string) (id string, err error) {
	const record = `{"name":"measured","n":"0","disk_format":"raw","container_format":"bare","visibility":"shared"}`
	text, err := c.must(ctx, s.owner, http.MethodPost, central+"/v2/images", "application/json", record)
	if err != nil {
		return "", err
	}
	var img struct{ ID string }
	if err := json.Unmarshal([]byte(text), &img); err != nil || data == "" {
		return img.ID, err
	}
	at := central + "/v2/images/" + img.ID
	if _, err := c.must(ctx, s.owner, http.MethodPut, at+"/file", "application/octet-stream", data); err != nil {
		return "", err
	}
	_, err = c.must(ctx, s.owner, http.MethodPost, at+"/members", "application/json", `{"member":"other"}`)
	return img.ID, err
}
