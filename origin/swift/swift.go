// Package swift keeps image data in OpenStack Swift, or in what speaks its API.
//
// An object is CONTAINER/KEY, and its location is swift://NAME/KEY. What is
// longer than a segment is a large object: its segments lie in
// CONTAINER_segments under KEY/UPLOAD/, where every upload has another name, and
// the manifest at CONTAINER/KEY, which makes them visible, comes last. It is a
// static manifest (SLO), which names each segment with its MD5; a store that
// has none gets a dynamic one (DLO), which names their prefix.
//
// The validator is the ETag without its quotes: the MD5 of a plain object, and
// of a large one the MD5 of the MD5s of its segments, in hex. Swift compares it
// with If-Match itself, for all three. A segment that somebody else replaces
// changes the ETag of a DLO; an SLO then answers 409 or ends its body early.
//
// The module github.com/ncw/swift logs in; the requests are our own, because
// its Call does less than origin.Store promises: it reads into the caller's
// buffer after it has given up, takes a slow sender for a silent store, cannot
// send a stream again that nobody has read yet, and makes all callers wait for a
// login that one of them began.
package swift

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nearsight/origin"
)

const (
	defaultContainer = "nearsight"
	// defaultSegment leaves an image of 250 GiB with as many segments as one
	// request for a listing or two may still name.
	defaultSegment = 1 << 30
	// defaultTimeout is what Swift's own proxy grants its object servers at
	// the end of an upload.
	defaultTimeout = time.Minute
	// maxContainers keeps NN at two digits.
	maxContainers = 100
	// maxContainerName leaves room, in the 256 bytes that Swift allows, for
	// _NN_segments.
	maxContainerName = 240
)

// Options configure a Store. AuthURL is required, and either User and Key or an
// application credential.
type Options struct {
	// Name is the store's name in its locations; "" means "default". It has
	// only letters, digits, '.', '_' and '-', and begins with none of these
	// three.
	Name string

	// AuthURL is where to log in, such as http://HOST/auth/v1.0 or
	// https://HOST:5000/v3. It holds no credentials.
	AuthURL string
	// AuthVersion is 1, 2 or 3; 0 means what the path of AuthURL says.
	AuthVersion int
	// User or UserID (version 3), and Key, its password.
	User, UserID, Key string
	// Domain or DomainID is the one of the user, for version 3.
	Domain, DomainID string
	// Project or ProjectID, with its domain if that is not the user's, says
	// whose containers are used, for versions 2 and 3.
	Project, ProjectID, ProjectDomain, ProjectDomainID string
	// ApplicationCredentialID and ApplicationCredentialSecret replace user,
	// password and project, for version 3. A credential may be given by its
	// name instead of its ID; then it needs its user too.
	ApplicationCredentialID, ApplicationCredentialName, ApplicationCredentialSecret string
	// Region is the one to use, for versions 2 and 3; "" means the first.
	Region string
	// Interface is "public", "internal" or "admin", for versions 2 and 3; ""
	// means "public".
	Interface string
	// CAFile names a PEM file of authorities to trust instead of the system's.
	CAFile string

	// Container holds the objects; "" means "nearsight". It is made when the
	// first object is written, and so is its _segments.
	Container string
	// Containers, when more than 1, spreads the objects by their key over as
	// many containers, at most 100, which are called Container_NN. Since the
	// key alone says where its object is, this must not change once there are
	// objects.
	Containers int
	// SegmentSize is the length, in bytes, above which an image is stored in
	// segments, and the length of these; 0 means 1 GiB. It is lowered to what
	// the store accepts. So that a long stream needs not too many of them, they
	// double after each quarter of those that a manifest may name.
	SegmentSize int64
	// Timeout is how long the store may be silent, while it is its turn,
	// before it counts as unavailable; 0 means a minute. It does not bound the
	// length of a transfer.
	Timeout time.Duration
}

// A Store is an origin.WriteStore and an origin.ListStore. It retries nothing but
// what was refused because its token had expired.
type Store struct {
	o         Options
	prefix    string // of locations
	transport *http.Transport
	// block is blockSize. Tests make it smaller.
	block int

	session atomic.Pointer[session]
	limits  atomic.Pointer[limits]
	// turn is taken by who logs in. It guards failed.
	turn   chan struct{}
	failed failure

	mu      sync.Mutex
	writing map[string]bool // the keys of the Puts under way
}

var _ interface {
	origin.WriteStore
	origin.ListStore
} = (*Store)(nil)

// New returns a store. It asks nothing of the server yet.
func New(o Options) (*Store, error) {
	o.Name = or(o.Name, "default")
	o.Container = or(o.Container, defaultContainer)
	o.SegmentSize = or(o.SegmentSize, defaultSegment)
	o.Timeout = or(o.Timeout, defaultTimeout)
	if !origin.ValidKey(o.Name) {
		return nil, fmt.Errorf("swift store: bad name %q", o.Name)
	}
	s := &Store{
		prefix:  "swift://" + o.Name + "/",
		block:   blockSize,
		turn:    make(chan struct{}, 1),
		writing: make(map[string]bool),
	}
	err := o.check()
	if err == nil {
		s.o = o
		s.transport, err = newTransport(o)
	}
	if err != nil {
		return nil, fmt.Errorf("swift store %s: %w", o.Name, err)
	}
	return s, nil
}

func or[T comparable](v, otherwise T) T {
	if v == *new(T) {
		return otherwise
	}
	return v
}

// check finds what could never work, and sets AuthVersion.
func (o *Options) check() error {
	u, err := url.Parse(o.AuthURL)
	switch {
	case o.AuthURL == "":
		return errors.New("no AuthURL is set")
	case err != nil:
		return errors.New("AuthURL is not a URL") // err would repeat what may be a secret
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("AuthURL is not an http or https URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("AuthURL has more than a host and a path")
	}
	for v := 3; v >= 1 && o.AuthVersion == 0; v-- {
		if strings.Contains(u.Path, fmt.Sprintf("/v%d", v)) {
			o.AuthVersion = v
		}
	}
	byCredential := o.ApplicationCredentialID != "" || o.ApplicationCredentialName != ""
	switch {
	case o.AuthVersion == 0:
		return errors.New("AuthURL does not say which version it is of: set AuthVersion")
	case o.AuthVersion < 1 || o.AuthVersion > 3:
		return fmt.Errorf("bad AuthVersion %d", o.AuthVersion)
	case byCredential && o.AuthVersion != 3:
		return errors.New("application credentials need AuthVersion 3")
	case byCredential && o.ApplicationCredentialSecret == "":
		return errors.New("the application credential has no secret")
	case byCredential && o.ApplicationCredentialID == "" && o.UserID == "" && (o.User == "" || o.Domain == "" && o.DomainID == ""):
		return errors.New("a named application credential needs its user, and that one's domain or ID")
	case !byCredential && (o.User == "" && (o.UserID == "" || o.AuthVersion != 3) || o.Key == ""):
		return errors.New("no user and key are set")
	}
	switch o.Interface {
	case "", "public", "internal", "admin":
	default:
		return fmt.Errorf("bad interface %q", o.Interface)
	}
	switch {
	case strings.Contains(o.Container, "/") || len(o.Container) > maxContainerName:
		return fmt.Errorf("bad container %.300q", o.Container)
	case o.Containers < 0 || o.Containers > maxContainers:
		return fmt.Errorf("%d containers are not between 1 and %d", o.Containers, maxContainers)
	case o.SegmentSize < 0:
		return fmt.Errorf("bad segment size %d", o.SegmentSize)
	case o.Timeout < 0:
		return fmt.Errorf("bad timeout %v", o.Timeout)
	}
	return nil
}

func newTransport(o Options) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(o.Timeout, 10*time.Second)}).DialContext,
		TLSHandshakeTimeout:   min(o.Timeout, 10*time.Second),
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // an offset counts the bytes that are stored
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", o.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return t, nil
}

// Locate implements origin.WriteStore.
func (s *Store) Locate(id string) origin.Location {
	return origin.Location{URL: s.prefix + origin.NewKey(id)}
}

// key returns the key of the object at loc, or ErrLocation.
func (s *Store) key(loc origin.Location) (string, error) {
	key, ok := strings.CutPrefix(loc.URL, s.prefix)
	if !ok || !origin.ValidKey(key) {
		return "", fmt.Errorf("%w: %.300q is not an object of this store (%sKEY)", origin.ErrLocation, loc.URL, s.prefix)
	}
	return key, nil
}

// container returns the name of the container that holds the object key.
func (s *Store) container(key string) string {
	if s.o.Containers <= 1 {
		return s.o.Container
	}
	h := fnv.New32a()
	h.Write([]byte(key))
	return s.containerAt(int(h.Sum32() % uint32(s.o.Containers)))
}

func (s *Store) containerAt(i int) string {
	if s.o.Containers <= 1 {
		return s.o.Container
	}
	return fmt.Sprintf("%s_%02d", s.o.Container, i)
}

// segments returns the name of the container of the segments.
func segments(container string) string { return container + "_segments" }

// Stat implements origin.Store.
func (s *Store) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	key, err := s.key(loc)
	if err != nil {
		return origin.Info{}, err
	}
	info, err := s.stat(ctx, loc, key)
	if err != nil {
		return origin.Info{}, fmt.Errorf("stat %s: %w", loc.URL, err)
	}
	return info, nil
}

func (s *Store) stat(ctx context.Context, loc origin.Location, key string) (origin.Info, error) {
	resp, err := s.do(ctx, call{method: http.MethodHead, container: s.container(key), object: key, header: match(loc)})
	if err != nil {
		return origin.Info{}, err
	}
	resp.Body.Close()
	return describe(loc, resp.Header, resp.ContentLength)
}
