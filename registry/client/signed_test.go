package client

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"nearsight/registry"
)

func TestSign(t *testing.T) {
	const id = "11111111-1111-4111-8111-111111111111"
	var got, answer string
	status := 201
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.Path + " " + string(body)
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	defer s.Close()
	c, err := New(Options{Server: s.URL, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer = `{"url":"http://h/x?ns-signature=y","image":"` + id + `","method":"GET","not_before":"2026-01-01T00:00:00Z","expires_at":"2026-01-01T01:00:00Z"}`
	for _, tt := range []struct {
		name string
		opt  SignOptions
		want string
	}{
		{"as the server likes", SignOptions{}, `{"image":"` + id + `"}`},
		{"all that can be said", SignOptions{Method: "HEAD", Life: 90 * time.Minute, NotBefore: time.Unix(1767225600, 0)},
			`{"image":"` + id + `","method":"HEAD","expires_in":5400,"not_before":"2026-01-01T00:00:00Z"}`},
	} {
		signed, err := c.Sign(t.Context(), id, tt.opt)
		if err != nil || got != "POST /nearsight/signed-urls "+tt.want {
			t.Errorf("%s: %v, sent %s", tt.name, err, got)
		}
		if signed.URL != "http://h/x?ns-signature=y" || signed.Image != id || signed.Method != "GET" ||
			signed.NotBefore.Unix() != 1767225600 || signed.Expires.Sub(*signed.NotBefore) != time.Hour {
			t.Errorf("%+v", signed)
		}
	}
	if _, err := c.Sign(t.Context(), "x", SignOptions{}); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("what is no id: %v", err)
	}
	for code, want := range map[int]error{403: registry.ErrForbidden, 404: registry.ErrNotFound, 409: registry.ErrConflict} {
		status, answer = code, ""
		if _, err := c.Sign(t.Context(), id, SignOptions{}); !errors.Is(err, want) {
			t.Errorf("%d: %v", code, err)
		}
	}
	status, answer = 201, "{"
	if _, err := c.Sign(t.Context(), id, SignOptions{}); err == nil {
		t.Error("half an answer is taken")
	}
}
