package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"nearsight/registry"
)

const (
	id1 = "11111111-1111-1111-1111-111111111111"
	id2 = "22222222-2222-2222-2222-222222222222"
	id3 = "33333333-3333-3333-3333-333333333333"
)

// A fakeServer has images as their JSON form and notes what is asked of it.
type fakeServer struct {
	t *testing.T
	// fail answers a request if it returns true; it comes first.
	fail func(w http.ResponseWriter, r *http.Request) bool

	mu     sync.Mutex
	images map[string]map[string]any
	data   map[string][]byte
	seen   []string // METHOD URI [BODY]
}

func newFakeServer(t *testing.T, images ...map[string]any) *fakeServer {
	f := &fakeServer{t: t, images: map[string]map[string]any{}, data: map[string][]byte{}}
	for _, img := range images {
		f.images[img["id"].(string)] = img
	}
	return f
}

func image(id, name string) map[string]any {
	return map[string]any{"id": id, "name": name, "status": "active", "os_hidden": false}
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil && f.fail(w, r) {
		f.seen = append(f.seen, r.Method+" "+r.RequestURI)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client left
	}
	line := r.Method + " " + r.RequestURI
	if r.Header.Get("Content-Type") != "application/octet-stream" {
		line += " " + string(body)
	}
	f.seen = append(f.seen, strings.TrimSpace(line))

	id, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/images/"), "/")
	img := f.images[id]
	switch {
	case r.URL.Path == "/v2/images" && r.Method == "GET":
		f.list(w, r)
	case r.URL.Path == "/v2/images":
		img = map[string]any{"id": id3, "status": "queued"}
		if err := json.Unmarshal(body, &img); err != nil {
			f.t.Error(err)
		}
		f.images[img["id"].(string)] = img
		write(w, img)
	case img == nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(404)
		io.WriteString(w, `{"message":"no such image"}`)
	case r.Method == "DELETE" && rest == "":
		delete(f.images, id)
	case r.Method == "PUT" && rest == "file":
		f.data[id] = body
		img["status"], img["size"] = "active", len(body)
	default:
		write(w, img)
	}
}

func (f *fakeServer) list(w http.ResponseWriter, r *http.Request) {
	list := []map[string]any{}
	for _, img := range f.images {
		hidden, _ := img["os_hidden"].(bool)
		if q := r.URL.Query(); (q.Get("name") == "" || q.Get("name") == "eq:"+img["name"].(string)) && (q.Get("os_hidden") == "true") == hidden {
			list = append(list, img)
		}
	}
	slices.SortFunc(list, func(a, b map[string]any) int { return strings.Compare(a["id"].(string), b["id"].(string)) })
	write(w, map[string]any{"images": list})
}

func write(w http.ResponseWriter, v any) {
	json.NewEncoder(w).Encode(v)
}

func (f *fakeServer) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.seen...)
}

// runCLI runs a command against h and returns what it wrote.
func runCLI(t *testing.T, h http.Handler, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return runCLIContext(t.Context(), t, h, strings.NewReader(stdin), args...)
}

func runCLIContext(ctx context.Context, t *testing.T, h http.Handler, stdin io.Reader, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	s := httptest.NewServer(h)
	defer s.Close()
	var out, note bytes.Buffer
	root := newRoot()
	root.SetIn(stdin)
	root.SetOut(&out)
	root.SetErr(&note)
	root.SetArgs(append([]string{"--server", s.URL}, args...))
	err = root.ExecuteContext(ctx)
	return out.String(), note.String(), err
}

func TestWrongUsage(t *testing.T) {
	for _, tt := range []struct{ name, line, want string }{
		{"an unknown command", "frob", `no command "frob"`},
		{"an unknown command below image", "image frob", `image has no command "frob"`},
		{"an unknown command below cache", "cache frob", `cache has no command "frob"`},
		{"an unknown flag", "image list --frob", "unknown flag: --frob"},
		{"a flag without its value", "image save x --file", "flag needs an argument"},
		{"a number that is none", "image create --min-ram lots", "invalid argument"},
		{"too many arguments", "image show a b", "2 arguments do not fit: nearsight image show ID|NAME"},
		{"too few arguments", "image delete", "0 arguments do not fit"},
		{"save to nowhere", "image save x", "--file is missing"},
		{"upload of nothing", "image upload x", "--file is missing"},
		{"a property without a value", "image create --property os", `--property "os" is not KEY=VALUE`},
		{"a property without a key", "image set x --property =v", `--property "=v" is not KEY=VALUE`},
		{"a name that is no text", "image create --name a\xff", `"a\xff" is not UTF-8`},
		{"a property that is no text", "image set x --property os=\xff", "is not UTF-8"},
		{"a change of nothing", "image set x", "nothing to change"},
		{"an id that is none", "image create --id 7", `--id "7" is not a UUID`},
		{"a limit below nothing", "image list --limit -1", "--limit -1"},
		{"a direction that is none", "image list --sort name:up", `--sort "name:up"`},
		{"a size that is none", "image list --size-min big", "is not a size"},
		{"a time that is none", "image list --created-after yesterday", "--created-after"},
		{"columns without a name", "image list --columns id,,name", "--columns"},
		{"columns twice", "image list --columns id --long", "either --long or --columns"},
		{"two visibilities", "image create --public --private", "either public or private"},
		{"two visibilities, one in long", "image set x --visibility shared --public", "either shared or public"},
		{"an owner without a name", "image set x --owner=", "--owner is empty"},
		{"a removal of nothing", "image unset x", "nothing to remove"},
		{"connections that are none", "image save x --file y --parallel 0", "--parallel 0"},
		{"a queue of what is to be cleared", "cache queue x --clear", "takes no images"},
		{"a version of something", "version x", "1 arguments do not fit"},
		{"warm of nothing", "cache warm", "0 arguments do not fit"},
		{"a server that is none", "image list --server x", "server URL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t)
			_, _, err := runCLI(t, f, "", strings.Fields(tt.line)...)
			if err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("exit status %d, %v; want %q", exitCode(err), err, tt.want)
			}
			if len(f.seen) > 0 {
				t.Errorf("the server was asked for %q", f.seen)
			}
		})
	}
}

func TestAnImageIsFoundByIDOrName(t *testing.T) {
	hidden := image(id3, "hidden")
	hidden["os_hidden"] = true
	for _, tt := range []struct {
		name, ref, id, want string
		code                int
	}{
		{"by id", id1, id1, "", 0},
		{"by a name that one image has", "one", id1, "", 0},
		{"by the name of a hidden image", "hidden", id3, "", 0},
		{"by a name that looks like an id", "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "aaaaaaaa-0000-0000-0000-000000000000", "", 0},
		{"but not by a name that several have", "many", "", `"many" is the name of 2 images, say which by id: ` + id2 + ", 44444444", 1},
		{"but not by one that none has", "none", "", `"none": image not found`, 3},
		{"but not by nothing", "", "", "is empty", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t, image(id1, "one"), image(id2, "many"), image("44444444-0000-0000-0000-000000000000", "many"), hidden,
				image("aaaaaaaa-0000-0000-0000-000000000000", "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"))
			out, _, err := runCLI(t, f, "", "image", "show", tt.ref, "--json")
			var got struct{ ID string }
			json.Unmarshal([]byte(out), &got)
			if got.ID != tt.id || exitCode(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("found %q, %v; want %q, %q", got.ID, err, tt.id, tt.want)
			}
		})
	}
}

func TestList(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"), image(id2, "tw\x1bo"))
	out, _, err := runCLI(t, f, "", "image", "list")
	if err != nil || !strings.Contains(out, id1+"  one") || !strings.Contains(out, `tw\x1bo`) || strings.Contains(out, "\x1b") {
		t.Errorf("%s%v", out, err)
	}
	out, _, err = runCLI(t, f, "", "image", "list", "--json", "--limit", "1")
	var list []struct{ Name string }
	if err != nil || json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 || list[0].Name != "one" {
		t.Errorf("%s%v", out, err)
	}
	out, _, err = runCLI(t, newFakeServer(t), "", "image", "list", "--json")
	if err != nil || out != "[]\n" {
		t.Errorf("no images are %q, %v", out, err)
	}
}

func TestListFlags(t *testing.T) {
	for _, tt := range []struct{ name, flags, want string }{
		{"none is every image that is listed unasked", "", "limit=500"},
		{"all at once", "--name a:b --status active --visibility all --owner p --disk-format raw --container-format bare --tag t --tag u " +
			"--property k=v=w --hidden --protected=false --size-min 1 --size-max 2 --sort name:asc,size --limit 7",
			"container_format=eq%3Abare&disk_format=eq%3Araw&k=v%3Dw&limit=7&name=eq%3Aa%3Ab&os_hidden=true&owner=p" +
				"&protected=false&size_max=2&size_min=1&sort=name%3Aasc%2Csize%3Adesc&status=eq%3Aactive&tag=t&tag=u&visibility=all"},
		{"one of several", "--name a --name b,c --status active,queued", "limit=500&name=in%3A%22a%22%2C%22b%2Cc%22&status=in%3A%22active%22%2C%22queued%22"},
		{"ids", "--id " + id1, "id=eq%3A" + id1 + "&limit=500"},
		{"what others share", "--visibility shared --member-status pending", "limit=500&member_status=pending&visibility=shared"},
		{"sizes with units", "--size-min 1GiB --virtual-size-max 2MiB", "limit=500&size_min=1073741824&virtual_size_max=2097152"},
		{"a machine that it must fit on", "--fits-ram 512 --fits-disk 4", "limit=500&min_disk_max=4&min_ram_max=512"},
		{"sums", "--checksum c --hash h", "checksum=c&limit=500&os_hash_value=h"},
		{"times", "--created-after 2026-01-02 --updated-before 2026-01-02T03:04:05+01:00",
			"created_at=gte%3A2026-01-02T00%3A00%3A00Z&limit=500&updated_at=lt%3A2026-01-02T02%3A04%3A05Z"},
		{"from one on", "--marker " + id1, "limit=500&marker=" + id1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t)
			_, _, err := runCLI(t, f, "", append([]string{"image", "list"}, strings.Fields(tt.flags)...)...)
			if want := "GET /v2/images?" + tt.want; err != nil || !slices.Equal(f.seen, []string{want}) {
				t.Errorf("the server was asked for %q, %v; want %q", f.seen, err, want)
			}
		})
	}
}

func TestListColumns(t *testing.T) {
	one := image(id1, "one")
	one["size"], one["os_distro"], one["tags"], one["min_ram"] = 2048, "debian", []string{"b", "a"}, 7
	for _, tt := range []struct{ name, flags, want string }{
		{"are as asked for", "--columns name,size,tags", "NAME  SIZE     TAGS\none   2.0 KiB  a,b\n"},
		{"can be any property", "--columns os_distro,nosuch", "OS_DISTRO  NOSUCH\ndebian     -\n"},
		{"of properties show all", "--columns properties", "PROPERTIES\nos_distro=debian\n"},
		{"are more with --long", "--long", "PROPERTIES\n"},
		{"hold for programs too", "--columns id,min_ram,nosuch --json", "[\n  {\n    \"id\": \"" + id1 + "\",\n    \"min_ram\": 7,\n    \"nosuch\": null\n  }\n]\n"},
		{"but for programs --long changes nothing", "--long --json", `"os_distro": "debian"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _, err := runCLI(t, newFakeServer(t, one), "", append([]string{"image", "list"}, strings.Fields(tt.flags)...)...)
			if err != nil || !strings.Contains(out, tt.want) {
				t.Errorf("%q, %v; want %q", out, err, tt.want)
			}
		})
	}
}

func TestSet(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"))
	_, _, err := runCLI(t, f, "", strings.Fields("image set "+id1+" --name two --protected=false --hidden --min-ram 0 --min-disk 3 --visibility private "+
		"--property b=2 --property a=1 --unset-property c --tag t --remove-tag u")...)
	const path = "/v2/images/" + id1
	want := []string{
		"GET " + path,
		"PATCH " + path + ` [{"op":"add","path":"/name","value":"two"},{"op":"add","path":"/visibility","value":"private"},` +
			`{"op":"add","path":"/protected","value":false},{"op":"add","path":"/os_hidden","value":true},` +
			`{"op":"add","path":"/min_ram","value":0},{"op":"add","path":"/min_disk","value":3},` +
			`{"op":"add","path":"/a","value":"1"},{"op":"add","path":"/b","value":"2"},{"op":"remove","path":"/c"}]`,
		"PUT " + path + "/tags/t", "DELETE " + path + "/tags/u", "GET " + path,
	}
	if err != nil || !slices.Equal(f.seen, want) {
		t.Errorf("the server saw %q, %v; want %q", f.seen, err, want)
	}
}

func TestUnset(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"))
	_, _, err := runCLI(t, f, "", strings.Fields("image unset "+id1+" --property b --property a --tag u")...)
	const path = "/v2/images/" + id1
	want := []string{
		"GET " + path, "PATCH " + path + ` [{"op":"remove","path":"/b"},{"op":"remove","path":"/a"}]`,
		"DELETE " + path + "/tags/u", "GET " + path,
	}
	if err != nil || !slices.Equal(f.seen, want) {
		t.Errorf("the server saw %q, %v; want %q", f.seen, err, want)
	}
}

func TestVisibilityInShort(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"))
	_, _, err := runCLI(t, f, "", strings.Fields("image set "+id1+" --community --owner p")...)
	want := `PATCH /v2/images/` + id1 + ` [{"op":"add","path":"/owner","value":"p"},{"op":"add","path":"/visibility","value":"community"}]`
	if err != nil || len(f.seen) < 2 || f.seen[1] != want {
		t.Errorf("the server saw %q, %v; want %q", f.seen, err, want)
	}
}

func TestStates(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"), image(id2, "two"))
	if _, _, err := runCLI(t, f, "", "image", "deactivate", id1, id2); err != nil {
		t.Error(err)
	}
	if _, _, err := runCLI(t, f, "", "image", "reactivate", id2); err != nil {
		t.Error(err)
	}
	posts := slices.DeleteFunc(f.seen, func(line string) bool { return !strings.HasPrefix(line, "POST") })
	want := []string{
		"POST /v2/images/" + id1 + "/actions/deactivate", "POST /v2/images/" + id2 + "/actions/deactivate",
		"POST /v2/images/" + id2 + "/actions/reactivate",
	}
	if !slices.Equal(posts, want) {
		t.Errorf("the server saw %q", posts)
	}
}

func TestDeleteGoesOnAfterAnError(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"), image(id2, "two"))
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "DELETE" || !strings.HasSuffix(r.URL.Path, id1) {
			return false
		}
		w.WriteHeader(403)
		return true
	}
	_, _, err := runCLI(t, f, "", "image", "delete", "one", "none", "two")
	if !errors.Is(err, registry.ErrForbidden) || !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if line := errorLine(err); line != `nearsight: one: the server answered 403 Forbidden; "none": image not found` {
		t.Errorf("it says %s", line)
	}
	if f.images[id1] == nil || f.images[id2] != nil {
		t.Errorf("there are %v", f.images)
	}
}

func TestCacheCommands(t *testing.T) {
	const entry = `{"digest":"0123456789abcdef0123","size":2048,"zero":-1,"stored":1024,"verified":0,"pinned":true,"local":false,"last_used":null,"images":[{"id":"` + id1 + `","name":"o\u001bne"}]}`
	answers := map[string]string{
		"GET /nearsight/cache":                             `{"entries":[` + entry + `]}`,
		"GET /nearsight/cache/stats":                       `{"budget":2048,"used":1024,"damaged_chunks":7}`,
		"POST /nearsight/cache/images/" + id1 + "/warm":    `{"done":1,"total":2}` + "\n" + `{"result":` + entry + "}\n",
		"POST /nearsight/cache/images/" + id1 + "/scrub":   `{"result":{"chunks":8,"bad":1}}`,
		"POST /nearsight/cache/scrub":                      `{"result":{"chunks":9,"bad":0}}`,
		"PUT /nearsight/cache/images/" + id1 + "/pin":      "",
		"DELETE /nearsight/cache/images/" + id1 + "/pin":   "",
		"DELETE /nearsight/cache/images/" + id1:            "",
		"GET /v2/images/" + id1:                            `{"id":"` + id1 + `"}`,
		"POST /nearsight/cache/images/" + id1 + "/warm/no": "",
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			w.WriteHeader(404)
		}
		io.WriteString(w, body)
	})
	for _, tt := range []struct{ line, want string }{
		{"ls", "0123456789abcdef  2.0 KiB  1.0 KiB  0 B       ?      pinned  -          " + id1 + ` (o\x1bne)`},
		{"ls --json", `"name": "o\u001bne"`},
		{"stats", "disk used                    1.0 KiB of 2.0 KiB"},
		{"stats --json", `"damaged_chunks": 7`},
		{"warm " + id1, id1 + "  0 B of 2.0 KiB verified, 1.0 KiB on disk"},
		{"warm --json " + id1, `"stored": 1024`},
		{"scrub " + id1, id1 + "  8 chunks looked at, 1 damaged"},
		{"scrub", "all images  9 chunks looked at, 0 damaged"},
		{"pin " + id1, ""},
		{"unpin " + id1, ""},
		{"drop " + id1, ""},
	} {
		t.Run(tt.line, func(t *testing.T) {
			out, note, err := runCLI(t, h, "", append([]string{"cache"}, strings.Fields(tt.line)...)...)
			if err != nil || !strings.Contains(out, tt.want) || note != "" {
				t.Errorf("%s%s%v; want %s", out, note, err, tt.want)
			}
		})
	}
}
