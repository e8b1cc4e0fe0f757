package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Names of the images.
const (
	bigImage    = "image-1g.raw"
	smallImage  = "image-64m.raw"
	sparseImage = "image-1g-sparse.raw"
)

const (
	chunkSize   = 256 << 10 // what nearsight knows to be zeros or not
	longestRun  = 64        // chunks of data, or of zeros, in a row
	zeroPercent = 60
)

// programs are those that the peers need, with the Debian package of each.
var programs = map[string]string{"nginx": "nginx", "varnishd": "varnish", "squid": "squid"}

// install installs the packages that are missing. No package may start a daemon
// meanwhile: it would be in the way of what is measured.
func install(ctx context.Context, log *slog.Logger, names []string) error {
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, programs[name])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("these packages are missing and only root can install them: %s", strings.Join(missing, " "))
	}
	log.Info("installing", "packages", strings.Join(missing, " "))
	// The starters of deploy/lab take the same lock.
	base := os.Getenv("SVC_BASE")
	if base == "" {
		base = filepath.Join(os.TempDir(), "nearsight-services")
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(base, "apt.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	allow, err := forbidDaemons()
	if err != nil {
		return err
	}
	defer allow()
	args := append([]string{"-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", "install"}, missing...)
	text, err := aptGet(ctx, args...)
	if err != nil { // lists of packages may be old, or not there
		aptGet(ctx, "-o", "DPkg::Lock::Timeout=600", "update")
		text, err = aptGet(ctx, args...)
	}
	if err != nil {
		return fmt.Errorf("apt-get install: %w\n%s", err, text)
	}
	return nil
}

func aptGet(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it must not leave dpkg half done
	return cmd.CombinedOutput()
}

// forbidDaemons keeps packages from starting services until allow is called.
func forbidDaemons() (allow func(), err error) {
	const policy = "/usr/sbin/policy-rc.d"
	f, err := os.OpenFile(policy, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if errors.Is(err, os.ErrExist) {
		return func() {}, nil // there is one, and it knows why
	}
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(f, "#!/bin/sh\nexit 101\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(policy))
	}
	return func() { os.Remove(policy) }, nil
}

// build builds nearsight, unless a program is given, and returns its path.
func build(ctx context.Context, given, dir string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	path := filepath.Join(dir, "nearsight")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "nearsight/cmd/nearsight")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nearsight (in its repository): %w\n%s", err, text)
	}
	return path, nil
}

// An image is a file of the origin.
type image struct {
	name    string
	size    int64
	nonzero int64  // bytes in chunks that are not all zeros
	sum     string // SHA-256 of all, in hex
}

// makeImages makes the images that dir lacks, and a small text that shows
// whether a server is up.
func makeImages(ctx context.Context, log *slog.Logger, dir string) (map[string]image, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "ping.txt"), []byte("ok\n"), 0o644); err != nil {
		return nil, err
	}
	images := map[string]image{}
	for _, spec := range []struct {
		name   string
		mib    int64
		sparse bool
	}{{bigImage, 1024, false}, {smallImage, 64, false}, {sparseImage, 1024, true}} {
		im := image{name: spec.name, size: spec.mib << 20}
		layout := []run{{chunks: int(im.size / chunkSize)}}
		if spec.sparse {
			layout = sparseLayout(layout[0].chunks)
		}
		for _, r := range layout {
			if !r.zero {
				im.nonzero += int64(r.chunks) * chunkSize
			}
		}
		path := filepath.Join(dir, im.name)
		sum, err := os.ReadFile(path + ".sha256")
		if im.sum = string(sum); err != nil {
			log.Info("making an image", "file", path)
			if im.sum, err = makeImage(ctx, path, uint64(spec.mib), layout); err != nil {
				return nil, fmt.Errorf("make %s: %w", path, err)
			}
			if err := os.WriteFile(path+".sha256", []byte(im.sum), 0o644); err != nil {
				return nil, err
			}
		}
		images[im.name] = im
	}
	return images, nil
}

// A run is some chunks of zeros, or of data.
type run struct {
	chunks int
	zero   bool
}

// sparseLayout returns runs of n chunks in all, of which zeroPercent are zeros,
// the same each time.
func sparseLayout(n int) []run {
	rng := rand.New(rand.NewPCG(60, 0))
	var layout []run
	left := map[bool]int{true: n * zeroPercent / 100}
	left[false] = n - left[true]
	for zero := false; left[true]+left[false] > 0; zero = !zero {
		r := run{min(1+rng.IntN(longestRun), left[zero]), zero}
		if left[!zero] == 0 {
			r.chunks = left[zero]
		}
		if r.chunks > 0 {
			left[zero] -= r.chunks
			layout = append(layout, r)
		}
	}
	return layout
}

// makeImage writes the key stream of AES-256 in counter mode, the same bytes each
// time, with holes where the layout has zeros, and returns the SHA-256.
func makeImage(ctx context.Context, path string, counter uint64, layout []run) (sum string, err error) {
	var key [32]byte
	for i := range key {
		key[i] = byte(i)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return "", err
	}
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], counter)
	stream := cipher.NewCTR(block, iv[:])
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	zeros, data := make([]byte, chunkSize), make([]byte, chunkSize)
	size := int64(0)
	for _, r := range layout {
		for range r.chunks {
			if ctx.Err() != nil {
				return "", context.Cause(ctx)
			}
			if r.zero {
				h.Write(zeros)
			} else {
				stream.XORKeyStream(data, zeros)
				h.Write(data)
				if _, err := f.WriteAt(data, size); err != nil {
					return "", err
				}
			}
			size += chunkSize
		}
	}
	return hex.EncodeToString(h.Sum(nil)), f.Truncate(size)
}
