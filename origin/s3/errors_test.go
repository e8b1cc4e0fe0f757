package s3

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
)

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		code   string // "" sends no document
		after  string // Retry-After
		want   error
		wait   time.Duration
		text   string
	}{
		{"no such key", 404, "NoSuchKey", "", origin.ErrNotFound, 0, "NoSuchKey"},
		{"not found, and no words", 404, "", "", origin.ErrNotFound, 0, ""},
		{"no such bucket", 404, "NoSuchBucket", "", origin.ErrUnavailable, 0, `there is no bucket "bucket"`},
		{"changed", 412, "PreconditionFailed", "", origin.ErrChanged, 0, ""},
		{"changed, and no words", 412, "", "", origin.ErrChanged, 0, ""},
		{"access denied", 403, "AccessDenied", "", origin.ErrUnavailable, 0, "access denied"},
		{"access denied, and no words", 403, "", "", origin.ErrUnavailable, 0, "access denied"},
		{"expired", 400, "ExpiredToken", "", origin.ErrUnavailable, 0, "credentials have expired"},
		{"unknown key", 403, "InvalidAccessKeyId", "", origin.ErrUnavailable, 0, "access key is unknown"},
		{"wrong secret", 403, "SignatureDoesNotMatch", "", origin.ErrUnavailable, 0, "secret key is wrong"},
		{"another region", 301, "PermanentRedirect", "", origin.ErrUnavailable, 0, "another region"},
		{"slow down", 503, "SlowDown", "7", origin.ErrUnavailable, 7 * time.Second, "SlowDown"},
		{"too many requests", 429, "TooManyRequests", "1", origin.ErrUnavailable, time.Second, "429"},
		{"unavailable, and no wish", 503, "ServiceUnavailable", "", origin.ErrUnavailable, 0, "503"},
		{"unavailable, and a strange wish", 503, "", "soon", origin.ErrUnavailable, 0, "503"},
		{"unavailable, and an endless wish", 503, "", "99999999999999999999", origin.ErrUnavailable, 0, "503"},
		{"unavailable for years", 503, "", "99999999999", origin.ErrUnavailable, 24 * time.Hour, "503"},
		{"internal error", 500, "InternalError", "", origin.ErrUnavailable, 0, "500"},
		{"a gateway's error", 502, "", "", origin.ErrUnavailable, 0, "502"},
		{"too large", 400, "EntityTooLarge", "", origin.ErrFull, 0, "EntityTooLarge"},
		{"quota", 403, "QuotaExceeded", "", origin.ErrFull, 0, "QuotaExceeded"},
		{"disk full", 507, "", "", origin.ErrFull, 0, ""},
		{"too large for a gateway", 413, "", "", origin.ErrFull, 0, ""},
		{"too large for a gateway that speaks HTML", 413, "<html>", "", origin.ErrFull, 0, "413"},
		{"a gateway that speaks HTML", 503, "<html>", "3", origin.ErrUnavailable, 3 * time.Second, "503"},
		{"a gateway that knows no S3", 404, "<html>", "", origin.ErrUnavailable, 0, "404"},
		{"something new", 400, "SomethingNew", "", origin.ErrUnavailable, 0, "SomethingNew"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // they wait between attempts
			f := newFake(t)
			f.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if tt.after != "" {
					w.Header().Set("Retry-After", tt.after)
				}
				w.WriteHeader(tt.status)
				if tt.code == "<html>" {
					io.WriteString(w, "<html><hr><p>No.</html>")
				} else if tt.code != "" {
					// All that a server may know of the request's secrets.
					fmt.Fprintf(w, "<Error><Code>%s</Code><Message>key-id %s</Message></Error>", tt.code, r.Header.Get("Authorization"))
				}
				return true
			}
			s := openStore(t, f.options())
			_, err := s.Open(t.Context(), origin.Location{URL: "s3://default/x"}, 0, 1)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("error %v; want %v and %q", err, tt.want, tt.text)
			}
			var asked interface{ RetryAfter() time.Duration }
			if !errors.As(err, &asked) || asked.RetryAfter() != tt.wait {
				t.Errorf("error %v asks for another pause than %v", err, tt.wait)
			}
			if n := len(f.requests); n > attempts {
				t.Errorf("the server heard %d requests", n)
			}
			for _, secret := range []string{"key-id", "secret\"", "Signature=", "Credential="} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error %q shows %q", err, secret)
				}
			}
		})
	}
}

func TestRetryAfterADate(t *testing.T) {
	f := newFake(t)
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", date.Format(http.TimeFormat))
		w.WriteHeader(503)
		return true
	}
	s := openStore(t, f.options())
	_, err := s.head(t.Context(), "x", nil)
	if got := retryAfter(err, date.Add(-time.Minute)); got != time.Minute {
		t.Errorf("a minute before, the pause is %v", got)
	}
	if got := retryAfter(err, date.Add(-48*time.Hour)); got != 24*time.Hour {
		t.Errorf("two days before, the pause is %v", got)
	}
	if got := retryAfter(err, date.Add(time.Minute)); got != 0 {
		t.Errorf("a minute later, the pause is %v", got)
	}
}

// The real server's words for real mistakes hold neither key nor signature.
func TestWrongCredentials(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(o *Options)
		text string
	}{
		{"the secret is wrong", func(o *Options) { o.SecretKey = "hush-wrong-secret" }, "secret key is wrong"},
		{"the key is unknown", func(o *Options) { o.AccessKey = "hush-unknown" }, "access key is unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := lab(t)
			tt.edit(&o)
			s := openStore(t, o)
			loc := origin.Location{URL: "s3://default/x"}
			_, openErr := s.Open(t.Context(), loc, 0, -1)
			_, statErr := s.Stat(t.Context(), loc)
			_, putErr := s.Put(t.Context(), loc, -1, strings.NewReader("x"))
			deleteErr := s.Delete(t.Context(), loc)
			if openErr == nil || !strings.Contains(openErr.Error(), tt.text) {
				t.Errorf("Open: error %v; want one that says %q", openErr, tt.text)
			}
			for _, err := range []error{openErr, statErr, putErr, deleteErr} {
				if !errors.Is(err, origin.ErrUnavailable) {
					t.Errorf("error %v; want %v", err, origin.ErrUnavailable)
					continue
				}
				for _, secret := range []string{"hush", o.SecretKey, "Signature=", "AWS4-HMAC", "access_key"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("error %q shows %q", err, secret)
					}
				}
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := openStore(t, Options{Endpoint: "http://" + l.Addr().String(), Bucket: "b", AccessKey: "key-id", SecretKey: "hush"})
	_, err = s.Stat(t.Context(), origin.Location{URL: "s3://default/x"})
	if !errors.Is(err, origin.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "http") {
		t.Errorf("error %q", err)
	}
}

func TestNoCredentials(t *testing.T) {
	noAWS(t)
	s := openStore(t, Options{Endpoint: "http://127.0.0.1:1", Bucket: "b"})
	_, err := s.Stat(t.Context(), origin.Location{URL: "s3://default/x"})
	if !errors.Is(err, origin.ErrUnavailable) || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("error %q", err)
	}
}
