package identity

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"nearsight/registry"
)

// Why a signed URL is not taken. Clocks are not given any leeway: whoever signs for a
// machine whose clock is behind says so by NotBefore.
var (
	ErrNotSigned = errors.New("the signature of the URL is not valid")
	ErrExpired   = errors.New("the signed URL has expired")
	ErrEarly     = errors.New("the signed URL is not valid yet")
	ErrMethod    = errors.New("the signed URL is for another method")
)

const (
	// MaxLife is the longest time from now that a URL may be good for.
	MaxLife = 7 * 24 * time.Hour

	// signedMark begins the names of all parameters of a signed URL. In this order
	// they are sorted, so that a front which sorts parameters changes nothing.
	signedMark       = "ns-"
	expiresParam     = "ns-expires"    // Unix time, in seconds
	keyParam         = "ns-key"        // id of the key
	methodParam      = "ns-method"     // GET, which allows HEAD too, or HEAD
	notBeforeParam   = "ns-not-before" // Unix time, in seconds; optional
	projectParam     = "ns-project"    // whose right it was to give; optional
	signatureParam   = "ns-signature"  // base64url without padding
	maxSignedQuery   = 4 << 10         // bytes
	maxKeyFile       = 64 << 10        // bytes
	maxKeys          = 100
	minSecret        = 32 // characters: those of openssl rand -hex 16 have 128 bits
	maxSecret, maxID = 512, 64

	// signedVersion is in every text that is signed, so that a signature means
	// nothing in any other version, and none that a key may be used for elsewhere.
	signedVersion = "nearsight signed URL 1"
	signedData    = "file" // the kind of path: GET and HEAD of /v2/images/ID/file
)

// A SignedURL is what a signed URL allows: to read the data of one image, for some
// time, whoever has it. It is the signer's right at the time of signing, and ends
// with its time, with its key, and when the image is deleted or deactivated; that
// the image is shared with the signer no more does not end it.
type SignedURL struct {
	Image  string // id
	Method string // GET, which allows HEAD too, or HEAD
	// NotBefore and Expires are in whole seconds. From NotBefore on, if it is not
	// zero, and before Expires the URL is good.
	NotBefore, Expires time.Time
	// Project is that of the signer, for the records.
	Project string
}

// URLKeys sign URLs, and know those that they have signed, by a file of keys: lines
// of an id and a secret, the newest last, which signs. All of them verify. Lines that
// begin with # are comments. The file is followed as that of Tokens is. It is safe
// for concurrent use.
//
// Several servers take each other's URLs if their files have the same keys; a new key
// goes to those that only verify before it goes to those that sign.
type URLKeys struct{ follower[[]urlKey] }

type urlKey struct {
	id     string
	secret []byte
}

// OpenURLKeys reads the file. Nothing follows it until Run. log gets what becomes of
// later versions; nil means slog.Default().
func OpenURLKeys(path string, log *slog.Logger) (*URLKeys, error) {
	k := &URLKeys{follower[[]urlKey]{
		path: path, read: readKeys, log: log,
		broken: "the keys of signed URLs cannot be read; those from before stay in force", fresh: "keys of signed URLs read",
	}}
	if err := k.open(); err != nil {
		return nil, err
	}
	return k, nil
}

func readKeys(path string) ([]urlKey, version, error) {
	const what = "keys of signed URLs"
	text, v, err := readText(path, what, maxKeyFile)
	if err != nil {
		return nil, v, err
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, v, fmt.Errorf("%s of %s: %w", what, path, err)
	}
	return keys, v, nil
}

// parseKeys reads the text of a file. No error shows a secret.
func parseKeys(text []byte) ([]urlKey, error) {
	var keys []urlKey
	seen := map[string]bool{}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		fields := strings.Fields(string(line))
		switch {
		case len(fields) == 0 || strings.HasPrefix(fields[0], "#"):
			continue
		case len(fields) != 2:
			return nil, fmt.Errorf("line %d is not an id and a secret", n)
		case len(fields[0]) > maxID || strings.Trim(fields[0], idCharacters) != "":
			return nil, fmt.Errorf("line %d: an id has letters, digits, -, _ and ., %d at most", n, maxID)
		case len(fields[1]) < minSecret || len(fields[1]) > maxSecret:
			return nil, fmt.Errorf("line %d: a secret has %d to %d characters; openssl rand -hex 32 makes one", n, minSecret, maxSecret)
		case seen[fields[0]]:
			return nil, fmt.Errorf("line %d: there is a key of this id already", n)
		case len(keys) == maxKeys:
			return nil, fmt.Errorf("there are more than %d keys", maxKeys)
		}
		seen[fields[0]] = true
		keys = append(keys, urlKey{fields[0], []byte(fields[1])})
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key")
	}
	return keys, nil
}

const idCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// Sign returns the path and the query of a signed URL. What it allows must make
// sense: it is a fault of the program if not.
func (k *URLKeys) Sign(s SignedURL) string {
	keys := *k.now.Load()
	key := keys[len(keys)-1]
	var b strings.Builder
	param := func(name, value string) {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(name + "=" + url.QueryEscape(value))
	}
	param(expiresParam, strconv.FormatInt(s.Expires.Unix(), 10))
	param(keyParam, key.id)
	param(methodParam, s.Method)
	if !s.NotBefore.IsZero() {
		param(notBeforeParam, strconv.FormatInt(s.NotBefore.Unix(), 10))
	}
	if s.Project != "" {
		param(projectParam, s.Project)
	}
	query := b.String()
	param(signatureParam, base64.RawURLEncoding.EncodeToString(key.sum(s.Image, query)))
	return "/v2/images/" + s.Image + "/file?" + b.String()
}

// sum returns the HMAC of a URL: of the query before the signature as it was written,
// octet by octet, so that nothing has two readings.
func (k *urlKey) sum(image, query string) []byte {
	h := hmac.New(sha256.New, k.secret)
	h.Write([]byte(signedVersion + "\n" + signedData + "\n" + image + "\n" + query))
	return h.Sum(nil)
}

// IsSigned reports whether the query of a URL has parameters of a signed one, good or
// bad.
func IsSigned(query string) bool {
	return strings.HasPrefix(query, signedMark) || strings.Contains(query, "&"+signedMark)
}

// Verify returns who comes with a signed URL for the data of image: a caller that may
// have those and nothing else (registry.Caller.Image). It returns ErrNotSigned if the
// query is not, octet by octet, what Sign wrote for that image, and ErrMethod,
// ErrEarly or ErrExpired if it is. Any other error is ctx's.
func (k *URLKeys) Verify(ctx context.Context, method, image, query string, now time.Time) (*registry.Caller, error) {
	if len(query) > maxSignedQuery {
		return nil, ErrNotSigned
	}
	i := strings.LastIndex(query, "&"+signatureParam+"=")
	if i < 0 {
		return nil, ErrNotSigned
	}
	signed, text := query[:i], query[i+len("&"+signatureParam+"="):]
	sum, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sum) != sha256.Size || strings.ContainsAny(text, "\r\n") { // which the decoder skips
		return nil, ErrNotSigned
	}
	// Of what is not known to be signed nothing is looked at but which key it names.
	key, err := k.find(ctx, keyNamed(signed))
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(sum, key.sum(image, signed)) {
		return nil, ErrNotSigned
	}
	s, err := parseSigned(signed)
	switch {
	case err != nil:
		return nil, ErrNotSigned
	case method != s.Method && !(s.Method == "GET" && method == "HEAD"):
		return nil, ErrMethod
	case now.Before(s.NotBefore):
		return nil, ErrEarly
	case !now.Before(s.Expires):
		return nil, ErrExpired
	}
	return &registry.Caller{Image: image, Project: s.Project}, nil
}

// keyNamed returns the id of the key in a query, "" for none.
func keyNamed(query string) string {
	for param := range strings.SplitSeq(query, "&") {
		if id, ok := strings.CutPrefix(param, keyParam+"="); ok {
			return id
		}
	}
	return ""
}

// find returns the key of the id, which may have come into the file just now.
func (k *URLKeys) find(ctx context.Context, id string) (*urlKey, error) {
	if key := k.known(id); key != nil {
		return key, nil
	}
	if err := k.look(ctx); err != nil {
		return nil, fmt.Errorf("look at the keys of signed URLs: %w", err)
	}
	if key := k.known(id); key != nil {
		return key, nil
	}
	return nil, ErrNotSigned
}

func (k *URLKeys) known(id string) *urlKey {
	keys := *k.now.Load()
	for i := range keys {
		if keys[i].id == id {
			return &keys[i]
		}
	}
	return nil
}

// parseSigned reads a query that was signed.
func parseSigned(query string) (s SignedURL, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return s, err
	}
	seconds := func(name string) time.Time {
		n, bad := strconv.ParseInt(values.Get(name), 10, 64)
		if bad != nil {
			err = fmt.Errorf("%s: %w", name, bad)
		}
		return time.Unix(n, 0)
	}
	s.Expires = seconds(expiresParam)
	if values.Has(notBeforeParam) {
		s.NotBefore = seconds(notBeforeParam)
	}
	s.Method, s.Project = values.Get(methodParam), values.Get(projectParam)
	return s, err
}
