package remote_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/identity"
)

// Whatever a server answers, it is an answer of a central, or an error that says that
// there is none.
func FuzzAnswers(f *testing.F) {
	for _, body := range []string{
		record, `{"images":[` + record + `]}`, `{"revision":5,"proved":true,"events":[` + happened(5) + `]}`, `{"revision":4,"proved":true,"events":[]}`,
		anna, `{"caller":null,"expires_in":1}`, `{"edges":[{"name":"a","url":"http://a","seen_at":"2026-01-02T03:04:05+01:00"}]}`, `{"detail":"image not found"}`,
		`null`, `[]`, `{}`, `{"images":[null]}`, `{"edges":null}`,
		`{"ID":"` + id1 + `","Status":"active","Visibility":"shared","Members":[{"Project":"b"},{"Project":"a"}],"Locations":[{"URL":"s3://x/y"}],"LocationMetadata":null,"Tags":["b","a","a"]}`,
	} {
		for _, status := range []int{200, 404, 410} {
			f.Add(status, "7", []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, status int, revision string, body []byte) {
		if status < 200 || status > 599 || strings.ContainsAny(revision, "\r\n") {
			return
		}
		c := overWire(t, func(*http.Request) (*http.Response, error) {
			return reply(status, string(body), "Nearsight-Revision: "+revision), nil
		}, nil)
		ctx := t.Context()
		fails := func(what string, err error) bool {
			if err != nil && !slices.ContainsFunc(sentinels, func(s error) bool { return errors.Is(err, s) }) {
				t.Errorf("%s: %v", what, err)
			}
			return err != nil
		}
		img, err := c.Get(ctx, id1)
		if !fails("Get", err) {
			checkRecord(t, img)
			if img.ID != id1 {
				t.Errorf("image %s", img.ID)
			}
		}
		list, err := c.List(ctx, registry.Query{Limit: 3})
		if !fails("List", err) && len(list) > 3 {
			t.Errorf("%d images", len(list))
		}
		for _, img := range list {
			checkRecord(t, img)
		}
		_, err = c.Edges(ctx)
		fails("Edges", err)
		if m, err := c.Manifest(ctx, digest); !fails("Manifest", err) && origin.DigestOf(m) != digest {
			t.Error("another manifest")
		}
		if who, err := c.Identify(ctx, "t"); !errors.Is(err, identity.ErrUnknown) && !fails("Identify", err) && who == nil {
			t.Error("nobody")
		}
		watched(t, ctx, c, 4)
	})
}

// checkRecord checks what nobody looks at again.
func checkRecord(t *testing.T, img *registry.Image) {
	t.Helper()
	if !registry.ValidID(img.ID) || img.Properties == nil || img.Revision < 0 || len(img.Locations) > 1 {
		t.Errorf("record %+v", img)
	}
	for _, m := range img.Members {
		if img.Member(m.Project) == nil {
			t.Errorf("member %q is not found", m.Project)
		}
	}
	img.Clone()
}

// watched checks that what is watched comes in order, and ends with an error or with us.
func watched(t *testing.T, ctx context.Context, events registry.Events, last int64) {
	t.Helper()
	n := 0
	for e, err := range events.Watch(ctx, last) {
		if n++; err != nil || n > 3 {
			return
		}
		if e.Kind != registry.EventNone {
			last++
		}
		if e.Revision != last {
			t.Fatalf("revision %d, want %d", e.Revision, last)
		}
	}
	t.Error("the events ended")
}

// Whatever answers, no byte is taken for one at another place.
func FuzzData(f *testing.F) {
	f.Add(206, `"v"`, "bytes 2-4/10", "", []byte("234"), int64(3), int64(2), int64(3))
	f.Add(200, `"v"`, "", "", []byte("0123456789"), int64(10), int64(0), int64(-1))
	f.Add(200, `"v"`, "", "gzip", []byte("0123456789"), int64(10), int64(0), int64(-1))
	f.Add(206, `W/"v"`, "bytes 0-9223372036854775806/9223372036854775807", "", []byte("x"), int64(-1), int64(0), int64(1))
	f.Add(416, `"v"`, "bytes */10", "", []byte(""), int64(0), int64(10), int64(1))
	f.Fuzz(func(t *testing.T, status int, tag, span, coding string, body []byte, length, off, n int64) {
		if status < 200 || status > 599 || length < -1 {
			return
		}
		s := overWire(t, func(*http.Request) (*http.Response, error) {
			h := http.Header{"Etag": {tag}, "Content-Range": {span}, "Content-Encoding": {coding}}
			if span == "" {
				delete(h, "Content-Range")
			}
			return &http.Response{StatusCode: status, Header: h, ContentLength: length, Body: io.NopCloser(strings.NewReader(string(body)))}, nil
		}, nil).Store()
		o, err := s.Open(t.Context(), origin.Location{URL: "nearsight://central/" + id1, Validator: "v"}, off, n)
		if err != nil {
			if !slices.ContainsFunc([]error{origin.ErrNotFound, origin.ErrUnavailable, origin.ErrChanged}, func(s error) bool { return errors.Is(err, s) }) {
				t.Errorf("error %v", err)
			}
			return
		}
		defer o.Body.Close()
		got, err := io.ReadAll(o.Body)
		if o.Validator != "v" || o.Offset < 0 || o.Length < 0 || o.Length > 0 && o.Length > o.Size-o.Offset {
			t.Errorf("object %+v", o)
		}
		if int64(len(got)) > o.Length || err == nil && int64(len(got)) != o.Length {
			t.Errorf("%d bytes of %d, %v", len(got), o.Length, err)
		}
	})
}
