// Package v1test is a client of the Images API v1 and the Registry API, written from
// the documents of 2011 and for tests alone. It knows nothing of this module, so that
// the servers are held to the documents and not to themselves.
package v1test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// The errors of the client of 2011. They carry the server's body.
var (
	ErrInvalid       = errors.New("invalid")        // 400
	ErrNotAuthorized = errors.New("not authorized") // 401, 403
	ErrNotFound      = errors.New("not found")      // 404
	ErrDuplicate     = errors.New("duplicate")      // 409
	ErrServer        = errors.New("server error")   // all others
)

// A Client speaks to the image server at Base, as http://127.0.0.1:9292/v1; the first
// ones had no version there.
type Client struct {
	Base  string
	Token string
	HTTP  *http.Client // nil means http.DefaultClient
}

// A Meta is what is said of an image, in texts. Properties begin with "property-".
type Meta map[string]string

// do makes a request, whose body may be nil, and returns an answer that is no error.
func (c *Client) do(method, path string, h http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequest(method, c.Base+path, body)
	if err != nil {
		return nil, err
	}
	for name, values := range h {
		req.Header[name] = values
	}
	if c.Token != "" {
		req.Header.Set("X-Auth-Token", c.Token)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	kind := ErrServer
	switch resp.StatusCode {
	case 400:
		kind = ErrInvalid
	case 401, 403:
		kind = ErrNotAuthorized
	case 404:
		kind = ErrNotFound
	case 409:
		kind = ErrDuplicate
	}
	return nil, fmt.Errorf("%w: %s %s: %d: %s", kind, method, path, resp.StatusCode, text)
}

// object makes a request and returns the member of the JSON object that is answered.
func (c *Client) object(method, path, member string, h http.Header, body io.Reader) (any, error) {
	resp, err := c.do(method, path, h, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var object map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&object); err != nil {
		return nil, err
	}
	found, ok := object[member]
	if !ok {
		return nil, fmt.Errorf("%s %s: no member %s in %v", method, path, member, object)
	}
	return found, nil
}

func (c *Client) list(path, member string) ([]map[string]any, error) {
	found, err := c.object(http.MethodGet, path, member, nil, nil)
	if err != nil {
		return nil, err
	}
	var images []map[string]any
	for _, e := range found.([]any) {
		images = append(images, e.(map[string]any))
	}
	return images, nil
}

// GetImages returns the brief list; query may be "limit=2&...".
func (c *Client) GetImages(query string) ([]map[string]any, error) {
	return c.list("/images?"+query, "images")
}

// GetImagesDetailed returns the full list.
func (c *Client) GetImagesDetailed(query string) ([]map[string]any, error) {
	return c.list("/images/detail?"+query, "images")
}

// metaOf reads the header of an answer, as the documents spell it: with dashes.
func metaOf(h http.Header) Meta {
	m := Meta{}
	for name, values := range h {
		if rest, ok := strings.CutPrefix(strings.ToLower(name), "x-image-meta-"); ok {
			m[strings.ReplaceAll(rest, "_", "-")] = values[0]
		}
	}
	return m
}

// GetImage returns what is said of an image, and its data.
func (c *Client) GetImage(id string) (Meta, []byte, error) {
	resp, err := c.do(http.MethodGet, "/images/"+id, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return metaOf(resp.Header), data, err
}

// GetImageMeta returns what is said of an image.
func (c *Client) GetImageMeta(id string) (Meta, error) {
	resp, err := c.do(http.MethodHead, "/images/"+id, nil, nil)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return metaOf(resp.Header), nil
}

func headerOf(meta Meta, data io.Reader) http.Header {
	h := http.Header{}
	for name, value := range meta {
		h.Set("x-image-meta-"+name, value)
	}
	if data != nil {
		h.Set("Content-Type", "application/octet-stream")
	}
	return h
}

// AddImage registers an image, with its data unless that is nil. A reader that is not
// one of bytes is sent in chunks.
func (c *Client) AddImage(meta Meta, data io.Reader) (map[string]any, error) {
	image, err := c.object(http.MethodPost, "/images", "image", headerOf(meta, data), data)
	if err != nil {
		return nil, err
	}
	return image.(map[string]any), nil
}

// UpdateImage changes an image, and brings its data unless that is nil.
func (c *Client) UpdateImage(id string, meta Meta, data io.Reader) (map[string]any, error) {
	image, err := c.object(http.MethodPut, "/images/"+id, "image", headerOf(meta, data), data)
	if err != nil {
		return nil, err
	}
	return image.(map[string]any), nil
}

// DeleteImage deletes an image.
func (c *Client) DeleteImage(id string) error { return c.plain(http.MethodDelete, "/images/"+id, "") }

// plain makes a request whose answer has nothing to read.
func (c *Client) plain(method, path, body string) error {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	resp, err := c.do(method, path, nil, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && len(text) > 0 {
		return fmt.Errorf("%s %s: the answer has a body: %s", method, path, text)
	}
	return err
}

// GetImageMembers returns the members of an image.
func (c *Client) GetImageMembers(id string) ([]map[string]any, error) {
	return c.list("/images/"+id+"/members", "members")
}

// GetMemberImages returns the images that a member may use.
func (c *Client) GetMemberImages(member string) ([]map[string]any, error) {
	return c.list("/shared-images/"+url.PathEscape(member), "shared_images")
}

// AddMember adds a member or changes it; body is a JSON document or "".
func (c *Client) AddMember(id, member, body string) error {
	return c.plain(http.MethodPut, "/images/"+id+"/members/"+url.PathEscape(member), body)
}

// ReplaceMembers replaces the members by those of a JSON document.
func (c *Client) ReplaceMembers(id, body string) error {
	return c.plain(http.MethodPut, "/images/"+id+"/members", body)
}

// DeleteMember removes a member.
func (c *Client) DeleteMember(id, member string) error {
	return c.plain(http.MethodDelete, "/images/"+id+"/members/"+url.PathEscape(member), "")
}

// A RegistryClient speaks to the registry server at Base, as http://127.0.0.1:9191.
type RegistryClient struct{ Client }

// GetImage returns the record of an image.
func (c *RegistryClient) GetImage(id string) (map[string]any, error) {
	return c.send(http.MethodGet, "/images/"+id, nil, false)
}

// AddImage adds a record.
func (c *RegistryClient) AddImage(image map[string]any) (map[string]any, error) {
	return c.send(http.MethodPost, "/images", image, false)
}

// UpdateImage changes a record. With purge the properties that are not named go.
func (c *RegistryClient) UpdateImage(id string, image map[string]any, purge bool) (map[string]any, error) {
	return c.send(http.MethodPut, "/images/"+id, image, purge)
}

func (c *RegistryClient) send(method, path string, image map[string]any, purge bool) (map[string]any, error) {
	var body io.Reader
	h := http.Header{}
	if image != nil {
		text, err := json.Marshal(map[string]any{"image": image})
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
		h.Set("Content-Type", "application/json")
	}
	if purge {
		h.Set("X-Glance-Registry-Purge-Props", "True")
	}
	found, err := c.object(method, path, "image", h, body)
	if err != nil {
		return nil, err
	}
	return found.(map[string]any), nil
}
