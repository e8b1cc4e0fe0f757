// Package s3 keeps image data in one bucket of an S3 server.
//
// An object is BUCKET/PREFIX/KEY, and its location is s3://NAME/KEY. Below the
// prefix the store is flat; what lies deeper, or has a name that no location can
// have, is none of its objects.
//
// The validator of an object is its ETag, as the server gave it. What the server
// must let the credentials do: s3:GetObject, s3:PutObject, s3:DeleteObject,
// s3:AbortMultipartUpload, s3:ListMultipartUploadParts, and on the bucket
// s3:ListBucket (without which a missing object is "access denied") and
// s3:ListBucketMultipartUploads.
package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"

	"nearsight/origin"
)

const (
	mib = 1 << 20
	// attempts of a request. Whoever wraps the store asks again, knows other
	// locations, and counts failures; this hides only a connection that the
	// server closed while it was idle.
	attempts = 2
	// patience is the number of attempts of the requests of an upload that is
	// under way: nobody else can send these bytes again. With the pauses
	// between them they bridge some seconds.
	patience = 8
	// silence bounds the wait for an answer once a request is sent. Servers
	// that copy the parts of an upload together take minutes for terabytes.
	silence = 5 * time.Minute
	// bufferSize of a connection: with Go's own 4 KiB, reading a body costs
	// many times the system calls.
	bufferSize = 64 << 10
	// idlePerHost connections are kept: a cold storm reads some hundred extents
	// side by side.
	idlePerHost = 256
)

// Options configure a Store. Only Bucket is required.
type Options struct {
	// Bucket holds the objects. It is not made.
	Bucket string
	// Prefix is a folder in the bucket, such as "images" or "a/b/"; "" means
	// the bucket itself. Stores of different prefixes may share a bucket.
	Prefix string
	// Name is the store's name in its locations; "" means "default". It has
	// only letters, digits, '.', '_' and '-', and begins with none of these
	// three.
	Name string

	// Endpoint is the http or https URL of the server; "" means AWS, or what
	// the usual environment variables and files of AWS say.
	Endpoint string
	// Region of the bucket; "" means what the environment and files of AWS
	// say, and us-east-1 at an endpoint of one's own.
	Region string
	// Addressing is "virtual" for https://BUCKET.ENDPOINT/, "path" for
	// https://ENDPOINT/BUCKET/, or "", which means virtual at AWS and path at
	// all other endpoints.
	Addressing string
	// CAFile holds certificates (PEM) of authorities to trust besides those of
	// the system.
	CAFile string

	// AccessKey, SecretKey and, for temporary ones, SessionToken are the
	// credentials. Without them the usual chain is asked when it is needed:
	// environment, shared files, container, instance.
	AccessKey, SecretKey, SessionToken string
	// Profile in the shared files of AWS; "" means the default one.
	Profile string

	// SSE asks for encryption at rest: "AES256", "aws:kms", or "" for what the
	// bucket does by itself. SSEKeyID is the key for aws:kms; "" means the
	// default one.
	SSE, SSEKeyID string
	// StorageClass of the objects; "" means the server's default. It must be
	// one that can be read at once.
	StorageClass string
	// NoChecksums turns off the CRC32 that goes with all data sent, and that
	// the server checks: old servers refuse it.
	NoChecksums bool

	// PartSize is the least size of a part of an upload, in bytes, from 5 MiB
	// to 1 GiB; 0 means 16 MiB. A smaller object is stored in one request.
	// Larger objects get larger parts, since there are at most 10,000: equal
	// ones if the length is known, else growing ones. (Some servers refuse
	// uploads whose parts are not equal. For these, PartSize is a 700th of the
	// largest object of unknown length.)
	PartSize int64
	// Concurrency is how many parts of an upload are sent side by side, at most
	// 64; 0 means 3. An upload has at most Concurrency+1 parts in memory, and
	// no more than 2 GiB of them. By default that is 64 MiB up to 10 GiB of
	// unknown or 156 GiB of known length, 1 GiB up to 300 GiB or 2.5 TiB, and
	// 2 GiB up to 5 TiB.
	Concurrency int
}

// A Store is an origin.WriteStore and an origin.ListStore. Its requests are tried
// twice, those of a Put under way more often; the silence of a body is for the
// reader to bound. Errors that wrap origin.ErrUnavailable have the method
// RetryAfter() time.Duration, which is 0 unless the server asked for a pause.
type Store struct {
	o         Options
	client    *s3.Client
	transport *http.Transport
	name      string // prefix of locations
	prefix    string // of keys
	writing   locks
	// An upload has at most maxParts parts; if its length is unknown, every
	// growEvery parts they grow. Tests let both shrink.
	maxParts, growEvery int
	grace               time.Duration // defaultGrace, less in tests
}

var _ interface {
	origin.WriteStore
	origin.ListStore
} = (*Store)(nil)

// Open returns the store that o describes. It reads files, and asks no server;
// ctx bounds that.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Name == "" {
		o.Name = "default"
	}
	if !origin.ValidKey(o.Name) {
		return nil, fmt.Errorf("s3 store: bad name %q", o.Name)
	}
	s, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("s3 store %s: %w", o.Name, err)
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	if o.PartSize == 0 {
		o.PartSize = 16 * mib
	}
	if o.Concurrency == 0 {
		o.Concurrency = 3
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	cfg, err := o.load(ctx)
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, name: "s3://" + o.Name + "/", maxParts: maxParts, growEvery: growEvery, grace: defaultGrace}
	if o.Prefix != "" {
		s.prefix = strings.TrimSuffix(o.Prefix, "/") + "/"
	}
	if s.transport, err = newTransport(cfg, o.CAFile); err != nil {
		return nil, err
	}
	s.client = s3.NewFromConfig(cfg, s.tune)
	if r := s.client.Options(); r.Region == "" {
		return nil, errors.New("no region is set")
	}
	return s, nil
}

// check refuses what could not work. It shows no endpoint: there may be
// credentials in it.
func (o *Options) check() error {
	switch {
	case o.Bucket == "" || strings.ContainsAny(o.Bucket, "/:?#% "):
		return fmt.Errorf("bad bucket %q", o.Bucket)
	case !validPrefix(o.Prefix):
		return fmt.Errorf("bad prefix %q", o.Prefix)
	case (o.AccessKey == "") != (o.SecretKey == ""), o.SessionToken != "" && o.AccessKey == "":
		return errors.New("access key and secret key go together")
	case o.AccessKey != "" && o.Profile != "":
		return errors.New("either an access key or a profile")
	case o.Addressing != "" && o.Addressing != "path" && o.Addressing != "virtual":
		return fmt.Errorf("addressing is %q; it is path or virtual", o.Addressing)
	case o.SSE != "" && o.SSE != string(types.ServerSideEncryptionAes256) && o.SSE != string(types.ServerSideEncryptionAwsKms):
		return fmt.Errorf("encryption is %q; it is AES256 or aws:kms", o.SSE)
	case o.SSEKeyID != "" && o.SSE != string(types.ServerSideEncryptionAwsKms):
		return errors.New("only the encryption aws:kms has a key id")
	case o.PartSize < minPart || o.PartSize > maxPart:
		return fmt.Errorf("part size is %d bytes; it is from %d to %d", o.PartSize, minPart, maxPart)
	case o.Concurrency < 0 || o.Concurrency > 64:
		return fmt.Errorf("concurrency is %d; it is from 1 to 64", o.Concurrency)
	}
	if o.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(o.Endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("the endpoint is no http or https URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("the endpoint has more than a scheme, a host and a path; credentials have settings of their own")
	}
	return nil
}

// load asks the usual places for what o leaves out.
func (o *Options) load(ctx context.Context) (aws.Config, error) {
	with := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{})}
	if o.Region != "" {
		with = append(with, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		with = append(with, config.WithSharedConfigProfile(o.Profile))
	}
	if o.AccessKey != "" {
		with = append(with, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, o.SessionToken)))
	}
	return config.LoadDefaultConfig(ctx, with...)
}

// newTransport returns the one transport of a store: to its one server, for
// bodies of many MiB.
func newTransport(cfg aws.Config, caFile string) (*http.Transport, error) {
	base, ok := cfg.HTTPClient.(*awshttp.BuildableClient) // has AWS_CA_BUNDLE in it
	if !ok {
		base = awshttp.NewBuildableClient()
	}
	t := base.GetTransport()
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("certificates of authorities: %w", err)
		}
		if t.TLSClientConfig == nil {
			t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", caFile)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, idlePerHost
	t.ReadBufferSize, t.WriteBufferSize = bufferSize, bufferSize
	t.ResponseHeaderTimeout = silence
	t.DisableCompression = true
	t.ForceAttemptHTTP2 = false // one connection for all bodies would be slower
	return t, nil
}

// tune sets what the store needs of the client.
func (s *Store) tune(c *s3.Options) {
	if s.o.Endpoint != "" {
		c.BaseEndpoint = aws.String(s.o.Endpoint)
	}
	own := c.BaseEndpoint != nil
	if own && c.Region == "" {
		c.Region = "us-east-1"
	}
	c.UsePathStyle = s.o.Addressing == "path" || s.o.Addressing == "" && own
	c.HTTPClient = &http.Client{
		Transport: s.transport,
		// A server that redirects means another region. Its answer says so
		// better than that other region would.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.Retryer = retry.NewStandard(func(r *retry.StandardOptions) {
		r.MaxAttempts = attempts
		r.RateLimiter = ratelimit.None // it would turn failures of one image into failures of the next
	})
	c.Logger = logging.Nop{}
	c.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
	if s.o.NoChecksums {
		c.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	}
	// Every chunk that is read is verified with its own SHA-256 later.
	c.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
}

// patiently is for the requests of an upload that is under way.
func patiently(c *s3.Options) { c.RetryMaxAttempts = patience }

// Close closes the connections that are idle. Bodies that are open stay so.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// Locate implements origin.WriteStore.
func (s *Store) Locate(id string) origin.Location {
	return origin.Location{URL: s.name + origin.NewKey(id)}
}

// key returns the key in the bucket of the object at loc, or ErrLocation.
func (s *Store) key(loc origin.Location) (string, error) {
	key, ok := strings.CutPrefix(loc.URL, s.name)
	if !ok || !origin.ValidKey(key) {
		return "", fmt.Errorf("%w: %.300q is not an object of this store (%sKEY)", origin.ErrLocation, loc.URL, s.name)
	}
	return s.prefix + key, nil
}

// locate is the inverse of key. What is no object of the store has no location.
func (s *Store) locate(key string) (origin.Location, bool) {
	key, ok := strings.CutPrefix(key, s.prefix)
	return origin.Location{URL: s.name + key}, ok && origin.ValidKey(key)
}

// validPrefix says whether every folder of prefix is a plain name.
func validPrefix(prefix string) bool {
	if prefix == "" {
		return true
	}
	for folder := range strings.SplitSeq(strings.TrimSuffix(prefix, "/"), "/") {
		if !origin.ValidKey(folder) {
			return false
		}
	}
	return len(prefix) <= 768
}
