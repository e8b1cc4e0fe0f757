package api

import (
	"errors"
	"net/http"
	"strings"

	"nearsight/registry"
	"nearsight/registry/identity"
)

// tokenHeader names the field in which clients of the Images API send their token.
// Others send it as RFC 6750, section 2.1, has it.
const tokenHeader = "X-Auth-Token"

// openToAll reports whether a path is answered without asking who wants it: that the
// server is there, and what versions it speaks.
func openToAll(path string) bool {
	switch path {
	case "/", "/versions", "/versions/", "/healthcheck", "/v2":
		return true
	}
	return false
}

// Identity returns who names the callers, nil if they are not told apart, and whether
// those who name themselves by nothing are let in.
func (a *API) Identity() (who identity.Identifier, anonymous bool) {
	return a.identity, a.anonymous
}

// Authenticate finds out who makes a request and calls h with a context of the
// caller (registry.CallerOf). Who is not known gets 401. Fields by which a proxy of
// others says who somebody is (X-Project-Id, X-Roles, ...) mean nothing here.
//
// Wrap has it; it is for what is served elsewhere.
func (a *API) Authenticate(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r = a.identify(w, r); r != nil {
			h.ServeHTTP(w, r)
		}
	})
}

// identify returns r with its caller, or answers it and returns nil.
func (a *API) identify(w http.ResponseWriter, r *http.Request) *http.Request {
	ctx := r.Context()
	if image, ok := signedFor(r); ok {
		return a.identifySigned(w, r, image)
	}
	if node := a.nodeOf(r); node != nil {
		return r.WithContext(registry.WithCaller(ctx, node))
	}
	if a.identity == nil {
		return r.WithContext(registry.WithCaller(ctx, a.everybody))
	}
	token, ok := TokenOf(r.Header)
	if !ok {
		if a.anonymous {
			return r.WithContext(registry.WithCaller(ctx, a.stranger))
		}
		a.challenge(w, r, "this server wants to know who you are: send a token as X-Auth-Token")
		return nil
	}
	caller, err := a.identity.Identify(ctx, token)
	if err == nil {
		caller, err = a.withService(ctx, r.Header, caller)
	}
	switch {
	case err == nil:
		return r.WithContext(registry.WithCaller(ctx, caller))
	case errors.Is(err, identity.ErrUnknown):
		a.challenge(w, r, "the token is not known, or not valid any more")
	case ctx.Err() != nil:
		FailStatus(w, r, StatusClientLeft, "the request was given up")
	default:
		a.log.Warn("a caller cannot be identified", "request_id", w.Header().Get(RequestIDHeader), "err", err)
		FailStatus(w, r, http.StatusServiceUnavailable, "it cannot be found out just now who you are")
	}
	return nil
}

// challenge answers 401. Clients of the Images API look for this scheme.
func (a *API) challenge(w http.ResponseWriter, r *http.Request, detail string) {
	w.Header()["Www-Authenticate"] = []string{`Keystone uri="` + a.authURL(r) + `"`}
	FailStatus(w, r, http.StatusUnauthorized, detail)
}

// TokenOf returns the token of a request, if it has one. Whoever sends two of a kind
// may mean either, and so gets one that nobody knows: "". It allocates nothing.
func TokenOf(h http.Header) (token string, ok bool) {
	if lines := h[tokenHeader]; len(lines) == 1 {
		if lines[0] != "" {
			return lines[0], true
		}
	} else if len(lines) > 1 {
		return "", true
	}
	for _, line := range h["Authorization"] {
		const scheme = "Bearer "
		if len(line) < len(scheme) || !strings.EqualFold(line[:len(scheme)], scheme) {
			continue // it is for somebody else
		}
		if ok {
			return "", true
		}
		token, ok = strings.TrimLeft(line[len(scheme):], " "), true
	}
	return token, ok
}
