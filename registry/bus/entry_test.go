package bus

import (
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"nearsight/registry"
)

// entry returns what Redis gives back for an event.
func entry(e registry.Event) redis.XMessage {
	m := redis.XMessage{ID: strconv.FormatInt(e.Revision, 10) + "-0", Values: map[string]any{}}
	fields := encode(e)
	for i := 0; i < len(fields); i += 2 {
		m.Values[fields[i].(string)] = fields[i+1]
	}
	return m
}

func TestAnEventComesBackAsItWas(t *testing.T) {
	id := "5a2b7ab3-8ef2-4f6b-8b3d-0a3d6e2a7e4b"
	for _, e := range []registry.Event{
		{Revision: 1, ImageID: id, Kind: registry.EventCreate, At: time.Date(2024, 2, 29, 23, 59, 59, 999_999_000, time.UTC)},
		{Revision: 1<<63 - 1, ImageID: id, Kind: registry.EventDelete, Digest: "00ff", At: time.UnixMicro(0).UTC()},
		{Revision: 7, ImageID: id, Kind: "a later version's"}, // without a time
	} {
		if got, err := decode(entry(e)); err != nil || got != e {
			t.Errorf("%+v, %v, want %+v", got, err, e)
		}
	}
}

func TestTheStreamsOfOneClusterSlot(t *testing.T) {
	for stream, want := range map[string]string{
		"nearsight:events": "{nearsight:events}:beats",
		"{a}:b":            "{a}:b:beats",
		"x{a}{b}":          "x{a}{b}:beats",
	} {
		if got := beatsOf(stream); got != want {
			t.Errorf("the beats of %s are %s, want %s", stream, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	id := "5a2b7ab3-8ef2-4f6b-8b3d-0a3d6e2a7e4b"
	f.Add("1-0", id, "create", "", "1")
	f.Add("9223372036854775807-0", id, "delete", "00ff", "-62135596800000000")
	f.Add("9223372036854775808-0", id, "", "", "x")
	f.Add("-1-0", "", "x", "", "")
	f.Add("1-1", id, "x", "", "9223372036854775807")
	f.Fuzz(func(t *testing.T, at, image, kind, digest, micro string) {
		m := redis.XMessage{ID: at, Values: map[string]any{"image": image, "kind": kind, "digest": digest, "at": micro}}
		beatOf(m)
		e, err := decode(m)
		if err != nil {
			return
		}
		if e.Revision < 1 || e.Kind == registry.EventNone || !registry.ValidID(e.ImageID) {
			t.Errorf("decoded %+v", e)
		}
		if again, err := decode(entry(e)); err != nil || again != e {
			t.Errorf("%+v, and again %+v, %v", e, again, err)
		}
	})
}
