package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"syscall"
)

// defaultRegistry is where the registries of 2011 listened.
const defaultRegistry = "127.0.0.1:9191"

// An OptionalHostPort is an address to listen on, or "" for none.
type OptionalHostPort string

// UnmarshalText wants a host and a port number, or off.
func (a *OptionalHostPort) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*a = ""
		return nil
	}
	return (*HostPort)(a).UnmarshalText(text)
}

// listenRegistry listens for the Registry API; nil if that is off. Where another
// program has the address, one that yields does without: a server that was told nothing
// should run beside another, and hardly anybody asks for this API.
func listenRegistry(addr OptionalHostPort, yields bool, log *slog.Logger) (*registryListener, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", string(addr))
	switch {
	case err == nil:
		return &registryListener{l}, nil
	case yields && errors.Is(err, syscall.EADDRINUSE):
		log.Warn("another program has the default address of the Registry API, which is not served; registry.listen names another, or off", "addr", addr)
		return nil, nil
	}
	return nil, listenError("registry.listen", HostPort(addr), err)
}

// A registryListener is known by its type: what comes by it is for the Registry API.
type registryListener struct{ net.Listener }

// addr returns the address for the log, "off" for a nil listener.
func (l *registryListener) addr() string {
	if l == nil {
		return "off"
	}
	return l.Addr().String()
}

type registryKey struct{}

// baseContext returns the context of the requests that come by l.
func baseContext(ctx context.Context, l net.Listener) context.Context {
	if _, ok := l.(*registryListener); ok {
		return context.WithValue(ctx, registryKey{}, true)
	}
	return ctx
}

// handlerOf returns the handler of a request by the listener that it came by.
func (n *node) handlerOf(r *http.Request) http.Handler {
	if r.Context().Value(registryKey{}) != nil {
		return n.registry
	}
	return n.handler
}
