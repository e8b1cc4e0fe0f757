package registrytest

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

func endTests() []test {
	return []test{
		{"a task ends with what came of it, and its secret is forgotten", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			t := s.addTask(work(id), nil)
			s.lease(holder, time.Minute)
			s.Pass(time.Second)
			s.unchanged(id, func() {
				err := s.Tasks.EndTask(s.Context(), &registry.Task{
					ID: t.ID, Status: registry.TaskSuccess, Message: "done", Result: json.RawMessage(`{"bytes": 4}`),
				}, holder, func(*registry.Image) error { return nil })
				if err != nil {
					s.Fatal(err)
				}
			})
			got := s.task(t.ID)
			want := *t
			want.Status, want.Message, want.Result, want.Attempts = registry.TaskSuccess, "done", json.RawMessage(`{"bytes": 4}`), 1
			want.UpdatedAt, want.ExpiresAt = got.UpdatedAt, got.UpdatedAt.Add(registry.TaskLife)
			s.wantTask(got, &want)
			s.noLease(holder)
		}},
		{"the end of an import changes the image with the task, and orphans what is staged", func(s *suite) {
			id := s.stage(draft("x"), place(1), "data").ID
			t := s.importing(id)
			s.lease(holder, time.Minute)
			end := *t
			end.Status, end.Message = registry.TaskFailure, "no room"
			err := s.Tasks.EndTask(s.Context(), &end, holder, func(img *registry.Image) error {
				img.Properties["os_glance_failed_import"] = "a"
				return img.Become(registry.Queued)
			})
			if err != nil {
				s.Fatal(err)
			}
			got := s.get(id)
			if got.Status != registry.Queued || got.Size != nil || got.Properties["os_glance_failed_import"] != "a" {
				s.Errorf("image %+v", got)
			}
			s.wantEvent(got, registry.EventUpdate)
			s.notStaged(id)
			s.wantOrphans(place(1))
			s.noManifest(summary("data"))
			s.stageAgain(id)
		}},
		{"the end may leave the image importing with what is staged, or make other changes", func(s *suite) {
			id := s.stage(draft("x"), place(1), "data").ID
			t := s.importing(id)
			s.lease(holder, time.Minute)
			end := *t
			end.Status = registry.TaskSuccess
			if err := s.Tasks.EndTask(s.Context(), &end, holder, func(img *registry.Image) error { img.MinRAM = 5; return nil }); err != nil {
				s.Fatal(err)
			}
			if got := s.get(id); got.Status != registry.Importing || got.MinRAM != 5 {
				s.Errorf("image %+v", got)
			}
			s.wantStaged(id, place(1), summary("data"))
		}},
		{"what the end refuses leaves the task and the image as they are", func(s *suite) {
			id := s.create(draft("x")).ID
			t := s.importing(id)
			s.lease(holder, time.Minute)
			refused := errors.New("refused")
			end := *t
			end.Status = registry.TaskSuccess
			s.unchanged(id, func() {
				if err := s.Tasks.EndTask(s.Context(), &end, holder, func(*registry.Image) error { return refused }); err != refused {
					s.Errorf("error %v, want it as it is", err)
				}
				err := s.Tasks.EndTask(s.Context(), &end, holder, func(img *registry.Image) error { img.Status = registry.Active; return nil })
				s.wantErr(err, registry.ErrConflict)
			})
			if got := s.task(t.ID); got.Status != registry.TaskProcessing {
				s.Errorf("task %+v", got)
			}
			if err := s.Tasks.EndTask(s.Context(), &end, holder, nil); err != nil {
				s.Error(err)
			}
		}},
		{"only who holds it ends it, once, with a status that is an end", func(s *suite) {
			id := s.create(draft("x")).ID
			t := s.importing(id)
			called := func(*registry.Image) error { s.Error("end was called"); return nil }
			end := *t
			end.Status = registry.TaskSuccess
			s.wantErr(s.Tasks.EndTask(s.Context(), &end, "", called), registry.ErrConflict)
			s.lease(holder, time.Minute)
			s.wantErr(s.Tasks.EndTask(s.Context(), &end, "another", called), registry.ErrConflict)
			for _, status := range []registry.TaskStatus{"", registry.TaskPending, registry.TaskProcessing} {
				s.wantErr(s.Tasks.EndTask(s.Context(), &registry.Task{ID: t.ID, Status: status}, holder, called), registry.ErrInvalid)
			}
			if err := s.Tasks.EndTask(s.Context(), &end, holder, nil); err != nil {
				s.Fatal(err)
			}
			s.unchanged(id, func() { s.wantErr(s.Tasks.EndTask(s.Context(), &end, holder, called), registry.ErrConflict) })
			s.wantErr(s.Tasks.EndTask(s.Context(), &registry.Task{ID: someID, Status: registry.TaskFailure}, holder, called), registry.ErrConflict)
		}},
		{"a deleted image ends its task as a failure, and the work must stop", func(s *suite) {
			id, other := s.stage(draft("x"), place(1), "data").ID, s.create(draft("other")).ID
			t := s.importing(id)
			s.importing(other)
			s.lease(holder, time.Minute)
			s.Pass(time.Second)
			s.delete(id)
			got := s.task(t.ID)
			if got.Status != registry.TaskFailure || got.ExpiresAt.IsZero() || !strings.Contains(got.Message, "deleted") || got.ImageID != id {
				s.Errorf("task %+v", got)
			}
			s.wantErr(s.Tasks.RenewTask(s.Context(), t.ID, holder, time.Minute, "", nil), registry.ErrConflict)
			end := *t
			end.Status = registry.TaskSuccess
			err := s.Tasks.EndTask(s.Context(), &end, holder, func(*registry.Image) error { s.Error("end was called"); return nil })
			s.wantErr(err, registry.ErrConflict)
			s.wantOrphans(place(1))
			if got := s.lease(holder, time.Minute); got.ImageID != other {
				s.Errorf("leased %+v", got)
			}
		}},
		{"a task comes to name the image that it made", func(s *suite) {
			t := s.addTask(work(""), nil)
			s.lease(holder, time.Minute)
			id := s.create(draft("x")).ID
			end := registry.Task{ID: t.ID, Status: registry.TaskSuccess, ImageID: id}
			if err := s.Tasks.EndTask(s.Context(), &end, holder, func(img *registry.Image) error { img.MinRAM = 3; return nil }); err != nil {
				s.Fatal(err)
			}
			if got := s.task(t.ID); got.ImageID != id || s.get(id).MinRAM != 3 {
				s.Errorf("task %+v", got)
			}
		}},
	}
}

// stageAgain checks that an image takes data again.
func (s *suite) stageAgain(id string) {
	s.Helper()
	loc := origin.Location{URL: "file://store/again"}
	s.beginStage(id, loc)
	s.finishStage(id, loc, summary("again"))
	s.wantStaged(id, loc, summary("again"))
}
