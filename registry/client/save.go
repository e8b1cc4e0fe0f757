package client

import (
	"context"
	"crypto/md5"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// SaveOptions are for Save and Copy. The zero value works.
type SaveOptions struct {
	// Overwrite replaces a file that is there. Only Save uses it.
	Overwrite bool
	// Progress, if not nil, is called now and then, from the calling
	// goroutine, with the bytes that are there and those of the image.
	Progress func(done, total int64)
	// Retrying, if not nil, is called before the wait after a failed attempt.
	Retrying func(err error, wait time.Duration)
	// Retries is how many attempts in a row may bring no byte before it gives
	// up; 0 means 8, which takes about a minute, and less than 0 none.
	Retries int
	// Backoff is the wait after the first such attempt, doubled after each up
	// to 15 seconds, 0 means 250 ms. A server can ask for more.
	Backoff time.Duration
	// Parallel is how many connections bring the data at the same time, each some
	// megabytes of it that are kept in memory until it is their turn. 0 means one,
	// which brings all in one stream. A server that has no ranges is left at that.
	Parallel int
	// Prefer names stores, see Range.
	Prefer []string
	// View, if not empty, is the name of a view of the disk in the image, which is
	// taken instead of the data: see Views. Nobody knows the hash of one, so that
	// nothing but its length and, all along, its ETag says that it is the right one.
	View string
	// Stall is how long a connection may bring nothing before it counts as
	// broken, 0 means a minute.
	Stall time.Duration
}

const (
	saveRetries   = 8
	saveBackoff   = 250 * time.Millisecond
	maxBackoff    = 15 * time.Second
	maxRetryAfter = time.Minute
	defaultStall  = time.Minute

	copyBuffer = 256 << 10
)

// Save stores the data of img, as Get returned it, in a file. path names either
// the whole and verified data or what it named before.
//
// The bytes go to path.part, which a later Save takes up if they belong to the
// same data; path.part.json says which that is. Broken connections are resumed
// at the byte where they broke, pinned to one version by its ETag; with opt.Parallel
// there are several at a time. In the end
// the SHA-512 of all bytes, or their MD5 if the record has no other hash, must
// be that of the record: else the partial file is removed and the error wraps
// ErrIntegrity. Blocks of zeros become holes. ErrNotFound if the image has no view
// opt.View.
//
// fs.ErrExist if the file exists and is not to be overwritten, also when it
// appeared meanwhile; ErrConflict if the image has no data. After any other
// error, and when ctx ends, the partial file stays.
func (c *Client) Save(ctx context.Context, img *registry.Image, path string, opt SaveOptions) error {
	t, err := c.newTransfer(ctx, img, opt)
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	if err := checkTarget(path, opt.Overwrite); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	p, err := openPart(path)
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	defer p.close()
	if err := t.saveTo(ctx, p); err != nil {
		if t.off == t.size && errors.Is(err, ErrIntegrity) {
			p.remove()
			return fmt.Errorf("save: %w; the partial file was removed", err)
		}
		return fmt.Errorf("save: %w", errors.Join(err, p.flush()))
	}
	if err := p.commit(opt.Overwrite); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// Copy writes the data of img to w, verified as by Save. Because w has the bytes
// before the last is there to be verified, only the error tells whether they
// are right.
func (c *Client) Copy(ctx context.Context, img *registry.Image, w io.Writer, opt SaveOptions) error {
	t, err := c.newTransfer(ctx, img, opt)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	t.out = w
	if err := t.run(ctx); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}

// A transfer brings the bytes of an image to out, from off on.
type transfer struct {
	c    *Client
	img  *registry.Image
	opt  SaveOptions
	size int64

	out  io.Writer
	off  int64  // bytes that out has
	sum  digest // of these
	etag string // the version they belong to; "" while unknown
	pin  string // the version that is wanted; "" if any is
	// learned, if not nil, is called with the ETag before the first byte.
	learned func(etag string) error
}

// A digest is a hash that knows its result. Without a Hash it is that of a view, and
// want its ETag.
type digest struct {
	hash.Hash
	name, want string
}

func (c *Client) newTransfer(ctx context.Context, img *registry.Image, opt SaveOptions) (*transfer, error) {
	if opt.Retries == 0 {
		opt.Retries = saveRetries
	}
	if opt.Backoff <= 0 {
		opt.Backoff = saveBackoff
	}
	if opt.Stall <= 0 {
		opt.Stall = defaultStall
	}
	if opt.Progress == nil {
		opt.Progress = func(int64, int64) {}
	}
	if opt.Retrying == nil {
		opt.Retrying = func(error, time.Duration) {}
	}
	if img.Size == nil {
		return nil, fmt.Errorf("%w: image %s has no data, it is %s", registry.ErrConflict, img.ID, img.Status)
	}
	t := &transfer{c: c, img: img, opt: opt, size: *img.Size}
	switch {
	case opt.View != "":
		v, err := c.view(ctx, img, opt.View)
		if err != nil {
			return nil, err
		}
		t.size, t.etag, t.pin, t.sum = v.Size, v.ETag, v.ETag, digest{nil, "view", v.ETag}
	case img.HashAlgo == "sha512" && img.HashValue != "":
		t.sum = digest{sha512.New(), "SHA-512", img.HashValue}
	case img.Checksum != "":
		t.sum = digest{md5.New(), "MD5", img.Checksum}
	default:
		return nil, fmt.Errorf("image %s has no hash in its record yet, so what arrives could not be verified", img.ID)
	}
	return t, nil
}

// saveTo brings the bytes that p lacks.
func (t *transfer) saveTo(ctx context.Context, p *part) error {
	// By its hash the record says which bytes these are, and the ETag that came
	// with them lets the server say whether it still has the same.
	version := partVersion{Hash: t.sum.name + ":" + strings.ToLower(t.sum.want)}
	restart := func() error {
		t.off, t.etag, version.ETag = 0, t.pin, t.pin
		if t.sum.Hash != nil {
			t.sum.Reset()
		}
		return errors.Join(p.reset(), p.setVersion(version))
	}
	t.out = p
	t.learned = func(etag string) error {
		version.ETag = etag
		return p.setVersion(version)
	}
	var err error
	if old := p.version(); old.Hash == version.Hash && p.off > 0 && p.off <= t.size {
		t.etag = old.ETag
		err = t.rehash(ctx, p)
	} else {
		err = restart()
	}
	if err != nil {
		return err
	}
	kept := t.off
	err = t.run(ctx)
	if errors.Is(err, origin.ErrChanged) && kept > 0 && t.off == kept {
		// The server does not know the version of the bytes that were kept.
		if err := restart(); err != nil {
			return err
		}
		err = t.run(ctx)
	}
	return err
}

// rehash reads what p kept from an earlier Save, so that the hash in the end is
// of all bytes.
func (t *transfer) rehash(ctx context.Context, p *part) error {
	if t.sum.Hash == nil {
		t.off = p.off
		return nil
	}
	buf := make([]byte, copyBuffer)
	for t.off < p.off {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := p.f.ReadAt(buf[:min(int64(len(buf)), p.off-t.off)], t.off)
		t.sum.Write(buf[:n])
		t.off += int64(n)
		t.opt.Progress(t.off, t.size)
		if err != nil && t.off < p.off {
			return fmt.Errorf("the partial file cannot be read: %w", err)
		}
	}
	return nil
}

// run fetches until all bytes are there and verifies them.
func (t *transfer) run(ctx context.Context) error {
	next := t.attempt
	if t.opt.Parallel > 1 {
		w := &window{t: t}
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer w.wait()
		defer cancel()
		next = w.next
	}
	for failures := 0; t.off < t.size; {
		before := t.off
		err := next(ctx)
		if t.off > before {
			failures = 0
		}
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.Is(err, registry.ErrUnavailable):
			return err
		}
		if failures++; failures > t.opt.Retries {
			return fmt.Errorf("gave up at byte %d of %d: %w", t.off, t.size, err)
		}
		if err := t.wait(ctx, failures, err); err != nil {
			return err
		}
	}
	if t.sum.Hash == nil {
		return nil
	}
	if got := hex.EncodeToString(t.sum.Sum(nil)); !strings.EqualFold(got, t.sum.want) {
		return fmt.Errorf("%w: the %s of the %d bytes is %s, and the record of image %s says %s",
			ErrIntegrity, t.sum.name, t.size, got, t.img.ID, t.sum.want)
	}
	return nil
}

// wait waits after the nth failure in a row.
func (t *transfer) wait(ctx context.Context, n int, err error) error {
	d := backoff(t.opt.Backoff, n, err)
	t.opt.Retrying(err, d)
	return sleep(ctx, d)
}

// attempt does one request and takes what it brings. It returns nil when all
// bytes are there, and ErrUnavailable when the next attempt can go on.
func (t *transfer) attempt(ctx context.Context) error {
	ctx, stall, cancel := t.watched(ctx)
	defer cancel()
	obj, err := t.open(ctx, Range{Offset: t.off, ETag: t.etag})
	if err != nil {
		return err
	}
	defer obj.Body.Close()
	if err := t.learn(obj.Validator); err != nil {
		return err
	}
	return t.take(ctx, obj, stall)
}

// watched returns a context that ends when the timer does: somebody resets it
// whenever bytes came.
func (t *transfer) watched(ctx context.Context) (context.Context, *time.Timer, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stall := time.AfterFunc(t.opt.Stall, func() {
		cancel(&unavailable{fmt.Sprintf("nothing came for %v", t.opt.Stall), nil})
	})
	return ctx, stall, func() {
		stall.Stop()
		cancel(nil)
	}
}

// open asks for bytes of an image of t.size.
func (t *transfer) open(ctx context.Context, r Range) (*origin.Object, error) {
	r.Prefer, r.View = t.opt.Prefer, t.opt.View
	obj, err := t.c.Download(ctx, t.img.ID, r)
	if err != nil {
		return nil, err
	}
	if obj.Size != t.size {
		obj.Body.Close()
		return nil, fmt.Errorf("%w: the data has %d bytes, and the record of image %s says %d",
			ErrIntegrity, obj.Size, t.img.ID, t.size)
	}
	return obj, nil
}

// learn notes which version the bytes belong to. Weak tags (W/"...") do not pin bytes
// (RFC 9110, section 13.1.1).
func (t *transfer) learn(etag string) error {
	if t.etag != "" || !strings.HasPrefix(etag, `"`) {
		return nil
	}
	t.etag = etag
	if t.learned == nil {
		return nil
	}
	return t.learned(etag)
}

// take reads a body. Only the wait for bytes counts as a stall, not the wait
// for out to take them. Of an answer that ignored the range, it passes over
// what out has.
func (t *transfer) take(ctx context.Context, obj *origin.Object, stall *time.Timer) error {
	buf := make([]byte, copyBuffer)
	for skip := t.off - obj.Offset; t.off < t.size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		stall.Reset(t.opt.Stall)
		n, err := obj.Body.Read(buf)
		stall.Stop()
		b := buf[:n]
		over := min(skip, int64(n))
		skip, b = skip-over, b[over:]
		if err := t.write(b); err != nil {
			return err
		}
		if err == nil || t.off == t.size || ctx.Err() != nil {
			continue
		}
		return &unavailable{fmt.Sprintf("the connection broke at byte %d of %d", t.off, t.size), err}
	}
	return nil
}

// write takes the next bytes.
func (t *transfer) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := t.out.Write(b); err != nil {
		return fmt.Errorf("at byte %d of %d: %w", t.off, t.size, err)
	}
	if t.sum.Hash != nil {
		t.sum.Write(b)
	}
	t.off += int64(len(b))
	t.opt.Progress(t.off, t.size)
	return nil
}

// checkTarget refuses early what commit would refuse in the end, and whatever
// is no file: a rename would put one in the place of a device.
func checkTarget(path string, overwrite bool) error {
	if path == "" {
		return fmt.Errorf("%w: the file has no name", registry.ErrInvalid)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory", path)
	case !info.Mode().IsRegular() && info.Mode()&os.ModeSymlink == 0:
		return fmt.Errorf("%s is not a regular file", path)
	case !overwrite:
		return fmt.Errorf("%s: %w", path, os.ErrExist)
	}
	return nil
}
