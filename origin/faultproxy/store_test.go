package faultproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// A server keeps what is put, and never replaces it.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string][]byte // by path
	times   map[string]time.Time
}

func newServer(t *testing.T) *server {
	s := &server{objects: make(map[string][]byte), times: make(map[string]time.Time)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body []byte
	if r.Method == http.MethodPut {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return
		}
	}
	s.mu.Lock()
	data, ok := s.objects[r.URL.Path]
	written := s.times[r.URL.Path]
	switch {
	case r.Method == http.MethodPut && !ok:
		s.objects[r.URL.Path], s.times[r.URL.Path] = body, time.Now().UTC()
		data, ok = body, true
	case r.Method == http.MethodPut:
		ok = false
	case r.Method == http.MethodDelete:
		delete(s.objects, r.URL.Path)
	}
	s.mu.Unlock()
	tag := strconv.Quote(string(origin.DigestOf(data)[:16]))
	w.Header().Set("ETag", tag)
	switch {
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut && !ok:
		w.WriteHeader(http.StatusPreconditionFailed)
	case r.Method == http.MethodPut:
		w.WriteHeader(http.StatusCreated)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", written, bytes.NewReader(data))
	}
}

// A store is a small client of a server.
type store struct {
	url     string
	client  *http.Client
	mu      sync.Mutex
	located int
}

func newStore(t *testing.T, url string) *store {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &store{url: url, client: &http.Client{Transport: transport}}
}

// refused is the error of an answer that is none.
type refused struct {
	text  string
	kind  error
	after time.Duration
}

func (r *refused) Error() string             { return r.text + ": " + r.kind.Error() }
func (r *refused) Unwrap() error             { return r.kind }
func (r *refused) RetryAfter() time.Duration { return r.after }

func (s *store) do(ctx context.Context, method string, loc origin.Location, size int64, body io.Reader, field string) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, ok := strings.CutPrefix(loc.URL, "test://server/")
	if !ok {
		return nil, origin.ErrLocation
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+"/"+path, body)
	if err != nil {
		return nil, origin.ErrLocation
	}
	req.ContentLength = size
	if field != "" {
		req.Header.Set("Range", field)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, failed(ctx, err)
	}
	kind := origin.ErrUnavailable
	switch resp.StatusCode {
	case 200, 201, 204, 206, 416:
		return resp, nil
	case 404:
		kind = origin.ErrNotFound
	case 412:
		kind = origin.ErrExists
	case 413, 507:
		kind = origin.ErrFull
	}
	resp.Body.Close()
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return nil, &refused{resp.Status, kind, time.Duration(after) * time.Second}
}

func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %v", origin.ErrUnavailable, err)
}

func info(loc origin.Location, resp *http.Response) (origin.Info, error) {
	written, _ := http.ParseTime(resp.Header.Get("Last-Modified"))
	i := origin.Info{Size: resp.ContentLength, Validator: resp.Header.Get("ETag"), ModTime: written.UTC()}
	if loc.Validator != "" && loc.Validator != i.Validator {
		return i, origin.ErrChanged
	}
	return i, nil
}

func (s *store) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	resp, err := s.do(ctx, "HEAD", loc, 0, nil, "")
	if err != nil {
		return origin.Info{}, err
	}
	resp.Body.Close()
	return info(loc, resp)
}

func (s *store) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	i, err := s.Stat(ctx, loc)
	if err != nil {
		return nil, err
	}
	off = min(max(off, 0), i.Size)
	if n < 0 || n > i.Size-off {
		n = i.Size - off
	}
	if n == 0 {
		return &origin.Object{Info: i, Offset: off, Body: http.NoBody}, nil
	}
	resp, err := s.do(ctx, "GET", loc, 0, nil, fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != 206 || resp.ContentLength != n {
		resp.Body.Close()
		return nil, fmt.Errorf("%s with %d bytes: %w", resp.Status, resp.ContentLength, origin.ErrUnavailable)
	}
	return &origin.Object{Info: i, Offset: off, Length: n, Body: storeBody{resp.Body, ctx}}, nil
}

type storeBody struct {
	io.ReadCloser
	ctx context.Context
}

func (b storeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		return n, err
	}
	return n, failed(b.ctx, err)
}

func (s *store) Locate(id string) origin.Location {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.located++
	return origin.Location{URL: fmt.Sprintf("test://server/%s.%d", id, s.located)}
}

// A senderReader remembers how the sender ended.
type senderReader struct {
	r   io.Reader
	n   int64
	err error
}

func (s *senderReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n, s.err = s.n+int64(n), err
	return n, err
}

func (s *store) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	data := &senderReader{r: r}
	// What is read whole before it is sent needs no care for who reads when.
	all, err := io.ReadAll(io.MultiReader(ctxReader{ctx, data}))
	switch {
	case ctx.Err() != nil:
		return loc, ctx.Err()
	case err != nil:
		return loc, err
	case size >= 0 && data.n != size:
		return loc, origin.ErrSize
	}
	length := int64(len(all))
	if size < 0 && length > 0 {
		length = -1 // chunked
	}
	resp, err := s.do(ctx, "PUT", loc, length, struct{ io.Reader }{bytes.NewReader(all)}, "")
	if err != nil {
		if !errors.Is(err, origin.ErrExists) && !errors.Is(err, origin.ErrLocation) {
			s.Delete(context.WithoutCancel(ctx), loc) // it may be stored
		}
		return loc, err
	}
	resp.Body.Close()
	return origin.Location{URL: loc.URL, Validator: resp.Header.Get("ETag")}, nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func (s *store) Delete(ctx context.Context, loc origin.Location) error {
	resp, err := s.do(ctx, "DELETE", loc, 0, nil, "")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// The store that the suite of troubles is tried on is a good one, and a proxy
// without faults changes nothing.
func TestTheStoreKeepsTheContract(t *testing.T) {
	for _, proxied := range []bool{false, true} {
		t.Run(fmt.Sprintf("proxied %v", proxied), func(t *testing.T) {
			origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
				url := newServer(t).URL
				if proxied {
					url = newProxy(t, url).URL
				}
				return newStore(t, url)
			})
		})
	}
}
