package identity

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	image1    = "11111111-1111-4111-8111-111111111111"
	image2    = "22222222-2222-4222-8222-222222222222"
	firstKey  = "one 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f\n"
	secondKey = "two 101112131415161718191a1b1c1d1e1f101112131415161718191a1b1c1d1e1f\n"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// keysOf returns the keys of a file with this text.
func keysOf(t testing.TB, text string) (*URLKeys, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	writeText(t, path, text)
	k, err := OpenURLKeys(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k, path
}

func writeText(t testing.TB, path, text string) {
	t.Helper()
	if err := replace(path, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// hour returns what a URL of image1 allows for an hour from noon on.
func hour(changes ...func(*SignedURL)) SignedURL {
	s := SignedURL{Image: image1, Method: "GET", Expires: noon.Add(time.Hour)}
	for _, change := range changes {
		change(&s)
	}
	return s
}

func queryOf(u string) string {
	_, query, _ := strings.Cut(u, "?")
	return query
}

func TestASignedURLGivesOneRight(t *testing.T) {
	k, _ := keysOf(t, firstKey)
	head := func(s *SignedURL) { s.Method = "HEAD" }
	later := func(s *SignedURL) { s.NotBefore = noon.Add(time.Minute) }
	for _, tt := range []struct {
		name          string
		signed        SignedURL
		method, image string
		at            time.Duration // after noon
		want          error
	}{
		{"for its method", hour(), "GET", image1, 0, nil},
		{"and HEAD beside GET", hour(), "HEAD", image1, 0, nil},
		{"HEAD for HEAD", hour(head), "HEAD", image1, 0, nil},
		{"not GET for HEAD", hour(head), "GET", image1, 0, ErrMethod},
		{"not PUT", hour(), "PUT", image1, 0, ErrMethod},
		{"not a method in another case", hour(), "get", image1, 0, ErrMethod},
		{"not another image", hour(), "GET", image2, 0, ErrNotSigned},
		{"until the last moment", hour(), "GET", image1, time.Hour - 1, nil},
		{"not at its end", hour(), "GET", image1, time.Hour, ErrExpired},
		{"not after its end", hour(), "GET", image1, 2 * time.Hour, ErrExpired},
		{"not before it begins", hour(later), "GET", image1, time.Minute - 1, ErrEarly},
		{"when it begins", hour(later), "GET", image1, time.Minute, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := k.Verify(t.Context(), tt.method, tt.image, queryOf(k.Sign(tt.signed)), noon.Add(tt.at))
			if !errors.Is(err, tt.want) || (c != nil) != (err == nil) {
				t.Fatalf("%v, %v; want %v", c, err, tt.want)
			}
			if c != nil && (c.Image != tt.image || len(c.Roles) > 0 || c.Stranger) {
				t.Errorf("it is %+v", c)
			}
		})
	}
}

func TestASignedURLSaysWhoseRightItWas(t *testing.T) {
	k, _ := keysOf(t, firstKey)
	for _, project := range []string{"", "home", "a&ns-expires=9999999999", "ä/?#%+ \x00\n", strings.Repeat("x", 255)} {
		u := k.Sign(hour(func(s *SignedURL) { s.Project = project }))
		if _, err := url.Parse("http://x" + u); err != nil || strings.Contains(u, "#") {
			t.Errorf("%q is no URL: %v", u, err)
		}
		c, err := k.Verify(t.Context(), "GET", image1, queryOf(u), noon)
		if err != nil || c.Project != project {
			t.Errorf("%q: %+v, %v", project, c, err)
		}
	}
}

// Whatever octet of a query is another one, or missing, or doubled, it is not signed.
func TestAnAlteredQueryIsNotSigned(t *testing.T) {
	k, _ := keysOf(t, firstKey+secondKey)
	query := queryOf(k.Sign(hour(func(s *SignedURL) { s.Project, s.NotBefore = "h+ä", noon })))
	refused := func(what, altered string) {
		if c, err := k.Verify(t.Context(), "GET", image1, altered, noon); !errors.Is(err, ErrNotSigned) {
			t.Errorf("%s: %q: %v, %v", what, altered, c, err)
		}
	}
	for i := range len(query) {
		for b := range 256 {
			if byte(b) != query[i] {
				refused("altered", query[:i]+string([]byte{byte(b)})+query[i+1:])
			}
			refused("longer", query[:i]+string([]byte{byte(b)})+query[i:])
		}
		refused("shorter", query[:i]+query[i+1:])
		refused("cut", query[:i])
		refused("cut before", query[i+1:])
	}
	for _, tail := range []string{"&", "&x=y", "&prefer=a", "\n", "=", "&ns-signature=", "&ns-expires=1"} {
		refused("with more behind it", query+tail)
		refused("with more before it", strings.TrimPrefix(tail, "&")+"&"+query)
	}
	params := strings.Split(query, "&")
	params[0], params[1] = params[1], params[0]
	refused("in another order", strings.Join(params, "&"))
	refused("nothing", "")
	refused("too long", strings.Repeat("x=y&", maxSignedQuery)+query)
	if _, err := k.Verify(t.Context(), "GET", image1, query, noon); err != nil {
		t.Errorf("as it was: %v", err)
	}
}

func TestKeysRotate(t *testing.T) {
	k, path := keysOf(t, firstKey)
	by1 := queryOf(k.Sign(hour()))
	signer, _ := keysOf(t, "# the newest is the last\n\n"+firstKey+secondKey)
	by2 := queryOf(signer.Sign(hour()))
	good := func(what, query string, want error) {
		t.Helper()
		if _, err := k.Verify(t.Context(), "GET", image1, query, noon); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	if !strings.Contains(by1, "ns-key=one&") || !strings.Contains(by2, "ns-key=two&") {
		t.Fatalf("%s and %s", by1, by2)
	}
	good("the key", by1, nil)
	good("a key that is not there yet", by2, ErrNotSigned)
	writeText(t, path, firstKey+secondKey)
	good("a key that has come, at once", by2, nil)
	good("the old one beside it", by1, nil)
	if now := queryOf(k.Sign(hour())); now != by2 {
		t.Errorf("%s is not by the newest", now)
	}
	writeText(t, path, secondKey)
	if err := k.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	good("the old one when it is gone", by1, ErrNotSigned)
	writeText(t, path, "one "+strings.Repeat("f", 64)+"\n"+secondKey)
	if err := k.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	good("another secret under its id", by1, ErrNotSigned)
	writeText(t, path, "broken")
	if err := k.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	good("a file that broke leaves what was in force", by2, nil)
}

func TestAFileOfKeysMustMakeSense(t *testing.T) {
	secret := strings.Repeat("s", minSecret)
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "no key"},
		{"comments alone", "# key " + secret + "\n", "no key"},
		{"an id alone", "key\n", "line 1 is not"},
		{"three words", "\nkey " + secret + " more\n", "line 2 is not"},
		{"a short secret", "key " + secret[1:], "line 1: a secret"},
		{"a secret without end", "key " + strings.Repeat("s", maxSecret+1), "line 1: a secret"},
		{"an id that URLs would escape", "a&b " + secret, "line 1: an id"},
		{"an id without end", strings.Repeat("k", maxID+1) + " " + secret, "line 1: an id"},
		{"an id twice", "key " + secret + "\nkey " + secret + "x\n", "line 2: there is a key"},
		{"too many", manyKeys(maxKeys+1, secret), "more than"},
		{"many", manyKeys(maxKeys, secret), ""},
		{"one, without a line's end", "key " + secret, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseKeys([]byte(tt.text))
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret[1:]) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(firstKey), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenURLKeys(path, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that everybody can read: %v", err)
	}
}

func manyKeys(n int, secret string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("key" + strings.Repeat("x", i%60) + string(rune('a'+i/60)) + " " + secret + "\n")
	}
	return b.String()
}

// FuzzVerify finds no query that is taken but the one that was signed.
func FuzzVerify(f *testing.F) {
	k, _ := keysOf(f, firstKey)
	good := queryOf(k.Sign(hour()))
	for _, s := range []string{good, "", "ns-signature=", "&ns-signature=", "ns-key=one&ns-signature=", good[:len(good)-1], good + "A", "%6es-key=one&" + good, "ns-expires=9999999999&ns-key=one&ns-method=GET&ns-signature=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		f.Add("GET", image1, s)
	}
	f.Fuzz(func(t *testing.T, method, image, query string) {
		c, err := k.Verify(t.Context(), method, image, query, noon)
		if (c != nil) != (err == nil) {
			t.Fatalf("%v, %v", c, err)
		}
		if c != nil && (query != good || image != image1 || method != "GET" && method != "HEAD") {
			t.Errorf("%q of %q by %q", query, image, method)
		}
	})
}

// FuzzParseKeys reads what people write.
func FuzzParseKeys(f *testing.F) {
	for _, s := range []string{firstKey, firstKey + secondKey, "# x\n", "a b", "\x00 \xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseKeys(text)
		if err == nil && (len(keys) == 0 || len(keys) > maxKeys) {
			t.Errorf("%d keys", len(keys))
		}
		for _, key := range keys {
			if url.QueryEscape(key.id) != key.id || len(key.secret) < minSecret {
				t.Errorf("%q", key.id)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	k, _ := keysOf(b, firstKey+secondKey)
	query := queryOf(k.Sign(hour()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Verify(b.Context(), "GET", image1, query, noon); err != nil {
			b.Fatal(err)
		}
	}
}
