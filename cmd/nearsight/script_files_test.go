package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"nearsight/origin"
)

// machineImages is where deploy/images/build put the real machine image.
func machineImages() string {
	if dir := os.Getenv("NEARSIGHT_IMAGES"); dir != "" {
		return dir
	}
	tmp := os.Getenv("TMPDIR")
	if tmp == "" {
		tmp = "/var/tmp"
	}
	return filepath.Join(tmp, "nearsight-images")
}

func haveMachineImage() bool {
	_, err := os.Stat(filepath.Join(machineImages(), "SHA256SUMS"))
	return err == nil
}

// cmdMkMachine makes links to a machine image: mkmachine RAW QCOW2. It is the
// real one of deploy/images/build; a developer's machine that has none gets a
// made-up disk, the CI must have it.
func cmdMkMachine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mkmachine RAW QCOW2")
	}
	raw, qcow2 := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	if haveMachineImage() {
		ts.Check(os.Symlink(filepath.Join(machineImages(), "debian.raw"), raw))
		ts.Check(os.Symlink(filepath.Join(machineImages(), "debian.qcow2"), qcow2))
		return
	}
	if os.Getenv("CI") != "" {
		ts.Fatalf("no machine image in %s: run deploy/images/build there", machineImages())
	}
	ts.Logf("no machine image in %s, taking a made-up one", machineImages())
	ts.Check(makeImage(raw, 64<<20, "machine"))
	ts.Check(ts.Exec("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2))
}

// cmdMkImage makes a file of random bytes and runs of zeros that the seed
// decides, half of each; or with so many MiB of random bytes, wherever the seed
// puts them: mkimage FILE MIB SEED [DATA_MIB].
func cmdMkImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: mkimage FILE MIB SEED [DATA_MIB]")
	}
	mib, err := strconv.Atoi(args[1])
	ts.Check(err)
	if len(args) == 3 {
		ts.Check(makeImage(ts.MkAbs(args[0]), int64(mib)<<20, args[2]))
		return
	}
	data, err := strconv.Atoi(args[3])
	ts.Check(err)
	ts.Check(makeSparse(ts.MkAbs(args[0]), mib, min(data, mib), args[2]))
}

// makeSparse writes data MiB of random bytes to random places of a sparse file of
// mib MiB.
func makeSparse(path string, mib, data int, seed string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	source := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	block := make([]byte, 1<<20)
	for _, i := range rand.New(source).Perm(mib)[:data] {
		source.Read(block) // it never fails
		if _, err := f.WriteAt(block, int64(i)<<20); err != nil {
			return err
		}
	}
	return f.Truncate(int64(mib) << 20)
}

// cmdNonzero sets a variable to how many bytes the chunks of a file have that are
// not all zeros: nonzero VAR FILE.
func cmdNonzero(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: nonzero VAR FILE")
	}
	text, unmap, err := mapFile(ts.MkAbs(args[1]))
	ts.Check(err)
	defer unmap()
	zeros, sum := make([]byte, origin.MinChunkSize), 0
	for chunk := range slices.Chunk(text, origin.MinChunkSize) {
		if !bytes.Equal(chunk, zeros[:len(chunk)]) {
			sum += len(chunk)
		}
	}
	ts.Setenv(args[0], strconv.Itoa(sum))
}

// makeImage writes runs of 64 KiB blocks, half of them holes, and an odd number of
// bytes at the end.
func makeImage(path string, size int64, seed string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	block := make([]byte, 64<<10)
	for off := int64(0); off < size; {
		hole := r.Uint64()%2 == 0
		for range 1 + r.Uint64()%16 {
			r.Read(block) // it never fails
			n := min(int64(len(block)), size-off)
			if !hole {
				if _, err := f.WriteAt(block[:n], off); err != nil {
					return err
				}
			}
			off += n
		}
	}
	_, err = f.WriteAt([]byte("end"), size)
	return err
}

// cmdFindBytes sets a variable to the offset of the first byte from some offset on
// that is not zero: findbytes VAR FILE FROM.
func cmdFindBytes(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: findbytes VAR FILE FROM")
	}
	from, err := strconv.Atoi(args[2])
	ts.Check(err)
	n := strings.IndexFunc(ts.ReadFile(args[1])[from:], func(r rune) bool { return r != 0 })
	if n < 0 {
		ts.Fatalf("nothing but zeros from %d", from)
	}
	ts.Setenv(args[0], strconv.Itoa(from+n))
}

// cmdFlip turns one byte of a file, as a disk does that rots: no time changes.
// flip FILE OFFSET.
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	ts.Check(err)
	b[0] ^= 0xff
	st, err := f.Stat()
	ts.Check(err)
	_, err = f.WriteAt(b, off)
	ts.Check(err)
	ts.Check(os.Chtimes(f.Name(), st.ModTime(), st.ModTime()))
}

// cmdField sets a variable to a member of the JSON object that stdout or a file
// holds: field VAR NAME [FILE].
func cmdField(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: field VAR NAME [FILE]")
	}
	text := ts.ReadFile(append(args, "stdout")[2])
	var object map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber() // a size is not for float64
	ts.Check(d.Decode(&object))
	v, ok := object[args[1]]
	if !ok {
		ts.Fatalf("no member %s in %s", args[1], text)
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// cmdGlob sets a variable to the only path that matches: glob VAR PATTERN.
func cmdGlob(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: glob VAR PATTERN, ! glob VAR PATTERN")
	}
	paths, err := filepath.Glob(ts.MkAbs(args[1]))
	ts.Check(err)
	if neg && len(paths) == 0 {
		return
	}
	if neg || len(paths) != 1 {
		ts.Fatalf("%s matches %v", args[1], paths)
	}
	ts.Setenv(args[0], paths[0])
}
