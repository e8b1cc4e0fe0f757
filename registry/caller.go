package registry

import (
	"context"
	"slices"
)

// A Caller is who makes a request. The zero Caller is a stranger without any
// role, whom only Stranger's rights are given.
type Caller struct {
	// Project owns what the caller creates; "" for none.
	Project string
	// User is who it is, for the records of tasks alone.
	User string
	// Roles are lower-case words; those that count are admin, member, reader and
	// service. Admins are members, and members readers, whether they say so or not.
	Roles []string
	// Stranger: the caller named itself by nothing and is let in all the same, to
	// read what is public.
	Stranger bool
	// Image, if not "", is the one image whose data the caller may have, and all that
	// it may do, whatever else is said of it: it holds a signed URL.
	Image string
}

// Everybody is the caller of a server that tells nobody apart: an admin without a
// project.
func Everybody() *Caller { return &Caller{Roles: []string{"admin"}} }

// Is reports whether the caller has the role, or one that implies it.
func (c *Caller) Is(role string) bool {
	switch {
	case c.Image != "":
		return false
	case slices.Contains(c.Roles, role):
		return true
	case role == "reader":
		return c.Is("member")
	case role == "member":
		return c.Is("admin")
	}
	return false
}

// Owns reports whether img belongs to the caller's project.
func (c *Caller) Owns(img *Image) bool {
	return c.Project != "" && img.Owner != nil && *img.Owner == c.Project
}

type callerKey struct{}

// WithCaller returns a context of c's request.
func WithCaller(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns the caller of a request's context: the zero Caller, who may do
// nothing, if nobody was named. The result is shared and must not be altered.
func CallerOf(ctx context.Context) *Caller {
	if c, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return c
	}
	return &Caller{}
}
