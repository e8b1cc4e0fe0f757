package api

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

func TestFinishWaitsForTheRegistry(t *testing.T) {
	for _, tt := range []struct {
		name   string
		down   time.Duration
		status int
	}{
		{"that is back soon", 10 * time.Second, 0},
		{"that stays away", time.Hour, 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				books := &downBooks{until: time.Now().Add(tt.down)}
				a := New(Options{Uploads: books})
				start := time.Now()
				_, err := a.finish(t.Context(), books.Finish, id1, origin.Location{}, origin.Summary{})
				if status, _ := statusOf(t.Context(), err); err != nil && status != tt.status || (err == nil) != (tt.status == 0) {
					t.Errorf("%v", err)
				}
				if took := time.Since(start); took > defaultFinishPatience {
					t.Errorf("it took %v", took)
				}
				if books.calls > 20 {
					t.Errorf("%d calls", books.calls)
				}
			})
		})
	}
}

type downBooks struct {
	registry.Uploads
	until time.Time
	calls int
}

func (b *downBooks) Finish(context.Context, string, origin.Location, origin.Summary) (*registry.Image, error) {
	if b.calls++; time.Now().Before(b.until) {
		return nil, registry.ErrUnavailable
	}
	return &registry.Image{}, nil
}

func TestWhatCannotBeAbortedIsHandedOn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		f     faults
		abort error
		on    int
	}{
		{"Abort works", faults{put: origin.ErrUnavailable}, nil, 0},
		{"Abort fails", faults{put: origin.ErrUnavailable}, registry.ErrUnavailable, 1},
		{"Finish and Abort fail", faults{finish: registry.ErrUnavailable}, registry.ErrUnavailable, 1},
		{"Finish was done although it failed", faults{finish: registry.ErrUnavailable}, registry.ErrConflict, 0},
		{"Begin may have been done", faults{begin: registry.ErrUnavailable}, registry.ErrUnavailable, 1},
		{"Begin was refused", faults{begin: registry.ErrConflict}, registry.ErrUnavailable, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var on []string
			f := tt.f
			f.abort = tt.abort
			g := newRig(t, f.use, func(o *Options) {
				o.Abort = func(id string, loc origin.Location) { on = append(on, id+" "+loc.URL) }
			})
			g.create(`"id":"` + id1 + `",` + formats)
			if w := g.do("PUT /v2/images/"+id1+"/file", "data", octets); w.Code < 400 {
				t.Errorf("status %d", w.Code)
			}
			if len(on) != tt.on || tt.on > 0 && !strings.HasPrefix(on[0], id1+" file:") {
				t.Errorf("handed on: %q", on)
			}
		})
	}
}
