package origin

import (
	"crypto/sha256"
	"hash"
)

// ZeroSum returns the SHA-256 of n zero bytes: a chunk of n bytes with this sum
// need not be fetched, stored or read. It costs what hashing n bytes costs, so
// whoever asks again and again keeps the answer.
func ZeroSum(n int64) [sha256.Size]byte {
	h := sha256.New()
	zeros := make([]byte, min(max(n, 0), 64<<10))
	for n > 0 {
		k := min(n, int64(len(zeros)))
		h.Write(zeros[:k])
		n -= k
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// chunkSums makes the sums of a manifest out of what is written to it.
type chunkSums struct {
	chunk int64 // bytes
	max   int   // chunks
	hash  hash.Hash
	n     int64 // bytes that are in hash, less than a chunk
	sums  []byte
	over  bool // there was more than max chunks hold
}

func newChunkSums(chunk int64, max int) *chunkSums {
	return &chunkSums{chunk: chunk, max: max, hash: sha256.New()}
}

// Write never fails: what is too much makes end say so.
func (c *chunkSums) Write(b []byte) (int, error) {
	written := len(b)
	for len(b) > 0 && !c.over {
		if len(c.sums) == c.max*sha256.Size {
			c.over, c.sums = true, nil
			break
		}
		k := min(c.chunk-c.n, int64(len(b)))
		c.hash.Write(b[:k])
		c.n += k
		b = b[k:]
		if c.n == c.chunk {
			c.sum()
		}
	}
	return written, nil
}

func (c *chunkSums) sum() {
	c.sums = c.hash.Sum(c.sums)
	c.hash.Reset()
	c.n = 0
}

// end returns the sums of all that was written; false if it was too much.
func (c *chunkSums) end() ([]byte, bool) {
	if c.n > 0 {
		c.sum()
	}
	return c.sums, !c.over
}
