package origin

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

const (
	// MinChunkSize is the smallest chunk, in bytes. A boot of a VM touches 107
	// MiB of its image at this granularity, 166 MiB at 1 MiB and 272 at 4 MiB.
	MinChunkSize = 256 << 10
	// MaxChunks bounds the chunks of an image, and so a manifest to 8 MiB: the
	// chunk size doubles until the image has at most that many.
	MaxChunks = 1 << 18
	// MaxSize bounds an image, in bytes: 8 EiB less one. Stores and operators
	// set lower limits.
	MaxSize = 1<<63 - 1

	manifestMagic  = "nsmanif1"
	manifestHeader = len(manifestMagic) + 8 + 8
)

// ErrManifest is wrapped by every error about a malformed manifest or digest.
var ErrManifest = errors.New("bad manifest")

// A Digest names bytes for good: the SHA-256 of their encoded Manifest, in
// lower-case hex. It is the key of the cache and the strong ETag.
type Digest string

// ParseDigest checks that s is 64 digits of lower-case hex.
func ParseDigest(s string) (Digest, error) {
	if len(s) != 2*sha256.Size {
		return "", fmt.Errorf("%w: digest %.80q has %d characters, not %d", ErrManifest, s, len(s), 2*sha256.Size)
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("%w: digest %q is not lower-case hex", ErrManifest, s)
		}
	}
	return Digest(s), nil
}

// DigestOf returns the digest of an encoded manifest.
func DigestOf(encoded []byte) Digest {
	sum := sha256.Sum256(encoded)
	return Digest(hex.EncodeToString(sum[:]))
}

// A Manifest says what every byte of an image is: the SHA-256 of each of its
// chunks. All chunks but the last have ChunkSize bytes.
type Manifest struct {
	// Size is the length of the image in bytes.
	Size int64
	// Sums holds 32 bytes for every chunk, in order.
	Sums []byte
}

// ChunkSize returns the length of a chunk, in bytes, of an image of size bytes:
// MinChunkSize, doubled until MaxChunks are enough. It follows from the size
// alone, so that the same bytes have the same manifest everywhere.
func ChunkSize(size int64) int64 {
	n := int64(MinChunkSize)
	for size > 0 && (size-1)/n >= MaxChunks {
		n *= 2
	}
	return n
}

// Chunks returns the number of chunks of an image of size bytes.
func Chunks(size int64) int {
	n := ChunkSize(size)
	return int(size/n + min(size%n, 1))
}

// Sum returns the SHA-256 of chunk i.
func (m *Manifest) Sum(i int) [sha256.Size]byte {
	return [sha256.Size]byte(m.Sums[i*sha256.Size:])
}

// Encode returns the canonical encoding: the magic, size and chunk size as
// 64-bit big-endian numbers, then the sums. Equal images have equal encodings.
func (m *Manifest) Encode() []byte {
	b := make([]byte, 0, manifestHeader+len(m.Sums))
	b = append(b, manifestMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(ChunkSize(m.Size)))
	return append(b, m.Sums...)
}

// DecodeManifest is the inverse of Encode. It accepts nothing that Encode does
// not write, and aliases b.
func DecodeManifest(b []byte) (*Manifest, error) {
	if len(b) < manifestHeader || !bytes.Equal(b[:len(manifestMagic)], []byte(manifestMagic)) {
		return nil, fmt.Errorf("%w: no header", ErrManifest)
	}
	size := binary.BigEndian.Uint64(b[len(manifestMagic):])
	chunk := binary.BigEndian.Uint64(b[len(manifestMagic)+8:])
	if size > MaxSize {
		return nil, fmt.Errorf("%w: size %d", ErrManifest, size)
	}
	if chunk != uint64(ChunkSize(int64(size))) {
		return nil, fmt.Errorf("%w: chunks of %d bytes for an image of %d", ErrManifest, chunk, size)
	}
	sums := b[manifestHeader:]
	if len(sums) != Chunks(int64(size))*sha256.Size {
		return nil, fmt.Errorf("%w: %d bytes of sums for %d chunks", ErrManifest, len(sums), Chunks(int64(size)))
	}
	return &Manifest{Size: int64(size), Sums: sums}, nil
}
