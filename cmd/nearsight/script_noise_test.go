package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"nearsight/origin"
)

// Noise is an image of so many bytes that lies nowhere: of every 256 chunks the
// last 64 are zeros, and no two of the others are equal.
type noise int64

// noiseChunk is what all chunks have but for a few bytes.
var noiseChunk = sync.OnceValue(func() []byte {
	b := make([]byte, origin.MinChunkSize)
	rand.NewChaCha8(sha256.Sum256([]byte("noise"))).Read(b) // it never fails
	return b
})

// ReadAt implements io.ReaderAt.
func (size noise) ReadAt(p []byte, off int64) (n int, err error) {
	var number [8]byte
	for n < len(p) {
		if off >= int64(size) {
			return n, io.EOF
		}
		chunk, from := off/origin.MinChunkSize, int(off%origin.MinChunkSize)
		part := p[n:min(int64(len(p)), int64(n+origin.MinChunkSize-from), int64(n)+int64(size)-off)]
		if chunk%256 >= 192 {
			clear(part)
		} else {
			copy(part, noiseChunk()[from:])
			binary.LittleEndian.PutUint64(number[:], uint64(chunk))
			if from < len(number) {
				copy(part, number[from:])
			}
		}
		n, off = n+len(part), off+int64(len(part))
	}
	return n, nil
}

func (size noise) reader() *io.SectionReader { return io.NewSectionReader(size, 0, int64(size)) }

func parseNoise(ts *testscript.TestScript, mib string) noise {
	n, err := strconv.ParseInt(mib, 10, 64)
	ts.Check(err)
	return noise(n << 20)
}

// cmdPour uploads noise, as a stream that does not tell its length: pour MIB PATH.
func cmdPour(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: pour MIB PATH")
	}
	body := struct{ io.Reader }{parseNoise(ts, args[0]).reader()}
	req, err := http.NewRequest(http.MethodPut, "http://"+running(ts).listen+args[1], body)
	ts.Check(err)
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := crowd.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if resp.StatusCode != http.StatusNoContent {
		ts.Fatalf("PUT %s: %s %s", args[1], resp.Status, text)
	}
}

// cmdDrain downloads noise and compares it: drain MIB PATH.
func cmdDrain(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: drain MIB PATH")
	}
	resp, err := crowd.Get("http://" + running(ts).listen + args[1])
	ts.Check(err)
	defer resp.Body.Close()
	ts.Check(parseNoise(ts, args[0]).compare(resp.Body))
}

// compare reads r to its end.
func (size noise) compare(r io.Reader) error {
	want, got := size.reader(), make([]byte, 1<<20)
	expected := make([]byte, len(got))
	for off := int64(0); ; {
		n, err := io.ReadFull(r, got)
		m, _ := io.ReadFull(want, expected)
		if !bytes.Equal(got[:n], expected[:m]) {
			return fmt.Errorf("%w or their end after %d (%v)", errWrongBytes, off, err)
		}
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF || m == 0 {
			return ignoreEOF(err)
		}
		off += int64(n)
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
