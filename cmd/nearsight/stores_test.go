package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStoresComeFromFileAndEnvironment(t *testing.T) {
	file := writeConfig(t, `
stores:
  disks:
    kind: file
    dirs: [/a=2, /b]
    weight: 10
  ceph:
    kind: s3
    bucket: images
`)
	c, unknown, err := loadConfig(file, []string{
		"NEARSIGHT_STORES_CEPH_SECRET_KEY=s", "NEARSIGHT_STORES_CEPH_BUCKET=other",
		"NEARSIGHT_STORES_LATE_KIND=swift", "NEARSIGHT_STORES_LATE_AUTH_URL=http://127.0.0.1/v3",
		"NEARSIGHT_STORES_LATE_PASWORD=x",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(unknown) != 1 || unknown[0] != "NEARSIGHT_STORES_LATE_PASWORD" {
		t.Errorf("unknown: %v", unknown)
	}
	if d := c.Stores["disks"]; d == nil || d.Weight != 10 || len(d.Dirs) != 2 {
		t.Errorf("disks: %+v", d)
	}
	if s := c.Stores["ceph"]; s == nil || s.Bucket != "other" || s.SecretKey != "s" {
		t.Errorf("ceph: %+v", s)
	}
	if s := c.Stores["late"]; s == nil || s.Kind != "swift" || s.AuthURL != "http://127.0.0.1/v3" {
		t.Errorf("late: %+v", s)
	}
	all := c.withImplied()
	if len(all) != 5 || all["default"].Kind != "file" || all["web"].Kind != "http" {
		t.Errorf("with those that are implied: %v", all)
	}
}

func TestWrongStoresAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"stores:\n  a_b:\n    kind: file\n":                            `"a_b" cannot be the name of a store`,
		"stores:\n  a.b:\n    kind: file\n    dirs: /x\n":              `"a.b" cannot be the name of a store`,
		"stores:\n  a:\n    kind: tape\n":                              `"tape" is not one of file, s3, swift, http`,
		"stores:\n  a:\n    weight: 3\n":                               "stores.a: a store needs a kind",
		"stores:\n  a:\n    kind: file\n":                              "a store of kind file needs dirs",
		"stores:\n  a:\n    kind: s3\n":                                "a store of kind s3 needs bucket",
		"stores:\n  a:\n    kind: swift\n":                             "a store of kind swift needs auth_url",
		"stores:\n  a:\n    kind: file\n    dirs: /x\n    bucket: b\n": ":5: stores.a.bucket is not for a store of kind file",
		"stores:\n  a:\n    kind: file\n    dir: /x\n":                 "unknown key stores.a.dir",
		"stores: 3\n": "stores must hold keys with values",
	} {
		if _, _, err := loadConfig(writeConfig(t, text), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestSettingsThatStoresWouldIgnoreAreRefused(t *testing.T) {
	const ours = "stores:\n  default:\n    kind: s3\n    bucket: b\n"
	for text, want := range map[string]string{
		"origin:\n  dir: /x\n" + ours:                                            ":2: origin.dir: the store called default is one of stores",
		"origin:\n  rate_limit: 1MiB\n" + ours:                                   ":2: origin.rate_limit: it is for a store of files",
		"origin:\n  urls: true\nstores:\n  web:\n    kind: file\n    dirs: /x\n": ":2: origin.urls: the store called web is not of kind http",
	} {
		if _, _, err := loadConfig(writeConfig(t, text), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	if _, _, err := loadConfig(writeConfig(t, "origin:\n  store: default\n"+ours), nil, nil); err != nil {
		t.Error(err)
	}
}

func TestStoresKeepApart(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "ab"), 0o700); err != nil {
		t.Fatal(err)
	}
	files := func(name string) *Store { return &Store{Kind: "file", Dirs: []string{filepath.Join(dir, name) + "=1"}} }
	s3 := func(bucket, prefix string) *Store { return &Store{Kind: "s3", Bucket: bucket, Prefix: prefix} }
	swift := func(user, container string) *Store {
		return &Store{Kind: "swift", AuthURL: "http://x", User: user, Container: container}
	}
	for _, tt := range []struct {
		name  string
		a, b  *Store
		apart bool
	}{
		{"one directory", files("a"), files("a"), false},
		{"a directory in another", files("a/b"), files("a"), false},
		{"one directory by another name", files("a"), files("link"), false},
		{"names that begin alike", files("a"), files("ab"), true},
		{"one bucket", s3("x", ""), s3("x", ""), false},
		{"a folder of a bucket", s3("x", ""), s3("x", "f/"), false},
		{"two folders of a bucket", s3("x", "f"), s3("x", "fg"), true},
		{"two buckets", s3("x", ""), s3("y", ""), true},
		{"one container", swift("u", "c"), swift("u", "c"), false},
		{"two accounts", swift("u", "c"), swift("v", "c"), true},
		{"two kinds", files("a"), s3("a", ""), true},
	} {
		if err := apart(map[string]*Store{"one": tt.a, "two": tt.b}); (err == nil) != tt.apart {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestTheSampleStoresAreRight(t *testing.T) {
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nstores:\n")
	rest, _, _ = strings.Cut(rest, "\n\n")
	c, _, err := loadConfig(writeConfig(t, "stores:\n"+strings.ReplaceAll("\n"+rest, "\n#", "\n")), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range c.Stores {
		seen[s.Kind] = true
	}
	if len(c.Stores) != 4 || len(seen) != 4 {
		t.Errorf("the sample has %d stores of %d kinds", len(c.Stores), len(seen))
	}
	for key := range settingsOf(&Config{Stores: map[string]*Store{"x": {}}}) {
		if key, ok := strings.CutPrefix(key, "stores.x."); ok && !strings.Contains(rest, " "+key+":") {
			t.Errorf("the sample does not show %s", key)
		}
	}
}

func TestLogins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logins")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# who\nhttps://a.example u:p:q\n\nhttps://a.example X-Key: k v\nhttp://b.example:8080 Authorization: Bearer t\n")
	hosts, err := readLogins(path)
	if err != nil || len(hosts) != 2 {
		t.Fatal(hosts, err)
	}
	if a := hosts[0]; a.User != "u" || a.Password != "p:q" || a.Header["X-Key"] != "k v" {
		t.Errorf("%+v", a)
	}
	write("https://a.example u:p\nhttps://b.example secret\n")
	if _, err := readLogins(path); err == nil || !strings.Contains(err.Error(), "logins:2") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}
