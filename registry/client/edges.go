package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"nearsight/registry"
)

// Edges returns the edges of the registry that were there within a day, by name. It is
// for admins.
func (c *Client) Edges(ctx context.Context) ([]registry.Edge, error) {
	var list struct {
		Edges []struct {
			Name      string    `json:"name"`
			URL       string    `json:"url"`
			Version   string    `json:"version"`
			StartedAt time.Time `json:"started_at"`
			SeenAt    time.Time `json:"seen_at"`
			Revision  int64     `json:"revision"`
			Heard     bool      `json:"heard"`
			Budget    int64     `json:"budget"`
			Used      int64     `json:"used"`
			Images    int       `json:"images"`
			Hits      int64     `json:"hits"`
			Misses    int64     `json:"misses"`
		} `json:"edges"`
	}
	if err := c.getJSON(ctx, "/nearsight/edges", &list); err != nil {
		return nil, err
	}
	edges := make([]registry.Edge, 0, len(list.Edges))
	for _, e := range list.Edges {
		edges = append(edges, registry.Edge(e))
	}
	return edges, nil
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
