package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"nearsight/origin"
	"nearsight/origin/diskformat"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// patches returns a disk of n bytes of which a third of the clusters is in use, in runs
// that begin and end within chunks. The clusters can be compressed, but not far.
func patches(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 3))
	disk := pattern(n, byte(seed))
	for i := range disk {
		disk[i] &= 0x1f
	}
	for off := 0; off < n; {
		off = min(n, off+(1+rng.IntN(6))<<16)
		end := min(n, off+(1+rng.IntN(12))<<16)
		clear(disk[off:end])
		off = end
	}
	return disk
}

// imaged returns a disk as an image that qemu-img made of it.
func imaged(t testing.TB, disk []byte, format, options string) []byte {
	t.Helper()
	dir := t.TempDir()
	raw, image := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
	if err := os.WriteFile(raw, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"convert", "-f", "raw", "-O", format}
	if strings.Contains(options, "compression") {
		args = append(args, "-c")
	}
	if options != "" {
		args = append(args, "-o", options)
	}
	if out, err := exec.Command("qemu-img", append(args, raw, image)...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// as sets the formats of an image that is added.
func as(disk, container string) func(*registry.Image) {
	return func(img *registry.Image) { img.DiskFormat, img.ContainerFormat = disk, container }
}

func viewPath(img *registry.Image, name string) string {
	return "/v2/images/" + img.ID + "/file/" + name
}

// listed returns the views of an image by name.
func (s *site) listed(img *registry.Image, fields ...string) map[string]viewEntry {
	s.t.Helper()
	a := s.do("GET", "/v2/images/"+img.ID+"/views", fields...)
	var list struct{ Views []viewEntry }
	if err := json.Unmarshal(a.body, &list); err != nil || a.StatusCode != 200 || list.Views == nil {
		s.t.Fatalf("%d %s: %v", a.StatusCode, a.body, err)
	}
	views := make(map[string]viewEntry)
	for _, v := range list.Views {
		views[v.Name] = v
	}
	return views
}

// Each of the formats that are stored shows the disk in each of the views: the raw view
// of what a view gives is the disk again.
func TestAViewOfAnyImageIsTheDiskInIt(t *testing.T) {
	s := newSite(t, siteConfig{})
	disk := patches(9<<20, 1)
	for _, tt := range []struct{ format, disk, options string }{
		{"raw", "raw", ""}, {"raw", "iso", ""}, {"raw", "ami", ""},
		{"qcow2", "qcow2", ""}, {"qcow2", "qcow2", "compression_type=zstd"}, {"qcow2", "qcow2", "compression_type=zlib"},
		{"vmdk", "vmdk", "subformat=monolithicSparse"}, {"vmdk", "vmdk", "subformat=streamOptimized"},
		{"vpc", "vhd", "subformat=dynamic,force_size=on"}, {"vpc", "vhd", "subformat=fixed,force_size=on"},
		{"vhdx", "vhdx", ""}, {"vdi", "vdi", ""},
	} {
		t.Run(tt.disk+" "+tt.options, func(t *testing.T) {
			container := "bare"
			if tt.disk == "ami" {
				container = "ami"
			}
			stored := disk
			if tt.format != "raw" {
				stored = imaged(t, disk, tt.format, tt.options)
			}
			img := s.add(stored, as(tt.disk, container))
			views := s.listed(img)
			if len(views) != len(diskformat.ViewNames()) {
				t.Errorf("the views are %v", views)
			}
			for name, entry := range views {
				a := s.do("GET", entry.URL)
				if a.err != nil || a.StatusCode != 200 || int64(len(a.body)) != entry.Size || a.ContentLength != entry.Size || a.Header.Get("Etag") != entry.ETag {
					t.Fatalf("%s: %d, %d bytes, %v, want %+v", name, a.StatusCode, len(a.body), a.Header, entry)
				}
				format, _, _ := strings.Cut(name, "-")
				inner, err := diskformat.Open(bytes.NewReader(a.body), entry.Size, diskformat.Format(format), diskformat.Limits{})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if got, err := io.ReadAll(io.NewSectionReader(inner, 0, inner.Size())); err != nil || !bytes.Equal(got, disk) {
					t.Errorf("%s: the disk in it is another: %d bytes, %v", name, len(got), err)
				}
			}
		})
	}
}

// A view answers every request as a stored file with the same bytes would.
func TestAViewAnswersLikeAFile(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(imaged(t, patches(5<<20, 2), "qcow2", "compression_type=zstd"), as("qcow2", "bare"))
	path := viewPath(img, "vmdk")
	whole := s.do("GET", path)
	body, size := whole.body, len(whole.body)
	tag := fmt.Sprintf(`"%s-vmdk-1"`, img.Digest)
	for _, name := range []string{"Repr-Digest", "Content-Md5"} {
		if whole.Header.Get(name) != "" {
			t.Errorf("a view claims %s, which is that of the stored data", name)
		}
	}
	plain := s.file("GET", img)
	for _, name := range []string{"Cache-Control", "Vary", "Xkey", "Cache-Groups", "Last-Modified", "Accept-Ranges", "Content-Type", "X-Content-Type-Options", "Content-Disposition"} {
		if got, want := whole.Header.Values(name), plain.Header.Values(name); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q, and the data has %q", name, got, want)
		}
	}
	if whole.Header.Get("Etag") != tag {
		t.Errorf("ETag %s, want %s", whole.Header.Get("Etag"), tag)
	}
	for _, tt := range []struct {
		name, method string
		fields       []string
		status       int
		off, n       int
	}{
		{"the whole", "GET", nil, 200, 0, size},
		{"HEAD has the length", "HEAD", nil, 200, 0, 0},
		{"one byte", "GET", []string{"Range: bytes=7-7"}, 206, 7, 1},
		{"over several pieces", "GET", []string{"Range: bytes=200000-1200000"}, 206, 200000, 1000001},
		{"the end", "GET", []string{"Range: bytes=-1000"}, 206, size - 1000, 1000},
		{"past the end", "GET", []string{"Range: bytes=" + strconv.Itoa(size) + "-"}, 416, 0, 0},
		{"an unknown unit", "GET", []string{"Range: sectors=1-2"}, 200, 0, size},
		{"its tag is fresh", "GET", []string{"If-None-Match: " + tag}, 304, 0, 0},
		{"the tag of the data is another", "GET", []string{`If-None-Match: "` + string(img.Digest) + `"`}, 200, 0, size},
		{"its tag matches", "GET", []string{"If-Match: " + tag, "Range: bytes=0-9"}, 206, 0, 10},
		{"another tag does not", "GET", []string{`If-Match: "x"`}, 412, 0, 0},
		{"If-Range with its tag", "GET", []string{"Range: bytes=5-9", "If-Range: " + tag}, 206, 5, 5},
		{"If-Range with that of the data", "GET", []string{"Range: bytes=5-9", `If-Range: "` + string(img.Digest) + `"`}, 200, 0, size},
		{"If-Modified-Since", "GET", []string{"If-Modified-Since: " + whole.Header.Get("Last-Modified")}, 304, 0, 0},
		{"all is cached", "GET", []string{"Cache-Control: only-if-cached", "Range: bytes=0-9"}, 206, 0, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := s.do(tt.method, path, tt.fields...)
			if a.StatusCode != tt.status {
				t.Fatalf("status %d, want %d: %s", a.StatusCode, tt.status, a.body)
			}
			switch tt.status {
			case 200, 206:
				if tt.method == "HEAD" {
					if a.ContentLength != int64(size) {
						t.Errorf("Content-Length %d, want %d", a.ContentLength, size)
					}
				} else if !bytes.Equal(a.body, body[tt.off:tt.off+tt.n]) {
					t.Errorf("%d bytes that are not %d from %d", len(a.body), tt.n, tt.off)
				}
				if a.Header.Get("Accept-Ranges") != "bytes" {
					t.Error("no Accept-Ranges")
				}
			case 416:
				if got := a.Header.Get("Content-Range"); got != fmt.Sprintf("bytes */%d", size) {
					t.Errorf("Content-Range %s", got)
				}
			case 304:
				if a.Header.Get("Etag") != tag || a.Header.Get("Repr-Digest") != "" {
					t.Errorf("%v", a.Header)
				}
			}
		})
	}
}

func TestSeveralRangesOfAViewComeInOneAnswer(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(patches(3<<20, 3), nil)
	body := s.do("GET", viewPath(img, "vhd")).body
	a := s.do("GET", viewPath(img, "vhd"), "Range: bytes=0-511,700000-1200000,-512")
	_, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil || a.StatusCode != 206 || a.ContentLength != int64(len(a.body)) {
		t.Fatalf("%d, %v, %v", a.StatusCode, a.Header, err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, want := range [][]byte{body[:512], body[700000:1200001], body[len(body)-512:]} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", part.Header, len(got), err)
		}
	}
}

// Whatever asks for a view, the origin gives the chunks with the header, the tables and
// the bytes that are asked for, and none twice.
func TestAViewTouchesTheChunksItNeedsAndNoOthers(t *testing.T) {
	s := newSite(t, siteConfig{})
	disk := patches(64<<20, 4)
	img := s.add(disk, nil)
	s.listed(img)
	if got := s.store.Bytes.Load(); got != chunk {
		t.Errorf("the list of views took %d bytes of the data, want the first chunk, for what the raw view begins with", got)
	}
	if a := s.do("HEAD", viewPath(img, "qcow2")); a.StatusCode != 200 || s.store.Bytes.Load() != chunk {
		t.Errorf("HEAD: %d, %d bytes", a.StatusCode, s.store.Bytes.Load())
	}
	// 64 KiB in the middle of the disk, which is one chunk of it or two.
	at := 40 << 20
	for bytes.Equal(disk[at:at+1<<16], make([]byte, 1<<16)) {
		at += 1 << 16
	}
	a := s.do("GET", viewPath(img, "raw"), fmt.Sprintf("Range: bytes=%d-%d", at, at+1<<16-1))
	if !bytes.Equal(a.body, disk[at:at+1<<16]) || s.store.Bytes.Load() != 2*chunk || a.Header.Get("Cache-Status") != "nearsight; fwd=miss; stored" {
		t.Errorf("%d bytes of the data for 64 KiB, %s", s.store.Bytes.Load(), a.Header.Get("Cache-Status"))
	}
	a = s.do("GET", viewPath(img, "raw"), fmt.Sprintf("Range: bytes=%d-%d", at, at+1<<16-1))
	if s.store.Bytes.Load() != 2*chunk || a.Header.Get("Cache-Status") != "nearsight; hit" {
		t.Errorf("the second time: %d bytes, %s", s.store.Bytes.Load(), a.Header.Get("Cache-Status"))
	}
}

func TestWhatHasNoViewSaysSo(t *testing.T) {
	s := newSite(t, siteConfig{})
	disk := patches(2<<20, 5)
	qcow2 := imaged(t, disk, "qcow2", "")
	encrypted := bytes.Clone(qcow2)
	encrypted[35] = 1
	backed := bytes.Clone(qcow2)
	backed[15], backed[19] = 200, 4
	broken := bytes.Clone(qcow2)
	clear(broken[0x30000:]) // the L1 table
	broken[0x30002] = 0x7f  // which leads nowhere now
	for _, tt := range []struct {
		name, disk, container, view, detail string
		data                                []byte
	}{
		{"a name that is none", "raw", "bare", "qed", `there is no view "qed"`, disk},
		{"a container that is opaque", "raw", "docker", "raw", "wrapped as docker", disk},
		{"a compressed container", "qcow2", "compressed", "raw", "wrapped as compressed", disk},
		{"an OVA", "vmdk", "ova", "raw", "wrapped as ova", disk},
		{"a format that nobody reads", "ploop", "bare", "raw", `"ploop" cannot be read`, disk},
		{"an encrypted disk", "qcow2", "bare", "raw", "encrypted", encrypted},
		{"a file behind", "qcow2", "bare", "raw", "qcow2-backing-file", backed},
		{"tables that lead nowhere", "qcow2", "bare", "vdi", "decode: image data is damaged", broken},
		{"less than a header", "qcow2", "bare", "raw", "", qcow2[:50]},
		{"data of another format than declared", "qcow2", "bare", "raw", "declared-mismatch", disk},
		{"an image within a raw disk", "raw", "bare", "raw", "nested-format", qcow2},
		{"an image within an image", "qcow2", "bare", "raw", "nested-format", imaged(t, append(qcow2, make([]byte, -len(qcow2)&511)...), "qcow2", "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := s.add(tt.data, as(tt.disk, tt.container))
			for _, accept := range []string{"*/*", "application/json", "application/problem+json"} {
				a := s.do("GET", viewPath(img, tt.view), "Accept: "+accept)
				text := strings.NewReplacer(`\"`, `"`).Replace(string(a.body))
				if a.StatusCode != 404 || !strings.Contains(text, viewUnavailable+": ") || !strings.Contains(text, tt.detail) {
					t.Errorf("%d %s", a.StatusCode, text)
				}
				checkFields(t, a, img, "GET", 0)
			}
			if _, ok := s.listed(img)[tt.view]; ok {
				t.Error("it is in the list")
			}
		})
	}
}

func TestAViewIsForThoseWhoMayDownload(t *testing.T) {
	s := newSite(t, siteConfig{identity: people, anonymous: true})
	img := s.owned(patches(1<<20, 6), registry.Private)
	for _, path := range []string{viewPath(img, "qcow2"), "/v2/images/" + img.ID + "/views"} {
		for token, want := range map[string]int{"owner": 200, "admin": 200, "other": 404} {
			a := s.do("GET", path, "X-Auth-Token: "+token)
			if a.StatusCode != want {
				t.Errorf("%s for %s: %d, want %d", path, token, a.StatusCode, want)
			}
			if want == 200 && (a.Header.Get("Cache-Control") != privateFreshness || a.Header.Get("Vary") == "") {
				t.Errorf("%s for %s: %v", path, token, a.Header)
			}
		}
		if a := s.do("GET", path); a.StatusCode != 404 {
			t.Errorf("%s for nobody: %d", path, a.StatusCode)
		}
	}
	s.change(img, func(img *registry.Image) error { img.Status = registry.Deactivated; return nil })
	if a := s.do("GET", viewPath(img, "qcow2"), "X-Auth-Token: owner"); a.StatusCode != 403 {
		t.Errorf("deactivated: %d", a.StatusCode)
	}
	if err := s.records.Delete(t.Context(), img.ID, nil); err != nil {
		t.Fatal(err)
	}
	if a := s.do("GET", viewPath(img, "qcow2"), "X-Auth-Token: owner"); a.StatusCode != 404 {
		t.Errorf("deleted: %d", a.StatusCode)
	}
}

func TestAFailureOfAViewBeforeItsFirstByteHasItsStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults origintest.Faults
		status int
	}{
		{"the store does not answer", origintest.Faults{Open: origin.ErrUnavailable}, 503},
		{"the object is gone", origintest.Faults{Open: origin.ErrNotFound}, 502},
		{"the store sends other bytes than it was given", origintest.Faults{Flip: []int64{7}}, 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, siteConfig{})
			disk := patches(3<<20, 7)
			img := s.add(imaged(t, disk, "qcow2", ""), as("qcow2", "bare"))
			s.store.Inject(tt.faults)
			for _, path := range []string{viewPath(img, "raw"), "/v2/images/" + img.ID + "/views"} {
				a := s.do("GET", path)
				if a.StatusCode != tt.status {
					t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
				}
				checkFields(t, a, img, "GET", 0)
			}
			s.store.Inject(origintest.Faults{})
			if a := s.do("GET", viewPath(img, "raw")); !bytes.Equal(a.body, disk) {
				t.Errorf("afterwards: %d, %d bytes", a.StatusCode, len(a.body))
			}
		})
	}
}

func TestAFailureOfAViewAfterTheHeaderBreaksTheConnection(t *testing.T) {
	s := newSite(t, siteConfig{})
	disk := pattern(8*chunk, 8)
	img := s.add(disk, nil)
	s.store.Inject(origintest.Faults{Cut: new(int64(5*chunk + 5))})
	a := s.do("GET", viewPath(img, "raw"))
	if a.StatusCode != 200 || a.err == nil || !bytes.HasPrefix(disk, a.body) || len(a.body) > 5*chunk {
		t.Errorf("status %d, %d bytes, %v", a.StatusCode, len(a.body), a.err)
	}
	s.eventually(func() bool { return strings.Contains(s.log.String(), `"aborted":true`) })
	s.store.Inject(origintest.Faults{})
	if a := s.do("GET", viewPath(img, "raw")); !bytes.Equal(a.body, disk) {
		t.Errorf("afterwards: %d bytes", len(a.body))
	}
}

func TestOnlyIfCachedAsksNobodyForAView(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(3*chunk, 9), nil)
	a := s.do("GET", viewPath(img, "qcow2"), "Cache-Control: only-if-cached")
	if a.StatusCode != 504 || s.store.Opens.Load() != 0 {
		t.Errorf("%d, %d requests to the store", a.StatusCode, s.store.Opens.Load())
	}
}

// Many readers of many views of the same images get right bytes, whoever has a window
// before them, and few windows stay.
func TestManyReadersShareWindows(t *testing.T) {
	s := newSite(t, siteConfig{})
	disk := patches(6<<20, 10)
	images := []*registry.Image{
		s.add(disk, nil),
		s.add(imaged(t, disk, "qcow2", "compression_type=zlib"), as("qcow2", "bare")),
	}
	names := diskformat.ViewNames()
	whole := make(map[string][]byte)
	for _, img := range images {
		for _, name := range names {
			whole[img.ID+name] = s.do("GET", viewPath(img, name)).body
		}
	}
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for range 40 {
				img, name := images[rng.IntN(len(images))], names[rng.IntN(len(names))]
				want := whole[img.ID+name]
				off := rng.IntN(len(want))
				n := 1 + rng.IntN(min(len(want)-off, 700_000))
				a, err := s.try("GET", viewPath(img, name), fmt.Sprintf("Range: bytes=%d-%d", off, off+n-1))
				if err != nil || !bytes.Equal(a.body, want[off:off+n]) {
					t.Errorf("%s from %d: %d bytes of %d, %v, %v", name, off, len(a.body), n, err, a.err)
				}
			}
		})
	}
	all.Wait()
	v := &s.proxy.views
	if v.waiting > maxWindows || v.idle.Len() > v.waiting || len(v.flights) != 0 || v.bitmaps.Len() != len(images) {
		t.Errorf("%d windows of %d views wait, %d bitmaps are being made", v.waiting, v.idle.Len(), len(v.flights))
	}
}
