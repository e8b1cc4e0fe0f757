package proxy

import (
	"crypto/sha256"
	"fmt"
	"mime"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

func TestDisposition(t *testing.T) {
	for name, want := range map[string]string{
		"debian.qcow2":           `attachment; filename="debian.qcow2"`,
		"":                       `attachment; filename="` + idA + `"`,
		"../../etc/passwd":       `attachment; filename="etcpasswd"`,
		"a\"b\\c":                `attachment; filename="abc"`,
		"a\r\nSet-Cookie: x=y":   `attachment; filename="aSet-Cookie x=y"`,
		"Bär 50%":                `attachment; filename="B_r 50_"; filename*=UTF-8''B%C3%A4r%2050%25`,
		"evil\u202egnp.exe":      `attachment; filename="evilgnp.exe"`,
		"...":                    `attachment; filename="` + idA + `"`,
		strings.Repeat("x", 255): `attachment; filename="` + strings.Repeat("x", 127) + `"`,
	} {
		if got := disposition(&registry.Image{ID: idA, Name: &name}); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
	for _, name := range []string{strings.Repeat("ä", 255), strings.Repeat("𝄞", 255), strings.Repeat("a", 200) + "ä"} {
		if got := disposition(&registry.Image{ID: idA, Name: &name}); len(got) > maxDisposition {
			t.Errorf("%d bytes: %s", len(got), got)
		}
	}
}

func FuzzDisposition(f *testing.F) {
	f.Add("debian.qcow2")
	f.Add("a\"\r\n\\;%ä/..")
	f.Fuzz(func(t *testing.T, name string) {
		got := disposition(&registry.Image{ID: idA, Name: &name})
		media, params, err := mime.ParseMediaType(got)
		if err != nil || media != "attachment" || len(got) > maxDisposition {
			t.Fatalf("%q: %q: %v", name, got, err)
		}
		if strings.ContainsAny(params["filename"], "/\\\"\r\n\x00") || params["filename"] == "" {
			t.Fatalf("%q: file name %q", name, params["filename"])
		}
	})
}

func TestLastModifiedIsNotAheadOfDate(t *testing.T) {
	size := int64(1)
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	rep := represent(&registry.Image{Size: &size, ActivatedAt: now.Add(time.Hour)}, now)
	if rep.modified.After(now) {
		t.Errorf("modified %v", rep.modified)
	}
	if rep := represent(&registry.Image{Size: &size}, now); !rep.modified.IsZero() {
		t.Errorf("without a date: %v", rep.modified)
	}
}

// D2: the digest of the bytes that are sent, where it is wanted and known before.
func TestContentDigestOfAChunk(t *testing.T) {
	data := pattern(2*chunk+3, 1)
	s := newSite(t, siteConfig{})
	img := s.add(data, nil)
	second := contentDigest(sha256.Sum256(data[chunk : 2*chunk]))
	aligned := fmt.Sprintf("Range: bytes=%d-%d", chunk, 2*chunk-1)
	for _, tt := range []struct {
		name, field, wish, digest string
	}{
		{"a chunk", aligned, "sha-512=1, sha-256=10", second},
		{"a chunk, by a wish on its own", aligned, "sha-256=1", second},
		{"not wanted", aligned, "", ""},
		{"refused", aligned, "sha-256=0", ""},
		{"unknown", aligned, "sha-999=5", ""},
		{"malformed", aligned, "=:::", ""},
		{"weight beyond ten", aligned, "sha-256=11", ""},
		{"not known before it is read", "Range: bytes=1-9", "sha-256=10", ""},
		{"the whole", "", "sha-256=10", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var fields []string
			for _, f := range []string{tt.field, "Want-Content-Digest: " + tt.wish} {
				if f != "" {
					fields = append(fields, f)
				}
			}
			a := s.file("GET", img, fields...)
			if got := a.Header.Get("Content-Digest"); got != tt.digest {
				t.Errorf("Content-Digest %q, want %q", got, tt.digest)
			}
		})
	}
}
