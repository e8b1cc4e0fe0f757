package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeystoneIsConfiguredWholeOrNotAtAll(t *testing.T) {
	const kind = "identity:\n  kind: keystone\nkeystone:\n  auth_url: http://keystone:5000/v3\n"
	for _, tt := range []struct{ name, file, want string }{
		{"a user", kind + "  user: u\n  password: p\n  project: s\n", ""},
		{"a user of a domain", kind + "  user: u\n  password: p\n  project: s\n  user_domain: d\n  project_domain: e\n", ""},
		{"an application credential", kind + "  application_credential_id: i\n  application_credential_secret: s\n", ""},
		{"with strangers", "identity:\n  kind: keystone\n  anonymous: true\nkeystone:\n  auth_url: http://k/v3\n  user: u\n  password: p\n  project: s\n", ""},
		{"nothing", "identity:\n  kind: keystone\n", "keystone.auth_url: it is needed"},
		{"nobody", kind, "keystone.user: it is needed"},
		{"no password", kind + "  user: u\n  project: s\n", "keystone.password: it is needed"},
		{"no project", kind + "  user: u\n  password: p\n", "keystone.project: it is needed"},
		{"no secret", kind + "  application_credential_id: i\n", "keystone.application_credential_secret: it is needed"},
		{"a secret of nothing", kind + "  user: u\n  password: p\n  project: s\n  application_credential_secret: s\n", "c.yaml:8: keystone.application_credential_secret"},
		{"both", kind + "  user: u\n  application_credential_id: i\n  application_credential_secret: s\n", "keystone.user: an application credential has"},
		{"no URL", "identity:\n  kind: keystone\nkeystone:\n  auth_url: keystone\n  user: u\n  password: p\n  project: s\n", "keystone.auth_url:"},
		{"a URL with a password", "identity:\n  kind: keystone\nkeystone:\n  auth_url: http://u:p@keystone/v3\n  user: u\n  password: p\n  project: s\n", "keystone.auth_url:"},
		{"one that nobody asks", "keystone:\n  auth_url: http://keystone/v3\n", "identity.kind none asks nobody"},
		{"a file of tokens beside it", "identity:\n  kind: keystone\n  tokens: t\nkeystone:\n  auth_url: http://k/v3\n  user: u\n  password: p\n  project: s\n", "identity.tokens:"},
		{"answers that are not kept", "identity:\n  cache: 0s\n", "identity.cache: must be 1s at least"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := loadConfig(writeConfig(t, tt.file), nil, nil)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestErrorsOfSettingsShowNoPassword(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"of Keystone", "identity:\n  kind: keystone\nkeystone:\n  auth_url: http://bob:hun/t@er2@k/v3\n  user: u\n  password: p\n  project: s\n", `"http://...@k/v3" is not like`},
		{"of a central", "role: edge\ncentral:\n  url: https://bob:hunter2@central\n", `"https://...@central" is not like`},
		{"of an edge", "role: edge\ncentral:\n  url: http://c\nedge:\n  advertise: http://bob:hunter2@edge\n", `"http://...@edge" is not like`},
		{"of a front", "server:\n  public_url: http://bob:hunter2@front\n", `"http://...@front" is not like`},
		{"without a scheme", "server:\n  public_url: bob:hunter2@front\n", `"...@front" is not like`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := loadConfig(writeConfig(t, tt.file), nil, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "bob") {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

func TestKeystoneIsNotAskedBeforeSomebodyComes(t *testing.T) {
	c := defaultConfig()
	c.Keystone.AuthURL, c.Keystone.User, c.Keystone.Password, c.Keystone.Project = "http://127.0.0.1:1/v3", "u", "p", "s"
	if _, err := openKeystone(c); err != nil {
		t.Error(err)
	}
	c.Keystone.CAFile = filepath.Join(t.TempDir(), "none")
	if _, err := openKeystone(c); err == nil || !strings.Contains(err.Error(), "keystone.ca_file") {
		t.Errorf("got %v", err)
	}
}

func TestSigningKeysMustBeThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "url.keys")
	n := &node{log: slog.New(slog.DiscardHandler)}
	c := defaultConfig()
	if keys, err := n.openURLKeys(c); keys != nil || err != nil || len(n.parts) != 0 {
		t.Errorf("none: %v, %v", keys, err)
	}
	c.Identity.SigningKeys = path
	if _, err := n.openURLKeys(c); err == nil || !strings.Contains(err.Error(), "openssl rand -hex 32") {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("first "+strings.Repeat("s", 64)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := n.openURLKeys(c); keys == nil || err != nil || len(n.parts) != 1 {
		t.Errorf("a file: %v, %v", keys, err)
	}
}
