package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"nearsight/registry"
)

// Tokens is an Identifier over a file of hashed tokens. It follows the file: a token
// that was added is known when it first comes, one that was removed or has expired no
// more after a second. A version that cannot be read is logged, and the one before
// stays in force.
type Tokens struct{ follower[table] }

var _ Rememberer = (*Tokens)(nil)

// A table is one version of the file. Holders are found by the first bytes of a hash,
// and compared by the whole in constant time.
type table map[uint64][]holder

type holder struct {
	sum     [sha256.Size]byte
	expires time.Time // zero: never
	caller  *registry.Caller
}

// Open reads the file. Nothing follows it until Run. log gets what becomes of later
// versions; nil means slog.Default().
func Open(path string, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{follower[table]{
		path: path, read: readTable, log: log,
		broken: "the tokens cannot be read; those from before stay in force", fresh: "tokens read",
	}}
	if err := t.open(); err != nil {
		return nil, err
	}
	return t, nil
}

// readTable returns the tokens of a file by their hashes.
func readTable(path string) (table, version, error) {
	tokens, v, err := readFile(path)
	if err != nil {
		return nil, v, err
	}
	known := make(table, len(tokens))
	for i := range tokens {
		sum, err := tokens[i].sum()
		if err != nil {
			continue // parse has refused such
		}
		h := holder{sum: sum, caller: tokens[i].caller()}
		if e := tokens[i].Expires; e != nil {
			h.expires = *e
		}
		key := binary.NativeEndian.Uint64(sum[:])
		known[key] = append(known[key], h)
	}
	return known, v, nil
}

// Remembered implements Rememberer.
func (t *Tokens) Remembered(token string) *registry.Caller {
	sum := sha256.Sum256([]byte(token))
	for _, h := range (*t.now.Load())[binary.NativeEndian.Uint64(sum[:])] {
		if subtle.ConstantTimeCompare(h.sum[:], sum[:]) == 1 && (h.expires.IsZero() || time.Now().Before(h.expires)) {
			return h.caller
		}
	}
	return nil
}

// Identify implements Identifier. An unknown token may be new: the file is looked at.
func (t *Tokens) Identify(ctx context.Context, token string) (*registry.Caller, error) {
	if c := t.Remembered(token); c != nil {
		return c, nil
	}
	if err := t.look(ctx); err != nil {
		return nil, fmt.Errorf("look at the tokens: %w", err)
	}
	if c := t.Remembered(token); c != nil {
		return c, nil
	}
	return nil, ErrUnknown
}
