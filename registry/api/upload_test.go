package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/registry"
)

// Faults stand between the API and what it uses.
type faults struct {
	registry.Uploads
	origin.WriteStore
	begin  error  // of every Begin
	put    error  // of every Put, after it read everything
	finish error  // of every Finish
	abort  error  // of every Abort
	midway func() // called when data is stored, before Finish
}

func (f *faults) use(o *Options) {
	f.Uploads, f.WriteStore = o.Uploads, o.Store
	o.Uploads, o.Store = f, f
}

func (f *faults) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	if f.put != nil {
		io.Copy(io.Discard, r)
		return loc, f.put
	}
	return f.WriteStore.Put(ctx, loc, size, r)
}

func (f *faults) Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	if f.midway != nil {
		f.midway()
	}
	if f.finish != nil {
		return nil, f.finish
	}
	return f.Uploads.Finish(ctx, id, loc, sum)
}

func (f *faults) Begin(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	if f.begin != nil {
		return nil, f.begin
	}
	return f.Uploads.Begin(ctx, id, loc)
}

func (f *faults) Abort(ctx context.Context, id string, loc origin.Location) error {
	if f.abort != nil {
		return f.abort
	}
	return f.Uploads.Abort(ctx, id, loc)
}

func base64Sum(sum []byte) string { return ":" + base64.StdEncoding.EncodeToString(sum) + ":" }

func TestUpload(t *testing.T) {
	const data = "twelve bytes"
	sum256, sum512 := sha256.Sum256([]byte(data)), sha512.Sum512([]byte(data))
	good256, good512 := "sha-256="+base64Sum(sum256[:]), "sha-512="+base64Sum(sum512[:])
	bad256, bad512 := "sha-256="+base64Sum(make([]byte, 32)), "sha-512="+base64Sum(make([]byte, 64))
	const size = "x-openstack-image-size: "
	limit := func(n int64) func(*Options) { return func(o *Options) { o.MaxImageSize = n } }
	for _, tt := range []struct {
		name   string
		data   string
		fields []string
		option func(*Options)
		status int
	}{
		{"octets", data, []string{octets}, nil, 204},
		{"parameters of the type are ignored", data, []string{octets + "; charset=x"}, nil, 204},
		{"no type", data, nil, nil, 415},
		{"another type", data, []string{"Content-Type: application/x-qemu-disk"}, nil, 415},
		{"a content coding", data, []string{octets, "Content-Encoding: gzip"}, nil, 415},
		{"nova: no bytes activate the image", "", []string{octets}, nil, 204},
		{"a part (U2)", data, []string{octets, "Content-Range: bytes 0-9/100"}, nil, 400},
		{"the size as expected", data, []string{octets, size + "12"}, nil, 204},
		{"another size than expected", data, []string{octets, size + "13"}, nil, 400},
		{"expected size that is no number", data, []string{octets, size + "12 bytes"}, nil, 400},
		{"negative expected size", data, []string{octets, size + "-1"}, nil, 400},
		{"expected size with a sign", data, []string{octets, size + "+12"}, nil, 400},
		{"as large as allowed", data, []string{octets}, limit(12), 204},
		{"larger than allowed (U5)", data, []string{octets}, limit(11), 413},
		{"no limit", data, []string{octets}, limit(-1), 204},
		{"a store is named, there is only one", data, []string{octets, "x-image-meta-store: s3"}, nil, 204},

		{"right sha-256 (D3)", data, []string{octets, "Repr-Digest: " + good256}, nil, 204},
		{"wrong sha-256 (D3)", data, []string{octets, "Repr-Digest: " + bad256}, nil, 400},
		{"right sha-512 (D3)", data, []string{octets, "Content-Digest: " + good512}, nil, 204},
		{"wrong sha-512 (D3)", data, []string{octets, "Content-Digest: " + bad512}, nil, 400},
		{"both, one wrong (D3)", data, []string{octets, "Repr-Digest: " + good256 + ", " + bad512}, nil, 400},
		{"both right, with parameters", data, []string{octets, "Repr-Digest: " + good512 + ";x=1, md5=:AA==:, " + good256}, nil, 204},
		{"both fields", data, []string{octets, "Repr-Digest: " + good512, "Content-Digest: " + good512}, nil, 204},
		{"the fields contradict each other", data, []string{octets, "Repr-Digest: " + good512, "Content-Digest: " + bad512}, nil, 400},
		{"a digest that cannot be read", data, []string{octets, "Repr-Digest: sha-256=abc"}, nil, 400},
		{"a digest of the wrong length", data, []string{octets, "Repr-Digest: sha-256=:AA==:"}, nil, 400},
		{"unknown algorithms only", data, []string{octets, "Repr-Digest: sha-999=5, md5=:AA==:"}, nil, 204},
		{"the digest of no bytes", "", []string{octets, "Repr-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"}, nil, 204},

		{"full store", data, []string{octets}, (&faults{put: origin.ErrFull}).use, 413},
		{"store down", data, []string{octets}, (&faults{put: origin.ErrUnavailable}).use, 503},
		{"registry down at the end", data, []string{octets}, (&faults{finish: registry.ErrUnavailable}).use, 503},
		{"a broken server", data, []string{octets}, (&faults{finish: errors.New("bug")}).use, 500},
	} {
		for _, chunked := range []bool{false, true} {
			name := tt.name
			if chunked {
				name += ", chunked"
			}
			t.Run(name, func(t *testing.T) {
				options := []func(*Options){}
				if tt.option != nil {
					options = append(options, tt.option)
				}
				g := newRig(t, options...)
				g.create(`"id":"` + id1 + `",` + formats)
				w := g.upload(id1, tt.data, chunked, tt.fields...)
				if w.Code != tt.status {
					t.Fatalf("status %d, want %d: %s", w.Code, tt.status, w.Body)
				}
				if w.Code == 204 {
					g.isActive(id1, tt.data)
					if tag := w.Header().Get("ETag"); tag != `"`+string(g.get(id1).Digest)+`"` || w.Body.Len() > 0 {
						t.Errorf("ETag %q, body %q", tag, w.Body)
					}
					return
				}
				g.isQueued(id1)
			})
		}
	}
}

// isActive checks that the image has this data.
func (g *rig) isActive(id, data string) {
	g.Helper()
	img := g.get(id)
	sum := sha512.Sum512([]byte(data))
	if img.Status != registry.Active || *img.Size != int64(len(data)) || img.HashValue != hex.EncodeToString(sum[:]) || img.HashAlgo != "sha512" {
		g.Fatalf("image %+v", img)
	}
	o, err := g.store.Open(context.Background(), img.Locations[0], 0, -1)
	if err != nil {
		g.Fatal(err)
	}
	defer o.Body.Close()
	if stored, err := io.ReadAll(o.Body); err != nil || string(stored) != data {
		g.Errorf("stored %d bytes of %d, %v", len(stored), len(data), err)
	}
}

// isQueued checks that the image can be uploaded anew, and that nothing of the
// last attempt is left but what the reaper was told of.
func (g *rig) isQueued(id string) {
	g.Helper()
	img := g.get(id)
	if img.Status != registry.Queued || img.Size != nil || len(img.Locations) > 0 || img.Digest != "" {
		g.Fatalf("image %+v", img)
	}
	orphans := g.orphans()
	if len(orphans) > 0 && g.wakes.Load() == 0 {
		g.Error("nobody was told of the orphan")
	}
	for _, loc := range orphans {
		if err := g.store.Delete(context.Background(), loc); err != nil {
			g.Error(err)
		}
		if _, err := g.store.Stat(context.Background(), loc); !errors.Is(err, origin.ErrNotFound) {
			g.Errorf("%s: %v", loc.URL, err)
		}
	}
}

func TestUploadDependsOnTheImage(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	noDisk := g.create(`"container_format":"bare"`)
	noContainer := g.create(`"disk_format":"raw"`)
	for _, tt := range []struct {
		name, id, field string
		status          int
		says            string
	}{
		{"unknown image", absent, "", 404, ""},
		{"what is no id", "x", "", 404, ""},
		{"unknown image on condition", absent, "If-None-Match: *", 404, ""},
		{"no disk format", noDisk, "", 400, "disk_format"},
		{"no container format", noContainer, "", 400, "container_format"},
		{"nothing to match", id1, "If-Match: *", 412, ""},
		{"only when there is no data yet (U4)", id1, "If-None-Match: *", 204, ""},
		{"only when there is no data yet, twice (U4)", id1, "If-None-Match: *", 412, ""},
		{"data never changes", id1, "", 409, ""},
		{"data never changes, also on condition", id1, "If-Match: *", 409, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := g.do("PUT /v2/images/"+tt.id+"/file", "data", octets, tt.field)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.says) {
				t.Errorf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
		})
	}
	g.isActive(id1, "data")
}

func TestDuringAnUpload(t *testing.T) {
	t.Run("the image is saving, and others keep off its data", func(t *testing.T) {
		var g *rig
		f := &faults{midway: func() {
			if s := g.get(id1).Status; s != registry.Saving {
				t.Errorf("status %s", s)
			}
			g.want(409, "PUT /v2/images/"+id1+"/file", "other", octets)
			g.want(409, "PUT /v2/images/"+id1+"/file", "other", octets, "If-None-Match: *")
			g.want(200, "PATCH /v2/images/"+id1, `[{"op":"replace","path":"/name","value":"new"}]`, v21)
		}}
		g = newRig(t, f.use)
		g.create(`"id":"` + id1 + `",` + formats)
		g.put(id1, "data")
		g.isActive(id1, "data")
		if *g.get(id1).Name != "new" {
			t.Error("the patch was lost")
		}
	})
	t.Run("the image is deleted", func(t *testing.T) {
		var g *rig
		f := &faults{midway: func() { g.want(204, "DELETE /v2/images/"+id1, "") }}
		g = newRig(t, f.use)
		g.create(`"id":"` + id1 + `",` + formats)
		g.want(410, "PUT /v2/images/"+id1+"/file", "data", octets)
		g.want(404, "GET /v2/images/"+id1, "")
		if n := len(g.orphans()); n != 1 || g.wakes.Load() < 2 {
			t.Errorf("%d orphans, %d wakes", n, g.wakes.Load())
		}
	})
}

func TestUploadOfManyChunks(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	data := string(bytes.Repeat([]byte("0123456789abcde\n"), 3*origin.MinChunkSize/16)) + "rest"
	if w := g.upload(id1, data, true, octets); w.Code != 204 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	g.isActive(id1, data)
}

// A request's context ends when its client sends no more, although it may wait
// for the answer to a whole body.
func TestUploadByAClientThatSendsNoMore(t *testing.T) {
	var f halfClosed
	g := newRig(t, func(o *Options) { f.WriteStore, o.Store = o.Store, &f })
	g.create(`"id":"` + id1 + `",` + formats)
	inner := g.Handler
	g.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.sent = r.Context()
		inner.ServeHTTP(w, r)
	})
	conn, stop := g.dial()
	defer stop()
	io.WriteString(conn, raw("Content-Length: 4", "data"))
	conn.CloseWrite()
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "HTTP/1.1 204 No Content\r\n" {
		t.Errorf("%q, %v", line, err)
	}
	g.isActive(id1, "data")
}

// halfClosed is a store that is done when the server has seen the client stop.
type halfClosed struct {
	origin.WriteStore
	sent context.Context
}

func (h *halfClosed) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	loc, err := h.WriteStore.Put(ctx, loc, size, r)
	<-h.sent.Done()
	return loc, errors.Join(err, context.Cause(ctx))
}

func TestUploadsAreBounded(t *testing.T) {
	var g *rig
	f := &faults{midway: func() {
		w := g.want(503, "PUT /v2/images/"+id2+"/file", "other", octets)
		if w.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		if s := g.get(id2).Status; s != registry.Queued {
			t.Errorf("status %s", s)
		}
	}}
	g = newRig(t, f.use, func(o *Options) { o.MaxUploads = 1 })
	g.create(`"id":"` + id1 + `",` + formats)
	g.create(`"id":"` + id2 + `",` + formats)
	g.put(id1, "data")
	f.midway = nil
	g.put(id2, "other") // the place is free again
}

// RFC 9110, section 13.1.1: the condition holds when the image is deleted.
func TestDeleteOnConditionSeesTheImageThatItDeletes(t *testing.T) {
	var g *rig
	g = newRig(t, func(o *Options) {
		o.Images = &lateChange{Images: o.Images, before: func() {
			g.want(200, "PATCH /v2/images/"+id1, `[{"op":"replace","path":"/name","value":"new"}]`, v21)
		}}
	})
	g.create(`"id":"` + id1 + `"`)
	tag := g.want(200, "GET /v2/images/"+id1, "").Header().Get("ETag")
	g.want(412, "DELETE /v2/images/"+id1, "", "If-Match: "+tag)
	if name := g.get(id1).Name; name == nil || *name != "new" {
		t.Error("the image was not changed before")
	}
}

// lateChange makes a change come just before a delete.
type lateChange struct {
	registry.Images
	before func()
}

func (l *lateChange) Delete(ctx context.Context, id string, check func(*registry.Image) error) error {
	l.before()
	return l.Images.Delete(ctx, id, check)
}
