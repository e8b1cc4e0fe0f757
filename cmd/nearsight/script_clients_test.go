package main

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestClientScripts runs testdata/clients/*.txtar: the clients of OpenStack,
// unmodified, against the real program.
func TestClientScripts(t *testing.T) {
	p := scripts(t)
	p.Dir = "testdata/clients"
	p.Cmds["cell"] = cmdCell
	p.Cmds["last"] = cmdLast
	p.Cmds["project"] = cmdProject
	p.Cmds["await"] = cmdAwait
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		env.Setenv("HOME", env.WorkDir) // glance keeps schemas there
		env.Setenv("PYTHONWARNINGS", "ignore")
		env.Setenv("NEARSIGHT_IDENTITY_KIND", "tokens")
		env.Setenv("NEARSIGHT_IDENTITY_TOKENS", "tokens.json")
		return setup(env)
	}
	testscript.Run(t, p)
}

// cmdCell sets a variable to a value of the table that stdout holds: cell VAR ROW.
func cmdCell(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cell VAR ROW")
	}
	row := regexp.MustCompile(`(?m)^\|\s*` + regexp.QuoteMeta(args[1]) + `\s*\|\s*(.*?)\s*\|$`)
	found := row.FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		ts.Fatalf("stdout has no row %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// cmdLast sets a variable to the last word of stdout: last VAR.
func cmdLast(ts *testscript.TestScript, neg bool, args []string) {
	words := strings.Fields(ts.ReadFile("stdout"))
	if neg || len(args) != 1 || len(words) == 0 {
		ts.Fatalf("usage: last VAR, after a command that wrote to stdout")
	}
	ts.Setenv(args[0], words[len(words)-1])
}

// cmdProject makes the clients speak with the token of a variable: project VAR.
func cmdProject(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || ts.Getenv(args[0]) == "" {
		ts.Fatalf("usage: project VAR, which holds a token")
	}
	token := ts.Getenv(args[0])
	for _, name := range []string{"OS_TOKEN", "OS_AUTH_TOKEN", "NEARSIGHT_TOKEN"} {
		ts.Setenv(name, token)
	}
	for _, name := range []string{"OS_IMAGE_URL", "OS_ENDPOINT"} {
		ts.Setenv(name, ts.Getenv("SERVER"))
	}
}

// cmdAwait waits until the record of an image has a text in a member, or until the
// cache has the image whole: await ID MEMBER TEXT, await ID cached.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await ID MEMBER TEXT, or: await ID cached")
	}
	path, want := "/v2/cache", `"image_id":"`+args[0]+`"`
	if len(args) == 3 {
		path, want = "/v2/images/"+args[0], `"`+args[1]+`":"[^"]*`+regexp.QuoteMeta(args[2])
	}
	pattern := regexp.MustCompile(want)
	often := time.NewTicker(100 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		found := ask(ts, path)
		if pattern.MatchString(found) {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			ts.Fatalf("%s does not come to have %s: %s", path, want, found)
		}
	}
}

// ask returns the answer to a GET with the token of the current project.
func ask(ts *testscript.TestScript, path string) string {
	req, err := http.NewRequest(http.MethodGet, ts.Getenv("SERVER")+path, nil)
	ts.Check(err)
	req.Header.Set("X-Auth-Token", ts.Getenv("OS_TOKEN"))
	resp, err := rawClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	return string(text)
}
