package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"nearsight/origin"
)

func TestByteRange(t *testing.T) {
	for _, tt := range []struct {
		name   string
		off, n int64
		want   string
	}{
		{"the whole object", 0, -1, ""},
		{"the first byte", 0, 1, "bytes=0-0"},
		{"in the middle", 10, 5, "bytes=10-14"},
		{"to the end", 10, -1, "bytes=10-"},
		{"more than there can be", 10, math.MaxInt64, "bytes=10-"},
		{"the last byte that there can be", math.MaxInt64 - 1, 1, "bytes=9223372036854775806-9223372036854775806"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := aws.ToString(byteRange(tt.off, tt.n)); got != tt.want {
				t.Errorf("%q; want %q", got, tt.want)
			}
		})
	}
}

func FuzzContentRange(f *testing.F) {
	for _, field := range []string{
		"bytes 0-9/10", "bytes 5-9/10", "bytes 0-9/*", "bytes */10", "bytes 9-0/10", "bytes 0-10/10", "bytes +0-9/10",
		"bytes 0-9223372036854775806/9223372036854775807", "bytes 0-9/18446744073709551616", "", "items 0-9/10",
	} {
		f.Add(field)
	}
	f.Fuzz(func(t *testing.T, field string) {
		first, last, size, ok := parseContentRange(field)
		if ok && (first < 0 || last < first || size <= last || strings.ContainsAny(field, "+*")) {
			t.Errorf("%q is %d-%d/%d", field, first, last, size)
		}
	})
}

// What a server says wrong, or leaves out, is its failure: nothing is guessed.
func TestOddAnswers(t *testing.T) {
	const data = "0123456789"
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   error  // of Open
		read   error  // of the body
		body   string // and what came
		offset int64
	}{
		{name: "the body is cut", answer: partial("bytes 2-5/10", "4", "23"), read: io.ErrUnexpectedEOF, body: "23", offset: 2},
		{name: "the whole object comes", answer: whole("10", data), body: data},
		{name: "other bytes come", answer: partial("bytes 3-6/10", "4", "3456"), body: "3456", offset: 3},
		{name: "the range does not fit the length", answer: partial("bytes 2-6/10", "4", "2345"), want: origin.ErrUnavailable},
		{name: "the size is not told", answer: partial("bytes 2-5/*", "4", "2345"), want: origin.ErrUnavailable},
		{name: "the range is none", answer: partial("bytes two", "4", "2345"), want: origin.ErrUnavailable},
		{name: "no length", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"tag"`)
			w.(http.Flusher).Flush()
			io.WriteString(w, data)
		}, want: origin.ErrUnavailable},
		{name: "a precondition is ignored", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"another"`)
			io.WriteString(w, data)
		}, want: origin.ErrChanged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.hook = func(w http.ResponseWriter, r *http.Request) bool { tt.answer(w, r); return true }
			s := openStore(t, f.options())
			o, err := s.Open(t.Context(), origin.Location{URL: "s3://default/x", Validator: `"tag"`}, 2, 4)
			if !errors.Is(err, tt.want) || err == nil && tt.want != nil {
				t.Fatalf("error %v; want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			defer o.Body.Close()
			got, err := io.ReadAll(o.Body)
			if string(got) != tt.body || !errors.Is(err, tt.read) || err == nil && tt.read != nil || o.Offset != tt.offset || o.Size != 10 {
				t.Errorf("%q from %d of %d, error %v; want %q from %d, error %v", got, o.Offset, o.Size, err, tt.body, tt.offset, tt.read)
			}
			if f := f.requests[0].Header; f.Get("Range") != "bytes=2-5" || f.Get("If-Match") != `"tag"` {
				t.Errorf("the server was asked for %q of %q", f.Get("Range"), f.Get("If-Match"))
			}
		})
	}
}

func partial(contentRange, length, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", contentRange)
		w.Header().Set("Content-Length", length)
		w.Header().Set("ETag", `"tag"`)
		w.WriteHeader(http.StatusPartialContent)
		io.WriteString(w, body)
	}
}

func whole(length, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", length)
		w.Header().Set("ETag", `"tag"`)
		io.WriteString(w, body)
	}
}

// A server that shuts the connection in the middle is not the end of the object.
func TestAResetBodyIsNoEnd(t *testing.T) {
	f := newFake(t)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		whole("1000000", strings.Repeat("x", 70000))(w, r)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	s := openStore(t, f.options())
	o, err := s.Open(t.Context(), origin.Location{URL: "s3://default/x"}, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	n, err := io.Copy(io.Discard, o.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, origin.ErrUnavailable) || n > 70000 {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

func TestAnObjectReplacedBehindOurBack(t *testing.T) {
	s := labStore(t, lab(t))
	loc, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader("these bytes"))
	if err != nil {
		t.Fatal(err)
	}
	key, _ := s.key(loc)
	if _, err := s.client.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: &s.o.Bucket, Key: &key, Body: bytes.NewReader([]byte("other bytes")),
	}); err != nil {
		t.Fatal(err)
	}
	_, statErr := s.Stat(t.Context(), loc)
	_, openErr := s.Open(t.Context(), loc, 0, -1)
	_, rangeErr := s.Open(t.Context(), loc, 2, 3)
	_, nothingErr := s.Open(t.Context(), loc, 100, 3)
	for _, err := range []error{statErr, openErr, rangeErr, nothingErr} {
		if !errors.Is(err, origin.ErrChanged) {
			t.Errorf("error %v; want %v", err, origin.ErrChanged)
		}
	}
}

func TestAMissingBucketIsNotAMissingObject(t *testing.T) {
	o := lab(t)
	o.Bucket = "nobody-made-this-one"
	s := openStore(t, o)
	loc := s.Locate("x")
	_, statErr := s.Stat(t.Context(), loc)
	_, openErr := s.Open(t.Context(), loc, 0, -1)
	_, putErr := s.Put(t.Context(), loc, -1, strings.NewReader("x"))
	_, partsErr := s.Put(t.Context(), loc, -1, stream(make([]byte, 17*mib)))
	deleteErr := s.Delete(t.Context(), loc)
	errs := []error{statErr, openErr, putErr, partsErr, deleteErr}
	for _, err := range s.List(t.Context()) {
		errs = append(errs, err)
	}
	if len(errs) != 6 {
		t.Fatalf("List yields %d times", len(errs)-5)
	}
	for _, err := range errs {
		if !errors.Is(err, origin.ErrUnavailable) || errors.Is(err, origin.ErrNotFound) || !strings.Contains(err.Error(), o.Bucket) {
			t.Errorf("error %v; want %v and the name of the bucket", err, origin.ErrUnavailable)
		}
	}
}

// A body that waits for a silent server ends with its context.
func TestCancelOfASilentBody(t *testing.T) {
	f := newFake(t)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		whole("10", "01")(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	s := openStore(t, f.options())
	ctx, cancel := context.WithCancel(t.Context())
	o, err := s.Open(ctx, origin.Location{URL: "s3://default/x"}, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if _, err := io.ReadFull(o.Body, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := o.Body.Read(make([]byte, 1))
		done <- err
	}()
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("error %v; want %v", err, context.Canceled)
	}
}
