package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"), image(id2, "other"), image(id3, "with space"), image("1abcdef1-0000-0000-0000-000000000000", "o\x1bdd"))
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/info/stores/detail" {
			return false
		}
		io.WriteString(w, `{"stores":[{"id":"disks","description":"two"},{"id":"deep"},{"id":"ceph"}]}`)
		return true
	}
	for _, tt := range []struct {
		name, line string
		want       []string // offers
	}{
		{"names of images", "image show |o", []string{"one\t" + id1, "other\t" + id2}},
		{"but none that a shell would take apart", "image show |w", nil},
		{"ids, when one is begun", "image show |1", []string{id1 + "\tone", "1abcdef1-0000-0000-0000-000000000000\to\\x1bdd"}},
		{"no second image where one is taken", "image show one |o", nil},
		{"further ones where several are", "image delete one |ot", []string{"other\t" + id2}},
		{"images of the cache", "cache warm one |ot", []string{"other\t" + id2}},
		{"no image where there is a project", "image share one |o", nil},
		{"no files where there is nothing to name", "image list |o", nil},
		{"words of a flag", "image list --visibility |p", []string{"public", "private"}},
		{"stores", "image create --store |d", []string{"disks\ttwo", "deep"}},
		{"stores after a comma", "image copy one --to |ceph,di", []string{"ceph,disks\ttwo"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, typed, _ := strings.Cut(tt.line, "|")
			args := append([]string{"__complete"}, strings.Fields(before)...)
			out, _, err := runCLI(t, f, "", append(args, typed)...)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			offers := lines[:len(lines)-1]
			if lines[len(lines)-1] != ":4" { // no files
				t.Errorf("the shell is told %s", lines[len(lines)-1])
			}
			for _, want := range tt.want {
				if !strings.Contains(strings.Join(offers, "\n")+"\n", want+"\n") {
					t.Errorf("offered %q, want %q", offers, want)
				}
			}
			if len(offers) > len(tt.want) && tt.want == nil {
				t.Errorf("offered %q", offers)
			}
		})
	}
}

func TestCompletionWithoutAServerOffersNothing(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	for _, args := range [][]string{{"image", "show", "o"}, {"image", "create", "--store", "d"}} {
		out, _, err := runCLI(t, h, "", append([]string{"__complete"}, args...)...)
		if err != nil || strings.TrimSpace(out) != ":4" {
			t.Errorf("%q: %s%v", args, out, err)
		}
	}
}
