package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const sample = "../../deploy/nearsight.yaml"

func TestTheSampleFileShowsEverySettingWithItsDefault(t *testing.T) {
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	var c Config // without defaults, so that a missing key is seen
	all := settingsOf(&c)
	if err := all.readYAML(&c, sample, text); err != nil {
		t.Fatal(err)
	}
	d := defaultConfig()
	want := settingsOf(&d)
	for name, s := range all {
		if s.source == "default" {
			t.Errorf("%s: no key %s", sample, name)
		} else if got, want := s.field.Interface(), want[name].field.Interface(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %s is %v, and the default is %v", s.source, name, got, want)
		}
	}
	if err := d.check(func(string) string { return "default" }); err != nil {
		t.Errorf("the defaults do not pass: %v", err)
	}
}

func TestEverySettingCanComeFromTheEnvironment(t *testing.T) {
	var environ []string
	c := defaultConfig()
	for name, s := range settingsOf(&c) {
		text := "1h"
		if name == "identity.kind" {
			environ = append(environ, s.env()+"=tokens") // which the other settings of it need
			continue
		}
		switch s.field.Interface().(type) {
		case bool:
			text = "true"
		case HostPort, OptionalHostPort:
			text = "127.0.0.1:1"
		case string:
			text = strings.Fields(s.tag.Get("oneof") + " http://front")[0]
		case []string:
			text = "raw,qcow2"
		case int:
			text = "77"
		case Methods:
			text = "copy-image,web-download"
		case Regions:
			text = "east=http://front"
		case Size, Budget:
			text = "77MiB"
		}
		environ = append(environ, s.env()+"="+text)
	}
	got, unknown, err := loadConfig("", environ, nil)
	if err != nil || len(unknown) > 0 {
		t.Fatal(err, unknown)
	}
	if got.Cache.Budget.Bytes != 77<<20 || got.Server.ShutdownGrace != time.Hour || len(got.Images.DiskFormats) != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestFlagsOverrideTheEnvironmentWhichOverridesTheFile(t *testing.T) {
	file := writeConfig(t, "data: file\nserver:\n  listen: 127.0.0.1:1\n  admin: 127.0.0.1:1\n")
	c, unknown, err := loadConfig(file,
		[]string{"NEARSIGHT_SERVER_LISTEN=127.0.0.1:2", "NEARSIGHT_SERVER_ADMIN=127.0.0.1:2", "NEARSIGHT_SERVER=http://elsewhere", "NEARSIGHT_CACHE_BUGDET=1GiB", "OTHER=1"},
		map[string]string{"server.listen": "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "file" || c.Server.Admin != "127.0.0.1:2" || c.Server.Listen != "127.0.0.1:3" {
		t.Errorf("data %s, admin %s, listen %s", c.Data, c.Server.Admin, c.Server.Listen)
	}
	if len(unknown) != 1 || unknown[0] != "NEARSIGHT_CACHE_BUGDET" {
		t.Errorf("unknown: %v", unknown)
	}
}

func TestWrongConfigurationsAreRefusedByNameAndPlace(t *testing.T) {
	for _, tt := range []struct {
		name, file, env string
		flags           map[string]string
		errors          []string
	}{
		{name: "an unknown key", file: "cache:\n  budgte: 1GiB\n", errors: []string{"c.yaml:2: unknown key cache.budgte"}},
		{name: "an unknown section", file: "cahce:\n  budget: 1GiB\n", errors: []string{"c.yaml:1: unknown key cahce"}},
		{name: "a section inside a section", file: "cache:\n  cache:\n    budget: 1GiB\n", errors: []string{"c.yaml:2: unknown key cache.cache"}},
		{name: "a broken file", file: "cache:\n  dir: [\n", errors: []string{"c.yaml:2:"}},
		{name: "a tab for a blank", file: "cache:\n\tdir: x\n", errors: []string{"c.yaml:2:"}},
		{name: "a key twice", file: "data: a\ndata: b\n", errors: []string{"c.yaml:2:", "data"}},
		{name: "a second document", file: "data: a\n---\ndata: b\n", errors: []string{"c.yaml:3: a second document"}},
		{name: "a list for a file", file: "- a\n- b\n", errors: []string{"c.yaml:1: the file must hold keys"}},
		{name: "a list for a section", file: "cache: [a]\n", errors: []string{"c.yaml:1: cache must hold keys"}},
		{name: "a section for a value", file: "data:\n  dir: x\n", errors: []string{"c.yaml:1: data: must be a plain value"}},
		{name: "a key without a value", file: "cache:\n  budget:\n", errors: []string{"c.yaml:2: cache.budget: has no value"}},
		{name: "all problems at once", file: "cache:\n  budget: much\n  verify: never\n", env: "NEARSIGHT_LOG_LEVEL=loud",
			errors: []string{`c.yaml:2: cache.budget: "much" is not a size`, `c.yaml:3: cache.verify: "never" is not one of fill, always`, `environment NEARSIGHT_LOG_LEVEL: log.level: "loud"`}},

		{name: "a size of the wrong unit", file: "images:\n  max_size: 20GB\n", errors: []string{"c.yaml:2: images.max_size:", "KiB, MiB, GiB or TiB"}},
		{name: "a size below zero", file: "images:\n  max_size: -1\n", errors: []string{`"-1" is not a size`}},
		{name: "a size beyond all bounds", file: "images:\n  max_size: 9999999TiB\n", errors: []string{"is not a size"}},
		{name: "a size of nothing", file: "images:\n  max_size: 0\n", errors: []string{"c.yaml:2: images.max_size: must be 1 at least"}},
		{name: "more than all of the disk", file: "cache:\n  budget: 101%\n", errors: []string{"from 1% to 100%"}},
		{name: "a budget of nothing", file: "cache:\n  budget: 12\n", errors: []string{"too little"}},
		{name: "a duration without a unit", file: "server:\n  shutdown_grace: 30\n", errors: []string{`c.yaml:2: server.shutdown_grace: "30" is not a duration`}},
		{name: "a duration below zero", file: "server:\n  shutdown_grace: -3s\n", errors: []string{"is not a duration"}},
		{name: "a stall timeout of nothing", file: "server:\n  stall_timeout: 0s\n", errors: []string{"must be 1s at least"}},
		{name: "a number that is none", file: "images:\n  page_size: many\n", errors: []string{`"many" is not a number`}},
		{name: "neither true nor false", file: "server:\n  insecure_allow_remote: maybe\n", errors: []string{"neither true nor false"}},
		{name: "an empty list", file: "images:\n  disk_formats: []\n", errors: []string{"c.yaml:2: images.disk_formats: the list is empty"}},
		{name: "no data directory", file: "data: \"\"\n", errors: []string{"c.yaml:1: data:"}},
		{name: "a page larger than the largest", file: "images:\n  page_size: 2000\n", errors: []string{"c.yaml:2: images.page_size: 2000 is more"}},
		{name: "a public URL with a path", file: "server:\n  public_url: http://h/images\n", errors: []string{"c.yaml:2: server.public_url:"}},

		{name: "an address without a port", flags: map[string]string{"server.listen": "127.0.0.1"}, errors: []string{`flag --listen: server.listen: "127.0.0.1" is not an address`}},
		{name: "a port that is none", flags: map[string]string{"server.admin": "127.0.0.1:99999"}, errors: []string{"flag --admin: server.admin:"}},
		{name: "an address of the network", flags: map[string]string{"server.listen": "0.0.0.0:9292"}, errors: []string{"flag --listen: server.listen:", "--insecure-allow-remote"}},
		{name: "all addresses", env: "NEARSIGHT_SERVER_ADMIN=:9293", errors: []string{"environment NEARSIGHT_SERVER_ADMIN: server.admin:", "admin"}},
		{name: "all addresses for the Registry API", env: "NEARSIGHT_REGISTRY_LISTEN=:9191", errors: []string{"registry.listen: :9191 can be reached from other machines"}},
		{name: "tokens without a file", file: "identity:\n  kind: tokens\n", errors: []string{"identity.tokens: the file of tokens needs a name"}},
		{name: "a file of tokens that nobody uses", file: "identity:\n  tokens: t.json\n", errors: []string{"c.yaml:2: identity.tokens: there is a file of tokens, and identity.kind none does not use it"}},
		{name: "strangers where everybody is admin", env: "NEARSIGHT_IDENTITY_ANONYMOUS=true", errors: []string{"identity.anonymous: with identity.kind none everybody is let in"}},
		{name: "another kind of identity", file: "identity:\n  kind: passwords\n", errors: []string{`identity.kind: "passwords" is not one of none, tokens`}},
		{name: "a name that may be any machine", env: "NEARSIGHT_SERVER_LISTEN=images.example.org:80", errors: []string{"--insecure-allow-remote"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := ""
			if tt.file != "" {
				file = writeConfig(t, tt.file)
			}
			_, _, err := loadConfig(file, []string{tt.env}, tt.flags)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.errors {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestConfigurationsThatAreRight(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		holds      func(Config) bool
	}{
		{"an empty file", "", func(c Config) bool { return c.Log.Level == "info" }},
		{"comments alone", "# nothing\n", func(c Config) bool { return c.Log.Level == "info" }},
		{"a section whose keys are comments", "cache:\n  # dir: x\n", func(c Config) bool { return c.Cache.Dir == "" }},
		{"one key", "log:\n  level: debug\n", func(c Config) bool { return c.Log.Level == "debug" }},
		{"a size with a blank", "cache:\n  budget: 20 GiB\n", func(c Config) bool { return c.Cache.Budget == Budget{Bytes: 20 << 30} }},
		{"plain bytes", "images:\n  max_size: 1048576\n", func(c Config) bool { return c.Images.MaxSize == 1<<20 }},
		{"a percentage", "cache:\n  budget: 40%\n", func(c Config) bool { return c.Cache.Budget == Budget{Percent: 40} }},
		{"the other loopback", "server:\n  listen: '[::1]:0'\n", func(c Config) bool { return c.Server.Listen == "[::1]:0" }},
		{"the network, allowed", "server:\n  listen: 0.0.0.0:80\n  insecure_allow_remote: true\n", func(c Config) bool { return c.Server.Listen == "0.0.0.0:80" }},
		{"the network, with tokens", "server:\n  listen: 0.0.0.0:80\nidentity:\n  kind: tokens\n  tokens: t.json\n", func(c Config) bool { return c.Identity.Tokens == "t.json" }},
		{"a list in lines", "images:\n  disk_formats:\n  - raw\n  - qcow2\n", func(c Config) bool { return len(c.Images.DiskFormats) == 2 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := loadConfig(writeConfig(t, tt.file), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.holds(c) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestAMissingConfigurationFileIsNamed(t *testing.T) {
	_, _, err := loadConfig("no/such/file.yaml", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "no/such/file.yaml") {
		t.Errorf("got %v", err)
	}
}

func TestAPercentageOfASmallFileSystemIsAGibibyte(t *testing.T) {
	got, err := Budget{Percent: 1}.of(t.TempDir())
	if err != nil || got < 1<<30 {
		t.Errorf("got %d, %v", got, err)
	}
	if got, err := (Budget{Bytes: 5}).of("/no/such/directory"); got != 5 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
}

// A configuration file may be anything; the program must not fall over it.
func FuzzConfigFile(f *testing.F) {
	text, err := os.ReadFile(sample)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	for _, s := range []string{"", "a", "a: b", "- a", "a: [", "cache: {budget: 1GiB}", "cache: &x\n  dir: *x\n", "\t", "? a\n: b", "data: |\n  x\n", "<<: {data: x}", "data: !!binary x", "{{", "\x00", "data: \"\\x00\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := defaultConfig()
		if err := settingsOf(&c).readYAML(&c, "c.yaml", []byte(text)); err == nil && c.Images.PageSize < 1 {
			t.Errorf("accepted a page of %d", c.Images.PageSize)
		}
	})
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
