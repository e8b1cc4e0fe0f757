package registrytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"nearsight/registry"
)

const holder = "holder"

// work is a task for the image id.
func work(id string) *registry.Task {
	return &registry.Task{
		Type: registry.TaskImageImport, Owner: "p", User: "u", ImageID: id, RequestID: "req-1",
		Input: json.RawMessage(`{"image_id": "x"}`), Message: "to be done", Secret: "hush",
	}
}

func (s *suite) addTask(t *registry.Task, begin func(*registry.Image) error) *registry.Task {
	s.Helper()
	got, err := s.Tasks.AddTask(s.Context(), t, begin)
	if err != nil {
		s.Fatalf("add task: %v", err)
	}
	return got
}

func toImporting(img *registry.Image) error { return img.Become(registry.Importing) }

// importing moves an image there, with a task.
func (s *suite) importing(id string) *registry.Task {
	s.Helper()
	return s.addTask(work(id), toImporting)
}

func (s *suite) lease(holder string, d time.Duration) *registry.Task {
	s.Helper()
	t, err := s.Tasks.LeaseTask(s.Context(), holder, d)
	if err != nil {
		s.Fatalf("lease: %v", err)
	}
	return t
}

func (s *suite) noLease(holder string) {
	s.Helper()
	_, err := s.Tasks.LeaseTask(s.Context(), holder, time.Minute)
	s.wantErr(err, registry.ErrNotFound)
}

func (s *suite) task(id string) *registry.Task {
	s.Helper()
	t, err := s.Tasks.GetTask(s.Context(), id)
	if err != nil {
		s.Fatalf("get task: %v", err)
	}
	return t
}

func (s *suite) wantTask(got, want *registry.Task) {
	s.Helper()
	if !reflect.DeepEqual(got, want) {
		s.Errorf("task\n%+v, want\n%+v", got, want)
	}
}

func (s *suite) listTasks(q registry.TaskQuery) []*registry.Task {
	s.Helper()
	tasks, err := s.Tasks.ListTasks(s.Context(), q)
	if err != nil {
		s.Fatalf("list tasks %+v: %v", q, err)
	}
	return tasks
}

// endImport ends the task of an importing image, which is queued then.
func (s *suite) endImport(t *registry.Task, status registry.TaskStatus) {
	s.Helper()
	s.lease(holder, time.Minute)
	end := *t
	end.Status = status
	err := s.Tasks.EndTask(s.Context(), &end, holder, func(img *registry.Image) error { return img.Become(registry.Queued) })
	if err != nil {
		s.Fatalf("end: %v", err)
	}
}

func taskTests() []test {
	return []test{
		{"a new task is pending, and shown without its secret", func(s *suite) {
			id := s.create(draft("x")).ID
			asked := work(id)
			got := s.addTask(asked, nil)
			want := work(id)
			want.ID, want.Status, want.Secret = got.ID, registry.TaskPending, ""
			want.CreatedAt, want.UpdatedAt = got.CreatedAt, got.CreatedAt
			if !registry.ValidID(got.ID) || got.CreatedAt.IsZero() {
				s.Errorf("task %+v", got)
			}
			s.wantTask(got, want)
			s.wantTask(s.task(got.ID), want)
			s.wantTask(s.listTasks(registry.TaskQuery{Limit: 9})[0], want)
			s.wantTask(asked, work(id))
			if s.revision() != 1 {
				s.Error("the task made an event")
			}
		}},
		{"a task begins with a change of its image", func(s *suite) {
			id := s.create(draft("x")).ID
			s.addTask(work(id), func(img *registry.Image) error {
				img.Properties["os_glance_importing_to_stores"] = "a"
				return img.Become(registry.Importing)
			})
			got := s.get(id)
			if got.Status != registry.Importing || got.Properties["os_glance_importing_to_stores"] != "a" || got.Revision != 2 {
				s.Errorf("image %+v", got)
			}
			s.wantEvent(got, registry.EventUpdate)
		}},
		{"a task of an active image need not change it", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			s.unchanged(id, func() { s.addTask(work(id), func(*registry.Image) error { return nil }) })
		}},
		{"what begin refuses is stored neither as a task nor in the image", func(s *suite) {
			id := s.create(draft("x")).ID
			refused := errors.New("refused")
			s.unchanged(id, func() {
				_, err := s.Tasks.AddTask(s.Context(), work(id), func(img *registry.Image) error { img.MinRAM = 1; return refused })
				if err != refused {
					s.Errorf("error %v, want it as it is", err)
				}
			})
			if got := s.listTasks(registry.TaskQuery{Limit: 9}); len(got) != 0 {
				s.Errorf("tasks %v", got)
			}
			s.addTask(work(id), nil)
		}},
		{"begin takes an image to importing from queued, or from uploading when all of the data is there", func(s *suite) {
			staged, staging := s.stage(draft("staged"), place(1), "data"), s.create(draft("staging")).ID
			s.beginStage(staging, place(2))
			saving := s.create(draft("saving")).ID
			s.begin(saving, place(3))
			for _, id := range []string{staging, saving, s.upload(draft("active"), place(4), "data").ID} {
				s.unchanged(id, func() {
					_, err := s.Tasks.AddTask(s.Context(), work(id), func(img *registry.Image) error { img.Status = registry.Importing; return nil })
					s.wantErr(err, registry.ErrConflict)
				})
			}
			s.importing(staged.ID)
			if got := s.get(staged.ID); got.Status != registry.Importing || *got.Size != 4 {
				s.Errorf("image %+v", got)
			}
			s.wantStaged(staged.ID, place(1), summary("data"))
			id := s.create(&registry.Image{}).ID
			s.unchanged(id, func() {
				_, err := s.Tasks.AddTask(s.Context(), work(id), func(img *registry.Image) error { img.Status = registry.Importing; return nil })
				s.wantErr(err, registry.ErrInvalid) // it has no formats
			})
		}},
		{"an image has one task at a time", func(s *suite) {
			id := s.create(draft("x")).ID
			added := parallel(20, func(int) bool {
				_, err := s.Tasks.AddTask(s.Context(), work(id), toImporting)
				if err != nil && !errors.Is(err, registry.ErrConflict) {
					s.Errorf("add: %v", err)
				}
				return err == nil
			})
			if added != 1 {
				s.Errorf("%d tasks", added)
			}
			s.endImport(s.listTasks(registry.TaskQuery{Limit: 9})[0], registry.TaskFailure)
			s.importing(id)
			s.addTask(work(s.create(draft("other")).ID), nil)
		}},
		{"a task may be for no image, and not for one that is unknown", func(s *suite) {
			for range 2 {
				s.addTask(work(""), nil)
			}
			gone := s.create(draft("x")).ID
			s.delete(gone)
			for _, id := range []string{someID, gone} {
				for _, begin := range []func(*registry.Image) error{nil, toImporting} {
					_, err := s.Tasks.AddTask(s.Context(), work(id), begin)
					s.wantErr(err, registry.ErrNotFound)
				}
			}
		}},
		{"malformed tasks are invalid, and an id is used once", func(s *suite) {
			for name, spoil := range map[string]func(*registry.Task){
				"an id that is none": func(t *registry.Task) { t.ID = "x" },
				"input no JSON":      func(t *registry.Task) { t.Input = json.RawMessage("{") },
				"input no object":    func(t *registry.Task) { t.Input = json.RawMessage("null") },
				"a list as result":   func(t *registry.Task) { t.Result = json.RawMessage("[]") },
			} {
				task := work("")
				spoil(task)
				if _, err := s.Tasks.AddTask(s.Context(), task, nil); !errors.Is(err, registry.ErrInvalid) {
					s.Errorf("%s: %v", name, err)
				}
			}
			task := work("")
			task.ID, task.Input = someID, nil
			if got := s.addTask(task, nil); got.ID != someID || got.Input != nil {
				s.Errorf("task %+v", got)
			}
			_, err := s.Tasks.AddTask(s.Context(), task, nil)
			s.wantErr(err, registry.ErrConflict)
		}},
		{"an unknown task is not found", func(s *suite) {
			for _, id := range []string{"", "x", someID} {
				_, err := s.Tasks.GetTask(s.Context(), id)
				s.wantErr(err, registry.ErrNotFound)
			}
		}},
		{"tasks are listed by what they are, in any order, in pages", func(s *suite) { s.wantTaskLists() }},
		{"a task is forgotten when it expires", func(s *suite) {
			id := s.create(draft("x")).ID
			t := s.importing(id)
			s.Pass(2 * registry.TaskLife)
			s.task(t.ID) // it has not ended
			s.endImport(t, registry.TaskSuccess)
			ended := s.task(t.ID)
			if life := ended.ExpiresAt.Sub(ended.UpdatedAt); life != registry.TaskLife {
				s.Errorf("it expires after %v", life)
			}
			s.Pass(registry.TaskLife - time.Hour)
			s.task(t.ID)
			s.Pass(2 * time.Hour)
			_, err := s.Tasks.GetTask(s.Context(), t.ID)
			s.wantErr(err, registry.ErrNotFound)
			if got := s.listTasks(registry.TaskQuery{Limit: 9}); len(got) != 0 {
				s.Errorf("tasks %v", got)
			}
			_, err = s.Tasks.ListTasks(s.Context(), registry.TaskQuery{Marker: t.ID, Limit: 9})
			s.wantErr(err, registry.ErrInvalid)
			again := work(id)
			again.ID = t.ID
			s.addTask(again, nil)
		}},
	}
}

// wantTaskLists makes some tasks and lists them.
func (s *suite) wantTaskLists() {
	images := map[string]string{"": ""}
	for _, name := range []string{"i", "j"} {
		images[name] = s.create(draft(name)).ID
	}
	var ids []string
	for i, t := range []registry.Task{
		{Type: registry.TaskImport, Owner: "p"}, {Type: registry.TaskImport, Owner: "q"},
		{Type: registry.TaskImageImport, Owner: "p", ImageID: images["i"]}, {Type: registry.TaskImageImport, Owner: "q", ImageID: images["j"]},
	} {
		t.ID = fmt.Sprintf("0000000%d-0000-4000-8000-000000000000", i)
		ids = append(ids, s.addTask(&t, nil).ID)
		s.Pass(time.Second)
	}
	s.lease(holder, time.Minute)
	for _, tt := range []struct {
		q    registry.TaskQuery
		want string
	}{
		{registry.TaskQuery{}, "3 2 1 0"},
		{registry.TaskQuery{Owner: "p"}, "2 0"},
		{registry.TaskQuery{Type: registry.TaskImport}, "1 0"},
		{registry.TaskQuery{Type: "other"}, ""},
		{registry.TaskQuery{ImageID: images["j"]}, "3"},
		{registry.TaskQuery{Status: registry.TaskProcessing}, "0"},
		{registry.TaskQuery{Status: registry.TaskPending, Owner: "q"}, "3 1"},
		{registry.TaskQuery{Sort: parseSort("created_at")}, "0 1 2 3"},
		{registry.TaskQuery{Sort: parseSort("-updated_at")}, "0 3 2 1"},
		{registry.TaskQuery{Sort: parseSort("status id")}, "1 2 3 0"},
		{registry.TaskQuery{Sort: parseSort("type -id")}, "3 2 1 0"},
		{registry.TaskQuery{Sort: parseSort("expires_at -created_at")}, "3 2 1 0"},
		{registry.TaskQuery{Marker: ids[2]}, "1 0"},
		{registry.TaskQuery{Marker: ids[3], Owner: "p"}, "2 0"},
	} {
		var whole, pages []string
		tt.q.Limit = 10
		for _, t := range s.listTasks(tt.q) {
			whole = append(whole, t.ID[7:8])
			s.wantTask(t, s.task(t.ID))
		}
		if got := strings.Join(whole, " "); got != tt.want {
			s.Errorf("%+v: got %q, want %q", tt.q, got, tt.want)
		}
		for tt.q.Limit = 1; len(pages) <= len(whole); {
			page := s.listTasks(tt.q)
			if len(page) == 0 {
				break
			}
			pages = append(pages, page[0].ID[7:8])
			tt.q.Marker = page[0].ID
		}
		if !slices.Equal(pages, whole) {
			s.Errorf("%+v: pages %v, whole %v", tt.q, pages, whole)
		}
	}
	for _, q := range []registry.TaskQuery{{Marker: someID, Limit: 1}, {Sort: parseSort("owner"), Limit: 1}} {
		_, err := s.Tasks.ListTasks(s.Context(), q)
		s.wantErr(err, registry.ErrInvalid)
	}
	if got := s.listTasks(registry.TaskQuery{}); len(got) != 0 {
		s.Errorf("at most 0: %v", got)
	}
}
