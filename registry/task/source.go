package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"nearsight/origin"
	"nearsight/registry"
)

// taken are the prefixes of the properties that come along from another registry.
var taken = []string{"hw_", "trait:", "os_distro", "os_secure_boot", "os_type"}

// fromImage finds the data of an active image, for the stores that lack it.
func (tr *transfer) fromImage(ctx context.Context) error {
	if tr.img.Digest == "" {
		return fmt.Errorf("%w: the data of the image was not hashed yet, so that a copy could not be verified", registry.ErrConflict)
	}
	encoded, err := tr.Images.Manifest(ctx, tr.img.Digest)
	if err != nil {
		return err
	}
	if tr.manifest, err = origin.DecodeManifest(encoded); err != nil {
		return err
	}
	tr.active, tr.from = true, tr.Stores.Order(tr.img.Locations, "")
	for _, loc := range tr.img.Locations {
		if name, ok := tr.Stores.NameOf(loc); ok {
			tr.targets = without(tr.targets, name)
		}
	}
	return nil
}

// fromStage finds the data that was staged. If its store is one of the targets it
// stays there.
func (tr *transfer) fromStage(ctx context.Context) error {
	loc, sum, err := tr.Stages.Staged(ctx, tr.img.ID)
	if err != nil {
		return err
	}
	if tr.manifest, err = origin.DecodeManifest(sum.Manifest); err != nil {
		return err
	}
	tr.sum, tr.from = sum, []origin.Location{loc}
	store, _ := tr.Stores.NameOf(loc)
	if !slices.Contains(tr.targets, store) {
		return nil
	}
	tr.adopt = true
	return tr.settle(ctx, store, nil)
}

// fromURL downloads the data from a server of others. A URL in a store of ours is
// none: whoever knows it could read an image that is not for him.
func (tr *transfer) fromURL(ctx context.Context) error {
	u, err := url.Parse(tr.request.uri)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return &told{"a download must come from an http or https URL", origin.ErrRead}
	}
	// Stores know schemes in small letters only, which u has (RFC 3986, section 3.1).
	return tr.download(ctx, tr.Stores, origin.Location{URL: u.Scheme + tr.request.uri[len(u.Scheme):]}, nil)
}

// fromPeer downloads the data from another registry, and what else is to come.
func (tr *transfer) fromPeer(ctx context.Context) error {
	if tr.Peer == nil {
		return fmt.Errorf("%w: no other regions are known", registry.ErrInvalid)
	}
	peer, err := tr.Peer(tr.request.region, tr.job.Secret)
	if err != nil {
		return err
	}
	if peer.Close != nil {
		defer peer.Close()
	}
	theirs, err := peer.Get(ctx, tr.request.imageID)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, registry.ErrNotFound):
		return &told{"the other region has no such image, or does not show it", origin.ErrRead}
	case err != nil:
		return &told{"the other region could not be asked for the image", fmt.Errorf("%w: %v", origin.ErrRead, err)}
	case theirs.Status != registry.Active:
		return &told{fmt.Sprintf("in the other region the image is %.40s, and not active", theirs.Status), origin.ErrRead}
	}
	tr.amend = func(img *registry.Image) error {
		if theirs.DiskFormat != "" && theirs.ContainerFormat != "" {
			img.DiskFormat, img.ContainerFormat = theirs.DiskFormat, theirs.ContainerFormat
		}
		for name, value := range theirs.Properties {
			if slices.ContainsFunc(taken, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
				img.Properties[name] = value
			}
		}
		return nil
	}
	return tr.download(ctx, peer.Store, peer.Locate(tr.request.imageID), func(sum origin.Summary) error {
		if theirs.HashAlgo == "sha512" && theirs.HashValue != sum.SHA512 || theirs.Size != nil && *theirs.Size != sum.Size ||
			theirs.Checksum != "" && theirs.Checksum != sum.MD5 {
			return &told{"what the other region sent is not the image's data", origin.ErrRead}
		}
		return nil
	})
}

// download brings the data at loc into the first target that takes it. check, if
// not nil, sees what came.
func (tr *transfer) download(ctx context.Context, s origin.Store, loc origin.Location, check func(origin.Summary) error) error {
	for len(tr.targets) > 0 && len(tr.from) == 0 {
		store := tr.targets[0]
		err := tr.ingest(ctx, store, s, loc)
		if err == nil && check != nil {
			err = check(tr.sum)
		}
		if err := tr.settle(ctx, store, err); err != nil {
			return err
		}
	}
	return nil
}

// ingest brings the data at loc into a store.
func (tr *transfer) ingest(ctx context.Context, store string, s origin.Store, loc origin.Location) error {
	limit, err := tr.limit(ctx)
	if err != nil {
		return err
	}
	data, err := openStream(ctx, s, loc, sleep)
	if err != nil {
		return sourceError(err)
	}
	defer data.Close()
	if limit >= 0 && data.size > limit {
		return tooLong(limit)
	}
	w, to, err := tr.locate(ctx, store)
	if err != nil {
		return err
	}
	tr.job.Begin("downloading to store "+store, data.size)
	body := &counted{r: data, job: tr.job, limit: limit}
	stored, sum, err := origin.Ingest(ctx, w, to, data.size, body)
	switch {
	case body.err != nil:
		return sourceError(body.err)
	case errors.Is(err, origin.ErrSize):
		return sourceError(err)
	case err != nil:
		return storeError(store, err)
	}
	if tr.manifest, err = origin.DecodeManifest(sum.Manifest); err != nil {
		return err
	}
	tr.sum, tr.from = sum, []origin.Location{stored}
	tr.whole = append(tr.whole, stored)
	return nil
}

// limit returns the largest length that data from elsewhere may have, -1 for any.
func (tr *transfer) limit(ctx context.Context) (int64, error) {
	limit := int64(-1)
	if tr.Limit > 0 {
		limit = tr.Limit
	}
	if tr.Room == nil || tr.img.Owner == nil {
		return limit, nil
	}
	room, err := tr.Room(ctx, *tr.img.Owner)
	if err == nil && room >= 0 && (limit < 0 || room < limit) {
		limit = room
	}
	return limit, err
}

// counted reads data for a job.
type counted struct {
	r     io.Reader
	job   *Job
	limit int64 // bytes, or -1
	n     int64
	err   error // why it ended early
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.job.Add(n)
	if c.limit >= 0 && c.n > c.limit {
		n, err = 0, tooLong(c.limit)
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func tooLong(limit int64) error {
	return &told{fmt.Sprintf("the data is longer than the %d bytes that it may have", limit),
		fmt.Errorf("%w: %w", origin.ErrRead, registry.ErrTooLarge)}
}

// A told error has a text for the one who asked for the work. Those of others may
// name what only operators should know, and are the log's.
type told struct {
	text string
	err  error
}

func (t *told) Error() string {
	if t.err == nil {
		return t.text
	}
	return t.text + ": " + t.err.Error()
}
func (t *told) Unwrap() error { return t.err }

// reason returns what the one who asked for the work is told of its failure.
func reason(err error) string {
	if t, ok := errors.AsType[*told](err); ok {
		return t.text
	}
	if isDecided(err) {
		return err.Error()
	}
	return "it failed, and the server's log says why"
}

// sourceError is an error of reading the data, from whatever store.
func sourceError(err error) error {
	if _, ok := errors.AsType[*told](err); ok {
		return err
	}
	text := "it broke off, or is not what it was"
	switch {
	case errors.Is(err, origin.ErrLocation):
		text = "it may not be read"
		if _, why, ok := strings.Cut(err.Error(), origin.ErrLocation.Error()+": "); ok {
			text = why
		}
	case errors.Is(err, origin.ErrNotFound):
		text = "there is nothing"
	case errors.Is(err, origin.ErrChanged):
		text = "it changed meanwhile"
	case errors.Is(err, origin.ErrUnavailable):
		text = "its server was not found, did not answer, or refused"
	}
	return &told{"the data could not be read: " + text, fmt.Errorf("%w: %w", origin.ErrRead, err)}
}

// storeError is an error of writing to a store.
func storeError(store string, err error) error {
	text := "failed"
	switch {
	case errors.Is(err, origin.ErrFull):
		text = "has no room"
	case errors.Is(err, origin.ErrUnavailable):
		text = "did not answer"
	}
	return &told{fmt.Sprintf("store %s %s", store, text), err}
}
