package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"time"

	"nearsight/registry"
	"nearsight/registry/identity"
)

// nodeOf returns the caller that a node is, or nil if r is not one's own request.
func (a *API) nodeOf(r *http.Request) *registry.Caller {
	n := &a.nodes
	token, sent := TokenOf(r.Header)
	if sent && n.isSecret(token) || !sent && n.certified(r, time.Now()) {
		return n.node
	}
	return nil
}

// isSecret compares in a time that tells nothing.
func (n *nodes) isSecret(token string) bool {
	if n.Secret == "" {
		return false
	}
	sent, secret := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(n.Secret))
	return subtle.ConstantTimeCompare(sent[:], secret[:]) == 1
}

// mistaken reports whether r brings a token that is not the secret, where there are no
// tokens besides.
func (n *nodes) mistaken(r *http.Request) bool {
	token, sent := TokenOf(r.Header)
	return sent && n.Secret != "" && !n.isSecret(token)
}

// certified reports whether r comes from the holder of a node's certificate. A
// certificate is that of a connection: what a node passes on over it for somebody else
// is marked as such, and not the node's own.
func (n *nodes) certified(r *http.Request, now time.Time) bool {
	if len(n.CA) == 0 || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return false
	}
	for _, mark := range []string{"Via", "Forwarded", "X-Forwarded-For"} {
		if len(r.Header[mark]) > 0 {
			return false
		}
	}
	for _, chain := range r.TLS.VerifiedChains {
		if now.After(chain[0].NotAfter) { // the connection has lasted longer
			continue
		}
		for _, ca := range n.CA {
			if ca.Equal(chain[len(chain)-1]) {
				return true
			}
		}
	}
	return false
}

// A nodeIdentity knows the nodes' secret beside the tokens of another Identifier.
type nodeIdentity struct {
	nodes *nodes
	next  identity.Identifier
}

var _ identity.Rememberer = (*nodeIdentity)(nil)

// Identify implements identity.Identifier.
func (i *nodeIdentity) Identify(ctx context.Context, token string) (*registry.Caller, error) {
	if i.nodes.isSecret(token) {
		return i.nodes.node, nil
	}
	return i.next.Identify(ctx, token)
}

// Remembered implements identity.Rememberer.
func (i *nodeIdentity) Remembered(token string) *registry.Caller {
	if i.nodes.isSecret(token) {
		return i.nodes.node
	}
	if r, ok := i.next.(identity.Rememberer); ok {
		return r.Remembered(token)
	}
	return nil
}
