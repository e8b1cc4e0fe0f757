package api

import (
	"context"
	"net/http"
	"slices"

	"nearsight/registry"
	"nearsight/registry/identity"
)

// ServiceTokenHeader names the field in which a service that makes a request for a
// user sends its own token beside the user's.
const ServiceTokenHeader = "X-Service-Token"

// withService returns caller, with the role service besides if the request brings the
// token of one that has it. It fails with identity.ErrUnknown for a token that nobody
// knows: whoever sends one means it.
func (a *API) withService(ctx context.Context, h http.Header, caller *registry.Caller) (*registry.Caller, error) {
	lines := h[ServiceTokenHeader]
	if len(lines) == 0 || len(lines) == 1 && lines[0] == "" {
		return caller, nil
	}
	if len(lines) > 1 {
		return nil, identity.ErrUnknown
	}
	service, err := a.identity.Identify(ctx, lines[0])
	if err != nil || !service.Is("service") || caller.Is("service") {
		return caller, err
	}
	both := *caller
	both.Roles = append(slices.Clone(caller.Roles), "service")
	return &both, nil
}

// authURL returns where callers get tokens, for a challenge.
func (a *API) authURL(r *http.Request) string {
	if c, ok := a.nodes.tokens.(identity.Challenger); ok {
		return c.AuthURL()
	}
	return a.base(r)
}
