package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"nearsight/origin"
	"nearsight/registry"
)

// There are two streams. In that of the events, an event is the entry
// "REVISION-0": so Redis refuses what it has already, and keeps the order, however
// many publish. In that of the beats is one entry, the latest beat, with the
// revision up to which its publisher had brought everything. A beat comes after
// the events that it speaks of.
const (
	// DefaultStream is the name of the stream of events.
	DefaultStream = "nearsight:events"
	// DefaultKeep is how many events a stream holds. They are some 150 bytes each.
	// Who missed more reads the log.
	DefaultKeep = 10_000

	defaultBeat = 500 * time.Millisecond
)

// beatsOf returns the name of the stream of beats. A Cluster keeps both in one
// place, by what is in the first braces or else by the whole name.
func beatsOf(stream string) string {
	if _, tag, ok := strings.Cut(stream, "{"); ok {
		if at := strings.IndexByte(tag, '}'); at > 0 {
			return stream + ":beats"
		}
	}
	return "{" + stream + "}:beats"
}

var errMalformed = errors.New("malformed entry")

// encode returns the fields of an event's entry.
func encode(e registry.Event) []any {
	return []any{
		"image", e.ImageID, "kind", string(e.Kind), "digest", string(e.Digest),
		"at", strconv.FormatInt(e.At.UnixMicro(), 10),
	}
}

// decode reads an entry that encode may not have made.
func decode(m redis.XMessage) (registry.Event, error) {
	var e registry.Event
	var err error
	if e.Revision, err = revisionOf(m.ID); err != nil {
		return registry.Event{}, err
	}
	e.ImageID = field(m, "image")
	e.Kind = registry.EventKind(field(m, "kind"))
	e.Digest = origin.Digest(field(m, "digest"))
	micro, err := strconv.ParseInt(field(m, "at"), 10, 64)
	if err != nil || e.Kind == registry.EventNone || !registry.ValidID(e.ImageID) {
		return registry.Event{}, errMalformed
	}
	e.At = time.UnixMicro(micro).UTC()
	return e, nil
}

// field returns a field of an entry, "" if it has none.
func field(m redis.XMessage, name string) string {
	text, _ := m.Values[name].(string)
	return text
}

// revisionOf reads the revision out of the id of an event's entry.
func revisionOf(id string) (int64, error) {
	text, sequence, _ := strings.Cut(id, "-")
	revision, err := strconv.ParseInt(text, 10, 64)
	if err != nil || revision < 1 || sequence != "0" {
		return 0, errMalformed
	}
	return revision, nil
}

// beatOf reads the revision out of a beat.
func beatOf(m redis.XMessage) (int64, error) {
	revision, err := strconv.ParseInt(field(m, "revision"), 10, 64)
	if err != nil || revision < 0 {
		return 0, errMalformed
	}
	return revision, nil
}

// last returns the id of a stream's last entry, "0-0" if it has none.
func last(ctx context.Context, c redis.Cmdable, stream string) (string, error) {
	return lastOf(c.XRevRangeN(ctx, stream, "+", "-", 1))
}

func lastOf(reply *redis.XMessageSliceCmd) (string, error) {
	entries, err := reply.Result()
	if err != nil {
		return "", fmt.Errorf("read the end of a stream: %w", err)
	}
	if len(entries) == 0 {
		return "0-0", nil
	}
	return entries[0].ID, nil
}
