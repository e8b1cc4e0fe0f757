package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const task1 = "55555555-5555-5555-5555-555555555555"

// importing makes f a server that imports: the image's task answers as states say, one
// after the other, and the last again and again.
func importing(f *fakeServer, states ...string) {
	asked := 0
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == "POST" && strings.HasSuffix(r.URL.Path, "/import"):
			body, _ := io.ReadAll(r.Body)
			f.seen = append(f.seen, "import "+string(body))
			w.WriteHeader(http.StatusAccepted)
			return true
		case r.Method == "PUT" && strings.HasSuffix(r.URL.Path, "/stage"):
			body, _ := io.ReadAll(r.Body)
			f.seen = append(f.seen, "staged "+string(body))
			w.WriteHeader(http.StatusNoContent)
			return true
		case strings.HasSuffix(r.URL.Path, "/tasks"), strings.HasPrefix(r.URL.Path, "/v2/tasks/"):
			state := states[min(asked, len(states)-1)]
			asked++
			task := fmt.Sprintf(`{"id":%q,"type":"api_image_import","created_at":"2026-01-02T03:04:05.000006",%s}`, task1, state)
			if strings.HasSuffix(r.URL.Path, "/tasks") {
				task = `{"tasks":[` + task + `]}`
			}
			io.WriteString(w, task)
			return true
		}
		return false
	}
}

const (
	underWay  = `"status":"processing","message":"Copying","result":{"bytes":1024,"size":4096}`
	succeeded = `"status":"success","result":{"bytes":4096,"size":4096}`
	failed    = `"status":"failure","message":"the mirror is down"`
)

func TestImport(t *testing.T) {
	for _, tt := range []struct {
		name, flags string
		task        string
		code        int
		want        string // what the server is asked for, or the error
	}{
		{"what was staged is the default", "", succeeded, 0, `{"method":{"name":"glance-direct"}}`},
		{"a URL means a download", "--uri https://x/y", succeeded, 0, `{"method":{"name":"web-download","uri":"https://x/y"}}`},
		{"a region means another image", "--region east --remote " + id2, succeeded, 0,
			`{"method":{"name":"glance-download","glance_region":"east","glance_image_id":"` + id2 + `"}}`},
		{"to several stores", "--method copy-image --store a,b --store c --allow-failures", succeeded, 0,
			`{"method":{"name":"copy-image"},"stores":["a","b","c"],"all_stores_must_succeed":false}`},
		{"to all stores", "--all-stores", succeeded, 0, `{"method":{"name":"glance-direct"},"all_stores":true}`},
		{"and is waited for", "--watch", succeeded, 0, `{"method":{"name":"glance-direct"}}`},
		{"a failure is told", "--watch", failed, 1, "the mirror is down"},
		{"but not to who does not wait", "", failed, 0, `{"method":{"name":"glance-direct"}}`},
		{"a URL for another method", "--method glance-direct --uri https://x/y", "", 2, "--uri is for --method web-download"},
		{"a download of nothing", "--method web-download", "", 2, "--uri is for --method web-download"},
		{"another image without a region", "--remote " + id2, "", 2, "--region and --remote"},
		{"another image that is none", "--region east --remote 7", "", 2, "not a UUID"},
		{"some stores and all", "--all-stores --store a", "", 2, "leaves no stores"},
		{"credentials in a URL", "--uri https://u:secret@x/y", "", 2, "holds credentials"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t, image(id1, "one"))
			importing(f, underWay, tt.task)
			out, note, err := runCLI(t, f, "", append([]string{"image", "import", id1}, strings.Fields(tt.flags)...)...)
			if err != nil {
				out = errorLine(err)
			} else if strings.Contains(tt.flags, "--watch") == strings.Contains(note, "image tasks "+id1) {
				t.Errorf("it says %q", note)
			}
			if exitCode(err) != tt.code || strings.Contains(out, "secret") {
				t.Errorf("exit status %d, %s", exitCode(err), out)
			}
			if seen := strings.Join(f.seen, "\n"); !strings.Contains(seen+out, tt.want) {
				t.Errorf("%s\n%s\nwant %s", seen, out, tt.want)
			}
		})
	}
}

func TestStage(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"))
	importing(f, succeeded)
	if _, _, err := runCLI(t, f, "hello", "image", "stage", "one", "--file", "-"); err != nil || !slices.Contains(f.seen, "staged hello") {
		t.Errorf("%v, the server saw %q", err, f.seen)
	}
	if _, _, err := runCLI(t, f, "", "image", "stage", "one"); exitCode(err) != exitUsage {
		t.Error(err)
	}
}

func TestCreateFromAURL(t *testing.T) {
	for _, tt := range []struct {
		name, flags, task string
		code              int
		left              bool // the image stays
	}{
		{"waits if it is told to", "--watch", succeeded, 0, true},
		{"does not wait otherwise", "", failed, 0, true},
		{"leaves nothing after a failure", "--watch", failed, 1, false},
		{"unless the id was chosen", "--watch --id " + id3, failed, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.images[id2] = image(id2, "other")
			importing(f, underWay, tt.task)
			imports := f.fail
			f.fail = func(w http.ResponseWriter, r *http.Request) bool {
				done := imports(w, r)
				if img := f.images[id3]; img != nil && strings.HasSuffix(r.URL.Path, "/import") {
					img["status"] = "active"
				}
				return done
			}
			args := append([]string{"image", "create", "--from-url", "https://x/y.qcow2", "--store", "a,b"}, strings.Fields(tt.flags)...)
			_, _, err := runCLI(t, f, "", args...)
			if exitCode(err) != tt.code || (f.images[id3] != nil) != tt.left {
				t.Errorf("%v, the server has %v", err, f.images)
			}
			if want := `import {"method":{"name":"web-download","uri":"https://x/y.qcow2"},"stores":["a","b"]}`; !slices.Contains(f.seen, want) {
				t.Errorf("the server saw %q, want %q", f.seen, want)
			}
		})
	}
}

func TestWhoStopsWatchingIsToldThatTheServerGoesOn(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newFakeServer(t, image(id1, "one"))
	importing(f, underWay)
	imports := f.fail
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/tasks") {
			defer cancel()
		}
		return imports(w, r)
	}
	_, _, err := runCLIContext(ctx, t, f, nil, "image", "import", id1, "--watch")
	if want := "nearsight: import: interrupted; the server goes on with it: see image tasks " + id1; exitCode(err) != exitInterrupted || errorLine(err) != want {
		t.Errorf("%s, want %s", errorLine(err), want)
	}
}

func TestTasks(t *testing.T) {
	for _, tt := range []struct {
		line, task string
		code       int
		want       string
	}{
		{"image tasks one", underWay, 0, task1 + "  api_image_import  processing  -      1.0 KiB of 4.0 KiB  2026-01-02T03:04:05Z  Copying"},
		{"image tasks one --json", underWay, 0, `"bytes": 1024`},
		{"image tasks one --watch", succeeded, 0, "success"},
		{"image tasks one --watch", failed, 1, "the mirror is down"},
		{"task show " + task1, failed, 0, "message     the mirror is down"},
		{"task show " + task1 + " --watch", succeeded, 0, "4.0 KiB of 4.0 KiB"},
		{"task show " + task1 + " --watch", failed, 1, "the mirror is down"},
		{"task show " + task1 + " --json", succeeded, 0, `"expires_at": null`},
		{"task show 7", succeeded, 3, `"7" is no task id`},
		{"task ls --limit -1", succeeded, 2, "--limit -1"},
	} {
		t.Run(tt.line+" "+tt.task, func(t *testing.T) {
			one := image(id1, "one")
			f := newFakeServer(t, one)
			importing(f, tt.task)
			out, _, err := runCLI(t, f, "", strings.Fields(tt.line)...)
			if err != nil {
				out = errorLine(err)
			}
			if exitCode(err) != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("exit status %d, %s; want %d, %s", exitCode(err), out, tt.code, tt.want)
			}
		})
	}
}

func TestInfo(t *testing.T) {
	answers := map[string]string{
		"/versions":              `{"versions":[{"id":"v2.17","status":"CURRENT","links":[]},{"id":"v1.1","status":"SUPPORTED"}]}`,
		"/v2/info/import":        `{"import-methods":{"value":["glance-direct","web-download"]}}`,
		"/v2/info/stores/detail": `{"stores":[{"id":"a"},{"id":"b","default":"true"}]}`,
		"/v2/info/usage":         `{"usage":{"image_size_total":{"limit":2048,"usage":3},"image_count_total":{"limit":-1,"usage":4}}}`,
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		io.WriteString(w, body)
	})
	for _, tt := range []struct{ line, want string }{
		{"info", "API versions    v2.17, v1.1"},
		{"info", "stores          a, b; by default b"},
		{"info", "stored data     3.0 MiB of 2.0 GiB"},
		{"info", "images          4 of any"},
		{"info --json", `"default_store": "b"`},
		{"usage", "stored data  3.0 MiB  2.0 GiB"},
		{"usage --json", `"limit": 2048`},
	} {
		if out, _, err := runCLI(t, h, "", strings.Fields(tt.line)...); err != nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %s%v; want %s", tt.line, out, err, tt.want)
		}
	}
	delete(answers, "/v2/info/stores/detail")
	delete(answers, "/v2/info/usage")
	if out, _, err := runCLI(t, h, "", "info"); err != nil || !strings.Contains(out, "one, without a name") || !strings.Contains(out, "limits          none") {
		t.Errorf("%s%v", out, err)
	}
}
