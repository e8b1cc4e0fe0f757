package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// An oldServer answers as the servers of 2011 do, about public images one and two.
type oldServer struct {
	mu   sync.Mutex
	seen []string // METHOD PATH QUERY, the x-image-meta headers sorted, and the body
	gone map[string]bool
}

func (s *oldServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	line := r.Method + " " + r.URL.RequestURI()
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if meta, ok := strings.CutPrefix(strings.ToLower(name), "x-image-meta-"); ok {
			line += " " + meta + "=" + r.Header.Get(name)
		}
	}
	s.seen = append(s.seen, strings.TrimSpace(line+" "+string(body)))
	img := func(id, name string) map[string]any {
		return map[string]any{"id": id, "name": name, "disk_format": "raw", "container_format": "bare", "size": 5, "is_public": true, "status": "active",
			"properties": map[string]string{"os": "o\x1bs"}}
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case strings.HasSuffix(r.URL.Path, "/members"), parts[1] == "shared-images":
		json.NewEncoder(w).Encode(map[string]any{
			"members":       []any{map[string]any{"member_id": "p", "can_share": true}},
			"shared_images": []any{map[string]any{"image_id": id1, "can_share": false}},
		})
	case len(parts) == 5: // a member
		w.WriteHeader(http.StatusNoContent)
	case r.Method == "POST":
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(map[string]any{"image": img(id3, r.Header.Get("X-Image-Meta-Name"))})
	case r.Method == "GET" && (len(parts) == 2 || parts[2] == "detail"):
		list := []any{}
		for _, i := range []struct{ id, name string }{{id1, "one"}, {id2, "two"}} {
			if !s.gone[i.id] && (r.URL.Query().Get("marker") == "" || r.URL.Query().Get("marker") == id1 && i.id == id2) {
				list = append(list, img(i.id, i.name))
			}
		}
		json.NewEncoder(w).Encode(map[string]any{"images": list})
	case parts[2] != id1 && parts[2] != id2 || s.gone[parts[2]]:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == "DELETE":
		s.gone[parts[2]] = true
	case r.Method == "PUT":
		json.NewEncoder(w).Encode(map[string]any{"image": img(parts[2], "one")})
	default:
		w.Header().Set("X-Image-Meta-Id", parts[2])
		w.Header().Set("X-Image-Meta-Name", "one")
		w.Header().Set("X-Image-Meta-Is_public", "True")
		w.Header().Set("X-Image-Meta-Property-Os", "linux")
	}
}

// run2011 runs a command against a new server.
func run2011(t *testing.T, stdin string, args ...string) (s *oldServer, out, note string, err error) {
	t.Helper()
	s = &oldServer{gone: map[string]bool{}}
	out, note, err = runCLI(t, s, stdin, args...)
	return s, out, note, err
}

func TestCommandsOf2011(t *testing.T) {
	const images = "/v1/images"
	for _, tt := range []struct {
		name, line, stdin string
		code              int
		seen              string // of what the server was asked, "" for nothing
		want              string // of what it says
	}{
		{"add with data", "add name=n is_public=Yes Os-Type=linux,", "hello", 0,
			"POST " + images + " container-format=ovf disk-format=raw is-public=True name=n property-os-type=linux hello", "Added new image with ID: " + id3},
		{"add at a URL", "add name=n location=http://x/y disk_format=qcow2 container_format=bare min_ram=5", "", 0,
			"POST " + images + " container-format=bare disk-format=qcow2 is-public=False location=http://x/y min-ram=5 name=n", "Added new image"},
		{"add says all of it", "add name=n -v", "x", 0, "POST", "Property 'os': o\\x1bs"},
		{"add leaves out what is the server's", "add name=n status=active", "x", 0, "POST " + images + " container-format=ovf disk-format=raw is-public=False name=n x", "status is the server's"},
		{"add without a name", "add disk_format=raw", "x", 2, "", "an image needs a name"},
		{"add with two =", "add name=a=b", "x", 2, "", "one ="},
		{"add with a size that is none", "add name=n size=big", "x", 2, "", `size "big" is no number`},
		{"add in a dry run", "add name=n --dry-run", "x", 0, "", "name => n"},
		{"update", "update " + id1 + " is_public=False min-disk=3 distro=debian", "", 0,
			"PUT " + images + "/" + id1 + " is-public=False min-disk=3 property-distro=debian", "Updated image " + id1},
		{"update leaves out what cannot change", "update " + id1 + " size=7 deleted_on=x name=m", "", 0, "PUT " + images + "/" + id1 + " name=m", "deleted_on cannot be changed"},
		{"update to no name", "update " + id1 + " name=", "", 2, "", "name= has no value"},
		{"update of nothing", "update " + id3 + " a=b", "", 1, "PUT", "404"},
		{"delete", "delete " + id1, "", 0, "DELETE " + images + "/" + id1, "Deleted image " + id1},
		{"delete as scripts of later years say it", "delete -f " + id1, "", 0, "DELETE " + images + "/" + id1, "Deleted image " + id1},
		{"delete of nothing", "delete " + id3, "", 1, "DELETE", "no image with ID " + id3 + " was found"},
		{"delete by URI", "delete http://x/images/" + id1, "", 0, "DELETE " + images + "/" + id1, "Deleted image"},
		{"index", "index", "", 0, "GET " + images + "?is_public=True", id1 + " one                            raw                  bare                              5\n"},
		{"index with filters", "index disk-format=raw is_public=None --sort_key name --sort_dir asc --limit 1", "", 0,
			"GET " + images + "?disk_format=raw&is_public=None&limit=1&sort_dir=asc&sort_key=name", "one"},
		{"index with a limit that is none", "index --limit -1", "", 2, "", "--limit -1"},
		{"details", "details", "", 0, "GET " + images + "/detail?is_public=True", ruler + "\nURI: http"},
		{"show", "show " + id1, "", 0, "HEAD " + images + "/" + id1, "Public: Yes\nName: one\nProperty 'os': linux\n" + ruler},
		{"show of nothing", "show " + id3, "", 1, "HEAD", "404"},
		{"who an image is shared with", "image-members " + id1, "", 0, "GET " + images + "/" + id1 + "/members", "p (can share)"},
		{"what is shared with a project", "member-images p", "", 0, "GET /v1/shared-images/p", id1},
		{"a member more", "member-add " + id1 + " p --can-share", "", 0, `PUT ` + images + `/` + id1 + `/members/p {"member":{"can_share":true}}`, ""},
		{"a member less", "member-delete " + id1 + " p", "", 0, "DELETE " + images + "/" + id1 + "/members/p", ""},
		{"other members", "members-replace " + id1 + " p q", "", 0,
			`PUT ` + images + `/` + id1 + `/members {"memberships":[{"member_id":"p","can_share":false},{"member_id":"q","can_share":false}]}`, ""},
		{"a port that is none", "index -p 70000", "", 2, "", "--port 70000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, out, note, err := run2011(t, tt.stdin, strings.Fields(tt.line)...)
			if err != nil {
				note += errorLine(err)
			}
			if exitCode(err) != tt.code || !strings.Contains(out+note, tt.want) {
				t.Errorf("exit status %d, %s%s; want %d, %s", exitCode(err), out, note, tt.code, tt.want)
			}
			if seen := strings.Join(s.seen, "\n"); !strings.HasPrefix(seen, tt.seen) || tt.seen == "" && seen != "" {
				t.Errorf("the server saw %s, want %s", seen, tt.seen)
			}
		})
	}
}

func TestIndexOfNothing(t *testing.T) {
	s := &oldServer{gone: map[string]bool{id1: true, id2: true}}
	if out, _, err := runCLI(t, s, "", "index"); err != nil || out != "No public images found.\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestClearAsks(t *testing.T) {
	for _, tt := range []struct {
		name, flags, answer string
		code, gone          int
	}{
		{"and yes is yes", "", "y\n", 0, 2},
		{"and no is no", "", "n\n", 1, 0},
		{"and an empty line is no", "", "\n", 1, 0},
		{"and nobody there is wrong usage", "", "", 2, 0},
		{"unless it is not to", "--force", "", 0, 2},
		{"nothing when it only says what it would do", "--dry-run", "", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, out, _, err := run2011(t, tt.answer, append([]string{"clear"}, strings.Fields(tt.flags)...)...)
			if exitCode(err) != tt.code || len(s.gone) != tt.gone {
				t.Errorf("%v, %v; %d are gone", out, err, len(s.gone))
			}
		})
	}
}

func TestUploadOf2011(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[string]string{
		"":                          "container-format=bare disk-format=raw is-public=True name=n size=5 hello",
		"--type kernel":             "container-format=aki disk-format=aki is-public=True name=n size=5 hello",
		"--type ramdisk":            "container-format=ari disk-format=ari is-public=True name=n size=5 hello",
		"--type vhd":                "container-format=ovf disk-format=vhd is-public=True name=n size=5 hello",
		"--disk-format qcow2":       "container-format=bare disk-format=qcow2 is-public=True name=n size=5 hello",
		"--type machine --kernel k": "container-format=ami disk-format=ami is-public=True name=n property-kernel-id=k size=5 hello",
	} {
		s, out, _, err := run2011(t, "", append([]string{"upload", path, "n"}, strings.Fields(flags)...)...)
		if err != nil || !slices.Equal(s.seen, []string{"POST /v1/images " + want}) || !strings.Contains(out, "Got identifier: "+id3) {
			t.Errorf("%s: the server saw %q, %v", flags, s.seen, err)
		}
	}
	if _, _, _, err := run2011(t, "", "upload", path, "n", "--type", "floppy"); exitCode(err) != exitUsage {
		t.Errorf("error %v", err)
	}
}

func FuzzParseFields(f *testing.F) {
	f.Add("name=x,")
	f.Add("Os-Type==")
	f.Fuzz(func(t *testing.T, arg string) {
		fields, err := parseFields([]string{arg})
		if err != nil {
			return
		}
		for name, value := range fields {
			if name == "" || strings.Contains(value, "=") || strings.Contains(name, "-") {
				t.Errorf("%q became %q", arg, fmt.Sprint(name, "=", value))
			}
		}
	})
}

func TestCommandsOf2011FailIfTheirOutputDoes(t *testing.T) {
	server := httptest.NewServer(&oldServer{gone: map[string]bool{}})
	defer server.Close()
	t.Setenv("NEARSIGHT_SERVER", server.URL)
	for _, args := range [][]string{
		{"index"}, {"details"}, {"show", id1}, {"image-members", id1}, {"add", "name=x", "--dry-run"},
	} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		root := newRoot()
		root.SetArgs(args)
		root.SetOut(full)
		if err := root.ExecuteContext(t.Context()); exitCode(err) != exitFailure || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%q: error %v", args, err)
		}
	}
}
