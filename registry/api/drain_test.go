package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The client of many a library sends its whole body before it looks for an
// answer. Whatever refuses it, it finds that.
func TestRefusalsReachWhoSendsFirst(t *testing.T) {
	const length = 40 << 20 // more than the socket buffers of both sides hold
	field := fmt.Sprintf("Content-Length: %d", length)
	for _, tt := range []struct {
		name, request string
		active        bool
		status        int
	}{
		{"unknown image", strings.ReplaceAll(raw(field, ""), id1, absent), false, 404},
		{"no id", strings.ReplaceAll(raw(field, ""), id1, "x"), false, 404},
		{"data is there", raw(field, ""), true, 409},
		{"too large", raw(field, ""), false, 413},
		{"another type", strings.ReplaceAll(raw(field, ""), "octet-stream", "json"), false, 415},
		{"a part", raw(field+"\r\nContent-Range: bytes 0-9/100", ""), false, 400},
		{"another method", strings.Replace(raw(field, ""), "PUT", "POST", 1), false, 405},
		{"another path", strings.Replace(raw(field, ""), "/file", "/nope", 1), false, 404},
		{"a bad path", strings.Replace(raw(field, ""), "/file", "/%00", 1), false, 400},
		{"a bad request id", raw(field+"\r\nX-Openstack-Request-Id: "+strings.Repeat("r", 65), ""), false, 431},
		{"a large document", strings.Replace(raw(field, ""), "PUT /v2/images/"+id1+"/file", "POST /v2/images", 1), false, 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, func(o *Options) {
				if tt.status == 413 {
					o.MaxImageSize = 1_000_000
				}
			})
			g.create(`"id":"` + id1 + `",` + formats)
			if tt.active {
				g.put(id1, "data")
			}
			conn, stop := g.dial()
			defer stop()
			io.WriteString(conn, tt.request)
			for block, sent := make([]byte, 1<<20), 0; sent < length; sent += len(block) {
				if _, err := conn.Write(block); err != nil {
					t.Fatalf("after %d bytes: %v", sent, err)
				}
			}
			answer, err := io.ReadAll(conn)
			if !bytes.HasPrefix(answer, fmt.Appendf(nil, "HTTP/1.1 %d ", tt.status)) || err != nil {
				t.Errorf("%.200q, %v; want %d", answer, err, tt.status)
			}
		})
	}
	t.Run("in chunks, refused midway", func(t *testing.T) {
		g := newRig(t, func(o *Options) { o.MaxImageSize = 1_000_000 })
		g.create(`"id":"` + id1 + `",` + formats)
		conn, stop := g.dial()
		defer stop()
		io.WriteString(conn, raw("Transfer-Encoding: chunked", ""))
		block := append([]byte("100000\r\n"), append(make([]byte, 1<<20), "\r\n"...)...)
		for range length >> 20 {
			if _, err := conn.Write(block); err != nil {
				t.Fatal(err)
			}
		}
		io.WriteString(conn, "0\r\n\r\n")
		if answer, err := io.ReadAll(conn); !bytes.HasPrefix(answer, []byte("HTTP/1.1 413 ")) || err != nil {
			t.Errorf("%.200q, %v", answer, err)
		}
		g.isQueued(id1)
	})
}

// The rest of a body is read for so long and no longer.
func TestDrainingIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name string
		body slowBody
		took time.Duration
	}{
		{"a body that ends", slowBody{n: 5, size: 1 << 20, wait: time.Second}, 5 * time.Second},
		{"silence", slowBody{n: 5, size: 1, wait: time.Minute}, drainSilence},
		{"a body without an end", slowBody{n: 1000, size: 1, wait: drainSilence - time.Second}, drainTotal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow := tt.body
				w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
				slow.w = w
				start := time.Now()
				_, body := watchBody(httptest.NewRequest("PUT", "/", &slow))
				body.drain(w, drainSilence)
				if took := time.Since(start); took != tt.took || !w.Flushed {
					t.Errorf("it took %v, flushed: %v", took, w.Flushed)
				}
			})
		})
	}
}
