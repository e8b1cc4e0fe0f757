package main

import (
	"fmt"
	"sync"
	"time"
)

// A history is all that is known of one image: the states that changes gave it, in
// order, of which no two were asked for at a time.
type history struct {
	id   string
	data []byte

	mu       sync.Mutex
	versions []version
}

// A version is the state of an image after a change. The last change may be one whose
// fate nobody was told: it may have happened at any time after it began, or never.
type version struct {
	state
	change string
	began  time.Time // the request
	acked  time.Time // when it was answered; zero: it never was
}

// A state is what the answers about an image depend on.
type state struct {
	n                      int // counts the changes of the property n
	public, shared, member bool
	deactivated, deleted   bool
}

// callers of the partition tests, and what they ask for.
const (
	asOwner, asOther   = "owner", "other" // of another project
	theRecord, theData = "record", "data"
)

// An observation is an answer about an image.
type observation struct {
	node, client, caller, what string
	began, ended               time.Time

	status int  // 0: there was none, or it broke off
	n      int  // of a record
	stale  bool // the answer says that it could not be proved
	wrong  bool // data: other bytes came than were stored
}

// silent reports whether the answer says nothing about the image: the server was in
// trouble.
func (o *observation) silent() bool { return o.status == 0 || o.status >= 500 }

func (o *observation) String() string {
	return fmt.Sprintf("%s at %s asks for the %s: status %d, n %d, stale %v, wrong bytes %v", o.client, o.node, o.what, o.status, o.n, o.stale, o.wrong)
}

// shows reports whether the observation is what an image in this state looks like.
func (s *state) shows(o *observation) bool {
	want := 200
	switch {
	case s.deleted, o.caller == asOther && !s.public && !(s.shared && s.member):
		want = 404
	case s.deactivated && o.what == theData:
		want = 403
	}
	if o.status == 206 {
		o.status = 200
	}
	return o.status == want && (want != 200 || o.what == theData && !o.wrong || o.what == theRecord && o.n == s.n)
}

// A promise is how old answers may be.
type promise struct {
	// max is for how long after a change was acknowledged an answer may be the one from
	// before it; unprovedPublic and unproved if the answer says that it could not be
	// proved, for images that were public and for others.
	max, unprovedPublic, unproved time.Duration
}

// bound returns how long an answer that a state explains may outlive it.
func (p *promise) bound(s *state, o *observation) time.Duration {
	switch {
	case !o.stale:
		return p.max
	case s.public:
		return max(p.max, p.unprovedPublic)
	}
	return max(p.max, p.unproved)
}

// explain returns the earliest version, from one on, that explains the answer within
// the promise: a client that saw a version may see no earlier one. Or it says what is
// wrong.
func (h *history) explain(o *observation, from int, p promise) (version int, wrong string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	backwards, old, future := -1, -1, -1
	for k := range h.versions {
		v := &h.versions[k]
		if !v.shows(o) {
			continue
		}
		switch over := h.overtaken(k); {
		case v.began.After(o.ended):
			future = k
		case !over.IsZero() && over.Add(p.bound(&v.state, o)).Before(o.began):
			old = k
		case k < from:
			backwards = k
		default:
			return k, ""
		}
	}
	switch {
	case backwards >= 0:
		wrong = fmt.Sprintf("it goes back to version %d from %d", backwards, from)
	case old >= 0:
		wrong = fmt.Sprintf("it is version %d, and another was acknowledged %v before", old, o.began.Sub(h.overtaken(old)).Round(time.Millisecond))
	case future >= 0:
		wrong = "nobody had made it so yet"
	default:
		wrong = "the image never was like that"
	}
	return from, fmt.Sprintf("image %s: %v: %s\n%s", h.id, o, wrong, h.tell(o.began))
}

// overtaken returns when a change after version k was acknowledged first, zero if none
// was. The caller holds mu.
func (h *history) overtaken(k int) time.Time {
	if k+1 < len(h.versions) {
		return h.versions[k+1].acked
	}
	return time.Time{}
}

// tell lists the versions, with times relative to t. The caller holds mu.
func (h *history) tell(t time.Time) string {
	var text string
	for k, v := range h.versions {
		acked := "never acknowledged"
		if !v.acked.IsZero() {
			acked = "acknowledged " + v.acked.Sub(t).Round(time.Millisecond).String()
		}
		text += fmt.Sprintf("\t%d: %s, begun %v, %s: %+v\n", k, v.change, v.began.Sub(t).Round(time.Millisecond), acked, v.state)
	}
	return text
}

// begin adds the version that a change is about to make. The one before must be known.
func (h *history) begin(change string, s state) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.versions = append(h.versions, version{state: s, change: change, began: time.Now()})
}

// ack notes that the last change was answered, and returns its version.
func (h *history) ack() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.versions[len(h.versions)-1].acked = time.Now()
	return len(h.versions) - 1
}

// undo takes the last change back: it was never sent.
func (h *history) undo() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.versions = h.versions[:len(h.versions)-1]
}

// latest returns the last state, and whether it is known to be in force.
func (h *history) latest() (s state, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := &h.versions[len(h.versions)-1]
	return v.state, !v.acked.IsZero()
}

// acknowledged returns the last version that was acknowledged.
func (h *history) acknowledged() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := len(h.versions) - 1
	for h.versions[k].acked.IsZero() {
		k--
	}
	return k
}

// A view is what one client has seen at one node: it may not see earlier versions of
// an image any more.
type view map[*history]int

// look checks an answer, and returns what is wrong with it.
func (w view) look(h *history, o *observation, p promise) string {
	if o.silent() {
		return ""
	}
	v, wrong := h.explain(o, w[h], p)
	if wrong == "" {
		w[h] = v
	}
	return wrong
}
