package task

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"strings"

	"nearsight/origin"
	"nearsight/registry"
)

// A comparer reads data that was registered by its URL with the hash that it must
// have, and makes the image active with it if it has. It writes nothing, and so the
// books of what is being written do not hear of it.
type comparer struct{ *Importer }

// Do implements Handler.
func (c comparer) Do(ctx context.Context, j *Job) error {
	var what Comparison
	if err := json.Unmarshal(j.Input, &what); err != nil {
		return fmt.Errorf("the input of the task cannot be read: %w", err)
	}
	h := newHash(what.Hash.Algo)
	if h == nil {
		return fmt.Errorf("%w: there is no hash %.40q", registry.ErrInvalid, what.Hash.Algo)
	}
	img, err := c.Images.Get(ctx, what.ImageID)
	switch {
	case err != nil:
		return err
	case img.Status == registry.Active:
		return nil // by an attempt that did not come to its end
	case img.Status != registry.Importing:
		return fmt.Errorf("%w: the image is %s, and not importing", registry.ErrConflict, img.Status)
	}
	tr := &transfer{Importer: c.Importer, job: j, img: img, began: newPatience()}
	data, err := openStream(ctx, c.Stores, origin.Location{URL: what.URL}, sleep)
	if err != nil {
		return sourceError(err)
	}
	defer data.Close()
	j.Begin("hashing the data", data.size)
	body := &counted{r: data, job: j, limit: -1}
	k := sink{data}
	_, sum, err := origin.Ingest(ctx, k, k.Locate(""), data.size, io.TeeReader(body, h))
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return sourceError(err)
	case what.Hash.Algo != "" && !strings.EqualFold(hex.EncodeToString(h.Sum(nil)), what.Hash.Value),
		what.Hash.Checksum != "" && !strings.EqualFold(sum.MD5, what.Hash.Checksum):
		return &told{text: "the data at the location does not have the hash that was given"}
	}
	tr.sum, tr.whole = sum, []origin.Location{data.loc}
	return tr.activate(ctx)
}

// End implements Handler.
func (comparer) End(*Job, error) func(*registry.Image) error { return release }

// newHash returns the hash of that name, or nil.
func newHash(algo string) hash.Hash {
	switch algo {
	case "md5", "": // that of the checksum
		return md5.New()
	case "sha1":
		return sha1.New()
	case "sha256":
		return sha256.New()
	case "sha512":
		return sha512.New()
	}
	return nil
}
