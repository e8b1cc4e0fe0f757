package proxy

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"nearsight/cache"
	"nearsight/registry"
)

const (
	dataType = "application/octet-stream" // exactly: clients compare the string

	// Freshness of data under an image id (http-semantics, section 0). There is
	// no s-maxage: to shared caches it forbids serving stale on an error.
	openFreshness    = "public, max-age=60, stale-while-revalidate=30, stale-if-error=86400"
	privateFreshness = "private, no-cache"

	// maxDisposition bounds Content-Disposition, in bytes.
	maxDisposition = 150
)

// represent returns what conditions and ranges on the image's data are about.
// Its date is never ahead of now, as RFC 9110, section 8.8.2.1 demands.
func represent(img *registry.Image, now time.Time) representation {
	rep := representation{tag: `"` + string(img.Digest) + `"`, size: *img.Size}
	if !img.ActivatedAt.IsZero() {
		rep.modified = img.ActivatedAt.UTC().Truncate(time.Second)
		if rep.modified.After(now) {
			rep.modified = now.UTC().Truncate(time.Second)
		}
	}
	return rep
}

// setValidators sets the fields that 200, 206 and 304 have in common (RFC 9110,
// section 15.4.5), but for how long they may be kept.
func setValidators(h http.Header, img *registry.Image, rep representation) {
	if rep.tag != "" {
		h["Etag"] = []string{rep.tag}
	}
	if !rep.modified.IsZero() {
		h["Last-Modified"] = []string{rep.modified.Format(http.TimeFormat)}
	}
	if sum, err := hex.DecodeString(img.HashValue); err == nil && len(sum) > 0 && img.HashAlgo == "sha512" {
		h["Repr-Digest"] = []string{"sha-512=:" + base64.StdEncoding.EncodeToString(sum) + ":"}
	}
	// Keys by which fronts forget: the image's, and that of its bytes.
	key := "img-" + img.ID
	if img.Digest == "" {
		h["Xkey"] = []string{key}
		h["Cache-Groups"] = []string{`"` + key + `"`}
		return
	}
	blob := "blob-" + string(img.Digest[:min(16, len(img.Digest))])
	h["Xkey"] = []string{key + " " + blob}
	h["Cache-Groups"] = []string{`"` + key + `", "` + blob + `"`}
}

// freshness returns Cache-Control. Only what everybody may read, which open says, is
// public. Data that nobody has hashed yet is its server's to change at any time.
func freshness(img *registry.Image, open bool) string {
	switch {
	case !open:
		return privateFreshness
	case img.Digest == "":
		return "no-cache"
	}
	return openFreshness
}

// setLength sets Content-Length, or leaves it out if it is not known: the body
// comes in chunks then, and no range of it can be asked for.
func setLength(h http.Header, n int64) {
	if n < 0 {
		delete(h, "Accept-Ranges")
		return
	}
	h["Content-Length"] = []string{strconv.FormatInt(n, 10)}
}

// setContent sets the fields that describe the bytes. Content-MD5 is that of the
// whole, in hex, as Glance sends it and its clients compare it.
func setContent(h http.Header, img *registry.Image) {
	h["Content-Type"] = []string{dataType}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Accept-Ranges"] = []string{"bytes"}
	h["Content-Disposition"] = []string{disposition(img)}
	if img.Checksum != "" {
		h["Content-Md5"] = []string{img.Checksum}
	}
}

// wantsSHA256 reports whether Want-Content-Digest asks for sha-256 (RFC 9530,
// section 4). What is malformed or unknown is ignored.
func wantsSHA256(h http.Header) bool {
	for _, line := range h["Want-Content-Digest"] {
		for member := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.Trim(member, " \t"), "=")
			if weight, err := strconv.Atoi(value); name == "sha-256" && err == nil && weight >= 1 && weight <= 10 {
				return true
			}
		}
	}
	return false
}

// contentDigest returns Content-Digest for a SHA-256 (RFC 9530, section 2).
func contentDigest(sum [sha256.Size]byte) string {
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// disposition returns Content-Disposition with the image's name (RFC 6266), or
// its id where nothing of the name can stand in a file name. A name that is not
// ASCII comes twice (RFC 8187), as far as there is room.
func disposition(img *registry.Image) string {
	name := ""
	if img.Name != nil {
		name = fileName(*img.Name)
	}
	if name == "" {
		name = img.ID
	}
	const (
		start, end = `attachment; filename="`, `"`
		extended   = `; filename*=UTF-8''`
	)
	ascii := strings.Map(func(c rune) rune {
		if c > '~' || c == '%' { // some readers decode escapes here
			return '_'
		}
		return c
	}, name)
	if ascii == name {
		return start + name[:min(len(name), maxDisposition-len(start)-len(end))] + end
	}
	const half = (maxDisposition - len(start) - len(end) - len(extended)) / 3
	b := append(make([]byte, 0, maxDisposition), start...)
	b = append(b, ascii[:min(len(ascii), half)]...)
	b = append(b, end+extended...)
	for _, c := range name {
		piece := escapeExtended(c)
		if len(b)+len(piece) > maxDisposition {
			break
		}
		b = append(b, piece...)
	}
	return string(b)
}

// fileName removes from a name what must not stand in a file name or would leave
// a quoted string: separators, quotes, control and invisible characters.
func fileName(name string) string {
	name = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || strings.ContainsRune(`"'\/:*?<>|;`, c) || !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, name)
	return strings.Trim(name, " .")
}

// escapeExtended returns a character as RFC 8187 wants it.
func escapeExtended(c rune) string {
	if c < utf8.RuneSelf && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("!#$&+-.^_`|~", c)) {
		return string(c)
	}
	const hexDigits = "0123456789ABCDEF"
	var b []byte
	for _, o := range []byte(string(c)) {
		b = append(b, '%', hexDigits[o>>4], hexDigits[o&15])
	}
	return string(b)
}

// foundWord says what the cache had of the data: hit, miss or partial.
func foundWord(o cache.Outcome) string {
	switch {
	case o.Present >= o.Chunks:
		return "hit"
	case o.Present == 0:
		return "miss"
	}
	return "partial"
}

// hitStatus is Cache-Status of what came from memory or from the cache alone.
const hitStatus = "nearsight; hit"

// cacheStatus returns Cache-Status (RFC 9211).
func cacheStatus(o cache.Outcome) string {
	word := foundWord(o)
	if word == "hit" {
		return hitStatus
	}
	s := "nearsight; fwd=" + word
	if o.Stored {
		s += "; stored"
	}
	if o.Collapsed {
		s += "; collapsed"
	}
	return s
}
