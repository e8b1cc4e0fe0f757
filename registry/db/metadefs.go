package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"nearsight/registry"
	"nearsight/registry/metadef"
)

var _ metadef.Catalogue = (*DB)(nil)

const namespaceColumns = "name, display_name, description, public, protected, owner, created_at, updated_at"

// A scanner is a row, or the current one of several.
type scanner interface{ Scan(dst ...any) error }

func scanNamespace(row scanner) (*metadef.Namespace, error) {
	n := new(metadef.Namespace)
	err := row.Scan(&n.Name, &n.DisplayName, &n.Description, &n.Public, &n.Protected, &n.Owner,
		micros{&n.CreatedAt}, micros{&n.UpdatedAt})
	return n, err
}

func loadNamespace(ctx context.Context, tx txn, name string) (*metadef.Namespace, error) {
	if !isText(name) {
		return nil, fmt.Errorf("%w: there is no namespace %.80q", registry.ErrNotFound, name)
	}
	n, err := scanNamespace(tx.QueryRowContext(ctx, "SELECT "+namespaceColumns+" FROM namespaces WHERE name = ?", name))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: there is no namespace %.80q", registry.ErrNotFound, name)
	}
	return n, err
}

// CreateNamespace implements metadef.Catalogue.
func (d *DB) CreateNamespace(ctx context.Context, n *metadef.Namespace, definitions []metadef.Definition) (*metadef.Namespace, error) {
	next := *n
	err := d.write(ctx, fmt.Sprintf("create namespace %.80q", n.Name), func(c *change) error {
		if err := c.freeNamespace(ctx, &next); err != nil {
			return err
		}
		next.CreatedAt, next.UpdatedAt = c.at, c.at
		_, err := c.ExecContext(ctx, "INSERT INTO namespaces ("+namespaceColumns+") VALUES ("+marks(8)+")",
			next.Name, next.DisplayName, next.Description, next.Public, next.Protected, next.Owner, toMicros(c.at), toMicros(c.at))
		if err != nil {
			return err
		}
		return c.define(ctx, next.Name, slices.Clone(definitions))
	})
	if err != nil {
		return nil, err
	}
	return &next, nil
}

// freeNamespace checks a namespace that comes to have its name.
func (c *change) freeNamespace(ctx context.Context, n *metadef.Namespace) error {
	if err := n.Validate(); err != nil {
		return err
	}
	_, err := loadNamespace(ctx, c.txn, n.Name)
	switch {
	case err == nil:
		return fmt.Errorf("%w: there is a namespace %.80q already", registry.ErrConflict, n.Name)
	case errors.Is(err, registry.ErrNotFound):
		return nil
	}
	return err
}

// Namespace implements metadef.Catalogue.
func (d *DB) Namespace(ctx context.Context, name string) (n *metadef.Namespace, err error) {
	err = d.read(ctx, "get a namespace", func(tx txn) error {
		n, err = loadNamespace(ctx, tx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Namespaces implements metadef.Catalogue.
func (d *DB) Namespaces(ctx context.Context, q metadef.Query) (found []*metadef.Namespace, err error) {
	keys, err := namespaceKeys(q.Sort)
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	err = d.read(ctx, "list namespaces", func(tx txn) error {
		w := seenNamespaces(q.Caller)
		if q.Public != nil {
			w.and("public = ?", *q.Public)
		}
		if len(q.ResourceTypes) > 0 {
			args := []any{metadef.ResourceType}
			for _, name := range q.ResourceTypes {
				args = append(args, name)
			}
			w.and("EXISTS (SELECT 1 FROM definitions WHERE namespace = namespaces.name AND kind = ? AND definitions.name IN ("+
				marks(len(q.ResourceTypes))+"))", args...)
		}
		if q.Marker != "" {
			if err := afterNamespace(ctx, tx, w, keys, q); err != nil {
				return err
			}
		}
		rows, err := tx.QueryContext(ctx, "SELECT "+namespaceColumns+" FROM namespaces"+w.String()+
			" ORDER BY "+orderBy(keys)+" LIMIT ?", append(w.args, max(q.Limit, 0))...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			n, err := scanNamespace(rows)
			if err != nil {
				return err
			}
			found = append(found, n)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// seenNamespaces is metadef.Namespace.SeenBy in SQL.
func seenNamespaces(c *registry.Caller) *where {
	w := new(where)
	switch {
	case c == nil || c.Is("admin"):
	case !c.Is("reader"):
		w.and("FALSE")
	case c.Project == "":
		w.and("public")
	default:
		w.and("(public OR owner = ?)", c.Project)
	}
	return w
}

// afterNamespace adds that a namespace comes after the marker.
func afterNamespace(ctx context.Context, tx txn, w *where, keys []sortKey, q metadef.Query) error {
	n, err := loadNamespace(ctx, tx, q.Marker)
	switch {
	case errors.Is(err, registry.ErrNotFound), err == nil && q.Caller != nil && !n.SeenBy(q.Caller):
		return fmt.Errorf("%w: marker %.80q names no namespace", registry.ErrInvalid, q.Marker)
	case err != nil:
		return err
	}
	var at []any
	for _, k := range keys {
		switch k.column {
		case "created_at":
			at = append(at, toMicros(n.CreatedAt))
		case "updated_at":
			at = append(at, toMicros(n.UpdatedAt))
		default:
			at = append(at, n.Name)
		}
	}
	after, args := afterMarker(keys, at)
	w.and(after, args...)
	return nil
}

func namespaceKeys(order []registry.Order) ([]sortKey, error) {
	if len(order) == 0 {
		order = []registry.Order{{Key: "created_at", Desc: true}}
	}
	var keys []sortKey
	for _, o := range append(slices.Clip(order), registry.Order{Key: "namespace", Desc: true}) {
		column := o.Key
		switch column {
		case "namespace":
			column = "name"
		case "created_at", "updated_at":
		default:
			return nil, fmt.Errorf("%w: no order by %.80q", registry.ErrInvalid, o.Key)
		}
		if !slices.ContainsFunc(keys, func(k sortKey) bool { return k.column == column }) {
			keys = append(keys, sortKey{column: column, desc: o.Desc})
		}
	}
	return keys, nil
}

// UpdateNamespace implements metadef.Catalogue. alter runs inside the write
// transaction.
func (d *DB) UpdateNamespace(ctx context.Context, name string, alter func(*metadef.Namespace) error) (*metadef.Namespace, error) {
	var next *metadef.Namespace
	err := d.write(ctx, "update a namespace", func(c *change) error {
		var err error
		if next, err = loadNamespace(ctx, c.txn, name); err != nil {
			return err
		}
		created := next.CreatedAt
		if err := alter(next); err != nil {
			return refusal{err}
		}
		if next.Name == name {
			err = next.Validate()
		} else {
			err = c.freeNamespace(ctx, next)
		}
		if err != nil {
			return err
		}
		next.CreatedAt, next.UpdatedAt = created, c.at
		_, err = c.ExecContext(ctx, "UPDATE namespaces SET ("+namespaceColumns+") = ("+marks(8)+") WHERE name = ?",
			next.Name, next.DisplayName, next.Description, next.Public, next.Protected, next.Owner,
			toMicros(created), toMicros(c.at), name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// DeleteNamespace implements metadef.Catalogue.
func (d *DB) DeleteNamespace(ctx context.Context, name string) error {
	return d.write(ctx, "delete a namespace", func(c *change) error {
		n, err := loadNamespace(ctx, c.txn, name)
		if err != nil {
			return err
		}
		if n.Protected {
			return fmt.Errorf("%w: the namespace is protected", registry.ErrForbidden)
		}
		_, err = c.ExecContext(ctx, "DELETE FROM namespaces WHERE name = ?", name)
		return err
	})
}

// Definitions implements metadef.Catalogue.
func (d *DB) Definitions(ctx context.Context, namespace string, kind metadef.Kind) (found []metadef.Definition, err error) {
	err = d.read(ctx, "list definitions", func(tx txn) error {
		if _, err := loadNamespace(ctx, tx, namespace); err != nil {
			return err
		}
		found, err = definitions(ctx, tx, "namespace = ? AND kind = ?", namespace, kind)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

func definitions(ctx context.Context, tx txn, condition string, args ...any) ([]metadef.Definition, error) {
	rows, err := tx.QueryContext(ctx, "SELECT kind, name, document, created_at, updated_at FROM definitions WHERE "+
		condition+" ORDER BY name", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []metadef.Definition
	for rows.Next() {
		var d metadef.Definition
		var document string
		if err := rows.Scan(&d.Kind, &d.Name, &document, micros{&d.CreatedAt}, micros{&d.UpdatedAt}); err != nil {
			return nil, err
		}
		d.Document = json.RawMessage(document)
		found = append(found, d)
	}
	return found, rows.Err()
}

// Definition implements metadef.Catalogue.
func (d *DB) Definition(ctx context.Context, namespace string, kind metadef.Kind, name string) (found metadef.Definition, err error) {
	err = d.read(ctx, "get a definition", func(tx txn) error {
		found, err = loadDefinition(ctx, tx, namespace, kind, name)
		return err
	})
	return found, err
}

func loadDefinition(ctx context.Context, tx txn, namespace string, kind metadef.Kind, name string) (metadef.Definition, error) {
	if _, err := loadNamespace(ctx, tx, namespace); err != nil {
		return metadef.Definition{}, err
	}
	found, err := definitions(ctx, tx, "namespace = ? AND kind = ? AND name = ?", namespace, kind, name)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%w: the namespace has no %s %.80q", registry.ErrNotFound, kind, name)
	}
	if err != nil {
		return metadef.Definition{}, err
	}
	return found[0], nil
}

// Define implements metadef.Catalogue.
func (d *DB) Define(ctx context.Context, namespace string, kind metadef.Kind, added []metadef.Definition, replace bool) ([]metadef.Definition, error) {
	added = slices.Clone(added)
	err := d.write(ctx, "define in a namespace", func(c *change) error {
		if _, err := loadNamespace(ctx, c.txn, namespace); err != nil {
			return err
		}
		for _, def := range added {
			if def.Kind != kind {
				return fmt.Errorf("%w: a definition is of kind %.80q and not %s", registry.ErrInvalid, def.Kind, kind)
			}
		}
		if replace {
			if _, err := c.ExecContext(ctx, "DELETE FROM definitions WHERE namespace = ? AND kind = ?", namespace, kind); err != nil {
				return err
			}
		}
		return c.define(ctx, namespace, added)
	})
	if err != nil {
		return nil, err
	}
	return added, nil
}

// define adds definitions to a namespace that there is, and sets their times.
func (c *change) define(ctx context.Context, namespace string, added []metadef.Definition) error {
	for i := range added {
		def := &added[i]
		if err := def.Validate(); err != nil {
			return err
		}
		def.CreatedAt, def.UpdatedAt = c.at, c.at
		done, err := c.ExecContext(ctx, `INSERT INTO definitions (namespace, kind, name, document, created_at, updated_at)
			VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (namespace, kind, name) DO NOTHING`,
			namespace, def.Kind, def.Name, string(def.Document), toMicros(c.at), toMicros(c.at))
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("%w: the namespace has a %s %.80q already", registry.ErrConflict, def.Kind, def.Name))
		}
	}
	return nil
}

// Redefine implements metadef.Catalogue.
func (d *DB) Redefine(ctx context.Context, namespace, name string, def metadef.Definition) (metadef.Definition, error) {
	err := d.write(ctx, "change a definition", func(c *change) error {
		old, err := loadDefinition(ctx, c.txn, namespace, def.Kind, name)
		if err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, "DELETE FROM definitions WHERE namespace = ? AND kind = ? AND name = ?", namespace, def.Kind, name); err != nil {
			return err
		}
		one := []metadef.Definition{def}
		if err := c.define(ctx, namespace, one); err != nil {
			return err
		}
		def = one[0]
		def.CreatedAt = old.CreatedAt
		_, err = c.ExecContext(ctx, "UPDATE definitions SET created_at = ? WHERE namespace = ? AND kind = ? AND name = ?",
			toMicros(old.CreatedAt), namespace, def.Kind, def.Name)
		return err
	})
	if err != nil {
		return metadef.Definition{}, err
	}
	return def, nil
}

// Undefine implements metadef.Catalogue.
func (d *DB) Undefine(ctx context.Context, namespace string, kind metadef.Kind, name string) error {
	return d.write(ctx, "remove a definition", func(c *change) error {
		if name == "" {
			if _, err := loadNamespace(ctx, c.txn, namespace); err != nil {
				return err
			}
			_, err := c.ExecContext(ctx, "DELETE FROM definitions WHERE namespace = ? AND kind = ?", namespace, kind)
			return err
		}
		if _, err := loadDefinition(ctx, c.txn, namespace, kind, name); err != nil {
			return err
		}
		_, err := c.ExecContext(ctx, "DELETE FROM definitions WHERE namespace = ? AND kind = ? AND name = ?", namespace, kind, name)
		return err
	})
}

// ResourceTypes implements metadef.Catalogue.
func (d *DB) ResourceTypes(ctx context.Context) ([]string, error) {
	names := metadef.KnownResourceTypes()
	err := d.read(ctx, "list resource types", func(tx txn) error {
		rows, err := tx.QueryContext(ctx, "SELECT DISTINCT name FROM definitions WHERE kind = ?", metadef.ResourceType)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			names = append(names, name)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
