package api

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"nearsight/origin"
)

// minProgress is what a client must send within every stall timeout, in bytes.
// A client on the slowest line that anybody uploads over has it in a moment.
const minProgress = 64 << 10

// An uploadBody reads the body of an upload. It counts, so that a body that
// comes in chunks is held to the same limit as one that says its length, and it
// waits only so long for the next bytes: what the store takes of the time is not
// the client's. It belongs to one goroutine at a time.
type uploadBody struct {
	r     io.Reader
	rc    *http.ResponseController
	limit int64 // largest length, or -1
	stall time.Duration
	hash  hash.Hash // SHA-256, or nil when nobody asked

	fresh int64         // bytes read towards the next minProgress
	left  time.Duration // for the rest of them
	n     int64         // bytes read
	err   error         // why reading failed, nil at the proper end
}

func newUploadBody(w http.ResponseWriter, r *http.Request, plan uploadPlan, stall time.Duration) *uploadBody {
	b := &uploadBody{r: r.Body, rc: http.NewResponseController(w), limit: plan.limit, stall: stall, left: stall}
	if plan.digests.sha256 != nil {
		b.hash = sha256.New()
	}
	return b
}

// Read implements io.Reader.
func (b *uploadBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	start := time.Now()
	b.rc.SetReadDeadline(start.Add(b.left)) // not all writers can; those are not sockets
	n, err := b.r.Read(p)
	b.n += int64(n)
	b.fresh += int64(n)
	b.left -= time.Since(start)
	if b.fresh >= minProgress {
		b.fresh, b.left = 0, b.stall
	}
	switch {
	case b.limit >= 0 && b.n > b.limit:
		b.err = tooLarge(b.limit)
	case err == io.EOF:
		// From here on the server watches the connection, and a deadline that
		// passes would look like a client that left.
		b.rc.SetReadDeadline(time.Time{})
	case isTimeout(err), err == nil && b.left <= 0:
		b.err = refuse(http.StatusRequestTimeout, "fewer than %d bytes of data came in %v", minProgress, b.stall)
	case err != nil:
		b.err = &cutError{b.n, err}
	}
	if b.err != nil {
		return 0, b.err
	}
	if b.hash != nil {
		b.hash.Write(p[:n])
	}
	return n, err
}

// A cutError is the end of a body that is not whole: the client left, or what it
// sent makes no sense.
type cutError struct {
	n   int64 // bytes before it
	err error
}

func (e *cutError) Error() string {
	return fmt.Sprintf("body broke off after %d bytes: %v", e.n, e.err)
}
func (e *cutError) Unwrap() error { return e.err }

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// digests are the sums that a client sent with its data, nil where it sent none.
type digests struct{ md5, sha256, sha512 []byte }

// parseDigests reads Repr-Digest and Content-Digest (RFC 9530), and the MD5 that
// clients of the API of 2011 send. Data comes
// without a content coding, so the two are about the same bytes. Algorithms
// other than SHA-256 and SHA-512 are passed over; what cannot be read, or
// contradicts itself, is refused, since its sender wanted a check.
func parseDigests(h http.Header) (digests, error) {
	var d digests
	if text := h.Get("X-Image-Meta-Checksum"); text != "" {
		sum, err := hex.DecodeString(text)
		if err != nil || len(sum) != md5.Size {
			return d, refuse(http.StatusBadRequest, "x-image-meta-checksum %.80q is no MD5 in hex", text)
		}
		d.md5 = sum
	}
	for _, field := range []string{"Repr-Digest", "Content-Digest"} {
		for item := range strings.SplitSeq(strings.Join(h.Values(field), ","), ",") {
			if item = strings.Trim(item, " \t"); item == "" {
				continue
			}
			algorithm, value, _ := strings.Cut(item, "=")
			sum, size := &d.sha256, sha256.Size
			switch algorithm {
			case "sha-256":
			case "sha-512":
				sum, size = &d.sha512, 64
			default:
				continue
			}
			value, _, _ = strings.Cut(value, ";")
			encoded, ok := strings.CutPrefix(value, ":")
			encoded, ok2 := strings.CutSuffix(encoded, ":")
			raw, err := base64.StdEncoding.DecodeString(encoded)
			if !ok || !ok2 || err != nil || len(raw) != size {
				return d, refuse(http.StatusBadRequest, "%s: %.80q is no %s digest", field, item, algorithm)
			}
			if *sum != nil && !bytes.Equal(*sum, raw) {
				return d, refuse(http.StatusBadRequest, "there are two %s digests", algorithm)
			}
			*sum = raw
		}
	}
	return d, nil
}

// check compares the digests with those of the data that came.
func (d digests) check(body *uploadBody, sum origin.Summary) error {
	if d.sha256 != nil && !bytes.Equal(d.sha256, body.hash.Sum(nil)) ||
		d.md5 != nil && hex.EncodeToString(d.md5) != sum.MD5 ||
		d.sha512 != nil && hex.EncodeToString(d.sha512) != sum.SHA512 {
		return refuse(http.StatusBadRequest, "the data does not have the digest that was sent with it")
	}
	return nil
}
