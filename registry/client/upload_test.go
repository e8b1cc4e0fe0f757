package client

import (
	"context"
	"crypto/md5"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/registry"
)

// lose takes all of a body and breaks the connection.
func lose(w http.ResponseWriter, r *http.Request) { hangUp(w, r) }

// breakOff takes some bytes of a body and breaks the connection.
func breakOff(_ http.ResponseWriter, r *http.Request) {
	io.CopyN(io.Discard, r.Body, 2)
	panic(http.ErrAbortHandler)
}

// store takes a body that must be data.
func store(data string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != data {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// shown answers with an image of that status and data.
func shown(status registry.Status, data string) http.HandlerFunc {
	sum, md := sha512.Sum512([]byte(data)), md5.Sum([]byte(data))
	return func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"id":"%s","status":"%s","size":%d,"checksum":"%s","os_hash_algo":"sha512","os_hash_value":"%s"}`,
			testID, status, len(data), hex.EncodeToString(md[:]), hex.EncodeToString(sum[:]))
	}
}

func TestUploadsThatAreSentAgain(t *testing.T) {
	const data = "hello world"
	// The reader stands behind some bytes that are not to be sent.
	seeker := func() io.Reader {
		r := strings.NewReader("skipped" + data)
		r.Seek(7, io.SeekStart)
		return r
	}
	stream := func() io.Reader { return io.MultiReader(strings.NewReader(data)) }
	for _, tt := range []struct {
		name    string
		body    func() io.Reader
		size    int64
		answers []http.HandlerFunc
		asked   int32
		is      error
	}{
		{"when the connection broke", seeker, 11, []http.HandlerFunc{breakOff, lose, store(data)}, 3, nil},
		{"when the size is unknown", seeker, -1, []http.HandlerFunc{breakOff, store(data)}, 2, nil},
		{"when the server asks for it", seeker, 11, []http.HandlerFunc{say(503, "0"), store(data)}, 2, nil},
		{"not for ever", seeker, 11, []http.HandlerFunc{lose, lose, lose, lose}, 4, registry.ErrUnavailable},
		{"not when the bytes are gone", stream, 11, []http.HandlerFunc{lose}, 1, registry.ErrUnavailable},
		{"though the bytes would be gone, when none was taken", stream, 11, []http.HandlerFunc{say(503, "0"), store(data)}, 2, nil},
		{"not when the server refuses", seeker, 11, []http.HandlerFunc{say(413, "0")}, 1, registry.ErrTooLarge},
		{"not when the image was not queued", seeker, 11, []http.HandlerFunc{say(409, "")}, 1, registry.ErrConflict},
		{"when the server takes a while to see that the connection broke", seeker, 11,
			[]http.HandlerFunc{breakOff, say(409, ""), shown(registry.Saving, ""), store(data)}, 4, nil},
		{"not when it was stored and only the answer got lost", seeker, 11,
			[]http.HandlerFunc{lose, say(409, ""), shown(registry.Active, data)}, 3, nil},
		{"not when somebody else's bytes were stored", seeker, 11,
			[]http.HandlerFunc{lose, say(409, ""), shown(registry.Active, "other bytes")}, 3, registry.ErrConflict},
		{"not when it was stored by a server that knows MD5 alone", seeker, 11,
			[]http.HandlerFunc{lose, say(409, ""), func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"id":"%s","status":"active","checksum":"%x"}`, testID, md5.Sum([]byte(data)))
			}}, 3, nil},
		{"not when nothing tells whose bytes were stored", seeker, 11,
			[]http.HandlerFunc{lose, say(409, ""), func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"id":"%s","status":"active"}`, testID)
			}}, 3, registry.ErrConflict},
		{"not when the image was deleted", seeker, 11,
			[]http.HandlerFunc{lose, say(409, ""), say(404, "")}, 3, registry.ErrConflict},
		{"not when its own bytes are fewer", seeker, 12, []http.HandlerFunc{store(data)}, 1, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int32
			c := serveTo(t, inTurn(&asked, tt.answers...), Options{Backoff: time.Microsecond})
			err := c.Upload(t.Context(), testID, tt.body(), tt.size)
			if !errors.Is(err, tt.is) || asked.Load() != tt.asked {
				t.Errorf("error %v after %d requests; want %v after %d", err, asked.Load(), tt.is, tt.asked)
			}
		})
	}
}

func TestAPipeIsNotSentAgain(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	io.WriteString(w, "hello")
	w.Close()
	var asked atomic.Int32
	c := serveTo(t, inTurn(&asked, lose), Options{Backoff: time.Microsecond})
	if err := c.Upload(t.Context(), testID, r, 5); !errors.Is(err, registry.ErrUnavailable) || asked.Load() != 1 {
		t.Errorf("error %v after %d requests", err, asked.Load())
	}
}

func TestStage(t *testing.T) {
	var path string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.Method + " " + r.URL.Path
		store("hello")(w, r)
	}))
	if err := c.Stage(t.Context(), testID, strings.NewReader("hello"), 5); err != nil || path != "PUT /v2/images/"+testID+"/stage" {
		t.Errorf("%v, %s", err, path)
	}
}

func TestAnUploadIsNotSentAgainAfterItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	c := serveTo(t, inTurn(&asked, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		lose(w, r)
	}), Options{})
	if err := c.Upload(ctx, testID, strings.NewReader("hello"), 5); !errors.Is(err, context.Canceled) || asked.Load() != 1 {
		t.Errorf("error %v after %d requests", err, asked.Load())
	}
}
