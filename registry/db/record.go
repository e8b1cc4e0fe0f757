package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"nearsight/origin"
	"nearsight/registry"
)

// columns are those of the table images without its key, in the order of dests
// and values.
const columns = `name, owner, status, visibility, protected, hidden, disk_format, container_format,
	min_ram, min_disk, size, virtual_size, checksum, hash_algo, hash_value, digest,
	created_at, updated_at, activated_at, revision`

// dests returns where a row of id and columns is scanned to.
func dests(img *registry.Image) []any {
	return []any{
		&img.ID, &img.Name, &img.Owner, &img.Status, &img.Visibility, &img.Protected, &img.Hidden,
		text[string]{&img.DiskFormat}, text[string]{&img.ContainerFormat},
		&img.MinRAM, &img.MinDisk, &img.Size, &img.VirtualSize,
		text[string]{&img.Checksum}, text[string]{&img.HashAlgo}, text[string]{&img.HashValue},
		text[origin.Digest]{&img.Digest},
		micros{&img.CreatedAt}, micros{&img.UpdatedAt}, micros{&img.ActivatedAt}, &img.Revision,
	}
}

// values returns what columns are set to.
func values(img *registry.Image) []any {
	return []any{
		img.Name, img.Owner, img.Status, img.Visibility, img.Protected, img.Hidden,
		orNull(img.DiskFormat), orNull(img.ContainerFormat),
		img.MinRAM, img.MinDisk, img.Size, img.VirtualSize,
		orNull(img.Checksum), orNull(img.HashAlgo), orNull(img.HashValue), orNull(string(img.Digest)),
		toMicros(img.CreatedAt), toMicros(img.UpdatedAt), timeOrNull(img.ActivatedAt), img.Revision,
	}
}

// text scans a nullable text to a string that is "" for NULL.
type text[S ~string] struct{ s *S }

func (t text[S]) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*t.s = ""
	case string:
		*t.s = S(v)
	case []byte:
		*t.s = S(v)
	default:
		return fmt.Errorf("%T is no text", v)
	}
	return nil
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// micros scans a nullable number of microseconds to a time that is zero for
// NULL.
type micros struct{ t *time.Time }

func (m micros) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*m.t = time.Time{}
	case int64:
		*m.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("%T is no time", v)
	}
	return nil
}

func toMicros(t time.Time) int64 { return t.UnixMicro() }

func timeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return toMicros(t)
}

// isText reports whether s is a text for every database. What is none has no name
// in it.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// toText returns s, or what is like it and is a text.
func toText(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

// load returns one whole record, or ErrNotFound.
func load(ctx context.Context, tx txn, id string) (*registry.Image, error) {
	if !isText(id) {
		return nil, registry.ErrNotFound
	}
	img := new(registry.Image)
	err := tx.QueryRowContext(ctx, "SELECT id, "+columns+" FROM images WHERE id = ?", id).Scan(dests(img)...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, registry.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return img, loadSets(ctx, tx, []*registry.Image{img})
}

// setsAtOnce bounds the images whose sets one query reads. A page of the API
// has at most 1000 images.
const setsAtOnce = 1000

// loadSets adds properties, tags, locations and members to images that have none
// yet.
func loadSets(ctx context.Context, tx txn, images []*registry.Image) error {
	for some := range slices.Chunk(images, setsAtOnce) {
		if err := loadSomeSets(ctx, tx, some); err != nil {
			return err
		}
	}
	return nil
}

func loadSomeSets(ctx context.Context, tx txn, images []*registry.Image) error {
	byID := make(map[string]*registry.Image, len(images))
	ids := make([]any, len(images))
	for i, img := range images {
		byID[img.ID] = img
		ids[i] = img.ID
	}
	in := " WHERE image_id IN (" + marks(len(ids)) + ")"
	rows, err := tx.QueryContext(ctx, "SELECT image_id, 'property', name, value, 0 AS place, '', 0, 0 FROM properties"+in+
		" UNION ALL SELECT image_id, 'tag', tag, '', 0, '', 0, 0 FROM tags"+in+
		" UNION ALL SELECT image_id, 'location', url, validator, position, metadata, 0, 0 FROM locations"+in+
		" UNION ALL SELECT image_id, 'member', project, status, CASE WHEN can_share THEN 1 ELSE 0 END, '', created_at, updated_at FROM members"+in+
		" ORDER BY place", slices.Concat(ids, ids, ids, ids)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for _, img := range images {
		img.Normalize() // for its map
	}
	for rows.Next() {
		var id, set, name, value, metadata string
		var place int
		var created, updated time.Time
		if err := rows.Scan(&id, &set, &name, &value, &place, &metadata, micros{&created}, micros{&updated}); err != nil {
			return err
		}
		img := byID[id]
		switch set {
		case "property":
			img.Properties[name] = value
		case "tag":
			img.Tags = append(img.Tags, name)
		case "location":
			img.Locations = append(img.Locations, origin.Location{URL: name, Validator: value})
			if err := scanMetadata(img, name, metadata); err != nil {
				return err
			}
		case "member":
			img.Members = append(img.Members, registry.Member{
				Project: name, Status: registry.MemberStatus(value), CanShare: place == 1, CreatedAt: created, UpdatedAt: updated,
			})
		}
	}
	for _, img := range images {
		img.Normalize() // for its tags and members
	}
	return rows.Err()
}

// store takes the next revision for next, which is a change of old or, if that
// is nil, a new image, and writes both record and event.
func (c *change) store(ctx context.Context, old, next *registry.Image, kind registry.EventKind) error {
	next.UpdatedAt = c.at
	return c.put(ctx, old, next, kind)
}

// put is store for who has set the time of the change.
func (c *change) put(ctx context.Context, old, next *registry.Image, kind registry.EventKind) error {
	var err error
	if next.Revision, err = c.event(ctx, next.ID, kind, ""); err != nil {
		return err
	}
	if old == nil {
		old = new(registry.Image)
		_, err = c.ExecContext(ctx, "INSERT INTO images (id, "+columns+") VALUES ("+marks(1+len(values(next)))+")",
			append([]any{next.ID}, values(next)...)...)
	} else {
		_, err = c.ExecContext(ctx, "UPDATE images SET ("+columns+") = ("+marks(len(values(next)))+") WHERE id = ?",
			append(values(next), next.ID)...)
	}
	if err != nil {
		return err
	}
	return c.storeSets(ctx, old, next)
}

// storeSets writes those of properties, tags, members and locations that changed.
func (c *change) storeSets(ctx context.Context, old, next *registry.Image) error {
	if !maps.Equal(old.Properties, next.Properties) {
		var rows [][]any
		for name, value := range next.Properties {
			rows = append(rows, []any{next.ID, name, value})
		}
		if err := c.replace(ctx, next.ID, "properties", "image_id, name, value", rows); err != nil {
			return err
		}
	}
	if !slices.Equal(old.Tags, next.Tags) {
		var rows [][]any
		for _, tag := range next.Tags {
			rows = append(rows, []any{next.ID, tag})
		}
		if err := c.replace(ctx, next.ID, "tags", "image_id, tag", rows); err != nil {
			return err
		}
	}
	stampMembers(old, next, c.at)
	if !slices.Equal(old.Members, next.Members) {
		var rows [][]any
		for _, m := range next.Members {
			rows = append(rows, []any{next.ID, m.Project, m.Status, m.CanShare, toMicros(m.CreatedAt), toMicros(m.UpdatedAt)})
		}
		err := c.replace(ctx, next.ID, "members", "image_id, project, status, can_share, created_at, updated_at", rows)
		if err != nil {
			return err
		}
	}
	if !slices.Equal(old.Locations, next.Locations) || !old.SameLocationMetadata(next) {
		var rows [][]any
		for i, loc := range next.Locations {
			metadata, err := metadataText(next.LocationMetadata[loc.URL])
			if err != nil {
				return err
			}
			rows = append(rows, []any{next.ID, i, loc.URL, loc.Validator, metadata})
		}
		return c.replace(ctx, next.ID, "locations", "image_id, position, url, validator, metadata", rows)
	}
	return nil
}

// stampMembers sets the times of the members of next, which is a change of old at
// a time.
func stampMembers(old, next *registry.Image, at time.Time) {
	for i := range next.Members {
		m := &next.Members[i]
		was := old.Member(m.Project)
		switch {
		case was == nil:
			m.CreatedAt, m.UpdatedAt = at, at
		case was.Status != m.Status || was.CanShare != m.CanShare:
			m.CreatedAt, m.UpdatedAt = was.CreatedAt, at
		default:
			*m = *was
		}
	}
}

// metadataText returns what the column metadata holds.
func metadataText(metadata map[string]string) (string, error) {
	if len(metadata) == 0 {
		return "", nil
	}
	b, err := json.Marshal(metadata)
	return string(b), err
}

// scanMetadata is the inverse of metadataText, for the location url of img.
func scanMetadata(img *registry.Image, url, text string) error {
	if text == "" {
		return nil
	}
	var metadata map[string]string
	if err := json.Unmarshal([]byte(text), &metadata); err != nil {
		return fmt.Errorf("metadata of a location of image %s: %w", img.ID, err)
	}
	if img.LocationMetadata == nil {
		img.LocationMetadata = map[string]map[string]string{}
	}
	img.LocationMetadata[url] = metadata
	return nil
}

// rowsAtOnce keeps a statement below the smallest limit on its values that a
// database has.
const rowsAtOnce = 200

// replace makes rows the rows of an image in a table.
func (c *change) replace(ctx context.Context, id, table, columns string, rows [][]any) error {
	if _, err := c.ExecContext(ctx, "DELETE FROM "+table+" WHERE image_id = ?", id); err != nil {
		return err
	}
	for some := range slices.Chunk(rows, rowsAtOnce) {
		row := "(" + marks(len(some[0])) + ")"
		_, err := c.ExecContext(ctx, "INSERT INTO "+table+" ("+columns+") VALUES "+row+strings.Repeat(", "+row, len(some)-1),
			slices.Concat(some...)...)
		if err != nil {
			return err
		}
	}
	return nil
}
