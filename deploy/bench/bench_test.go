package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nearsight/origin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseHead(t *testing.T) {
	for _, tt := range []struct {
		name, head string
		want       response
		err        string
	}{
		{"a range", "HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\ncontent-range: bytes 0-9/20\r\nETag: \"a\"",
			response{status: 206, length: 10, etag: `"a"`, contentRange: "bytes 0-9/20"}, ""},
		{"a 304 has no body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 10", response{status: 304}, ""},
		{"a length may be missing", "HTTP/1.1 200 OK", response{status: 200, length: -1}, ""},
		{"a server may close the connection", "HTTP/1.1 200 OK\r\nConnection: close", response{status: 200, length: -1, last: true}, ""},
		{"HTTP/1.0 closes", "HTTP/1.0 200 OK", response{status: 200, length: -1, last: true}, ""},
		{"HTTP/1.0 may keep alive", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive", response{status: 200, length: -1}, ""},
		{"a length is a number", "HTTP/1.1 200 OK\r\nContent-Length: x", response{}, "content-length"},
		{"a length is not negative", "HTTP/1.1 200 OK\r\nContent-Length: -2", response{}, "content-length"},
		{"another protocol is none", "SSH-2.0-OpenSSH", response{}, "status line"},
		{"a status has digits", "HTTP/1.1 abc", response{}, "status line"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseHead([]byte(tt.head))
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%+v, %v; want %+v, %q", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/20\r\nETag: \"a\""))
	f.Add([]byte("HTTP/1.0 304 x\r\nConnection: keep-alive\r\n:\r\n"))
	f.Fuzz(func(t *testing.T, head []byte) {
		rs, err := parseHead(head)
		if err == nil && (rs.length < -1 || rs.status == 304 && rs.length != 0) {
			t.Errorf("%q is %+v", head, rs)
		}
	})
}

func TestCheckRange(t *testing.T) {
	good := response{status: 206, length: 10, contentRange: "bytes 5-14/100"}
	for _, tt := range []struct {
		name string
		with func(*response)
		ok   bool
	}{
		{"the range that was asked for is right", func(*response) {}, true},
		{"the whole length may be unknown", func(r *response) { r.contentRange = "bytes 5-14/*" }, true},
		{"a whole image is no range", func(r *response) { r.status = 200 }, false},
		{"another length is wrong", func(r *response) { r.length = 9 }, false},
		{"another place is wrong", func(r *response) { r.contentRange = "bytes 4-13/100" }, false},
		{"another image is wrong", func(r *response) { r.contentRange = "bytes 5-14/1000" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rs := good
			tt.with(&rs)
			if err := checkRange(rs, 5, 10, 100); (err == nil) != tt.ok {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTheClientTalksToThisMachineAlone(t *testing.T) {
	for _, target := range []string{"http://192.0.2.1/x", "https://127.0.0.1/x", "http://localhost/x", "127.0.0.1:80"} {
		if c, err := dial(t.Context(), target); err == nil {
			c.close()
			t.Errorf("%s: no error", target)
		}
	}
}

func TestTheSparseImageHasItsShareOfZeros(t *testing.T) {
	const n = 4096
	zeros, all := 0, 0
	for _, r := range sparseLayout(n) {
		if r.chunks <= 0 {
			t.Errorf("a run of %d chunks", r.chunks)
		}
		all += r.chunks
		if r.zero {
			zeros += r.chunks
		}
	}
	if all != n || zeros != n*zeroPercent/100 {
		t.Errorf("%d chunks, %d of zeros", all, zeros)
	}
}

func TestAnImageIsWhatItsSumSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	sum, err := makeImage(t.Context(), path, 1, []run{{2, false}, {3, true}, {1, false}, {1, true}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if got := hex.EncodeToString(h.Sum(nil)); err != nil || n != 7*chunkSize || got != sum {
		t.Errorf("%d bytes, %s, %v; want %d, %s", n, got, err, 7*chunkSize, sum)
	}
}

func TestEntriesAreNamedByTheirManifests(t *testing.T) {
	dir := t.TempDir()
	if err := makeEntries(t.Context(), dir, 300, 1<<20); err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "*.manifest"))
	if err != nil || len(manifests) != 300 {
		t.Fatalf("%d manifests, %v; want 300", len(manifests), err)
	}
	encoded, err := os.ReadFile(manifests[0])
	if err != nil {
		t.Fatal(err)
	}
	base := strings.TrimSuffix(manifests[0], ".manifest")
	if m, err := origin.DecodeManifest(encoded); err != nil || m.Size != 1<<20 || filepath.Base(base) != string(origin.DigestOf(encoded)) {
		t.Errorf("%s: %v", base, err)
	}
	if st, err := os.Stat(base + ".data"); err != nil || st.Size() != 1<<20 {
		t.Errorf("the data: %v", err)
	}
}

func TestWrongFlagsAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, args, err string }{
		{"a workload that is none", "-run W1,W99", `"W99"`},
		{"a server that is none", "-peers nginx", `"nginx"`},
		{"no rounds", "-rounds 0", "positive"},
		{"words that are no flags", "W1", `"W1"`},
		{"plots without a directory", "-plots " + os.DevNull, "directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := command(context.Background(), strings.Fields(tt.args), io.Discard)
			if _, usage := err.(usageError); !usage || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v, want a usageError with %s", err, tt.err)
			}
		})
	}
}

func TestEveryKindTakesWhatItCan(t *testing.T) {
	for kind, want := range map[kind]string{static: "W1 W2 W6", cache: "W1 W2 W3 W4 W5 W6 W8", self: "W1 W2 W3 W4 W5 W6 W7 W8 W9 W10"} {
		var got []string
		for _, w := range strings.Fields("W1 W2 W3 W4 W5 W6 W7 W8 W9 W10") {
			if kind.takes(w) {
				got = append(got, w)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("kind %d takes %v, not %s", kind, got, want)
		}
	}
}

func TestThisProcessIsFoundAndAlive(t *testing.T) {
	ps := findProcesses(os.Getpid())
	if len(ps) == 0 || !ps[0].alive() {
		t.Fatalf("%v", ps)
	}
	if all, anonymous := ps.memory(); all <= 0 || anonymous <= 0 || anonymous > all {
		t.Errorf("%v MiB, %v without files", all, anonymous)
	}
	if ps[0].started += "0"; ps[0].alive() {
		t.Error("a process of another start counts as this one")
	}
	if ps.gone(0) != true {
		t.Error("it is not gone")
	}
}

func TestTheBoundOriginCountsAndBounds(t *testing.T) {
	o := &boundOrigin{rate: 1 << 30}
	begun := time.Now()
	o.take(16 << 20) // a sixty-fourth of a second, less the burst
	if took := time.Since(begun); took < time.Second/64-burst {
		t.Errorf("16 MiB at 1 GiB/s went in %v", took)
	}
}
