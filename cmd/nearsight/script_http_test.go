package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rogpeppe/go-internal/testscript"
)

// An answer is what the server said last.
type answer struct {
	status int
	header http.Header
	body   string // file
}

// rawClient takes answers as they are.
var rawClient = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true, ExpectContinueTimeout: patience},
	Timeout:       patience,
}

// cmdMethod returns a command that sends a request to the server, or to its admin
// listener:
//
//	get|head PATH ['Name: value'...]
//	request METHOD PATH ['Name: value'...] [@FILE|=TEXT]
//
// PATH admin:/... goes to the admin listener, and registry:/... to that of the
// Registry API. The body of the answer becomes
// the file body. A body that breaks off is a failure: ! get.
func cmdMethod(method string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if len(args) < 1 {
			ts.Fatalf("usage: get|head PATH ['Name: value'...]")
		}
		exchange(ts, neg, method, args[0], args[1:])
	}
}

func cmdRequest(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: request METHOD PATH ['Name: value'...] [@FILE|=TEXT]")
	}
	exchange(ts, neg, args[0], args[1], args[2:])
}

func exchange(ts *testscript.TestScript, neg bool, method, path string, rest []string) {
	s := siteOf(ts)
	req, err := newRequest(ts, method, path, rest)
	ts.Check(err)
	resp, err := rawClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	s.answer = answer{resp.StatusCode, resp.Header, filepath.Join(s.dir, "body")}
	if resp.ContentLength >= 0 {
		s.answer.header.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	f, err := os.Create(s.answer.body)
	ts.Check(err)
	defer f.Close()
	if _, err = io.Copy(f, resp.Body); (err != nil) != neg {
		ts.Fatalf("%s %s: reading the body: %v", method, path, err)
	}
}

// cmdGetHit gets a path until the whole answer comes from the cache: gethit PATH. It
// is for what a server does after a while, without saying when.
func cmdGetHit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: gethit PATH")
	}
	often := time.NewTicker(100 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		exchange(ts, false, http.MethodGet, args[0], nil)
		found := siteOf(ts).answer.header.Get("Cache-Status")
		if found == "nearsight; hit" {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			ts.Fatalf("%s does not become a hit: %s", args[0], found)
		}
	}
}

func newRequest(ts *testscript.TestScript, method, path string, rest []string) (*http.Request, error) {
	p := running(ts)
	url := "http://" + p.listen + path
	if admin, ok := strings.CutPrefix(path, "admin:"); ok {
		url = "http://" + p.admin + admin
	}
	if records, ok := strings.CutPrefix(path, "registry:"); ok {
		url = "http://" + p.registry + records
	}
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	for _, arg := range rest {
		name, value, isField := strings.Cut(arg, ": ")
		text, isText := strings.CutPrefix(arg, "=")
		file, isFile := strings.CutPrefix(arg, "@")
		switch {
		case isText:
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		case isFile:
			text := ts.ReadFile(file)
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		case isField:
			req.Header.Add(name, value)
		default:
			return nil, fmt.Errorf("%q is neither 'Name: value' nor @FILE nor =TEXT", arg)
		}
	}
	if req.Body != nil {
		// So that a refusal, which reads no body, does not look like a failure.
		req.Header.Set("Expect", "100-continue")
	}
	return req, nil
}

// A transfer is a download or an upload that is under way.
type transfer struct {
	got   []byte    // of a download, so far
	body  io.Reader // the rest of it
	hurry func()    // if not nil: stops who reads it, and waits for that
	io.Closer
}

func (t *transfer) abandon() error {
	err := t.Close()
	if t.hurry != nil {
		t.hurry()
	}
	return err
}

// cmdBegin begins a download and reads its first bytes: begin NAME PATH BYTES.
func cmdBegin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: begin NAME PATH BYTES")
	}
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	req, err := newRequest(ts, http.MethodGet, args[1], nil)
	ts.Check(err)
	resp, err := rawClient.Do(req)
	ts.Check(err)
	t := &transfer{got: make([]byte, n), body: resp.Body, Closer: resp.Body}
	siteOf(ts).transfers[args[0]] = t
	_, err = io.ReadFull(resp.Body, t.got)
	ts.Check(err)
}

// cmdFinish reads the rest and compares all with a file: finish NAME FILE. It
// fails if the download breaks off; what came must be right even then.
func cmdFinish(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: finish NAME FILE")
	}
	t := siteOf(ts).transfers[args[0]]
	if t == nil {
		ts.Fatalf("no download %s was begun", args[0])
	}
	if t.hurry != nil {
		t.hurry()
	}
	want, unmap, err := mapFile(ts.MkAbs(args[1]))
	ts.Check(err)
	defer unmap()
	err = sameBytes(io.MultiReader(bytes.NewReader(t.got), t.body), want, nil)
	if short := errors.Is(err, errShortBody); short != neg || err != nil && !short {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// cmdUpload begins an upload and sends the first bytes of a file: upload NAME PATH
// FILE BYTES.
func cmdUpload(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: upload NAME PATH FILE BYTES")
	}
	n, err := strconv.Atoi(args[3])
	ts.Check(err)
	text := ts.ReadFile(args[2])
	conn, err := net.Dial("tcp", running(ts).listen)
	ts.Check(err)
	siteOf(ts).transfers[args[0]] = &transfer{Closer: conn}
	_, err = fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: test\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s",
		args[1], len(text), text[:n])
	ts.Check(err)
}

// cmdAbandon closes the connection of a download or upload: abandon NAME.
func cmdAbandon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || siteOf(ts).transfers[args[0]] == nil {
		ts.Fatalf("usage: abandon NAME, after begin or upload")
	}
	ts.Check(siteOf(ts).transfers[args[0]].abandon())
	delete(siteOf(ts).transfers, args[0])
}

// cmdETag sets a variable to the ETag of the last answer: etag VAR.
func cmdETag(ts *testscript.TestScript, neg bool, args []string) {
	etag := siteOf(ts).answer.header.Get("ETag")
	if neg || len(args) != 1 || etag == "" {
		ts.Fatalf("usage: etag VAR, after an answer that has one")
	}
	ts.Setenv(args[0], etag)
}

func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: status N")
	}
	if s := siteOf(ts); strconv.Itoa(s.answer.status) != args[0] {
		ts.Fatalf("status is %d; header %v; body %.500s", s.answer.status, s.answer.header, ts.ReadFile(s.answer.body))
	}
}

// cmdHeader compares a field of the last answer: header NAME VALUE; or says that
// it is not there: ! header NAME.
func cmdHeader(ts *testscript.TestScript, neg bool, args []string) {
	h := siteOf(ts).answer.header
	switch {
	case neg && len(args) == 1:
		if v, ok := h[http.CanonicalHeaderKey(args[0])]; ok {
			ts.Fatalf("%s: %q", args[0], v)
		}
	case !neg && len(args) == 2:
		if got := strings.Join(h.Values(args[0]), ", "); got != args[1] {
			ts.Fatalf("%s: %q; header %v", args[0], got, h)
		}
	default:
		ts.Fatalf("usage: header NAME VALUE, ! header NAME")
	}
}

// cmdCmpBody compares the last body with a file or a part of it: cmpbody FILE
// [OFFSET LENGTH].
func cmdCmpBody(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 && len(args) != 3 {
		ts.Fatalf("usage: cmpbody FILE [OFFSET LENGTH]")
	}
	want := ts.ReadFile(args[0])
	if len(args) == 3 {
		off, err := strconv.Atoi(args[1])
		ts.Check(err)
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		want = want[off : off+n]
	}
	if got := ts.ReadFile(siteOf(ts).answer.body); got != want {
		ts.Fatalf("the body (%d bytes) is not that of %s (%d bytes)", len(got), strings.Join(args, " "), len(want))
	}
}

// cmdMetric compares a metric, summed over its labels: metric NAME OP VALUE.
func cmdMetric(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: metric NAME ==|<|<=|>|>= VALUE")
	}
	mustHold(ts, args[0], metricOf(ts, args[0]), args[1], args[2])
}

// cmdMeasure sets a variable to a metric: measure VAR NAME.
func cmdMeasure(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: measure VAR NAME")
	}
	ts.Setenv(args[0], strconv.FormatFloat(metricOf(ts, args[1]), 'f', -1, 64))
}

func metricOf(ts *testscript.TestScript, name string) float64 {
	got, err := readMetric("http://"+running(ts).admin+"/metrics", name)
	ts.Check(err)
	return got
}

func readMetric(url, name string) (float64, error) {
	resp, err := rawClient.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(resp.Body)
	if err != nil {
		return 0, err
	}
	family := families[name]
	if family == nil {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	sum := 0.0
	for _, m := range family.GetMetric() {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum, nil
}
