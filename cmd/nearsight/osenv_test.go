package main

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// connectionWith returns the connection of a command line in an environment.
func connectionWith(t *testing.T, env map[string]string, flags ...string) (connection, error) {
	t.Helper()
	for _, name := range []string{"NEARSIGHT_SERVER", "NEARSIGHT_TOKEN", "OS_AUTH_TOKEN", "OS_TOKEN", "OS_CACERT", "OS_CERT", "OS_KEY",
		"OS_INSECURE", "OS_IMAGE_ENDPOINT_OVERRIDE", "OS_IMAGE_URL", "OS_ENDPOINT", "OS_URL", "OS_AUTH_URL", "OS_AUTH_TYPE", "OS_CLOUD"} {
		t.Setenv(name, env[name])
	}
	var c connection
	var err error
	root := newRoot()
	root.AddCommand(&cobra.Command{Use: "probe", Run: func(cmd *cobra.Command, _ []string) { c, err = connectionOf(cmd) }})
	root.SetArgs(append([]string{"probe"}, flags...))
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	return c, err
}

func TestConnection(t *testing.T) {
	type env = map[string]string
	shell := env{"OS_AUTH_URL": "http://id/v3", "OS_USERNAME": "me", "OS_PASSWORD": "secret"}
	with := func(more env) env {
		all := env{}
		for _, e := range []env{shell, more} {
			for k, v := range e {
				all[k] = v
			}
		}
		return all
	}
	for _, tt := range []struct {
		name  string
		env   env
		flags string
		want  connection
		err   string
	}{
		{"a server on this machine is the default", nil, "", connection{server: defaultServer}, ""},
		{"a flag comes first", env{"NEARSIGHT_SERVER": "http://env", "NEARSIGHT_TOKEN": "e"}, "--server http://flag --token f", connection{server: "http://flag", token: "f"}, ""},
		{"then variables of its own", env{"NEARSIGHT_SERVER": "http://env", "NEARSIGHT_TOKEN": "e", "OS_TOKEN": "o", "OS_URL": "http://os"}, "", connection{server: "http://env", token: "e"}, ""},
		{"then those of OpenStack", env{"OS_TOKEN": "o", "OS_IMAGE_ENDPOINT_OVERRIDE": "http://os"}, "", connection{server: "http://os", token: "o"}, ""},
		{"a token has two names there", env{"OS_AUTH_TOKEN": "a", "OS_TOKEN": "o", "OS_ENDPOINT": "http://os"}, "", connection{server: "http://os", token: "a"}, ""},
		{"the version of an endpoint goes away", env{"OS_URL": "http://os/image/v2.1/"}, "", connection{server: "http://os/image"}, ""},
		{"a slash at its end too", env{"OS_IMAGE_URL": "http://os:9292/"}, "", connection{server: "http://os:9292"}, ""},
		{"nobody is asked for a token where there are none", with(env{"OS_AUTH_TYPE": "none", "OS_ENDPOINT": "http://os"}), "", connection{server: "http://os"}, ""},
		{"a login is done", shell, "", connection{login: true}, ""},
		{"and for a server that is named there", with(env{"OS_IMAGE_ENDPOINT_OVERRIDE": "http://os"}), "", connection{server: "http://os", login: true}, ""},
		{"not one that a file describes", env{"OS_CLOUD": "mine"}, "", connection{}, "give it a token"},
		{"nor with a token", env{"OS_CLOUD": "mine", "OS_TOKEN": "o"}, "", connection{}, "which server?"},
		{"unless who names the server knows better", shell, "--server http://flag", connection{server: "http://flag"}, ""},
		{"with a token the catalog has the server", with(env{"OS_TOKEN": "o"}), "", connection{token: "o", login: true}, ""},
		{"and both suffice", with(env{"OS_TOKEN": "o", "OS_IMAGE_ENDPOINT_OVERRIDE": "http://os/v2"}), "", connection{server: "http://os", token: "o"}, ""},
		{"certificates", env{"OS_CACERT": "ca", "OS_CERT": "c", "OS_KEY": "k", "OS_INSECURE": "True"}, "", connection{server: defaultServer, cacert: "ca", cert: "c", key: "k", insecure: true}, ""},
		{"certificates by flag, with _ for -", env{"OS_CACERT": "ca"}, "--cacert f --auth_token t", connection{server: defaultServer, cacert: "f", token: "t"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := connectionWith(t, tt.env, strings.Fields(tt.flags)...)
			if tt.err != "" {
				if err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "secret") {
					t.Errorf("error %v, want %s", err, tt.err)
				}
			} else if err != nil || got != tt.want {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestATokenIsSentAndNeverShown(t *testing.T) {
	const token = "gAAAAABsecret"
	var got []string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("X-Auth-Token"))
		w.WriteHeader(http.StatusUnauthorized)
	})
	for _, line := range []string{"image list", "image save x --file /dev/null --force", "cache ls", "show 1", "info", "task ls"} {
		got = nil
		out, note, err := runCLI(t, h, "", append([]string{"--token", token}, strings.Fields(line)...)...)
		if err == nil || strings.Contains(out+note+errorLine(err), token) {
			t.Errorf("%s: %s%s%v", line, out, note, err)
		}
		if len(got) == 0 || got[0] != token {
			t.Errorf("%s: the server saw the tokens %q", line, got)
		}
	}
	_, _, err := runCLI(t, h, "", "image", "list", "--token", "two\nlines")
	if exitCode(err) != exitUsage || strings.Contains(errorLine(err), "two") {
		t.Errorf("a token that is none: %v", err)
	}
}

func TestCertificates(t *testing.T) {
	f := imageWithData(t, []byte("hello"))
	s := httptest.NewTLSServer(f)
	defer s.Close()
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not trust it
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}
	if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"image show one", "image save one --file -", "image save one --file - --prefer a", "index"} {
		for _, tt := range []struct {
			name, flags string
			trusted     bool
		}{
			{"one that nobody vouches for is not trusted", "", false},
			{"one that a file vouches for is", "--cacert " + ca, true},
			{"any is by force", "--insecure", true},
			{"a file that is not there vouches for none", "--cacert " + ca + "x", false},
			{"nor does one without certificates", "--cacert /dev/null", false},
		} {
			t.Run(command+": "+tt.name, func(t *testing.T) {
				root := newRoot()
				root.SetOut(io.Discard)
				root.SetErr(io.Discard)
				root.SetArgs(append(strings.Fields("--server "+s.URL+" "+tt.flags), strings.Fields(command)...))
				err := root.ExecuteContext(t.Context())
				trusted := err == nil || strings.Contains(err.Error(), "404") // which is an answer
				if trusted != tt.trusted {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}
