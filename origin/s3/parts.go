package s3

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"nearsight/origin"
)

// The uploads are ours and not the SDK's transfer manager's (v0.5.5). That one
// has parts of one size: for a stream that may become 5 TiB long it would need
// parts of 525 MiB, four of them in memory, from the first byte on. It also
// reads the first part with io.ReadAll, takes a reader's failure for its own, and
// writes to the standard logger.

// The limits of S3: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
const (
	maxParts  = 10_000
	minPart   = 5 * mib // but for the last one
	maxObject = 5 << 40 // bytes that fit in maxParts parts of any schedule
)

const (
	// maxPart is where parts stop growing, in bytes; S3 would take 5 GiB.
	maxPart = 1 << 30
	// growEvery parts, their size doubles. With it, even parts that begin with
	// minPart reach maxObject.
	growEvery = 700
	// maxMemory bounds the parts of one upload in memory, in bytes: room for
	// one to be sent and one to be filled when they are largest.
	maxMemory = 2 * maxPart
)

// partSize returns the size, in bytes, of part i, counted from 0, of an object of
// size bytes, or of unknown size if that is negative or cannot be true.
func (s *Store) partSize(i int, size int64) int64 {
	if size >= 0 && size <= maxObject {
		needed := (size + maxParts - 1) / maxParts
		return max(s.o.PartSize, (needed+mib-1)/mib*mib)
	}
	n := s.o.PartSize
	for ; i >= s.growEvery && n < maxPart; i -= s.growEvery {
		n *= 2
	}
	return min(n, maxPart)
}

// multipart stores the object in parts, of which the first has been read.
func (p *put) multipart(ctx context.Context, first []byte) (etag string, err error) {
	out, err := p.s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &p.s.o.Bucket, Key: &p.key,
		ContentType: aws.String(contentType), Metadata: map[string]string{mark: p.mark},
		ChecksumAlgorithm: p.s.checksum(), StorageClass: types.StorageClass(p.s.o.StorageClass),
		ServerSideEncryption: types.ServerSideEncryption(p.s.o.SSE), SSEKMSKeyId: optional(p.s.o.SSEKeyID),
	})
	if err != nil {
		// It may have begun all the same, and then only a list knows its name.
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.s.grace)
		defer cancel()
		_ = p.s.abortAll(late, p.key)
		return "", err
	}
	id := aws.ToString(out.UploadId)
	defer func() {
		if err != nil {
			p.abort(ctx, id)
		}
	}()
	parts, err := p.sendAll(ctx, id, first)
	if err != nil {
		return "", err
	}
	return p.commit(ctx, func(ctx context.Context, ifNoneMatch *string) (*string, error) {
		out, err := p.s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &p.s.o.Bucket, Key: &p.key, UploadId: &id, IfNoneMatch: ifNoneMatch,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		}, patiently)
		if err != nil {
			if !isCode(err, "NotImplemented") {
				p.abort(ctx, id) // so that it cannot be completed after the look at what became of it
			}
			return nil, err
		}
		return out.ETag, nil
	})
}

// sendAll reads and sends all parts. The first failure, of the source or of the
// server, ends it.
func (p *put) sendAll(ctx context.Context, id string, first []byte) ([]types.CompletedPart, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.s.o.Concurrency + 1) // and the one that reads
	var mu sync.Mutex
	var parts []types.CompletedPart
	free := buffers{sem: semaphore.NewWeighted(maxMemory)}
	g.Go(func() error {
		buf, n, end := first, len(first), false
		if err := free.adopt(ctx, buf); err != nil {
			return err
		}
		for i := 0; n > 0; i++ {
			if i == p.s.maxParts {
				return fmt.Errorf("%w: an object has at most %d bytes", origin.ErrFull, p.src.pos-int64(n))
			}
			part, data := buf, buf[:n]
			g.Go(func() error {
				done, err := p.send(ctx, id, i, data)
				if err != nil {
					return err
				}
				free.put(part)
				mu.Lock()
				defer mu.Unlock()
				parts = append(parts, done)
				return nil
			})
			if end {
				return nil
			}
			var err error
			if buf, err = free.get(ctx, p.s.partSize(i+1, p.src.size)); err != nil {
				return err
			}
			if n, end, err = p.src.fill(ctx, buf); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(parts, func(a, b types.CompletedPart) int { return cmp.Compare(*a.PartNumber, *b.PartNumber) })
	return parts, nil
}

// send sends part i, counted from 0.
func (p *put) send(ctx context.Context, id string, i int, data []byte) (types.CompletedPart, error) {
	number := aws.Int32(int32(i + 1))
	out, err := p.s.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &p.s.o.Bucket, Key: &p.key, UploadId: &id, PartNumber: number,
		Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))), ChecksumAlgorithm: p.s.checksum(),
	}, patiently)
	if err != nil {
		return types.CompletedPart{}, err
	}
	return types.CompletedPart{PartNumber: number, ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32}, nil
}

// abort ends the upload called id, whatever became of ctx. What it cannot remove,
// Delete will.
func (p *put) abort(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.s.grace)
	defer cancel()
	_ = p.s.abort(ctx, p.key, id)
}

// buffers are the parts of an upload in memory. Only the reader of the upload
// calls adopt and get.
type buffers struct {
	sem *semaphore.Weighted // of bytes

	mu   sync.Mutex
	free [][]byte
}

// adopt counts a buffer that was made elsewhere.
func (b *buffers) adopt(ctx context.Context, buf []byte) error {
	return b.sem.Acquire(ctx, int64(len(buf)))
}

// get returns a buffer of n bytes, as soon as there may be one.
func (b *buffers) get(ctx context.Context, n int64) ([]byte, error) {
	if err := b.sem.Acquire(ctx, n); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = slices.DeleteFunc(b.free, func(buf []byte) bool { return int64(len(buf)) != n }) // smaller ones are of no use any more
	if k := len(b.free) - 1; k >= 0 {
		buf := b.free[k]
		b.free = b.free[:k]
		return buf, nil
	}
	return make([]byte, n), nil
}

// put takes a buffer back.
func (b *buffers) put(buf []byte) {
	b.mu.Lock()
	b.free = append(b.free, buf)
	b.mu.Unlock()
	b.sem.Release(int64(len(buf)))
}
