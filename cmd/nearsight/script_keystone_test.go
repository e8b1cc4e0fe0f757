package main

import (
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestKeystoneScripts runs testdata/keystone/*.txtar: the real program, as a client and
// as a server, with a real Keystone. They move the image service of its catalog, so
// there is one script.
func TestKeystoneScripts(t *testing.T) {
	if os.Getenv("KEYSTONE_URL") == "" || os.Getenv("KEYSTONE_SCRIPT") == "" {
		t.Fatal("KEYSTONE_URL is not set: start a Keystone with deploy/lab/keystone.sh, and export what it prints")
	}
	p := scripts(t)
	p.Dir = "testdata/keystone"
	p.Cmds["as"] = cmdAs
	p.Cmds["last"] = cmdLast
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		for _, kv := range os.Environ() {
			if name, value, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "KEYSTONE_") || name == "SVC_BASE" {
				env.Setenv(name, value)
			}
		}
		for name, value := range map[string]string{
			"HOME": env.WorkDir, "PYTHONWARNINGS": "ignore", "OS_IDENTITY_API_VERSION": "3",
			"NEARSIGHT_IDENTITY_KIND":     "keystone",
			"NEARSIGHT_KEYSTONE_AUTH_URL": os.Getenv("KEYSTONE_URL"),
			"NEARSIGHT_KEYSTONE_USER":     os.Getenv("KEYSTONE_SERVICE_USERNAME"),
			"NEARSIGHT_KEYSTONE_PASSWORD": os.Getenv("KEYSTONE_SERVICE_PASSWORD"),
			"NEARSIGHT_KEYSTONE_PROJECT":  os.Getenv("KEYSTONE_SERVICE_PROJECT"),
		} {
			env.Setenv(name, value)
		}
		return setup(env)
	}
	testscript.Run(t, p)
}

// cmdAs makes the clients log in as one of the users of the lab: as MEMBER, or READER,
// OTHER, ADMIN, SERVICE.
func cmdAs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: as MEMBER|READER|OTHER|ADMIN|SERVICE")
	}
	for variable, what := range map[string]string{"OS_USERNAME": "USERNAME", "OS_PASSWORD": "PASSWORD", "OS_PROJECT_NAME": "PROJECT"} {
		value := ts.Getenv("KEYSTONE_" + args[0] + "_" + what)
		if value == "" {
			ts.Fatalf("the lab has no user %s", args[0])
		}
		ts.Setenv(variable, value)
	}
	ts.Setenv("OS_AUTH_URL", ts.Getenv("KEYSTONE_URL"))
	for _, name := range []string{"OS_TOKEN", "NEARSIGHT_TOKEN", "NEARSIGHT_SERVER"} {
		ts.Setenv(name, "")
	}
}
