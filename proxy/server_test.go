package proxy

import (
	"net/http"
	"strings"
	"testing"
)

// http-semantics, T2: net/http has an answer of its own, which says nothing.
func TestOptionsOfTheWholeServer(t *testing.T) {
	s := newSite(t, siteConfig{})
	answers := readAll(t, s.raw("OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "OPTIONS")
	if len(answers) != 1 || answers[0].StatusCode != http.StatusNoContent {
		t.Fatalf("answered %s", statuses(answers))
	}
	h := answers[0].Header
	if h.Get("Allow") != "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT" || h.Get("Cache-Control") != "no-store" ||
		!strings.HasPrefix(h.Get("X-Openstack-Request-Id"), "req-") {
		t.Errorf("header %v", h)
	}
}
