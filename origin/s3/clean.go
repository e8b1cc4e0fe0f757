package s3

import (
	"context"
	"iter"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"nearsight/origin"
)

// Delete implements origin.WriteStore: it removes the object, and every upload of
// its key that was not finished. In a bucket with versions the server keeps what
// it deletes as an older version.
func (s *Store) Delete(ctx context.Context, loc origin.Location) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key, err := s.key(loc)
	if err != nil {
		return err
	}
	// In this order: an upload that is finished meanwhile is deleted.
	err = s.abortAll(ctx, key)
	if err == nil {
		_, err = s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.o.Bucket, Key: &key})
	}
	if err != nil && !isMissing(err) {
		return s.failed(ctx, "delete", loc, err)
	}
	return nil
}

// abortAll aborts the uploads of exactly key.
func (s *Store) abortAll(ctx context.Context, key string) error {
	for u, err := range s.uploads(ctx, key) {
		if err != nil {
			return err
		}
		if aws.ToString(u.Key) != key {
			continue
		}
		if err := s.abort(ctx, key, aws.ToString(u.UploadId)); err != nil {
			return err
		}
	}
	return nil
}

// abort aborts one upload. S3 may keep a part that was on its way meanwhile; so it
// is asked again until it does not know the upload, but not for ever, because
// some servers always say that they do.
func (s *Store) abort(ctx context.Context, key, id string) error {
	for range 3 {
		_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
			Bucket: &s.o.Bucket, Key: &key, UploadId: &id,
		}, patiently)
		if isCode(err, "NoSuchUpload") {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// uploads yields the unfinished uploads of all keys that begin with prefix and
// have no '/' behind it. It ends after an error.
func (s *Store) uploads(ctx context.Context, prefix string) iter.Seq2[types.MultipartUpload, error] {
	return func(yield func(types.MultipartUpload, error) bool) {
		pages := s3.NewListMultipartUploadsPaginator(s.client, &s3.ListMultipartUploadsInput{
			Bucket: &s.o.Bucket, Prefix: &prefix, Delimiter: aws.String("/"),
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(types.MultipartUpload{}, err)
				return
			}
			for _, u := range page.Uploads {
				if !yield(u, nil) {
					return
				}
			}
		}
	}
}

// List implements origin.ListStore. An unfinished upload is shown unless its key
// has an object: Delete would remove that too. It costs one request for 1000
// objects, and two for each upload and each 1000 of its parts.
func (s *Store) List(ctx context.Context) iter.Seq2[origin.Held, error] {
	return func(yield func(origin.Held, error) bool) {
		err := s.listObjects(ctx, yield)
		if err == nil {
			err = s.listUploads(ctx, yield)
		}
		if err != nil && err != errStopped {
			yield(origin.Held{}, s.failed(ctx, "list", origin.Location{URL: s.name}, err))
		}
	}
}

func (s *Store) listObjects(ctx context.Context, yield func(origin.Held, error) bool) error {
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{
		Bucket: &s.o.Bucket, Prefix: &s.prefix, Delimiter: aws.String("/"),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			loc, ok := s.locate(aws.ToString(o.Key))
			if ok && !yield(origin.Held{Location: loc, Size: aws.ToInt64(o.Size), ModTime: modTime(o.LastModified)}, nil) {
				return errStopped
			}
		}
	}
	return nil
}

func (s *Store) listUploads(ctx context.Context, yield func(origin.Held, error) bool) error {
	for u, err := range s.uploads(ctx, s.prefix) {
		if err != nil {
			return err
		}
		loc, ok := s.locate(aws.ToString(u.Key))
		if !ok {
			continue
		}
		held := origin.Held{Location: loc, ModTime: modTime(u.Initiated), Partial: true}
		if err := s.sumParts(ctx, u, &held); isCode(err, "NoSuchUpload") {
			continue // it was finished or aborted
		} else if err != nil {
			return err
		}
		if _, err := s.head(ctx, *u.Key, nil); err == nil {
			continue
		} else if !isMissing(err) {
			return err
		}
		if !yield(held, nil) {
			return errStopped
		}
	}
	return nil
}

// sumParts adds what the parts of u say to held.
func (s *Store) sumParts(ctx context.Context, u types.MultipartUpload, held *origin.Held) error {
	pages := s3.NewListPartsPaginator(s.client, &s3.ListPartsInput{Bucket: &s.o.Bucket, Key: u.Key, UploadId: u.UploadId})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, part := range page.Parts {
			held.Size += aws.ToInt64(part.Size)
			if t := modTime(part.LastModified); t.After(held.ModTime) {
				held.ModTime = t
			}
		}
	}
	return nil
}
