package main

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestMembers(t *testing.T) {
	const members = "/v2/images/" + id1 + "/members"
	row := func(project, status string) string {
		return `{"member_id":"` + project + `","status":"` + status + `","created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05Z"}`
	}
	for _, tt := range []struct {
		name, line string
		members    string // the rows that the caller sees
		code       int
		want       []string // of the requests to members; in the output or the error if there is one alone that is none
	}{
		{"an image is shared with several", "image share one p q", "", 0, []string{`POST ` + members + ` {"member":"p"}`, `POST ` + members + ` {"member":"q"}`}},
		{"and no more", "image unshare one p q", "", 0, []string{"DELETE " + members + "/p", "DELETE " + members + "/q"}},
		{"who has it is listed", "image members one", row("p", "pending"), 0, []string{"GET " + members}},
		{"a project that is named accepts", "image accept one --project p", "", 0, []string{`PUT ` + members + `/p {"status":"accepted"}`}},
		{"a project that is the only one to be seen accepts", "image accept one", row("me", "pending"), 0,
			[]string{"GET " + members, `PUT ` + members + `/me {"status":"accepted"}`}},
		{"or rejects", "image reject one", row("me", "accepted"), 0, []string{"GET " + members, `PUT ` + members + `/me {"status":"rejected"}`}},
		{"of several nobody answers", "image accept one", row("p", "pending") + "," + row("q", "pending"), 2, []string{"GET " + members}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("OS_PROJECT_ID", "")
			f := newFakeServer(t, image(id1, "one"))
			var seen []string
			f.fail = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, members) {
					return false
				}
				body, _ := io.ReadAll(r.Body)
				seen = append(seen, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+string(body)))
				if r.Method == "GET" {
					io.WriteString(w, `{"members":[`+tt.members+`]}`)
				} else if r.Method != "DELETE" {
					io.WriteString(w, row("p", "pending"))
				}
				return true
			}
			out, _, err := runCLI(t, f, "", strings.Fields(tt.line)...)
			if exitCode(err) != tt.code || !slices.Equal(seen, tt.want) {
				t.Errorf("exit status %d, %v; the server saw %q", exitCode(err), err, seen)
			}
			if strings.Contains(tt.line, "members") && !strings.Contains(out, "p        pending  2026-01-02T03:04:05Z") {
				t.Errorf("it says %s", out)
			}
		})
	}
}

func TestAnswersAreForTheProjectOfTheShell(t *testing.T) {
	t.Setenv("OS_PROJECT_ID", "mine")
	f := newFakeServer(t, image(id1, "one"))
	var path string
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "PUT" {
			return false
		}
		path = r.URL.Path
		io.WriteString(w, `{"member_id":"mine","status":"accepted"}`)
		return true
	}
	if _, _, err := runCLI(t, f, "", "image", "accept", "one"); err != nil || !strings.HasSuffix(path, "/members/mine") {
		t.Errorf("%s, %v", path, err)
	}
}

func TestSharingWhatIsNotSharedSaysHow(t *testing.T) {
	one := image(id1, "one")
	one["visibility"] = "private"
	f := newFakeServer(t, one)
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "POST" {
			w.WriteHeader(http.StatusForbidden)
		}
		return r.Method == "POST"
	}
	_, _, err := runCLI(t, f, "", "image", "share", "one", "p")
	if exitCode(err) != exitRefused || !strings.Contains(errorLine(err), "its visibility is private: image set "+id1+" --shared changes that") {
		t.Errorf("error %v", err)
	}
}

func TestCreateSharesBeforeTheDataComes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		left   bool
	}{
		{"and the image is there", http.StatusOK, true},
		{"or nothing stays", http.StatusForbidden, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t)
			shared := 0
			f.fail = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/members") {
					return false
				}
				if f.data[id3] != nil {
					t.Error("the data was there before")
				}
				shared++
				w.WriteHeader(tt.status)
				io.WriteString(w, `{"member_id":"p","status":"pending"}`)
				return true
			}
			_, _, err := runCLI(t, f, "hello", "image", "create", "--file", "-", "--share-with", "p,q")
			if (err == nil) != tt.left || (f.images[id3] != nil) != tt.left || shared != 2 {
				t.Errorf("%v, %d times shared, the server has %v", err, shared, f.images)
			}
		})
	}
	if _, _, err := runCLI(t, newFakeServer(t), "", "image", "create", "--share-with", "p", "--public"); exitCode(err) != exitUsage {
		t.Errorf("error %v", err)
	}
}
