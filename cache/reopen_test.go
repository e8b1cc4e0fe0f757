package cache

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// again is a reader that had a request and begins another one at now.
func again(t *testing.T, c *Cache, im *image, now time.Time) *Reader {
	t.Helper()
	r := reader(t, c, im)
	_, err := r.Ready(t.Context(), 0, im.size())
	must(t, err)
	r.Close()
	must(t, r.Reopen(t.Context(), now))
	return r
}

// What Ready says is said of the data file that is read afterwards, whatever
// happened since the reader's last request.
func TestAReopenedReaderSaysWhatIsThereNow(t *testing.T) {
	for _, tt := range []struct {
		name    string
		happens func(t *testing.T, c *Cache, im *image)
		present int
		asks    bool // the origin
	}{
		{"nothing happened", func(*testing.T, *Cache, *image) {}, 20, false},
		{"the entry was dropped", func(t *testing.T, c *Cache, im *image) { must(t, c.Drop(im.digest)) }, 0, true},
		{"the entry was dropped and came back", func(t *testing.T, c *Cache, im *image) {
			must(t, c.Drop(im.digest))
			want(t, c, im, 0, chunk)
			settle(c)
			im.Opens.Store(0)
		}, 1, true},
		{"the file was removed", func(t *testing.T, c *Cache, im *image) { must(t, os.Remove(dataPath(c, im))) }, 0, true},
		{"the file was cut", func(t *testing.T, c *Cache, im *image) { must(t, os.Truncate(dataPath(c, im), chunk)) }, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := temp(t, Options{})
			im := newImage(20*chunk, 60)
			wantAll(t, c, im)
			settle(c)
			now := time.Now()
			r := again(t, c, im, now)
			r.Close()
			im.Opens.Store(0)
			tt.happens(t, c, im)
			must(t, r.Reopen(t.Context(), now.Add(time.Second)))
			o, err := r.Ready(t.Context(), 0, im.size())
			must(t, err)
			if o.Chunks != 20 || o.Present != tt.present {
				t.Errorf("%d of %d chunks are said to be here, want %d", o.Present, o.Chunks, tt.present)
			}
			var b bytes.Buffer
			if n, err := r.Send(t.Context(), &b, 0, im.size()); n != im.size() || err != nil {
				t.Errorf("sent %d: %v", n, err)
			}
			wantRight(t, b.Bytes(), im)
			settle(c)
			if n := im.Opens.Load(); n > 0 != tt.asks {
				t.Errorf("the origin was asked %d times", n)
			}
		})
	}
}

func dataPath(c *Cache, im *image) string {
	return filepath.Join(c.path, string(im.digest)+dataSuffix)
}

// A look at the data file is good for a moment, but not once there is doubt.
func TestAFileCutUnderAReopenedReaderIsHealed(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(64*chunk, 61)
	wantAll(t, c, im)
	settle(c)
	r := again(t, c, im, time.Now())
	_, err := r.Ready(t.Context(), 0, im.size())
	must(t, err)
	must(t, os.Truncate(dataPath(c, im), 10*chunk+77))
	var b bytes.Buffer
	if n, err := r.Send(t.Context(), &b, 0, im.size()); n != im.size() || err != nil {
		t.Errorf("sent %d: %v", n, err)
	}
	wantRight(t, b.Bytes(), im)
}

// Nor is it worth anything when the file is another one already.
func TestAFileReplacedBeforeAReopenedReaderOpensItIsHealed(t *testing.T) {
	c := temp(t, Options{OpenFiles: 1})
	im, other := newImage(20*chunk, 62), newImage(chunk, 63)
	wantAll(t, c, im)
	settle(c)
	now := time.Now()
	r := again(t, c, im, now)
	_, err := r.Ready(t.Context(), 0, im.size()) // a look
	must(t, err)
	r.Close()
	for range 2 { // takes the place among the descriptors
		wantAll(t, c, other)
		settle(c)
	}
	must(t, os.Remove(dataPath(c, im)))
	must(t, os.WriteFile(dataPath(c, im), make([]byte, im.size()), 0o600))
	must(t, r.Reopen(t.Context(), now)) // within lookEvery
	_, err = r.Ready(t.Context(), 0, im.size())
	must(t, err)
	var b bytes.Buffer
	if n, err := r.Send(t.Context(), &b, 0, im.size()); n != im.size() || err != nil {
		t.Errorf("sent %d: %v", n, err)
	}
	wantRight(t, b.Bytes(), im)
}
