package main

import (
	"log/slog"
	"net"
	"strings"
	"testing"
)

func TestTheDefaultAddressOfTheRegistryAPIYields(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	addr := OptionalHostPort(other.Addr().String())
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	if l, err := listenRegistry(addr, true, log); l != nil || err != nil || !strings.Contains(text.String(), "level=WARN") {
		t.Errorf("the default: %v, %v, %s", l, err, text.String())
	}
	if l, err := listenRegistry(addr, false, log); l != nil || err == nil || !strings.Contains(err.Error(), "--registry-listen") {
		t.Errorf("one that was chosen: %v, %v", l, err)
	}
	if l, err := listenRegistry("", false, log); l != nil || err != nil || l.addr() != "off" {
		t.Errorf("none: %v, %v", l, err)
	}
}
