package cache

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A Section is the N bytes of File from offset Off on that have not been read
// yet. It does not use the offset that the file itself has, so any number of
// sections may share a descriptor; Reader.Send writes what is on disk by io.Copy
// from one. A connection that implements io.ReaderFrom can send it by
// sendfile(2), and then moves it forward with Skip.
type Section struct {
	File   *os.File
	Off, N int64
}

// Read implements io.Reader.
func (s *Section) Read(p []byte) (int, error) {
	if s.N <= 0 {
		return 0, io.EOF
	}
	n, err := s.File.ReadAt(p[:min(int64(len(p)), s.N)], s.Off)
	s.Skip(int64(n))
	if n > 0 && err == io.EOF {
		err = nil // the next call says so, if there is no more
	}
	return n, err
}

// Skip moves the section n bytes forward.
func (s *Section) Skip(n int64) { s.Off, s.N = s.Off+n, s.N-n }

// zeroFileSize is the length of the file of zeros, in bytes.
const zeroFileSize = 4 << 20

// openZeros returns a file in memory with zeroFileSize zeros that nobody can
// change: so zeros go by sendfile too, and no copy of them is made. It takes up
// no memory, being one hole.
func openZeros() (*os.File, error) {
	fd, err := unix.MemfdCreate("nearsight zeros", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("file of zeros: %w", err)
	}
	f := os.NewFile(uintptr(fd), "zeros")
	err = f.Truncate(zeroFileSize)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("file of zeros: %w", err)
	}
	return f, nil
}
