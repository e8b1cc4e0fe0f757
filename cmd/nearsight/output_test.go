package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"unicode/utf8"

	"nearsight/registry"
	"nearsight/registry/client"
)

func TestExitCodes(t *testing.T) {
	said := func(status int) error { return fmt.Errorf("x: %w", &client.Error{Status: status}) }
	for _, tt := range []struct {
		name string
		err  error
		code int
	}{
		{"no error is success", nil, 0},
		{"any other error is a failure", errors.New("disk full"), 1},
		{"a file that exists is a failure", fs.ErrExist, 1},
		{"an error of the server itself is a failure", said(500), 1},
		{"what the server finds invalid is a failure", said(400), 1},
		{"wrong usage", usagef("no such flag"), 2},
		{"wrong usage, wrapped", fmt.Errorf("x: %w", usagef("no such flag")), 2},
		{"not found", said(404), 3},
		{"gone", said(410), 3},
		{"no image of this name", fmt.Errorf("x: %w", registry.ErrNotFound), 3},
		{"unknown caller", said(401), 4},
		{"forbidden", said(403), 4},
		{"conflict", said(409), 4},
		{"precondition failed", said(412), 4},
		{"too large", said(413), 4},
		{"wrong type", said(415), 4},
		{"bad gateway", said(502), 5},
		{"unavailable", said(503), 5},
		{"gateway timeout", said(504), 5},
		{"nobody answers", fmt.Errorf("x: %w", registry.ErrUnavailable), 5},
		{"wrong bytes", fmt.Errorf("x: %w", client.ErrIntegrity), 6},
		{"interrupted", fmt.Errorf("x: %w", context.Canceled), 130},
		{"interrupted while something failed", errors.Join(said(404), context.Canceled), 130},
		{"several errors give the first kind of the list", errors.Join(said(503), said(404)), 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := exitCode(tt.err); got != tt.code {
				t.Errorf("exit status %d, want %d", got, tt.code)
			}
		})
	}
}

func TestErrorLine(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"plain text is left alone", `no image "Größe 1 €"`, `nearsight: no image "Größe 1 €"`},
		{"lines become one", "a\nb", "nearsight: a; b"},
		{"escape sequences are shown, not obeyed", "\x1b[31mred\x1b]0;title\a", `nearsight: \x1b[31mred\x1b]0;title\a`},
		{"so are C1 controls", "a\u009b31m", `nearsight: a\u009b31m`},
		{"a carriage return does not hide what was before", "bad\rgood", `nearsight: bad\rgood`},
		{"text does not run backwards", "a\u202eb\u2066c", `nearsight: a\u202eb\u2066c`},
		{"bytes that are no UTF-8 are shown", "a\xffb", `nearsight: a\xffb`},
		{"an interruption is called so", "save: context canceled", "nearsight: save: interrupted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := errorLine(errors.New(tt.text)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestWhoIsNotKnownIsToldHowToSayIt(t *testing.T) {
	line := errorLine(fmt.Errorf("x: %w", &client.Error{Status: 401}))
	if !strings.Contains(line, "NEARSIGHT_TOKEN or --token") {
		t.Errorf("it says %s", line)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[0m\u009b\u202e\xff\r\n\u00a0\U000e0001")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\r\n\t\u009b\u202e\u2066\x7f") {
			t.Errorf("%q became %q", s, got)
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		escaped := escapeJSON(text)
		var before, after string
		if json.Unmarshal(text, &before) != nil || json.Unmarshal(escaped, &after) != nil || before != after {
			t.Errorf("%s became %s", text, escaped)
		}
		if bytes.ContainsAny(escaped, "\x1b\u009b\u202e\u2066\x7f") {
			t.Errorf("%s is not fit for a terminal", escaped)
		}
	})
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 10 << 30: "10.0 GiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func TestVersion(t *testing.T) {
	var v versionInfo
	out, _, err := runCLI(t, nil, "", "version", "--json")
	if err != nil || json.Unmarshal([]byte(out), &v) != nil || v.Version == "" || !strings.HasPrefix(v.Go, "go") {
		t.Errorf("%s%v", out, err)
	}
	if out, _, err = runCLI(t, nil, "", "version"); err != nil || !strings.Contains(out, v.Go) {
		t.Errorf("%s%v", out, err)
	}
}
