package diskformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// clusterSize is the grain of a Bitmap, in bytes: the cluster of the qcow2 that
// qemu-img makes.
const clusterSize = 64 << 10

// wordsPerRank words share one number of the index of a Bitmap: 32 KiB of disk a
// bit, 2 MiB a word, 16 MiB a rank.
const wordsPerRank = 8

// A Bitmap says which clusters of 64 KiB of a disk hold anything but zeros. It takes
// one bit each and a small index: 213 KiB for 100 GiB. It does not change after it
// was made.
type Bitmap struct {
	size  int64
	words []uint64
	ranks []uint32 // clusters in use before each wordsPerRank words
	used  int64
}

// A BitmapWriter makes the Bitmap of a disk from its bytes as they go by (rule S1).
// The zero value is ready for the first byte.
type BitmapWriter struct {
	size  int64
	words []uint64
}

// Write never fails.
func (w *BitmapWriter) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		cluster := w.size / clusterSize
		n := int(min(int64(len(p)), (cluster+1)*clusterSize-w.size))
		if int(cluster/64) == len(w.words) {
			w.words = append(w.words, 0)
		}
		word, bit := &w.words[cluster/64], uint64(1)<<(cluster%64)
		if *word&bit == 0 && !isZero(p[:n]) {
			*word |= bit
		}
		w.size += int64(n)
		p = p[n:]
	}
	return written, nil
}

// Bitmap returns the bitmap of what was written. Nothing may be written after it.
func (w *BitmapWriter) Bitmap() *Bitmap { return index(w.size, w.words) }

// zeros is what a part of a cluster is compared with.
var zeros [4 << 10]byte

func isZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

// TableBitmap returns the bitmap of an image by what its tables say: a cluster is in
// use if anything is stored for a part of it. It reads every table once.
func TableBitmap(img Image) (*Bitmap, error) {
	size := img.Size()
	words := make([]uint64, (clusters(size)+63)/64)
	for off := int64(0); off < size; {
		e, err := img.Extent(off)
		switch {
		case err != nil:
			return nil, err
		case e.Length <= 0:
			return nil, fmt.Errorf("%w: an extent of %d bytes at %d", ErrDecode, e.Length, off)
		}
		end := min(off+e.Length, size)
		if !e.Zero {
			for c := off / clusterSize; c <= (end-1)/clusterSize; c++ {
				words[c/64] |= 1 << (c % 64)
			}
		}
		off = end
	}
	return index(size, words), nil
}

// clusters returns how many clusters a disk of so many bytes has.
func clusters(size int64) int64 { return (size + clusterSize - 1) / clusterSize }

// index completes a bitmap.
func index(size int64, words []uint64) *Bitmap {
	b := &Bitmap{size: size, words: words}
	for i, word := range words {
		if i%wordsPerRank == 0 {
			b.ranks = append(b.ranks, uint32(b.used))
		}
		b.used += int64(bits.OnesCount64(word))
	}
	return b
}

// Size returns the length of the disk in bytes.
func (b *Bitmap) Size() int64 { return b.size }

// Used returns how many clusters are in use.
func (b *Bitmap) Used() int64 { return b.used }

// Has reports whether cluster c is in use. One beyond the disk is not.
func (b *Bitmap) Has(c int64) bool {
	return c >= 0 && c/64 < int64(len(b.words)) && b.words[c/64]&(1<<(c%64)) != 0
}

// Rank returns how many clusters before c are in use.
func (b *Bitmap) Rank(c int64) int64 {
	word := c / 64
	if word >= int64(len(b.words)) {
		return b.used
	}
	n := int64(b.ranks[word/wordsPerRank])
	for i := word - word%wordsPerRank; i < word; i++ {
		n += int64(bits.OnesCount64(b.words[i]))
	}
	return n + int64(bits.OnesCount64(b.words[word]&(1<<(c%64)-1)))
}

// Select returns the cluster before which k are in use, and which is in use itself.
// k is below Used.
func (b *Bitmap) Select(k int64) int64 {
	lo, hi := 0, len(b.ranks)
	for hi-lo > 1 { // the last rank that is not above k
		if mid := (lo + hi) / 2; int64(b.ranks[mid]) <= k {
			lo = mid
		} else {
			hi = mid
		}
	}
	k -= int64(b.ranks[lo])
	for i := lo * wordsPerRank; ; i++ {
		word := b.words[i]
		n := int64(bits.OnesCount64(word))
		if k >= n {
			k -= n
			continue
		}
		for ; k > 0; k-- {
			word &= word - 1
		}
		return int64(i)*64 + int64(bits.TrailingZeros64(word))
	}
}

// Coarse reports whether any of the n clusters from c on is in use.
func (b *Bitmap) Coarse(c, n int64) bool { return b.Rank(c+n) > b.Rank(c) }

// bitmapMagic begins an encoded Bitmap. Its last byte is the version.
var bitmapMagic = []byte("nsbitm\x00\x01")

// errBitmap: the text is no encoded bitmap.
var errBitmap = errors.New("malformed bitmap")

// AppendBinary implements encoding.BinaryAppender: the magic, the size of the disk,
// and a bit for each cluster, the first the lowest of the first byte.
func (b *Bitmap) AppendBinary(to []byte) ([]byte, error) {
	to = append(to, bitmapMagic...)
	to = binary.BigEndian.AppendUint64(to, uint64(b.size))
	n := int((clusters(b.size) + 7) / 8)
	for i := range n {
		to = append(to, byte(b.words[i/8]>>(i%8*8)))
	}
	return to, nil
}

// DecodeBitmap is the inverse of AppendBinary. It takes no other text, so that equal
// bitmaps have equal texts.
func DecodeBitmap(text []byte) (*Bitmap, error) {
	rest, ok := bytes.CutPrefix(text, bitmapMagic)
	if !ok || len(rest) < 8 {
		return nil, errBitmap
	}
	size := int64(binary.BigEndian.Uint64(rest))
	rest = rest[8:]
	if size < 0 || size > 1<<62 || int64(len(rest)) != (clusters(size)+7)/8 {
		return nil, errBitmap
	}
	words := make([]uint64, (clusters(size)+63)/64)
	for i, v := range rest {
		words[i/8] |= uint64(v) << (i % 8 * 8)
	}
	if n := clusters(size) % 64; n > 0 && words[len(words)-1]>>n != 0 {
		return nil, errBitmap
	}
	return index(size, words), nil
}
