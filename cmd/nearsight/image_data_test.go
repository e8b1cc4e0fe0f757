package main

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"nearsight/registry/client"
)

func TestGuessFormat(t *testing.T) {
	at := func(offset int, magic string) string { return strings.Repeat("\x00", offset) + magic }
	for _, tt := range []struct{ name, bytes, want string }{
		{"qcow2", "QFI\xfb\x00\x00\x00\x03", "qcow2"},
		{"vmdk", "KDMV\x01", "vmdk"},
		{"dynamic vhd", "conectix\x00", "vhd"},
		{"vhdx", "vhdxfile", "vhdx"},
		{"vmdk of an ESX host", "COWD\x01", "vmdk"},
		{"ploop", "WithoutFreeSpace", "ploop"},
		{"ploop with larger offsets", "WithouFreSpacExt", "ploop"},
		{"vdi", at(0x40, "\x7f\x10\xda\xbe"), "vdi"},
		{"iso", at(32769, "CD001"), "iso"},
		{"an ISO image that a machine can boot as a disk", "\x33\xed" + at(32767, "CD001"), "iso"},
		{"no bytes", "", "raw"},
		{"zeros", at(40000, ""), "raw"},
		{"a magic that is cut", "QFI", "raw"},
		{"a magic in another place", "\x00QFI\xfb", "raw"},
		{"an ISO magic that is cut", at(32769, "CD00"), "raw"},
		{"the big-endian VDI magic", at(0x40, "\xbe\xda\x10\x7f"), "raw"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := guessFormat([]byte(tt.bytes)); got != tt.want {
				t.Errorf("guessed %s, want %s", got, tt.want)
			}
		})
	}
}

func TestAFixedVHDIsKnownByItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	footer := append([]byte("conectix"), make([]byte, 504)...)
	if err := os.WriteFile(path, append(make([]byte, 1024), footer...), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFakeServer(t)
	if _, note, err := runCLI(t, f, "", "image", "create", "--file", path); err != nil || !strings.Contains(note, "vhd") || len(f.data[id3]) != 1536 {
		t.Errorf("%s%v, %d bytes", note, err, len(f.data[id3]))
	}
}

func FuzzGuessFormat(f *testing.F) {
	f.Add([]byte("QFI\xfb"))
	f.Add(make([]byte, probeSize-1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := guessFormat(b); got != guessFormat(b[:min(len(b), probeSize)]) {
			t.Errorf("%s depends on bytes that are not looked at", got)
		}
	})
}

func TestCreateWithData(t *testing.T) {
	refuse := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "PUT" {
			return false
		}
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(413)
		io.WriteString(w, "413\n\nno room")
		return true
	}
	refuseAll := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "DELETE" {
			return refuse(w, r)
		}
		w.WriteHeader(403)
		return true
	}
	for _, tt := range []struct {
		name, flags, stdin string
		fail               func(http.ResponseWriter, *http.Request) bool
		code               int
		want               string // in the error, or in the output
		stored             string // status and format of the image that is there in the end; "": none
	}{
		{"the format is guessed", "", "QFI\xfb...", nil, 0, "active", "active qcow2 bare"},
		{"what is said counts", "--disk-format vhd --container-format ova", "QFI\xfb...", nil, 0, "active", "active vhd ova"},
		{"an image of no bytes is an image", "", "", nil, 0, "active", "active raw bare"},
		{"what is refused leaves nothing", "", "x", refuse, 4, "upload: no room (413 Request Entity Too Large)", ""},
		{"unless its id was chosen", "--id " + id3, "x", refuse, 4, "(image " + id3 + " stays without data)", "queued raw bare"},
		{"what cannot be deleted is told", "", "x", refuseAll, 4, "(image " + id3 + " stays without data: it cannot be deleted: the server answered 403", "queued raw bare"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeServer(t)
			f.fail = tt.fail
			args := append([]string{"image", "create", "--name", "n", "--file", "-"}, strings.Fields(tt.flags)...)
			out, _, err := runCLI(t, f, tt.stdin, args...)
			if err != nil {
				out = errorLine(err)
			}
			if exitCode(err) != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("exit status %d, %s; want %d, %s", exitCode(err), out, tt.code, tt.want)
			}
			var stored string
			if img := f.images[id3]; img != nil {
				stored = strings.Join([]string{img["status"].(string), img["disk_format"].(string), img["container_format"].(string)}, " ")
			}
			if stored != tt.stored || err == nil && string(f.data[id3]) != tt.stdin {
				t.Errorf("the server has %q (%q), want %q", stored, f.data[id3], tt.stored)
			}
		})
	}
}

func TestCreateTellsWhatItGuessedUnlessQuiet(t *testing.T) {
	_, note, err := runCLI(t, newFakeServer(t), "QFI\xfb", "image", "create", "--file", "-")
	if err != nil || note != "nearsight: the disk format seems to be qcow2\n" {
		t.Errorf("%q, %v", note, err)
	}
	_, note, err = runCLI(t, newFakeServer(t), "QFI\xfb", "image", "create", "--file", "-", "--quiet")
	if err != nil || note != "" {
		t.Errorf("%q, %v", note, err)
	}
}

func TestCreateFromAFileThatCannotBeReadCreatesNothing(t *testing.T) {
	for name, path := range map[string]string{
		"no such file or directory": filepath.Join(t.TempDir(), "none"),
		"is a directory":            t.TempDir(),
	} {
		f := newFakeServer(t)
		_, _, err := runCLI(t, f, "", "image", "create", "--file", path)
		if err == nil || !strings.Contains(err.Error(), name) || exitCode(err) != exitFailure || len(f.seen) > 0 {
			t.Errorf("%v after %q, want %q", err, f.seen, name)
		}
	}
}

func TestCreateFromAFileAnnouncesItsSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFakeServer(t)
	var length int64
	f.fail = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == "PUT" {
			length = r.ContentLength
		}
		return false
	}
	if _, _, err := runCLI(t, f, "", "image", "create", "--file", path); err != nil || length != 5 || string(f.data[id3]) != "hello" {
		t.Errorf("%d bytes were announced, %q came, %v", length, f.data[id3], err)
	}
}

func TestCreateThatIsInterruptedLeavesNothing(t *testing.T) {
	f := newFakeServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	stdin := io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), readerFunc(func([]byte) (int, error) {
		cancel()
		<-ctx.Done()
		return 0, nil
	}))
	_, _, err := runCLIContext(ctx, t, f, stdin, "image", "create", "--file", "-", "--disk-format", "raw")
	if exitCode(err) != exitInterrupted || !strings.HasSuffix(errorLine(err), ": interrupted") {
		t.Errorf("error %v", err)
	}
	if seen := f.requests(); seen[len(seen)-1] != "DELETE /v2/images/"+id3 || len(f.images) > 0 {
		t.Errorf("the server saw %q and has %v", seen, f.images)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCreateFromAStreamThatBreaks(t *testing.T) {
	f := newFakeServer(t)
	stdin := io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), iotest.ErrReader(errors.New("tape torn")))
	_, _, err := runCLIContext(t.Context(), t, f, stdin, "image", "create", "--file", "-")
	if exitCode(err) != exitFailure || errorLine(err) != "nearsight: upload: tape torn" || len(f.images) > 0 {
		t.Errorf("error %v, the server has %v", err, f.images)
	}
}

func TestCreateNoticesThatOtherBytesWereStored(t *testing.T) {
	f := newFakeServer(t)
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		if img := f.images[id3]; img != nil {
			img["os_hash_algo"], img["os_hash_value"] = "sha512", strings.Repeat("0", 128)
		}
		return false
	}
	_, _, err := runCLI(t, f, "hello", "image", "create", "--file", "-")
	if !errors.Is(err, client.ErrIntegrity) || exitCode(err) != exitIntegrity || len(f.images) > 0 {
		t.Errorf("error %v, the server has %v", err, f.images)
	}
}

func TestUploadToAnImageThatHasNone(t *testing.T) {
	f := newFakeServer(t, image(id1, "one"))
	out, _, err := runCLI(t, f, "hello", "image", "upload", "one", "--file", "-")
	if err != nil || string(f.data[id1]) != "hello" || !strings.Contains(out, "active") {
		t.Errorf("%s%v", out, err)
	}
}

// imageWithData returns a server with one image and its data.
func imageWithData(t *testing.T, data []byte) *fakeServer {
	sum := sha512.Sum512(data)
	img := image(id1, "one")
	img["size"], img["os_hash_algo"], img["os_hash_value"] = len(data), "sha512", hex.EncodeToString(sum[:])
	f := newFakeServer(t, img)
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/file") {
			return false
		}
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		return true
	}
	return f
}

func TestSaveToAFile(t *testing.T) {
	f := imageWithData(t, []byte("hello"))
	path := filepath.Join(t.TempDir(), "disk")
	save := func(more ...string) error {
		_, note, err := runCLI(t, f, "", append([]string{"image", "save", "one", "--file", path}, more...)...)
		if note != "" {
			t.Errorf("it says %q", note)
		}
		return err
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "hello" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if err := save(); exitCode(err) != exitFailure || errorLine(err) != "nearsight: save: "+path+": file already exists; --force replaces it" {
		t.Errorf("error %v", err)
	}
	if err := save("--force"); err != nil {
		t.Error(err)
	}
}

func TestSaveToStandardOutput(t *testing.T) {
	out, _, err := runCLI(t, imageWithData(t, []byte("hello")), "", "image", "save", "one", "--file", "-")
	if err != nil || out != "hello" {
		t.Errorf("%q, %v", out, err)
	}
	f := imageWithData(t, []byte("hello"))
	f.images[id1]["os_hash_value"] = strings.Repeat("0", 128)
	if _, _, err := runCLI(t, f, "", "image", "save", "one", "--file", "-"); exitCode(err) != exitIntegrity {
		t.Errorf("error %v after wrong bytes", err)
	}
}

func TestSaveThatIsInterruptedSaysHowToGoOn(t *testing.T) {
	f := imageWithData(t, []byte("hello"))
	ctx, cancel := context.WithCancel(t.Context())
	serveData := f.fail
	f.fail = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/file") {
			cancel()
			<-r.Context().Done()
			return true
		}
		return serveData(w, r)
	}
	path := filepath.Join(t.TempDir(), "disk")
	_, _, err := runCLIContext(ctx, t, f, nil, "image", "save", "one", "--file", path)
	want := "nearsight: save: interrupted; what came so far is in " + path + ".part, and the same command goes on from there"
	if exitCode(err) != exitInterrupted || errorLine(err) != want {
		t.Errorf("error %v", err)
	}
	f.fail = serveData
	if _, _, err := runCLI(t, f, "", "image", "save", "one", "--file", path); err != nil {
		t.Error(err)
	}
}
