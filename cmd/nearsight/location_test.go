package main

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestWrongUsageOfStores(t *testing.T) {
	const webURL = "https://mirror.example.org/disk.raw"
	for _, tt := range []struct{ name, line, want string }{
		{"a file and a URL", "image create --file x --location " + webURL, "either from --file or --from-url or --location"},
		{"a store for nothing", "image create --store s", "--store is for --file"},
		{"a store for what stays elsewhere", "image create --store s --location " + webURL, "--store is for --file"},
		{"a wait for nothing", "image create --wait", "--wait is for --from-url and --location"},
		{"a limit to no wait", "image create --timeout 1s --from-url " + webURL, "--timeout is for --wait"},
		{"a wait for less than nothing", "image copy x --to s --wait --timeout -1s", "less than 0"},
		{"an empty URL", "image create --from-url=", "--from-url is not like"},
		{"a URL of another scheme", "image create --from-url ftp://x/y", "--from-url is not like"},
		{"a URL without a host", "image create --from-url http:///y", "--from-url is not like"},
		{"a URL with credentials", "image location add x https://u:secret@x/y", "holds credentials"},
		{"a URL whose name tells no format", "image create --from-url https://x/y.img", "say --disk-format"},
		{"a copy to nowhere", "image copy x", "copy to which stores"},
		{"a copy to a store without a name", "image copy x --to a,,b", "copy to which stores"},
		{"a copy to some and to all", "image copy x --to a --to-all", "leaves no stores"},
		{"a location that nobody named", "image location rm x", "which location"},
		{"a store that nobody named", "image location rm x --store=", "which location"},
		{"a location that was named twice", "image location rm x y --store s", "not both"},
		{"an unknown command below location", "image location mv", `location has no command "mv"`},
		{"an unknown command below store", "store mv", `store has no command "mv"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t)
			_, _, err := runCLI(t, f, "", strings.Fields(tt.line)...)
			if err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("exit status %d, %v; want %q", exitCode(err), err, tt.want)
			}
			if len(f.seen) > 0 {
				t.Errorf("the server was asked for %q", f.seen)
			}
		})
	}
}

func TestTheNameInAURLMayTellTheFormat(t *testing.T) {
	for webURL, want := range map[string]string{
		"https://x/a/debian-12.QCOW2":       "qcow2",
		"https://x/d.iso?token=a.raw#b.vdi": "iso",
		"https://x/d.img":                   "",
		"https://x/d.qcow2.gz":              "",
		"https://x.raw":                     "raw", // harmless: the server finds nothing there
		"https://x/qcow2":                   "",
	} {
		got, err := formatOf(webURL)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, want %q", webURL, got, want)
		}
	}
}

func TestSaveAsksThePreferredStores(t *testing.T) {
	img := image(id1, "one")
	img["size"], img["checksum"] = 1, "0cc175b9c0f1b6a831c399e269772661"
	f := newFakeServer(t, img)
	runCLI(t, f, "", "image", "save", "one", "--file", t.TempDir()+"/x", "--prefer", "a b,c")
	if !slices.ContainsFunc(f.seen, func(line string) bool { return strings.HasSuffix(line, "/file?prefer=a+b%2Cc") }) {
		t.Errorf("the server was asked for %q", f.seen)
	}
	if slices.ContainsFunc(f.seen, func(line string) bool { return strings.Contains(line, "prefer") && !strings.Contains(line, "/file") }) {
		t.Errorf("records were asked for with a preference: %q", f.seen)
	}
}

// A hashing is a server that hashes an image while it is asked for it.
type hashing struct {
	asked atomic.Int64
	// answer answers the nth time, from 1 on.
	answer func(w http.ResponseWriter, n int64)
}

func (h *hashing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case "POST":
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"id":"`+id1+`","status":"queued"}`)
	case "PATCH":
		io.WriteString(w, `{"id":"`+id1+`","status":"active"}`)
	case "GET":
		h.answer(w, h.asked.Add(1))
	default:
		w.WriteHeader(http.StatusTeapot)
	}
}

func TestWaitingForHashes(t *testing.T) {
	active := func(w http.ResponseWriter) { io.WriteString(w, `{"id":"`+id1+`","status":"active"}`) }
	hashed := func(w http.ResponseWriter) { io.WriteString(w, `{"id":"`+id1+`","os_hash_value":"abc"}`) }
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter, n int64, stop func())
		code   int
		want   string
	}{
		{"until they are there", func(w http.ResponseWriter, n int64, _ func()) {
			if n < 3 {
				active(w)
			} else {
				hashed(w)
			}
		}, 0, ""},
		{"past a server that is away for a moment", func(w http.ResponseWriter, n int64, _ func()) {
			if n < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			} else {
				hashed(w)
			}
		}, 0, ""},
		{"until the image is deleted", func(w http.ResponseWriter, _ int64, _ func()) { w.WriteHeader(http.StatusNotFound) },
			exitNotFound, "wait for hashing the data: "},
		{"until the user has enough of it", func(w http.ResponseWriter, _ int64, stop func()) { active(w); stop() },
			exitInterrupted, "the server goes on with it: see image show " + id1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			h := &hashing{answer: func(w http.ResponseWriter, n int64) { tt.answer(w, n, stop) }}
			_, _, err := runCLIContext(ctx, t, h, strings.NewReader(""), "image", "create", "--location", "https://x/y.raw", "--wait")
			if exitCode(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("exit status %d, %v; want %d, %q", exitCode(err), err, tt.code, tt.want)
			}
		})
	}
}

func TestAnImageThatNeverGotItsURLIsDeleted(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		kept bool
	}{
		{"unless the user chose its id", []string{"--id", id2}, true},
		{"as it would only be in the way", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.fail = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != "PATCH" {
					return false
				}
				w.WriteHeader(http.StatusBadRequest)
				return true
			}
			_, _, err := runCLI(t, f, "", append([]string{"image", "create", "--location", "https://x/y.raw"}, tt.args...)...)
			if err == nil || strings.Contains(err.Error(), "stays without data") != tt.kept || (len(f.images) == 1) != tt.kept {
				t.Errorf("%v; there are %v", err, f.images)
			}
		})
	}
}

func TestAStatusLineIsNotShownTooOften(t *testing.T) {
	var out strings.Builder
	l := &statusLine{w: &out}
	l.set("one\x1b%d", 1)
	l.set("two")
	l.clear()
	l.clear()
	if got, want := out.String(), "\r\x1b[Kone\\x1b1\r\x1b[K"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	l.shown = time.Now().Add(-time.Minute)
	l.set("three")
	if !strings.HasSuffix(out.String(), "three") {
		t.Errorf("%q", out.String())
	}
}
