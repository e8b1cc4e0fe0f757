package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/ncw/swift/v2"
)

// A keeper is where a store keeps its data, seen past nearsight.
type keeper interface {
	// list returns the names of whole objects, and of what belongs to none.
	list(ctx context.Context) (objects, leftovers []string, err error)
	// remove removes an object or a leftover.
	remove(ctx context.Context, name string) error
	// replace gives an object other bytes.
	replace(ctx context.Context, name string, data []byte) error
}

// fromLab returns a variable that a script of deploy/lab prints.
func fromLab(program, name string) (string, error) {
	if v := os.Getenv(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("%s is not set: start the server with deploy/lab/%s.sh, and set the variables that it prints", name, program)
}

// empty removes all that a store has.
func empty(h keeper) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	objects, leftovers, err := h.list(ctx)
	for _, name := range slices.Concat(leftovers, objects) {
		err = errors.Join(err, h.remove(ctx, name))
	}
	return err
}

// awaitHeld waits until what a store has is right.
func awaitHeld(h keeper, right func(objects, leftovers []string) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	often := time.NewTicker(50 * time.Millisecond)
	defer often.Stop()
	last := "nothing was listed"
	for {
		objects, leftovers, err := h.list(ctx)
		if err == nil && right(objects, leftovers) {
			return nil
		}
		if ctx.Err() == nil {
			last = fmt.Sprintf("the store has the objects %v and the leftovers %v (%v)", objects, leftovers, err)
		}
		select {
		case <-often.C:
		case <-ctx.Done():
			return errors.New(last)
		}
	}
}

// A fileKeeper is the directory of a store of files.
type fileKeeper string

func (dir fileKeeper) list(context.Context) (objects, leftovers []string, err error) {
	err = filepath.WalkDir(string(dir), func(p string, de fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || !de.Type().IsRegular():
			return err
		case strings.HasPrefix(de.Name(), "."):
			leftovers = append(leftovers, p)
		default:
			objects = append(objects, p)
		}
		return nil
	})
	return objects, leftovers, err
}

func (dir fileKeeper) remove(_ context.Context, name string) error { return os.Remove(name) }

func (dir fileKeeper) replace(_ context.Context, name string, data []byte) error {
	return os.WriteFile(name, data, 0o600)
}

// An s3Keeper is a prefix in the bucket of the lab. Its leftovers are uploads that
// were not completed.
type s3Keeper struct {
	client         *s3.Client
	bucket, prefix string
}

func newS3Keeper(prefix string) (*s3Keeper, map[string]string, error) {
	settings := map[string]string{"prefix": prefix}
	for key, name := range map[string]string{
		"endpoint": "S3_ENDPOINT", "region": "S3_REGION", "bucket": "S3_BUCKET", "access_key": "S3_ACCESS_KEY", "secret_key": "S3_SECRET_KEY",
	} {
		var err error
		if settings[key], err = fromLab("s3", name); err != nil {
			return nil, nil, err
		}
	}
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String(settings["endpoint"]), Region: settings["region"], UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(settings["access_key"], settings["secret_key"], ""),
	})
	return &s3Keeper{client, settings["bucket"], prefix + "/"}, settings, nil
}

func (h *s3Keeper) list(ctx context.Context) (objects, leftovers []string, err error) {
	found, err := h.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &h.bucket, Prefix: &h.prefix})
	if err != nil {
		return nil, nil, err
	}
	for _, o := range found.Contents {
		objects = append(objects, *o.Key)
	}
	begun, err := h.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &h.bucket, Prefix: &h.prefix})
	if err != nil {
		return nil, nil, err
	}
	for _, u := range begun.Uploads {
		leftovers = append(leftovers, *u.Key+"?"+*u.UploadId)
	}
	return objects, leftovers, nil
}

func (h *s3Keeper) remove(ctx context.Context, name string) error {
	if key, id, ok := strings.Cut(name, "?"); ok {
		_, err := h.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &h.bucket, Key: &key, UploadId: &id})
		return err
	}
	_, err := h.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &h.bucket, Key: &name})
	return err
}

func (h *s3Keeper) replace(ctx context.Context, name string, data []byte) error {
	_, err := h.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &h.bucket, Key: &name, Body: bytes.NewReader(data)})
	return err
}

// A swiftKeeper is a container and that of its segments. Its leftovers are segments
// of no object.
type swiftKeeper struct {
	c         *swift.Connection
	container string
}

func newSwiftKeeper(container string) (*swiftKeeper, map[string]string, error) {
	settings := map[string]string{"container": container, "segment_size": "5MiB"}
	for key, name := range map[string]string{"auth_url": "SWIFT_AUTH_URL", "user": "SWIFT_USER", "password": "SWIFT_KEY"} {
		var err error
		if settings[key], err = fromLab("swift", name); err != nil {
			return nil, nil, err
		}
	}
	c := &swift.Connection{AuthUrl: settings["auth_url"], UserName: settings["user"], ApiKey: settings["password"]}
	return &swiftKeeper{c, container}, settings, nil
}

func (h *swiftKeeper) list(ctx context.Context) (objects, leftovers []string, err error) {
	// In this order an upload that ends meanwhile leaves nothing.
	segments, err := h.names(ctx, h.container+"_segments")
	if err != nil {
		return nil, nil, err
	}
	if objects, err = h.names(ctx, h.container); err != nil {
		return nil, nil, err
	}
	for _, name := range segments {
		if key, _, _ := strings.Cut(path.Clean(name), "/"); !slices.Contains(objects, key) {
			leftovers = append(leftovers, name)
		}
	}
	return objects, leftovers, nil
}

func (h *swiftKeeper) names(ctx context.Context, container string) ([]string, error) {
	names, err := h.c.ObjectNamesAll(ctx, container, nil)
	if errors.Is(err, swift.ContainerNotFound) {
		return nil, nil
	}
	return names, err
}

// remove removes an object with its segments.
func (h *swiftKeeper) remove(ctx context.Context, name string) error {
	if strings.Contains(name, "/") {
		return h.c.ObjectDelete(ctx, h.container+"_segments", name)
	}
	return h.c.LargeObjectDelete(ctx, h.container, name)
}

// replace leaves the segments of what was there.
func (h *swiftKeeper) replace(ctx context.Context, name string, data []byte) error {
	return h.c.ObjectPutBytes(ctx, h.container, name, data, "")
}
