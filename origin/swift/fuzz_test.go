package swift

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func FuzzAnswered(f *testing.F) {
	f.Add("bytes 1-4/9", `"etag"`, "Mon, 02 Jan 2006 15:04:05 GMT", int64(4))
	f.Add("bytes 0-9223372036854775807/9223372036854775807", "W/\"x\"", "", int64(-1))
	f.Add("bytes 4-1/9", `"`, "now", int64(0))
	f.Add("bytes */9", "", "", int64(97))
	f.Add("bytes -1--1/-1", "", "", int64(1))
	f.Fuzz(func(t *testing.T, field, etag, modified string, length int64) {
		resp := &http.Response{StatusCode: 206, ContentLength: length, Body: http.NoBody,
			Header: http.Header{"Content-Range": {field}, "Etag": {etag}, "Last-Modified": {modified}}}
		o, err := answered(origin.Location{}, resp)
		if err != nil {
			wantErr(t, "answered", err, origin.ErrUnavailable)
			return
		}
		if o.Offset < 0 || o.Length < 1 || o.Size < 1 || o.Offset > o.Size-o.Length || length >= 0 && length != o.Length {
			t.Errorf("%q: bytes %d+%d of %d", field, o.Offset, o.Length, o.Size)
		}
	})
}

func FuzzListing(f *testing.F) {
	f.Add([]byte(`[{"name": "k/u/00000000", "bytes": 5, "hash": "x", "last_modified": "2026-11-24T16:06:48.544250"}, {"subdir": "x/"}]`))
	f.Add([]byte(`{"swift": {"max_file_size": 5}, "slo": {"max_manifest_segments": -1}}`))
	f.Add([]byte(`[{"name": "k/", "bytes": -1}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseInfo(bytes.NewReader(b)); err == nil && (l.size <= 0 || l.segments <= 0) {
			t.Errorf("%+v", l)
		}
		if entries, err := parsePage(bytes.NewReader(b)); err == nil {
			for _, e := range entries {
				if at := e.time(); !at.IsZero() && at.Location() != time.UTC {
					t.Errorf("%q is %v", e.Modified, at)
				}
			}
		}
	})
}

// Whatever is sent, what is read back is that, also when the sender writes in
// other pieces than blocks and segments have.
func FuzzSource(f *testing.F) {
	f.Add(uint16(100), int16(100), uint8(16), uint8(60))
	f.Add(uint16(0), int16(-1), uint8(1), uint8(1))
	f.Add(uint16(33), int16(32), uint8(16), uint8(16))
	f.Fuzz(func(t *testing.T, n uint16, size int16, block, limit uint8) {
		data := origintest.Data(int(n), 1)
		want := int64(max(size, -1))
		src, err := newSource(t.Context(), bytes.NewReader(data), want, int(block)+1)
		w := newWatch(time.Hour, func(error) {})
		defer w.rest()
		var got []byte
		for err == nil && src.more() {
			p := newPiece(src, int64(limit)+1, false)
			first := make([]byte, 1)
			p.attach(w).Read(first)
			if src.err == nil && p.rewind() == false {
				t.Fatal("one byte cannot be sent again")
			}
			var b []byte
			b, err = io.ReadAll(p.attach(w))
			got = append(got, b...)
		}
		if bad := want >= 0 && want != int64(n); bad != errors.Is(err, origin.ErrSize) || !bad && !bytes.Equal(got, data) {
			t.Errorf("%d bytes of %d as %d: %v", len(got), n, want, err)
		}
	})
}
