package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// viewedImage is an image with the view raw, which holds data.
func viewedImage(t *testing.T, data string) *fakeServer {
	f := imageWithData(t, []byte("stored"))
	serveData := f.fail
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/views"):
			io.WriteString(w, `{"views":[{"name":"raw","size":4,"url":"/v2/images/`+id1+`/file/raw","etag":"\"v-raw-1\""}]}`)
		case strings.HasSuffix(r.URL.Path, "/file/raw"):
			w.Header().Set("ETag", `"v-raw-1"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader([]byte(data)))
		default:
			return serveData(w, r)
		}
		return true
	}
	return f
}

func TestSaveInAnotherFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if _, _, err := runCLI(t, viewedImage(t, "disk"), "", "image", "save", "one", "--as", "raw", "--file", path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "disk" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if _, _, err := runCLI(t, viewedImage(t, "disk"), "", "image", "save", "one", "--as", "vdi", "--file", path, "--force"); exitCode(err) != exitNotFound {
		t.Errorf("a view that is not there: %v", err)
	}
	if _, _, err := runCLI(t, viewedImage(t, "disc!"), "", "image", "save", "one", "--as", "raw", "--file", path, "--force"); exitCode(err) != exitIntegrity {
		t.Errorf("a view of another length: %v", err)
	}
}

func TestViewsAreListed(t *testing.T) {
	out, _, err := runCLI(t, viewedImage(t, "disk"), "", "image", "views", "one")
	if err != nil || !strings.Contains(out, "raw") || !strings.Contains(out, "/v2/images/"+id1+"/file/raw") {
		t.Errorf("%q, %v", out, err)
	}
	out, _, err = runCLI(t, viewedImage(t, "disk"), "", "image", "views", "one", "--json")
	if err != nil || !strings.Contains(out, `"size": 4`) {
		t.Errorf("%q, %v", out, err)
	}
}
