package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A load is what clients do to a site, and what is wrong with the answers.
type load struct {
	site *partitionSite
	seed uint64
	done chan struct{} // closed when clients shall stop
	wg   sync.WaitGroup

	mu       sync.Mutex
	images   []*history
	wrong    []string
	answers  int // about images
	unproved int // of them
	changes  int // acknowledged
}

// maxWrong bounds what is reported.
const maxWrong = 5

// complain notes that something is wrong.
func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) < maxWrong {
		l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	}
}

// start starts clients: readers of two projects at each node, and writers.
func (l *load) start() {
	for i := range 4 {
		l.wg.Go(func() { l.write(rand.New(rand.NewPCG(l.seed, uint64(i)))) })
	}
	for i, n := range l.site.nodes {
		for j, caller := range []string{asOwner, asOther} {
			l.wg.Go(func() { l.read(rand.New(rand.NewPCG(l.seed, uint64(100+2*i+j))), n, caller) })
		}
	}
}

// warm waits until there is something that can be lost.
func (l *load) warm(t *testing.T) {
	becomesTrue(t, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.images) < 12 || l.changes < 12 {
			return fmt.Errorf("there are %d images and %d changes", len(l.images), l.changes)
		}
		return nil
	})
}

// stop ends what start started.
func (l *load) stop() {
	close(l.done)
	l.wg.Wait()
}

// rest waits as a client does before it goes on, and reports whether it should.
func (l *load) rest(d time.Duration) bool {
	select {
	case <-l.done:
		return false
	case <-time.After(d):
		return true
	}
}

// A partitionClient is one that sends one request after the other.
type partitionClient struct {
	name string
	http *http.Client
}

func newPartitionClient(name string) *partitionClient {
	return &partitionClient{name, &http.Client{
		Transport: &http.Transport{DisableCompression: true},
		Timeout:   8 * time.Second, // then nobody knows
	}}
}

func (c *partitionClient) close() { c.http.CloseIdleConnections() }

// send sends a request to a node, and returns the answer's body as far as it came.
func (c *partitionClient) send(n *testNode, token, method, path, kind string, body []byte, header ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequest(method, "http://"+n.listen()+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	req.Header.Set("X-Auth-Token", token)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, text, err
}

// observe asks a node for something of an image.
func (l *load) observe(c *partitionClient, n *testNode, caller, what string, h *history, r *rand.Rand) *observation {
	o := &observation{node: n.name, client: c.name, caller: caller, what: what, began: time.Now()}
	path, want := "/v2/images/"+h.id, h.data
	var header []string
	if what == theData {
		path += "/file"
		if r.IntN(2) == 0 {
			from := r.IntN(len(h.data))
			want = h.data[from:min(len(h.data), from+1+r.IntN(100<<10))]
			header = []string{"Range", fmt.Sprintf("bytes=%d-%d", from, from+len(want)-1)}
		}
	}
	resp, text, err := c.send(n, l.site.tokens[caller], http.MethodGet, path, "", nil, header...)
	o.ended = time.Now()
	if resp == nil {
		return o
	}
	o.status = resp.StatusCode
	o.stale = strings.Contains(strings.Join(resp.Header["Cache-Status"], ","), "stale-if-error")
	if good := o.status/100 == 2; good && what == theData {
		o.wrong = !bytes.HasPrefix(want, text) || err == nil && len(text) != len(want)
	} else if good {
		var record struct{ N string }
		if json.Unmarshal(text, &record) != nil {
			o.status = 0 // it broke off
		}
		o.n, _ = strconv.Atoi(record.N)
	}
	l.mu.Lock()
	l.answers++
	if o.stale {
		l.unproved++
	}
	l.mu.Unlock()
	return o
}

// check observes and complains.
func (l *load) check(c *partitionClient, n *testNode, caller, what string, h *history, r *rand.Rand, seen view) {
	if wrong := seen.look(h, l.observe(c, n, caller, what, h, r), l.site.promise); wrong != "" {
		l.complain("%s", wrong)
	}
}

// read reads at one node, mostly what is new.
func (l *load) read(r *rand.Rand, n *testNode, caller string) {
	c := newPartitionClient("a reader of project " + caller)
	defer c.close()
	seen := view{}
	for l.rest(time.Duration(5+r.IntN(30)) * time.Millisecond) {
		l.mu.Lock()
		var h *history
		if k := len(l.images); k > 0 {
			h = l.images[k-1-min(r.IntN(k), r.IntN(k))]
		}
		l.mu.Unlock()
		if h != nil && n.listen() != "" {
			l.check(c, n, caller, []string{theRecord, theData}[r.IntN(2)], h, r, seen)
		}
	}
}

// write makes images and changes them, at any node. An image about which a change was
// not answered is left alone from then on.
func (l *load) write(r *rand.Rand) {
	c := newPartitionClient("a writer")
	defer c.close()
	views := map[*testNode]view{}
	for _, n := range l.site.nodes {
		views[n] = view{}
	}
	var mine []*history
	for l.rest(time.Duration(5+r.IntN(60)) * time.Millisecond) {
		n := l.site.nodes[r.IntN(len(l.site.nodes))]
		if n.listen() == "" {
			continue
		}
		if len(mine) < 4 {
			if h := l.create(c, n, r); h != nil {
				mine = append(mine, h)
				l.mu.Lock()
				l.images = append(l.images, h)
				l.mu.Unlock()
			}
			continue
		}
		i := r.IntN(len(mine))
		h := mine[i]
		version, goesOn := l.change(c, n, h, r)
		if version > 0 { // who was told of a change sees it where it was told
			seen := views[n]
			seen[h] = version
			l.check(c, n, asOwner, theRecord, h, r, seen)
			l.check(c, n, asOwner, theData, h, r, seen)
		}
		if !goesOn {
			mine = append(mine[:i], mine[i+1:]...)
		}
	}
}

// create makes an image with data, or nil if something failed.
func (l *load) create(c *partitionClient, n *testNode, r *rand.Rand) *history {
	began := time.Now()
	const record = `{"name":"partition","n":"0","disk_format":"raw","container_format":"bare","visibility":"shared"}`
	resp, text, err := c.send(n, l.site.tokens[asOwner], http.MethodPost, "/v2/images", "application/json", []byte(record))
	if err != nil || resp.StatusCode != http.StatusCreated {
		l.refused("create", n, resp, text)
		return nil
	}
	var img struct{ ID string }
	if err := json.Unmarshal(text, &img); err != nil {
		l.complain("create: %v", err)
		return nil
	}
	data := make([]byte, 1+r.IntN(700<<10))
	rand.NewChaCha8(sha256.Sum256([]byte(img.ID))).Read(data) // it never fails
	resp, text, err = c.send(n, l.site.tokens[asOwner], http.MethodPut, "/v2/images/"+img.ID+"/file", "application/octet-stream", data)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		l.refused("upload", n, resp, text)
		return nil
	}
	h := &history{id: img.ID, data: data}
	h.versions = []version{{state: state{shared: true}, change: "create", began: began, acked: time.Now()}}
	return h
}

// refused complains about an answer that says that a change was wrong.
func (l *load) refused(change string, n *testNode, resp *http.Response, text []byte) {
	if resp != nil && resp.StatusCode < 500 && resp.StatusCode != http.StatusConflict && resp.StatusCode != http.StatusRequestTimeout {
		l.complain("%s at %s: %s %s", change, n.name, resp.Status, text)
	}
}

const patchKind = "application/openstack-images-v2.1-json-patch"

// change makes a random change. version is that which was acknowledged, 0 if none was;
// goesOn says whether more changes of the image make sense.
func (l *load) change(c *partitionClient, n *testNode, h *history, r *rand.Rand) (version int, goesOn bool) {
	s, _ := h.latest()
	method, path, kind, body, token := http.MethodPatch, "/v2/images/"+h.id, patchKind, "", l.site.tokens[asOwner]
	replace := func(name, value string) {
		body = fmt.Sprintf(`[{"op":"replace","path":"/%s","value":"%s"}]`, name, value)
	}
	var name string
	switch k := r.IntN(20); {
	case k < 7:
		name = "rename"
		s.n++
		replace("n", strconv.Itoa(s.n))
	case k < 10 && s.shared:
		method, path, kind = http.MethodPost, path+"/members", "application/json"
		name, body = "share", `{"member":"`+asOther+`"}`
		if s.member {
			name, method, path, kind, body = "unshare", http.MethodDelete, path+"/"+asOther, "", ""
		}
		s.member = !s.member
	case k < 13:
		name = "visibility"
		to := []string{"public", "shared", "private"}[r.IntN(3)]
		s.public, s.shared = to == "public", to == "shared"
		replace("visibility", to)
		token = l.site.tokens["admin"]
	case k < 18:
		method, kind = http.MethodPost, ""
		name = "deactivate"
		if s.deactivated {
			name = "reactivate"
		}
		path += "/actions/" + name
		s.deactivated = !s.deactivated
	default:
		name, method, kind = "delete", http.MethodDelete, ""
		s.deleted = true
	}
	h.begin(name+" at "+n.name, s)
	resp, text, err := c.send(n, token, method, path, kind, []byte(body))
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		h.undo()
		return 0, true
	case err != nil || resp.StatusCode/100 != 2:
		l.refused(name, n, resp, text)
		return 0, false
	}
	l.mu.Lock()
	l.changes++
	l.mu.Unlock()
	return h.ack(), !s.deleted
}

// settles waits until every node shows every image as the last change left it, and all
// nodes the same, to whoever asks, proved, whole.
func (l *load) settles() {
	c := newPartitionClient("whoever asks at the end")
	defer c.close()
	r := rand.New(rand.NewPCG(l.seed, 1000))
	for _, h := range l.images {
		least := h.acknowledged()
		for _, ask := range [][2]string{{asOwner, theRecord}, {asOwner, theData}, {asOther, theRecord}, {asOther, theData}} {
			var wrong string
			settled := func() bool {
				var first *observation
				for _, n := range l.site.nodes {
					o := l.observe(c, n, ask[0], ask[1], h, r)
					_, wrong = h.explain(o, least, l.site.promise)
					if first == nil {
						first = o
					}
					switch {
					case o.silent() || o.stale:
						wrong = "still: " + o.String()
					case wrong == "" && (o.status/100 != first.status/100 || o.n != first.n):
						wrong = fmt.Sprintf("nodes do not agree: %v; %v", first, o)
					}
					if wrong != "" {
						return false
					}
				}
				return true
			}
			deadline := time.Now().Add(patience)
			for !settled() {
				if time.Now().After(deadline) {
					l.complain("image %s, when all was whole again: %s", h.id, wrong)
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
	}
}
