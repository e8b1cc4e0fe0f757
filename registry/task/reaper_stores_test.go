package task

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// What nobody of ours may delete is done with, and what nobody here can delete is
// kept. Neither makes the log speak every minute.
func TestReaperAndStoresThatCannotDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var readOnly, ours origintest.Fake
		readOnly.Name = "frozen"
		set, err := origin.NewSet("ours", origin.Member{Name: "ours", Kind: "fake", Store: &ours},
			origin.Member{Name: "frozen", Kind: "fake", Store: struct{ origin.Store }{&readOnly}})
		if err != nil {
			t.Fatal(err)
		}
		ours.Name = "ours"
		var u fakeUploads
		log := &logged{}
		u.add(readOnly.Add("x", []byte("x")), ours.Add("x", []byte("x")),
			origin.Location{URL: "s3://gone/1"}, origin.Location{URL: "s3://gone/2"}, origin.Location{URL: "s3://other/1"})
		r := &Reaper{Uploads: &u, Store: set, Log: log.logger()}
		run(t, r)
		time.Sleep(time.Hour)
		synctest.Wait()
		if orphans, looks := u.left(); orphans != 3 || looks > 62 || ours.Len() != 0 || readOnly.Len() != 1 {
			t.Errorf("%d orphans after %d looks, %d objects; want those of stores that are not there", orphans, looks, ours.Len())
		}
		if log.with("level=WARN") != 2 || log.with("s3://gone") != 1 || log.with("s3://other") != 1 {
			t.Errorf("log:\n%s", log.all())
		}
	})
}

// An upload that a crash cut leaves its image queued, and a copy leaves it as it was.
func TestReaperAbortsUploadsAndCopiesThatACrashCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBooks(t), &origintest.Fake{}
		active := b.upload(t, s, []byte("data"))
		copied := s.Add("copy", []byte("da")) // as far as it came
		if err := b.DB.BeginCopy(t.Context(), active.ID, copied); err != nil {
			t.Fatal(err)
		}
		queued, err := b.Create(t.Context(), &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Begin(t.Context(), queued.ID, s.Add("upload", []byte("x"))); err != nil {
			t.Fatal(err)
		}
		r := &Reaper{Uploads: b, Store: s, Log: slog.New(slog.DiscardHandler)}
		if err := r.AbortUnfinished(t.Context()); err != nil {
			t.Error(err)
		}
		run(t, r)
		time.Sleep(time.Second)
		if got := b.get(t, active.ID); got.Revision != active.Revision || got.Status != registry.Active {
			t.Errorf("image %+v", got)
		}
		if got := b.get(t, queued.ID); got.Status != registry.Queued {
			t.Errorf("image %+v", got)
		}
		if s.Len() != 1 {
			t.Errorf("%d objects are left, want the data", s.Len())
		}
	})
}
