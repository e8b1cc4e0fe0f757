package client

import (
	"context"
	"crypto/md5"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"nearsight/registry"
)

// Upload stores r as the data of the queued image id. size is its length in
// bytes, or -1 if that is unknown; an r of another length is an error, and
// nothing is stored then. The server is asked before a byte is read from r, so
// that a refusal costs nothing.
//
// If the connection breaks, an r that is an io.Seeker is sent again from where it
// stood, as often as Options.Retries says: the API cannot take up an upload in the
// middle. An answer that got lost is made up for by comparing r with what the server
// has.
//
// ErrConflict if the image is not queued, ErrInvalid if it lacks a format,
// ErrTooLarge if there is a limit or no room. Errors of r are wrapped. Upload
// does not close r, and after an error a last Read of r may still be under way.
func (c *Client) Upload(ctx context.Context, id string, r io.Reader, size int64) error {
	return c.put(ctx, upload{id: id, to: "file", r: r, size: size})
}

// UploadTo is Upload to the store of that name. ErrInvalid if there is none such,
// or if it takes no data. A server with one store takes any name.
func (c *Client) UploadTo(ctx context.Context, store, id string, r io.Reader, size int64) error {
	return c.put(ctx, upload{id: id, to: "file", store: store, r: r, size: size})
}

// Stage is Upload to a place from where Import brings the data into the image with
// the method Direct. The image is uploading then; its formats may be set later.
// ErrNotFound also if the server has no such method.
func (c *Client) Stage(ctx context.Context, id string, r io.Reader, size int64) error {
	return c.put(ctx, upload{id: id, to: "stage", r: r, size: size})
}

// An upload is what is to be sent where.
type upload struct {
	id, to string
	store  string // "" leaves it to the server
	r      io.Reader
	size   int64
}

// put sends an upload until it arrived.
func (c *Client) put(ctx context.Context, u upload) error {
	if err := checkID(u.id); err != nil {
		return err
	}
	rewind := rewinder(u.r)
	unsure := false // an attempt before may have been stored
	for try := 1; ; try++ {
		sent, err := c.putOnce(ctx, u, rewind)
		if err == nil || ctx.Err() != nil {
			return err
		}
		fail := fmt.Errorf("upload: %w", err)
		if sent.broken || !sent.again(ctx, rewind) {
			return fail
		}
		switch status := statusOf(err); {
		case status == http.StatusConflict && unsure:
			stored, stillOpen := c.fateOf(ctx, u)
			if stored {
				return nil
			} else if !stillOpen {
				return fail
			}
		case !repeatable(message{method: http.MethodPut}, err):
			return fail
		case status == 0:
			unsure = rewind != nil // else nothing was sent
		}
		if try > c.retries || !c.pause(ctx, try, err) {
			return fail
		}
	}
}

// rewinder returns what brings r back to where it stands now, nil if it cannot.
func rewinder(r io.Reader) func() error {
	s, ok := r.(io.Seeker)
	if !ok {
		return nil
	}
	start, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil // a pipe in the form of a file
	}
	return func() error {
		_, err := s.Seek(start, io.SeekStart)
		return err
	}
}

// fateOf finds out what became of an upload whose answer was lost: whether the
// server stored these very bytes, or may still find out that they broke off. Of staged
// data it shows no hash.
func (c *Client) fateOf(ctx context.Context, u upload) (stored, stillOpen bool) {
	img, err := c.Get(ctx, u.id)
	if err != nil || u.to != "file" {
		return false, false
	}
	switch img.Status {
	case registry.Queued, registry.Saving:
		return false, true
	case registry.Active:
		return isDataOf(ctx, u.r, img), false
	}
	return false, false
}

// isDataOf reports whether r has the bytes that img describes.
func isDataOf(ctx context.Context, r io.Reader, img *registry.Image) bool {
	var sum hash.Hash
	var want string
	switch {
	case img.HashAlgo == "sha512" && img.HashValue != "":
		sum, want = sha512.New(), img.HashValue
	case img.Checksum != "":
		sum, want = md5.New(), img.Checksum
	default:
		return false
	}
	buf := make([]byte, copyBuffer)
	for ctx.Err() == nil {
		n, err := r.Read(buf)
		sum.Write(buf[:n])
		if err == io.EOF {
			return strings.EqualFold(hex.EncodeToString(sum.Sum(nil)), want)
		} else if err != nil {
			return false
		}
	}
	return false
}

// A sending is what one attempt left.
type sending struct {
	stream *interruptible
	broken bool // the reader failed
}

// again makes the reader ready to be sent again, and reports whether it is.
func (s sending) again(ctx context.Context, rewind func() error) bool {
	if touched := s.stream.stop(); !touched {
		return true
	}
	if rewind == nil {
		return false
	}
	select {
	case <-s.stream.done:
		return rewind() == nil
	case <-ctx.Done():
		return false
	}
}

func (c *Client) putOnce(ctx context.Context, u upload, rewind func() error) (sending, error) {
	req, err := c.request(ctx, http.MethodPut, imagePath(u.id)+"/"+u.to, nil)
	if err != nil {
		return sending{broken: true}, err
	}
	if u.store != "" {
		req.Header.Set("X-Image-Meta-Store", u.store)
	}
	if u.size >= 0 {
		req.Header.Set("X-Openstack-Image-Size", strconv.FormatInt(u.size, 10))
	}
	sent, resp, err := c.transmit(req, u.r, u.size, rewind)
	if err == nil {
		resp.Body.Close()
	}
	return sent, err
}

// transmit sends a request with size bytes of r, -1 for all there are; with another
// token if the first is refused and r can be had again. The caller closes the body of
// the answer.
func (c *Client) transmit(req *http.Request, r io.Reader, size int64, rewind func() error) (sending, *http.Response, error) {
	sent, resp, err := c.transmitOnce(req, r, size)
	if statusOf(err) == http.StatusUnauthorized && c.tokens.source != nil && sent.again(req.Context(), rewind) {
		return c.transmitOnce(req.Clone(req.Context()), r, size)
	}
	return sent, resp, err
}

func (c *Client) transmitOnce(req *http.Request, r io.Reader, size int64) (sending, *http.Response, error) {
	body := &uploadBody{r: r, left: size}
	sent := sending{stream: newInterruptible(body)}
	defer sent.stream.Close()
	// Else a cancelled request would wait for an r that brings nothing.
	defer context.AfterFunc(req.Context(), func() { sent.stream.Close() })()
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Body, req.ContentLength = sent.stream, size
	if size == 0 {
		if err := body.wantEnd(); err != nil {
			sent.broken = true
			return sent, nil, err
		}
		req.Body = http.NoBody // with another body a length of 0 would mean an unknown one
	} else {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := c.send(req)
	ended, readErr := body.outcome()
	switch {
	case err == nil && !ended && size != 0:
		resp.Body.Close()
		sent.broken = true
		return sent, nil, fmt.Errorf("%w: it did not wait for all bytes", errAnswer)
	case readErr != nil && statusOf(err) == 0:
		sent.broken = true
		err = readErr // else it would look like the server's fault
	}
	return sent, resp, err
}

// An uploadBody reads exactly as many bytes as were announced and remembers why
// it could not.
type uploadBody struct {
	r    io.Reader
	left int64 // bytes still to come; -1: any number

	mu    sync.Mutex // the transport may still read when its request has ended
	ended bool       // r was read to its end
	err   error      // what r failed with
}

func (b *uploadBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		n, err := b.r.Read(p)
		return n, b.note(err)
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0 && (err == nil || err == io.EOF):
		// The last bytes go out only when they are the last: a body that got
		// its announced length is stored.
		if err := b.wantEnd(); err != nil {
			return 0, b.note(err)
		}
		return n, b.note(io.EOF)
	case err == io.EOF:
		err = fmt.Errorf("%d bytes fewer than announced: %w", b.left, io.ErrUnexpectedEOF)
	}
	return n, b.note(err)
}

// wantEnd checks that there is nothing more.
func (b *uploadBody) wantEnd() error {
	var one [1]byte
	switch n, err := io.ReadFull(b.r, one[:]); {
	case n > 0:
		return fmt.Errorf("%w: more bytes than announced", registry.ErrInvalid)
	case err != io.EOF:
		return err
	}
	return nil
}

func (b *uploadBody) note(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch err {
	case nil:
	case io.EOF:
		b.ended = true
	default:
		b.err = err
	}
	return err
}

func (b *uploadBody) outcome() (ended bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended, b.err
}

// An interruptible is a body whose Close ends a Read that is under way, as the
// transport expects it of bodies.
type interruptible struct {
	r     io.Reader
	begin sync.Once
	done  chan struct{} // closed when nobody reads r any more
	out   *io.PipeReader
	in    *io.PipeWriter
}

func newInterruptible(r io.Reader) *interruptible {
	out, in := io.Pipe()
	return &interruptible{r: r, done: make(chan struct{}), out: out, in: in}
}

// Read reads from r, which nobody touches before the first Read.
func (i *interruptible) Read(p []byte) (int, error) {
	i.begin.Do(func() {
		go func() {
			defer close(i.done)
			_, err := io.CopyBuffer(i.in, i.r, make([]byte, copyBuffer))
			i.in.CloseWithError(err)
		}()
	})
	return i.out.Read(p)
}

func (i *interruptible) Close() error { return i.out.Close() }

// stop closes i and reports whether anybody ever read r, and perhaps still does until
// done is closed.
func (i *interruptible) stop() (touched bool) {
	i.Close()
	touched = true
	i.begin.Do(func() {
		touched = false
		close(i.done)
	})
	return touched
}
