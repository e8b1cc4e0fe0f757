package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func TestParts(t *testing.T) {
	for _, tt := range []struct {
		name           string
		base, size     int64 // of Options and of the object
		last           int64 // bytes of the last part, when there are all
		memory, within int64 // bytes in memory within bytes of the object
	}{
		{"unknown length", 16 * mib, -1, maxPart, 64 * mib, 10 << 30},
		{"unknown length, smallest parts", minPart, -1, maxPart, 20 * mib, 3 << 30},
		{"unknown length, parts of 6 MiB", 6 * mib, -1, maxPart, 24 * mib, 4 << 30},
		{"unknown length, largest parts", maxPart, -1, maxPart, maxMemory, maxObject},
		{"5 TiB", 16 * mib, maxObject, 525 * mib, maxMemory, maxObject},
		{"100 GiB", 16 * mib, 100 << 30, 16 * mib, 64 * mib, 100 << 30},
		{"a length that cannot be true", 16 * mib, maxObject + 1, maxPart, 64 * mib, 10 << 30},
		{"500 GiB", 16 * mib, 500 << 30, 52 * mib, 208 * mib, 500 << 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Store{o: Options{PartSize: tt.base, Concurrency: 3}, growEvery: growEvery}
			var sum, before int64
			for i := range maxParts {
				n := s.partSize(i, tt.size)
				if n < max(minPart, before) || n > maxPart {
					t.Fatalf("part %d has %d bytes after one of %d", i, n, before)
				}
				if i < growEvery && n != s.partSize(0, tt.size) {
					t.Fatalf("part %d has %d bytes, and the first %d", i, n, s.partSize(0, tt.size))
				}
				if memory := min(4*n, maxMemory); sum < tt.within && memory > tt.memory {
					t.Fatalf("part %d, at %d bytes, takes %d of memory; want at most %d", i, sum, memory, tt.memory)
				}
				before, sum = n, sum+n
			}
			if sum < maxObject && (tt.size < 0 || sum < tt.size) {
				t.Errorf("all parts together are %d bytes", sum)
			}
			if before != tt.last {
				t.Errorf("the last part has %d bytes; want %d", before, tt.last)
			}
		})
	}
}

// A stream says nothing of its length and yields what others cannot guess.
func stream(data []byte) io.Reader { return io.MultiReader(bytes.NewReader(data)) }

func TestUnknownLengthOverGrowingParts(t *testing.T) {
	o := lab(t)
	o.PartSize = minPart
	s := labStore(t, o)
	s.growEvery = 2
	// 5, 5, 10, 10 and a part that is not full; then exactly to the end of a
	// part; then one byte more than a part.
	for _, n := range []int{33*mib + 7, 20 * mib, minPart + 1, minPart, minPart - 1} {
		data := origintest.Data(n, uint64(n))
		loc, err := s.Put(t.Context(), s.Locate("grown"), -1, stream(data))
		if err != nil {
			t.Fatalf("Put of %d bytes: %v", n, err)
		}
		obj, err := s.Open(t.Context(), loc, 0, -1)
		if err != nil {
			t.Fatalf("Open of %d bytes: %v", n, err)
		}
		got, err := io.ReadAll(obj.Body)
		obj.Body.Close()
		if err != nil || obj.Size != int64(n) || !bytes.Equal(got, data) {
			t.Errorf("%d of %d bytes came back, error %v", len(got), n, err)
		}
		if i := int64(5*mib - 3); n > 5*mib {
			obj, err := s.Open(t.Context(), loc, i, 10)
			if err != nil {
				t.Fatalf("Open over two parts: %v", err)
			}
			got, err := io.ReadAll(obj.Body)
			obj.Body.Close()
			if err != nil || !bytes.Equal(got, data[i:min(i+10, int64(n))]) {
				t.Errorf("%d bytes over two parts, error %v", len(got), err)
			}
		}
	}
}

func TestAFailureInTheMiddleAborts(t *testing.T) {
	o := lab(t)
	o.PartSize = minPart
	s := labStore(t, o) // looks for leftovers
	gone := errors.New("client went away")
	ctx, cancel := context.WithCancel(t.Context())
	for _, tt := range []struct {
		name string
		ctx  context.Context
		size int64
		r    io.Reader
		want error
	}{
		{"the reader fails", t.Context(), -1, io.MultiReader(stream(make([]byte, 22*mib)), iotest.ErrReader(gone)), gone},
		{"the reader fails at once behind a part", t.Context(), 20 * mib, io.MultiReader(stream(make([]byte, minPart)), iotest.ErrReader(gone)), gone},
		{"the data is too short", t.Context(), 20 * mib, stream(make([]byte, 12*mib)), origin.ErrSize},
		{"the data is too long", t.Context(), 12 * mib, stream(make([]byte, 20*mib)), origin.ErrSize},
		{"the context ends", ctx, -1, io.MultiReader(stream(make([]byte, 22*mib)), readFunc(func(p []byte) (int, error) {
			cancel()
			return len(p), nil
		})), context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			loc := s.Locate("broken")
			if _, err := s.Put(tt.ctx, loc, tt.size, tt.r); !errors.Is(err, tt.want) || errors.Is(err, origin.ErrUnavailable) {
				t.Errorf("error %v; want %v", err, tt.want)
			}
			if all := held(t, s); len(all) != 0 {
				t.Errorf("List shows %v", all)
			}
		})
	}
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// No more of a stream is read ahead of the server than the parts in memory.
func TestMemoryOfAnUploadIsBounded(t *testing.T) {
	f := newFake(t)
	s := openStore(t, f.options())
	const part, n = 64 << 10, 8 << 20
	s.o.PartSize = part
	var sent, most atomic.Int64
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if isPart(r) {
			sent.Add(r.ContentLength)
		}
		return false
	}
	var pos int64
	_, err := s.Put(t.Context(), s.Locate("x"), -1, readFunc(func(p []byte) (int, error) {
		k := min(int64(len(p)), n-pos)
		if pos += k; k == 0 {
			return 0, io.EOF
		}
		most.Store(max(most.Load(), pos-sent.Load()))
		return int(k), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := most.Load(); got > 4*part {
		t.Errorf("%d bytes were read ahead; want at most %d", got, 4*part)
	}
}

func TestTooManyParts(t *testing.T) {
	f := newFake(t)
	s := openStore(t, f.options())
	s.o.PartSize, s.maxParts = 1000, 10
	_, err := s.Put(t.Context(), s.Locate("x"), -1, stream(make([]byte, 10*1000+1)))
	if !errors.Is(err, origin.ErrFull) || !strings.Contains(err.Error(), "10000 bytes") {
		t.Errorf("error %v; want %v", err, origin.ErrFull)
	}
	if objects, uploads := f.left(); objects != 0 || uploads != 0 {
		t.Errorf("%d objects and %d uploads are left", objects, uploads)
	}
}

// childVar holds the location at which a child process writes until it is killed.
const childVar = "NEARSIGHT_TEST_S3_PUT"

// child writes without an end, and says when three parts have been read.
func child() {
	s, err := Open(context.Background(), Options{
		Endpoint: os.Getenv("S3_ENDPOINT"), Region: os.Getenv("S3_REGION"), Bucket: os.Getenv("S3_BUCKET"),
		AccessKey: os.Getenv("S3_ACCESS_KEY"), SecretKey: os.Getenv("S3_SECRET_KEY"),
		Prefix: os.Getenv(childVar + "_PREFIX"), PartSize: minPart, Concurrency: 1,
	})
	if err == nil {
		var pos int
		_, err = s.Put(context.Background(), origin.Location{URL: os.Getenv(childVar)}, -1, readFunc(func(p []byte) (int, error) {
			if pos > 3*minPart {
				fmt.Println("sent")
				select {} // until it is killed
			}
			pos += len(p)
			return len(p), nil
		}))
	}
	fmt.Println(err)
}

func TestAKilledUploadIsListedAndDeleted(t *testing.T) {
	s := labStore(t, lab(t))
	loc := s.Locate("killed")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+loc.URL, childVar+"_PREFIX="+s.o.Prefix)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 5)
	_, err = io.ReadFull(out, said)
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil || string(said) != "sent\n" {
		t.Fatalf("the child says %q, %v", said, err)
	}
	if _, err := s.Stat(t.Context(), loc); !errors.Is(err, origin.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	all := held(t, s)
	if len(all) != 1 || !all[0].Partial || all[0].Location != loc || all[0].Size < minPart || all[0].ModTime.IsZero() {
		t.Errorf("List shows %+v; want what is left of %s", all, loc.URL)
	}
	if err := s.Delete(t.Context(), loc); err != nil {
		t.Fatal(err)
	}
	if all := held(t, s); len(all) != 0 {
		t.Errorf("after Delete List shows %+v", all)
	}
}
