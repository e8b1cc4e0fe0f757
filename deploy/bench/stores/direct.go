package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/ncw/swift/v2"
	"golang.org/x/sync/errgroup"
)

// A direct client moves one object to a store and back without nearsight, the way
// that the store's own tools do.
type direct interface {
	// settings are those of a nearsight store that keeps its data there.
	settings() map[string]string
	// prepare makes what objects lie in.
	prepare(ctx context.Context) error
	put(ctx context.Context, path string, size int64) error
	get(ctx context.Context, w io.Writer) error
	remove(ctx context.Context) error
	// clean removes what a server left that was stopped before it had deleted
	// its images.
	clean(ctx context.Context) error
}

// object is the name of what a direct client keeps, and images that of where the
// server keeps its own.
const (
	object = "nearsight-bench"
	images = "nearsight-bench-images"
)

// fromLab returns variables that a script of deploy/lab prints.
func fromLab(script string, names ...string) (map[string]string, error) {
	values := map[string]string{}
	for _, name := range names {
		if values[name] = os.Getenv(name); values[name] == "" {
			return nil, fmt.Errorf("%s is not set: start the server with deploy/lab/%s.sh start, and set the variables that it prints", name, script)
		}
	}
	return values, nil
}

// throughRelay puts the relay in the place of the server in a URL.
func throughRelay(text string, rate int64) (*relay, string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, "", err
	}
	r, err := newRelay(u.Host, rate)
	if err != nil {
		return nil, "", err
	}
	u.Host = r.addr()
	return r, u.String(), nil
}

func transport() *http.Transport {
	return &http.Transport{
		DialContext: (&net.Dialer{}).DialContext, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10,
		MaxIdleConnsPerHost: 16, DisableCompression: true,
	}
}

// Of the AWS tools: parts of 8 MiB and five at a time is what their SDKs begin with;
// 16 MiB are faster here.
const (
	s3Part  = 16 << 20
	s3Parts = 5
)

// An s3Direct is a client of one object in a bucket.
type s3Direct struct {
	env    map[string]string
	url    string
	client *s3.Client
}

func newS3(rate int64) (direct, *relay, error) {
	env, err := fromLab("s3", "S3_ENDPOINT", "S3_REGION", "S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY")
	if err != nil {
		return nil, nil, err
	}
	r, endpoint, err := throughRelay(env["S3_ENDPOINT"], rate)
	if err != nil {
		return nil, nil, err
	}
	return &s3Direct{env: env, url: endpoint, client: s3.New(s3.Options{
		BaseEndpoint: &endpoint, Region: env["S3_REGION"], UsePathStyle: true, HTTPClient: &http.Client{Transport: transport()},
		Credentials: credentials.NewStaticCredentialsProvider(env["S3_ACCESS_KEY"], env["S3_SECRET_KEY"], ""),
	})}, r, nil
}

func (d *s3Direct) settings() map[string]string {
	return map[string]string{
		"kind": "s3", "endpoint": d.url, "region": d.env["S3_REGION"], "bucket": d.env["S3_BUCKET"],
		"access_key": d.env["S3_ACCESS_KEY"], "secret_key": d.env["S3_SECRET_KEY"], "prefix": images,
	}
}

func (d *s3Direct) prepare(context.Context) error { return nil } // the script made the bucket

func (d *s3Direct) put(ctx context.Context, path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	bucket, key := aws.String(d.env["S3_BUCKET"]), aws.String(object)
	up, err := d.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key})
	if err != nil {
		return err
	}
	parts := make([]types.CompletedPart, (size+s3Part-1)/s3Part)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s3Parts)
	for i := range parts {
		g.Go(func() error {
			off, number := int64(i)*s3Part, aws.Int32(int32(i+1))
			out, err := d.client.UploadPart(gctx, &s3.UploadPartInput{
				Bucket: bucket, Key: key, UploadId: up.UploadId, PartNumber: number,
				Body: io.NewSectionReader(f, off, min(s3Part, size-off)),
			})
			if err == nil {
				parts[i] = types.CompletedPart{PartNumber: number, ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	_, err = d.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}

func (d *s3Direct) get(ctx context.Context, w io.Writer) error {
	out, err := d.client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(d.env["S3_BUCKET"]), Key: aws.String(object)})
	if err != nil {
		return err
	}
	defer out.Body.Close()
	return pour(w, out.Body)
}

func (d *s3Direct) remove(ctx context.Context) error {
	_, err := d.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(d.env["S3_BUCKET"]), Key: aws.String(object)})
	return err
}

func (d *s3Direct) clean(ctx context.Context) error {
	bucket := aws.String(d.env["S3_BUCKET"])
	found, err := d.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: bucket, Prefix: aws.String(images + "/")})
	if err != nil {
		return err
	}
	for _, o := range found.Contents {
		_, derr := d.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: o.Key})
		err = errors.Join(err, derr)
	}
	return err
}

// A swiftDirect is a client of one object in a container.
type swiftDirect struct {
	url, user, key string
	c              *swift.Connection
}

func newSwift(rate int64) (direct, *relay, error) {
	env, err := fromLab("swift", "SWIFT_AUTH_URL", "SWIFT_USER", "SWIFT_KEY")
	if err != nil {
		return nil, nil, err
	}
	r, auth, err := throughRelay(env["SWIFT_AUTH_URL"], rate) // tempauth names the address that was asked
	if err != nil {
		return nil, nil, err
	}
	d := &swiftDirect{url: auth, user: env["SWIFT_USER"], key: env["SWIFT_KEY"]}
	d.c = &swift.Connection{AuthUrl: d.url, UserName: d.user, ApiKey: d.key, Transport: transport()}
	return d, r, nil
}

func (d *swiftDirect) settings() map[string]string {
	return map[string]string{"kind": "swift", "auth_url": d.url, "user": d.user, "password": d.key, "container": images}
}

func (d *swiftDirect) prepare(ctx context.Context) error {
	return d.c.ContainerCreate(ctx, object, nil)
}

func (d *swiftDirect) put(ctx context.Context, path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = d.c.ObjectPut(ctx, object, object, f, true, "", "application/octet-stream", swift.Headers{"Content-Length": fmt.Sprint(size)})
	return err
}

func (d *swiftDirect) get(ctx context.Context, w io.Writer) error {
	f, _, err := d.c.ObjectOpen(ctx, object, object, false, nil)
	if err != nil {
		return err
	}
	defer f.Close()
	return pour(w, f)
}

func (d *swiftDirect) remove(ctx context.Context) error {
	return d.c.ObjectDelete(ctx, object, object)
}

func (d *swiftDirect) clean(ctx context.Context) error {
	names, err := d.c.ObjectNamesAll(ctx, images, nil)
	if err != nil {
		return err
	}
	for _, name := range names {
		err = errors.Join(err, d.c.LargeObjectDelete(ctx, images, name))
	}
	return errors.Join(err, d.c.ContainerDelete(ctx, images), d.c.ContainerDelete(ctx, object))
}

// pour copies with a buffer that is large enough for any of the clients.
func pour(w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return err
}
