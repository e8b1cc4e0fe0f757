package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// tokens hands out the token of the caller. The zero value has none.
type tokens struct {
	source func(context.Context) (string, error) // nil: have is for ever
	state  *tokenState
}

type tokenState struct {
	mu   sync.Mutex
	have string // "" while the source was not asked
}

func newTokens(opt Options) (tokens, error) {
	if opt.Token != "" && opt.TokenSource != nil {
		return tokens{}, errors.New("there is a token, and a source of tokens besides")
	}
	if err := checkToken(opt.Token); err != nil {
		return tokens{}, err
	}
	return tokens{opt.TokenSource, &tokenState{have: opt.Token}}, nil
}

// checkToken refuses what cannot stand in a header, without showing it.
func checkToken(token string) error {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("the token has characters that no token has")
	}
	return nil
}

// get returns the token, "" for none. Two that ask at the same time may both ask
// the source.
func (t tokens) get(ctx context.Context) (string, error) {
	t.state.mu.Lock()
	have := t.state.have
	t.state.mu.Unlock()
	if have != "" || t.source == nil {
		return have, nil
	}
	token, err := t.source(ctx)
	if err == nil {
		err = checkToken(token)
	}
	if err != nil {
		return "", fmt.Errorf("no token: %w", err)
	}
	t.state.mu.Lock()
	t.state.have = token
	t.state.mu.Unlock()
	return token, nil
}

// refused says that the server did not take a token, and reports whether there
// may be another.
func (t tokens) refused(token string) bool {
	if t.source == nil {
		return false
	}
	t.state.mu.Lock()
	if t.state.have == token {
		t.state.have = ""
	}
	t.state.mu.Unlock()
	return true
}
