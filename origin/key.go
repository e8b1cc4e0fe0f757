package origin

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// maxKey is what file systems take for a name; the other stores keep to it, so that
// objects can move from one to another.
const maxKey = 255

// NewKey returns a key for the data of the image id that no other call returns: a
// late deletion of a broken upload never hits the one that came after it.
func NewKey(id string) string { return id + "." + RandomName() }

// RandomName returns 16 hexadecimal digits that nobody can guess.
func RandomName() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ValidKey says whether key is a plain name of at most 255 bytes: letters, digits,
// '.', '_' and '-', the first a letter or a digit. It needs no quoting anywhere and
// leads out of no directory.
func ValidKey(key string) bool {
	if key == "" || len(key) > maxKey || strings.ContainsRune("._-", rune(key[0])) {
		return false
	}
	for _, c := range []byte(key) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
