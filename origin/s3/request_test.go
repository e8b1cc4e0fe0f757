package s3

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nearsight/origin"
)

// dialFake sends what s asks, of whatever host, to the fake.
func dialFake(s *Store, f *fakeServer) {
	s.transport.Proxy = nil
	s.transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, f.Listener.Addr().String())
	}
}

func TestAddressing(t *testing.T) {
	for _, tt := range []struct {
		name, endpoint, addressing string
		host, path                 string
	}{
		{"an endpoint of one's own has paths", "http://s3.example.com", "", "s3.example.com", "/bucket/images/x"},
		{"virtual hosts on request", "http://s3.example.com", "virtual", "bucket.s3.example.com", "/images/x"},
		{"a port stays", "http://s3.example.com:9000", "virtual", "bucket.s3.example.com:9000", "/images/x"},
		{"a path of the endpoint stays", "http://s3.example.com/s3", "path", "s3.example.com", "/s3/bucket/images/x"},
		{"AWS has virtual hosts", "", "", "bucket.s3.eu-west-3.amazonaws.com", "/images/x"},
		{"paths at AWS on request", "", "path", "s3.eu-west-3.amazonaws.com", "/bucket/images/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noAWS(t)
			f := newFake(t)
			o := Options{
				Endpoint: tt.endpoint, Addressing: tt.addressing, Region: "eu-west-3",
				Bucket: "bucket", Prefix: "images/", AccessKey: "key-id", SecretKey: "secret", SessionToken: "token",
			}
			s := openStore(t, o)
			dialFake(s, f)
			if tt.endpoint == "" {
				// The fake has no certificate for AWS: this is about the names alone.
				var asked string
				s.transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					asked = addr
					return new(net.Dialer).DialContext(ctx, network, f.Listener.Addr().String())
				}
				defer func() {
					if asked != tt.host+":443" {
						t.Errorf("dialled %q; want %q", asked, tt.host)
					}
				}()
			}
			f.hook = func(http.ResponseWriter, *http.Request) bool { return true } // is content with everything
			if _, err := s.Stat(t.Context(), origin.Location{URL: "s3://default/x"}); err != nil {
				t.Fatal(err)
			}
			r := f.requests[0]
			if r.Host != tt.host || r.URL.Path != tt.path {
				t.Errorf("asked %s for %s; want %s for %s", r.Host, r.URL.Path, tt.host, tt.path)
			}
			if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "Credential=key-id/") || !strings.Contains(auth, "/eu-west-3/s3/") {
				t.Errorf("signed as %q", auth)
			}
			if got := r.Header.Get("X-Amz-Security-Token"); got != "token" {
				t.Errorf("session token %q", got)
			}
		})
	}
}

// What is asked for with an upload goes with every request that can begin one.
func TestUploadFields(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(o *Options)
		want map[string]string // "" means that there is none
	}{
		{"nothing but checksums by default", func(o *Options) {}, map[string]string{
			"X-Amz-Server-Side-Encryption": "", "X-Amz-Storage-Class": "", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "",
			"X-Amz-Sdk-Checksum-Algorithm": "CRC32",
		}},
		{"encryption", func(o *Options) { o.SSE = "AES256" }, map[string]string{"X-Amz-Server-Side-Encryption": "AES256"}},
		{"encryption with a key", func(o *Options) { o.SSE, o.SSEKeyID = "aws:kms", "key/1" }, map[string]string{
			"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "key/1",
		}},
		{"a storage class", func(o *Options) { o.StorageClass = "STANDARD_IA" }, map[string]string{"X-Amz-Storage-Class": "STANDARD_IA"}},
		{"no checksums for old servers", func(o *Options) { o.NoChecksums = true }, map[string]string{
			"X-Amz-Sdk-Checksum-Algorithm": "", "X-Amz-Checksum-Algorithm": "", "X-Amz-Checksum-Crc32": "", "X-Amz-Trailer": "",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			o := f.options()
			tt.edit(&o)
			s := openStore(t, o)
			s.o.PartSize = 64 << 10
			for _, n := range []int{1000, 100_000} {
				if _, err := s.Put(t.Context(), s.Locate("x"), -1, stream(make([]byte, n))); err != nil {
					t.Fatal(err)
				}
			}
			var put, create, part bool
			for _, r := range f.requests {
				put, create, part = put || isPut(r), create || isCreate(r), part || isPart(r)
				if !isPut(r) && !isCreate(r) {
					continue
				}
				for field, want := range tt.want {
					if isCreate(r) && field == "X-Amz-Sdk-Checksum-Algorithm" {
						field = "X-Amz-Checksum-Algorithm"
					}
					if got := r.Header.Get(field); got != want {
						t.Errorf("%s %s: %s is %q; want %q", r.Method, r.URL, field, got, want)
					}
				}
			}
			if !put || !create || !part {
				t.Error("not all kinds of requests came")
			}
			for _, r := range f.requests {
				if isPart(r) && (r.Header.Get("X-Amz-Checksum-Crc32") == "") != o.NoChecksums {
					t.Errorf("a part has the checksum %q", r.Header.Get("X-Amz-Checksum-Crc32"))
				}
				if (isPut(r) || isComplete(r)) && r.Header.Get("If-None-Match") != "*" {
					t.Errorf("%s %s would replace an object", r.Method, r.URL)
				}
			}
		})
	}
}

func TestTLS(t *testing.T) {
	f := newFake(t)
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = discard()
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	o := f.options()
	o.Endpoint = server.URL
	o.CAFile = ca
	s := openStore(t, o)
	s.o.PartSize = 64 << 10
	for _, data := range []string{"", "some bytes", strings.Repeat("x", 200_000)} {
		loc, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader(data))
		if err != nil {
			t.Fatalf("Put of %d bytes: %v", len(data), err)
		}
		obj, err := s.Open(t.Context(), loc, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(obj.Body)
		obj.Body.Close()
		if err != nil || string(got) != data {
			t.Errorf("%d of %d bytes came back, error %v", len(got), len(data), err)
		}
	}
	// A checksum behind the data, so that it is read but once.
	var trailers int
	for _, r := range f.requests {
		if r.Header.Get("X-Amz-Trailer") == "x-amz-checksum-crc32" {
			trailers++
		}
	}
	if trailers == 0 {
		t.Error("no checksum came")
	}

	o.CAFile = ""
	_, err := openStore(t, o).Stat(t.Context(), origin.Location{URL: "s3://default/x"})
	if !errors.Is(err, origin.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the authority: error %v", err)
	}
	if err := os.WriteFile(ca, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.CAFile = ca
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("with a file of something else: error %v", err)
	}
}

func TestCredentialsOfTheEnvironment(t *testing.T) {
	files := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(files, []byte("[default]\naws_access_key_id=of-default\naws_secret_access_key=x\n"+
		"[other]\naws_access_key_id=of-other\naws_secret_access_key=x\naws_session_token=token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, key string
		edit      func(o *Options)
		env       map[string]string
	}{
		{"the environment", "of-env", func(*Options) {}, map[string]string{"AWS_ACCESS_KEY_ID": "of-env", "AWS_SECRET_ACCESS_KEY": "x"}},
		{"the default profile", "of-default", func(*Options) {}, nil},
		{"another profile", "of-other", func(o *Options) { o.Profile = "other" }, nil},
		{"the options before all others", "of-options", func(o *Options) { o.AccessKey, o.SecretKey = "of-options", "x" },
			map[string]string{"AWS_ACCESS_KEY_ID": "of-env", "AWS_SECRET_ACCESS_KEY": "x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noAWS(t)
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", files)
			for name, v := range tt.env {
				t.Setenv(name, v)
			}
			f := newFake(t)
			o := Options{Endpoint: f.URL, Bucket: "bucket"}
			tt.edit(&o)
			_, err := openStore(t, o).Stat(t.Context(), origin.Location{URL: "s3://default/x"})
			if !errors.Is(err, origin.ErrNotFound) {
				t.Fatal(err)
			}
			if auth := f.requests[0].Header.Get("Authorization"); !strings.Contains(auth, "Credential="+tt.key+"/") {
				t.Errorf("signed as %q; want %q", auth, tt.key)
			}
		})
	}
}

// A redirect may lead anywhere; the request that was signed goes nowhere else.
func TestRedirectsAreNotFollowed(t *testing.T) {
	f := newFake(t)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		return true
	}
	_, err := openStore(t, f.options()).Open(t.Context(), origin.Location{URL: "s3://default/x"}, 0, -1)
	if !errors.Is(err, origin.ErrUnavailable) {
		t.Errorf("error %v; want %v", err, origin.ErrUnavailable)
	}
	for _, r := range f.requests {
		if r.URL.Path != "/bucket/x" {
			t.Errorf("asked for %s", r.URL)
		}
	}
}
