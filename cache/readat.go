package cache

import (
	"context"
	"io"
	"math/bits"
	"os"
)

// ReadAt reads len(p) bytes from offset off on, each verified, as Send sends them: it
// fetches the chunks that are missing, and reads no others. Known zeros cost no input
// or output. io.EOF if the data ends before p does; other errors are those of Send.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n := max(0, min(int64(len(p)), r.e.size-off))
	to := memory{p: p[:n], zeros: r.c.zeros}
	sent, err := r.Send(ctx, &to, off, n)
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return int(sent), err
}

// Zeros returns how many bytes from off on are known to be zeros, or are not, and which
// of the two. It asks nobody: the manifest says so, and is the same everywhere. off is
// in the data.
func (r *Reader) Zeros(off int64) (n int64, zero bool) {
	e := r.e
	first := int(off / e.chunk)
	zero = e.zero[first/chunksPerExtent]&(1<<(first%chunksPerExtent)) != 0
	i := first
	for i < e.chunks {
		alike := e.zero[i/chunksPerExtent] >> (i % chunksPerExtent)
		if !zero {
			alike = ^alike
		}
		left := chunksPerExtent - i%chunksPerExtent // in this extent
		run := min(bits.TrailingZeros64(^alike), left)
		i += run
		if run < left {
			break
		}
	}
	return min(int64(i)*e.chunk, e.size) - off, zero
}

// memory is what ReadAt has Send write to. Its end is not written over: Send writes as
// much as there is room for.
type memory struct {
	p     []byte // the rest
	zeros *os.File
}

// Write implements io.Writer.
func (m *memory) Write(b []byte) (int, error) {
	n := copy(m.p, b)
	m.p = m.p[n:]
	return n, nil
}

// ReadFrom implements io.ReaderFrom, so that nothing is copied twice.
func (m *memory) ReadFrom(src io.Reader) (int64, error) {
	read := int64(0)
	if s, ok := src.(*Section); ok && s.File == m.zeros {
		read = s.N
		clear(m.p[:read])
		m.p = m.p[read:]
		s.Skip(read)
		return read, nil
	}
	for len(m.p) > 0 {
		n, err := src.Read(m.p)
		m.p, read = m.p[n:], read+int64(n)
		if err == io.EOF {
			return read, nil
		}
		if err != nil {
			return read, err
		}
		if s, ok := src.(*Section); ok && s.N == 0 {
			break
		}
	}
	return read, nil
}
