package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"nearsight/registry"
)

// Edges returns the edges of the registry that were there within a day, by name. It is
// for admins.
func (c *Client) Edges(ctx context.Context) ([]registry.Edge, error) {
	var list struct {
		Edges []registry.Edge `json:"edges"`
	}
	if err := c.getJSON(ctx, "/nearsight/edges", &list); err != nil {
		return nil, err
	}
	return list.Edges, nil
}

// An EdgeOrder is something that the cache of an edge can be told to do.
type EdgeOrder string

// What each means CacheWarm, CachePin, CacheUnpin, CacheDrop and CacheScrub say.
const (
	EdgeWarm  EdgeOrder = "warm"
	EdgePin   EdgeOrder = "pin"
	EdgeUnpin EdgeOrder = "unpin"
	EdgeDrop  EdgeOrder = "drop"
	EdgeScrub EdgeOrder = "scrub"
)

// EdgeCache has an edge do something with the image id, of which "" means all for
// EdgeScrub alone, and returns its result as the edge gives it: null for an order
// without one. progress is as for CacheWarm. The work ends when ctx does.
func (c *Client) EdgeCache(ctx context.Context, edge string, order EdgeOrder, id string, progress func(done, total int64)) (json.RawMessage, error) {
	path := "/nearsight/edges/" + url.PathEscape(edge) + "/cache/" + string(order)
	if id != "" {
		if err := checkID(id); err != nil {
			return nil, err
		}
		path += "?image=" + id
	}
	req, err := c.request(ctx, http.MethodPost, path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	result, err := readWork(resp.Body, progress)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return result, err
}
