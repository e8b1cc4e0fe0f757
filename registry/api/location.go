package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"nearsight/registry"
)

const (
	// storeKey is the key in the metadata of a location that names its store. It
	// is the server's, and not kept.
	storeKey = "store"
	// maxURL bounds the URL of a location, in bytes. Signed ones have some
	// thousand.
	maxURL = 8 << 10
)

// A location is one as a client writes it.
type location struct {
	url      string
	metadata map[string]string
	hashes   *hashes // nil: none were given
}

// hashes are what a client says that the data has: validation_data.
type hashes struct {
	checksum   string // hex; "" if it was not given
	algo, hash string
}

// errNoLocations refuses all that has to do with locations where they are not
// exposed.
var errNoLocations = refuse(http.StatusForbidden, "locations are not shown here and cannot be changed")

// parseLocation reads {"url": ..., "metadata": {...}, "validation_data": {...}}.
func parseLocation(raw json.RawMessage) (location, error) {
	var l location
	fields, err := decodeObject(raw)
	if err != nil {
		return l, refuse(http.StatusBadRequest, "a location must be an object")
	}
	if l.url, err = parseURL(fields["url"]); err != nil {
		return l, err
	}
	if l.metadata, err = parseLocationMetadata(fields["metadata"]); err != nil {
		return l, err
	}
	if text, ok := fields["validation_data"]; ok && !isNull(text) {
		l.hashes, err = parseHashes(text)
	}
	return l, err
}

// parseURL reads the URL of a location, which the image may have already.
func parseURL(raw json.RawMessage) (string, error) {
	text, ok := decodeString(raw)
	switch {
	case !ok || text == "":
		return "", refuse(http.StatusBadRequest, "a location needs a url, which is a string")
	case len(text) > maxURL:
		return "", refuse(http.StatusBadRequest, "the URL of a location has more than %d bytes", maxURL)
	}
	return text, nil
}

// checkForeign checks that a location to be added is data of somebody else. What
// lies in a store of ours comes there by uploads and copies: a second record for
// the same object would delete it under the first.
func (l *location) checkForeign() error {
	u, err := url.Parse(l.url)
	switch {
	case err != nil:
		return refuse(http.StatusBadRequest, "the URL of the location is malformed")
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse(http.StatusBadRequest, "a location must be an http or https URL, not one of scheme %.20q", u.Scheme)
	case u.User != nil:
		return refuse(http.StatusBadRequest, "the URL of a location must not hold credentials: it is shown")
	case u.Host == "":
		return refuse(http.StatusBadRequest, "the URL of the location names no host")
	}
	return nil
}

// parseLocationMetadata reads what a client wants to be kept beside a location.
func parseLocationMetadata(raw json.RawMessage) (map[string]string, error) {
	members, err := decodeObject(raw)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "a location needs metadata, which is an object")
	}
	metadata := make(map[string]string, len(members))
	for key, raw := range members {
		value, ok := decodeString(raw)
		if !ok {
			return nil, refuse(http.StatusBadRequest, "metadata of a location has strings only, and %.80q is none", key)
		}
		metadata[key] = value
	}
	return metadata, nil
}

// parseHashes reads validation_data.
func parseHashes(raw json.RawMessage) (*hashes, error) {
	members, err := decodeObject(raw)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "validation_data must be an object")
	}
	var h hashes
	for key, to := range map[string]*string{"checksum": &h.checksum, "os_hash_algo": &h.algo, "os_hash_value": &h.hash} {
		raw, found := members[key]
		if !found {
			continue
		}
		var ok bool
		if *to, ok = decodeString(raw); !ok || *to == "" {
			return nil, refuse(http.StatusBadRequest, "member %s of validation_data must be a string", key)
		}
		delete(members, key)
	}
	switch {
	case len(members) > 0:
		return nil, refuse(http.StatusBadRequest, "validation_data has checksum, os_hash_algo and os_hash_value, and nothing else")
	case (h.algo == "") != (h.hash == ""):
		return nil, refuse(http.StatusBadRequest, "validation_data needs both os_hash_algo and os_hash_value, or neither")
	case h == hashes{}:
		return nil, nil
	}
	return &h, nil
}

// hexLengths are the lengths, in hex digits, of the hashes of known algorithms.
var hexLengths = map[string]int{"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}

// wellFormed checks the hashes by themselves, and refuses them with status.
func (h *hashes) wellFormed(status int) error {
	n, known := hexLengths[h.algo]
	switch {
	case h.algo != "" && !known:
		return refuse(status, "os_hash_algo %.20q is none of md5, sha1, sha256 and sha512", h.algo)
	case h.algo != "" && !isHex(h.hash, n):
		return refuse(status, "os_hash_value must have %d hex digits", n)
	case h.checksum != "" && !isHex(h.checksum, hexLengths["md5"]):
		return refuse(status, "checksum must have %d hex digits", hexLengths["md5"])
	}
	return nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// errNotCompared refuses hashes of data that this server could not compare with them.
var errNotCompared = refuse(http.StatusBadRequest,
	"validation_data cannot be compared with the data here: this server runs no tasks")

// claim notes in an image without a digest what a client says of its data.
func (h *hashes) claim(img *registry.Image) {
	if img.Digest == "" {
		img.Checksum, img.HashAlgo, img.HashValue = strings.ToLower(h.checksum), h.algo, strings.ToLower(h.hash)
	}
}

// check holds the hashes in a patch against what is known of the image's data. Of
// data that is still to come they are what is known, see claim.
func (h *hashes) check(img *registry.Image) error {
	if err := h.wellFormed(http.StatusConflict); err != nil {
		return err
	}
	switch {
	case h.algo != "" && h.algo != "sha512":
		return refuse(http.StatusConflict, "os_hash_algo must be sha512 here")
	case img.Status == registry.Queued:
		return nil
	case h.hash != "" && img.HashValue == "", h.checksum != "" && img.Checksum == "":
		return refuse(http.StatusConflict, "the hashes of the image are not known yet, and cannot be set while it is %s", img.Status)
	case h.hash != "" && !strings.EqualFold(h.hash, img.HashValue), h.checksum != "" && !strings.EqualFold(h.checksum, img.Checksum):
		return refuse(http.StatusConflict, "validation_data does not agree with the hashes of the image")
	}
	return nil
}
