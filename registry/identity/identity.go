// Package identity finds out who makes a request, by the token that comes with it.
//
// A server without an Identifier tells nobody apart: everybody is
// registry.Everybody. What a caller may do is not decided here, but by package
// registry.
package identity

import (
	"context"
	"errors"

	"nearsight/registry"
)

// ErrUnknown: the token names nobody, or nobody any more. Any other error means that
// it could not be found out.
var ErrUnknown = errors.New("unknown token")

// An Identifier knows who holds a token. It is safe for concurrent use, and never
// writes a token into an error or a log.
type Identifier interface {
	// Identify returns the caller that the token names, which must not be altered,
	// or ErrUnknown.
	Identify(ctx context.Context, token string) (*registry.Caller, error)
}

// A Rememberer is an Identifier that can answer for some tokens at once.
type Rememberer interface {
	Identifier
	// Remembered returns what Identify would, if that is known from memory, without
	// waiting for anything, or nil. It does not keep token.
	Remembered(token string) *registry.Caller
}

// A Challenger is an Identifier of tokens that are had elsewhere.
type Challenger interface {
	Identifier
	// AuthURL returns where, for those who come without (WWW-Authenticate).
	AuthURL() string
}
