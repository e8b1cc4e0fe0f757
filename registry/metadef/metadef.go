// Package metadef is the contract of metadata definitions: catalogues of the
// properties that images and other resources may have, for clients that show forms
// (Images API v2, "metadefs"). The server only keeps them; nothing is held against
// them.
package metadef

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"nearsight/registry"
)

// A Namespace is one catalogue.
type Namespace struct {
	// Name is its identity, and may be changed.
	Name string
	// DisplayName and Description are nil when they were never set.
	DisplayName, Description *string
	// Public: every project sees it, and not only its owner.
	Public    bool
	Protected bool   // cannot be deleted
	Owner     string // a project, "" for none
	// Times are in UTC and the catalogue's to set.
	CreatedAt, UpdatedAt time.Time
}

// SeenBy reports whether the caller may know that the namespace exists.
func (n *Namespace) SeenBy(c *registry.Caller) bool {
	return c.Is("admin") || c.Is("reader") && (n.Public || c.Project != "" && n.Owner == c.Project)
}

// A Kind says what a Definition is of.
type Kind string

const (
	Property     Kind = "property"
	Object       Kind = "object"
	Tag          Kind = "tag"
	ResourceType Kind = "resource_type" // an association of the namespace with one
)

// A Definition is one entry of a namespace: of each kind, names are unique there.
type Definition struct {
	Kind Kind
	Name string
	// Document is the rest of it as a JSON object; for a tag it is empty.
	Document json.RawMessage
	// Times are in UTC and the catalogue's to set.
	CreatedAt, UpdatedAt time.Time
}

const (
	maxName        = 80        // characters of a name of a namespace or of a definition
	maxDocument    = 256 << 10 // bytes of a document
	maxDescription = 500       // characters
)

// Validate checks what clients choose. registry.ErrInvalid names field and value.
func (n *Namespace) Validate() error {
	if err := CheckName("namespace", n.Name); err != nil {
		return err
	}
	for field, text := range map[string]*string{"display_name": n.DisplayName, "description": n.Description} {
		limit := maxName
		if field == "description" {
			limit = maxDescription
		}
		if text != nil && utf8.RuneCountInString(*text) > limit {
			return fmt.Errorf("%w: %s has more than %d characters", registry.ErrInvalid, field, limit)
		}
	}
	return nil
}

// Validate checks what clients choose. registry.ErrInvalid names field and value.
func (d *Definition) Validate() error {
	if !slices.Contains([]Kind{Property, Object, Tag, ResourceType}, d.Kind) {
		return fmt.Errorf("%w: there are no definitions of kind %.80q", registry.ErrInvalid, d.Kind)
	}
	if err := CheckName(string(d.Kind), d.Name); err != nil {
		return err
	}
	if len(d.Document) > maxDocument {
		return fmt.Errorf("%w: the definition has more than %d bytes", registry.ErrTooLarge, maxDocument)
	}
	return nil
}

// CheckName checks a name, which field says of what. registry.ErrInvalid if it is
// empty, longer than 80 characters, no UTF-8, or has a control character or a slash,
// by which no path could name it.
func CheckName(field, name string) error {
	switch n := utf8.RuneCountInString(name); {
	case n == 0:
		return fmt.Errorf("%w: %s has an empty name", registry.ErrInvalid, field)
	case n > maxName:
		return fmt.Errorf("%w: the name of %s has more than %d characters", registry.ErrInvalid, field, maxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: the name of %s is not UTF-8", registry.ErrInvalid, field)
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f || c == '/' {
			return fmt.Errorf("%w: the name of %s has a slash or a control character", registry.ErrInvalid, field)
		}
	}
	return nil
}

// A Query says which namespaces are listed. The zero value lists none.
type Query struct {
	// Caller is for whom the list is; nil is the catalogue itself and sees all.
	Caller *registry.Caller
	// Public, if not nil, lists only those that are or are not.
	Public *bool
	// ResourceTypes: only those that are associated with one of these; empty for any.
	ResourceTypes []string
	// Sort: one key of namespace, created_at, updated_at; nothing means created_at,
	// descending. The name is always added.
	Sort []registry.Order
	// Marker is the name of the last namespace of the page before, or "".
	Marker string
	Limit  int // 0 lists none
}

// A Catalogue keeps namespaces and their definitions. Errors are those of package
// registry: ErrNotFound, ErrConflict for a name that is taken, ErrForbidden for what
// is protected, ErrInvalid and ErrTooLarge for what cannot be stored. It knows
// nothing of callers but in lists. It is safe for concurrent use.
type Catalogue interface {
	// CreateNamespace adds a namespace with its first definitions, all or nothing.
	CreateNamespace(ctx context.Context, n *Namespace, definitions []Definition) (*Namespace, error)
	// Namespace returns the namespace of that name.
	Namespace(ctx context.Context, name string) (*Namespace, error)
	// Namespaces lists. ErrInvalid for a marker that is none of them.
	Namespaces(ctx context.Context, q Query) ([]*Namespace, error)
	// UpdateNamespace lets change alter a copy, which may bring another name along,
	// and stores it. The error of change is returned as it is.
	UpdateNamespace(ctx context.Context, name string, change func(*Namespace) error) (*Namespace, error)
	// DeleteNamespace deletes it with all that is in it.
	DeleteNamespace(ctx context.Context, name string) error

	// Definitions returns those of a kind, ordered by name.
	Definitions(ctx context.Context, namespace string, kind Kind) ([]Definition, error)
	// Definition returns one.
	Definition(ctx context.Context, namespace string, kind Kind, name string) (Definition, error)
	// Define adds definitions, all or none. If replace is set, all others of their
	// kind, which must be one, go.
	Define(ctx context.Context, namespace string, kind Kind, definitions []Definition, replace bool) ([]Definition, error)
	// Redefine puts d in the place of the definition of its kind with that name.
	Redefine(ctx context.Context, namespace, name string, d Definition) (Definition, error)
	// Undefine removes the definition with that name, or all of the kind if it is "".
	Undefine(ctx context.Context, namespace string, kind Kind, name string) error
	// ResourceTypes returns the names of all resource types that are known or were
	// ever associated, sorted.
	ResourceTypes(ctx context.Context) ([]string, error)
}

// KnownResourceTypes are those that OpenStack's services have.
func KnownResourceTypes() []string {
	return []string{
		"OS::Cinder::Volume", "OS::Glance::Image", "OS::Nova::Aggregate", "OS::Nova::Flavor", "OS::Nova::Server", "OS::Trove::Instance",
	}
}
