package api

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	// maxWait bounds how long a node may wait for news. Most proxies leave a
	// connection alone for so long.
	maxWait = 30 * time.Second

	defaultWaiters     = 4096
	defaultWaitersEach = 256
)

// A nodeEvent is a registry.Event in JSON.
type nodeEvent struct {
	Revision int64              `json:"revision"`
	ImageID  string             `json:"image"`
	Kind     registry.EventKind `json:"kind"`
	Digest   origin.Digest      `json:"digest"`
	At       time.Time          `json:"at"`
}

// showEvents answers GET of what happened after a revision.
func (a *API) showEvents(c *gin.Context) error {
	w, r := c.Writer, c.Request
	if hasBody(r) {
		return errUnwantedBody
	}
	after, wait, err := parseEvents(r.URL.RawQuery)
	if err != nil {
		return err
	}
	var n news
	if after < 0 {
		n.proved = true
		n.revision, err = a.nodes.feed.prove(r.Context(), time.Now())
	} else {
		leave, ok := a.nodes.waiters.enter(r.RemoteAddr, wait)
		if !ok {
			w.Header().Set("Retry-After", "1")
			return refuse(http.StatusServiceUnavailable, "too many wait for events already")
		}
		defer leave()
		n, err = a.nodes.feed.next(r.Context(), after, wait)
	}
	if errors.Is(err, registry.ErrTooOld) {
		return refuse(http.StatusGone, "events after revision %d are not kept any more", after)
	}
	if err != nil {
		return err
	}
	w.Header().Set(RevisionHeader, strconv.FormatInt(n.revision, 10))
	events := make([]nodeEvent, len(n.events))
	for i, e := range n.events {
		events[i] = nodeEvent(e)
	}
	WriteJSON(w, r, http.StatusOK, struct {
		Revision int64       `json:"revision"`
		Proved   bool        `json:"proved"`
		Events   []nodeEvent `json:"events"`
	}{n.revision, n.proved, events})
	return nil
}

// parseEvents reads the parameters of a question for events. after is -1 if it is not
// given.
func parseEvents(query string) (after int64, wait time.Duration, err error) {
	params, err := url.ParseQuery(query)
	if err != nil {
		return 0, 0, refuse(http.StatusBadRequest, "the query is malformed")
	}
	after = -1
	for name, values := range params {
		if len(values) != 1 {
			return 0, 0, refuse(http.StatusBadRequest, "there are several %.80q", name)
		}
		value := values[0]
		switch name {
		case "after":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil {
				return 0, 0, refuse(http.StatusBadRequest, "after %.80q is no revision", value)
			}
			after = int64(n)
		case "wait":
			wait, err = time.ParseDuration(value)
			if err != nil || wait < 0 || wait > maxWait {
				return 0, 0, refuse(http.StatusBadRequest, "wait %.80q is not a time from 0s to %v", value, maxWait)
			}
		default:
			return 0, 0, refuse(http.StatusBadRequest, "there is no parameter %.80q", name)
		}
	}
	return after, wait, nil
}

// waiters counts the requests that wait for news, by the address that they come from:
// all nodes have the same name.
type waiters struct {
	max, maxEach int

	mu   sync.Mutex
	all  int
	each map[string]int
}

func newWaiters(limit, each int) waiters {
	if limit <= 0 {
		limit = defaultWaiters
	}
	if each <= 0 {
		each = defaultWaitersEach
	}
	return waiters{max: limit, maxEach: each, each: map[string]int{}}
}

// enter counts a request from an address with a port that waits, unless there are
// enough. leave must be called when it waits no more.
func (l *waiters) enter(remote string, wait time.Duration) (leave func(), ok bool) {
	if wait <= 0 {
		return func() {}, true
	}
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.max || l.each[host] >= l.maxEach {
		return nil, false
	}
	l.all++
	l.each[host]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all--
		if l.each[host]--; l.each[host] == 0 {
			delete(l.each, host)
		}
	}, true
}
