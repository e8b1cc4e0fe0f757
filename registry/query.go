package registry

import (
	"context"
	"time"

	"nearsight/origin"
)

// A Query says which images a List returns and in what order. The zero Query
// is every image that is listed without being asked for: neither hidden nor of
// another project's community.
type Query struct {
	// Caller is for whom the list is: what it does not see (Caller.Sees) is not
	// listed, of what is shared with it only what MemberStatus says, and of
	// community images those of its own unless Visibility asks for more. nil means
	// the registry itself, which sees all like an admin without a project.
	Caller *Caller
	// MemberStatus says which images that are shared with the caller's project are
	// listed; "" means accepted. It restricts no others.
	MemberStatus MemberStatus
	// Match: each must hold. Columns: id, name, status, disk_format,
	// container_format, owner, checksum, os_hash_value.
	Match []Match
	// Bounds: each must hold. Columns: size, virtual_size, min_ram, min_disk.
	Bounds []Bound
	// Times: each must hold. Columns: created_at, updated_at.
	Times []TimeBound
	// Visibility restricts to one; "" means the default of the type's comment;
	// AllVisibilities lists community images of others too.
	Visibility Visibility
	// Hidden: nil means only images that are not hidden.
	Hidden    *bool
	Protected *bool
	// Tags: the image has all of them. Properties: it has all of them, equal.
	Tags       []string
	Properties map[string]string
	// Digests: the image's data is one of these. Empty means any.
	Digests []origin.Digest

	// Sort: earlier keys first; created_at and id, both descending unless a
	// direction was given for them, are always added as the last ones, so that
	// every order is total. Keys: name, status, container_format, disk_format,
	// size, id, created_at, updated_at.
	Sort []Order
	// Marker is the id of the last image of the page before, or "".
	Marker string
	// Limit is the largest number of images returned; 0 returns none.
	Limit int
}

// AllVisibilities in Query.Visibility lists whatever the caller may see.
const AllVisibilities Visibility = "all"

// A Match holds when the column equals one of the values.
type Match struct {
	Column string
	Values []string
}

// A Bound holds when Min <= column <= Max; a nil bound does not bind.
type Bound struct {
	Column   string
	Min, Max *int64
}

// A TimeBound compares a time, at whole seconds. Op: gt, gte, lt, lte, eq, neq.
type TimeBound struct {
	Column string
	Op     string
	Time   time.Time
}

// An Order is one key to sort by.
type Order struct {
	Key  string
	Desc bool
}

// Books answers for all stored data at once, to those who compare it with what the
// stores hold.
type Books interface {
	// Placed returns the images that have locations, hidden ones too, ordered
	// by id, those after the id after, which need not exist, at most limit.
	Placed(ctx context.Context, after string, limit int) ([]*Image, error)
	// Knows reports whether the books have the URL: as a location of an image, as one
	// that an upload or a copy is writing, as that of data which waits for its import,
	// or as an orphan whose object was not deleted yet. What they do not know no image
	// comes to have, unless somebody registers it by its URL.
	Knows(ctx context.Context, url string) (bool, error)
}
