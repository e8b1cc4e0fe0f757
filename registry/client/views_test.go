package client

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nearsight/origin"
	"nearsight/registry"
)

// A viewServer has an image with the view raw.
type viewServer struct {
	mu   sync.Mutex
	data []byte
	etag string
	cuts []int // after so many bytes downloads break, one after the other
	seen []string
}

func (s *viewServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/views") {
		fmt.Fprintf(w, `{"views":[{"name":"raw","size":%d,"url":"/v2/images/%s/file/raw","etag":"\"%s\""}]}`, len(s.data), testID, s.etag)
		return
	}
	s.seen = append(s.seen, strings.Join([]string{strings.TrimPrefix(r.URL.Path, "/v2/images/"+testID), r.Header.Get("Range"), r.Header.Get("If-Match")}, " "))
	w.Header().Set("ETag", `"`+s.etag+`"`)
	if len(s.cuts) > 0 {
		w = &cutWriter{ResponseWriter: w, left: s.cuts[0]}
		s.cuts = s.cuts[1:]
		defer panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.data))
}

func (s *viewServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// viewed is a disk whose middle is a hole.
func viewed() []byte {
	data := make([]byte, 3<<20)
	copy(data, "begin")
	copy(data[len(data)-3:], "end")
	return data
}

func TestViews(t *testing.T) {
	c := serve(t, &viewServer{data: viewed(), etag: "d-raw-1"})
	views, err := c.Views(t.Context(), testID)
	want := View{Name: "raw", Size: 3 << 20, URL: "/v2/images/" + testID + "/file/raw", ETag: `"d-raw-1"`}
	if err != nil || len(views) != 1 || views[0] != want {
		t.Errorf("%+v, %v", views, err)
	}
	empty := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	if _, err := empty.Views(t.Context(), testID); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("without data: %v", err)
	}
}

func TestAViewIsSavedUnderItsTagAndResumed(t *testing.T) {
	for _, parallel := range []int{0, 3} {
		s := &viewServer{data: viewed(), etag: "d-raw-1", cuts: []int{1 << 20}}
		c := serve(t, s)
		path := filepath.Join(t.TempDir(), "disk")
		img := recordOf([]byte("stored in another format"))
		err := c.Save(t.Context(), img, path, SaveOptions{View: "raw", Backoff: time.Millisecond, Parallel: parallel})
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, s.data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Blocks*512 >= 1<<20 {
			t.Errorf("the file takes up %d bytes: its zeros are no hole", st.Blocks*512)
		}
		for _, line := range s.requests() {
			if !strings.HasPrefix(line, "/file/raw ") || !strings.HasSuffix(line, ` "d-raw-1"`) {
				t.Errorf("a request that is not pinned to the version: %q", line)
			}
		}
		if len(s.requests()) < 2 {
			t.Errorf("the break was not met: %q", s.requests())
		}
	}
}

func TestALaterSaveTakesUpAPartOfTheSameView(t *testing.T) {
	s := &viewServer{data: viewed(), etag: "d-raw-1", cuts: []int{1 << 20}}
	c := serve(t, s)
	path := filepath.Join(t.TempDir(), "disk")
	img := recordOf([]byte("stored in another format"))
	save := func() error {
		return c.Save(t.Context(), img, path, SaveOptions{View: "raw", Retries: -1, Overwrite: true})
	}
	if err := save(); !errors.Is(err, registry.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
	if got := s.requests(); len(got) != 2 || got[1] != `/file/raw bytes=1048576- "d-raw-1"` {
		t.Errorf("%q", got)
	}
	// Of another version nothing is kept.
	s.cuts = []int{1 << 20}
	if err := save(); !errors.Is(err, registry.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	s.mu.Lock()
	s.etag, s.data = "d-raw-2", append(viewed(), "more"...)
	s.mu.Unlock()
	if err := save(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, s.data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAViewThatIsNotThereIsNotSaved(t *testing.T) {
	c := serve(t, &viewServer{data: viewed(), etag: "d-raw-1"})
	img := recordOf([]byte("x"))
	err := c.Save(t.Context(), img, filepath.Join(t.TempDir(), "disk"), SaveOptions{View: "qcow2"})
	if !errors.Is(err, registry.ErrNotFound) || !strings.Contains(err.Error(), `no view "qcow2"; it has raw`) {
		t.Errorf("%v", err)
	}
}

func TestAViewOfAnotherVersionIsNotTaken(t *testing.T) {
	s := &viewServer{data: viewed(), etag: "d-raw-1"}
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/raw") {
			r.Header.Del("If-Match") // a server that does not look
			s.etag = "d-raw-2"
		}
		s.ServeHTTP(w, r)
	}))
	path := filepath.Join(t.TempDir(), "disk")
	if err := c.Save(t.Context(), recordOf([]byte("x")), path, SaveOptions{View: "raw"}); !errors.Is(err, origin.ErrChanged) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}
