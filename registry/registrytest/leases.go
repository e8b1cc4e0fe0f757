package registrytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"nearsight/registry"
)

func leaseTests() []test {
	return []test{
		{"the oldest task is leased first, with its secret, and counts the attempt", func(s *suite) {
			var ids []string
			for range 3 {
				ids = append(ids, s.addTask(work(""), nil).ID)
				s.Pass(time.Second)
			}
			for _, id := range ids {
				got := s.lease(holder, time.Minute)
				if got.ID != id || got.Status != registry.TaskProcessing || got.Secret != "hush" || got.Attempts != 1 {
					s.Errorf("leased %+v, want %s", got, id)
				}
				got.Secret = ""
				s.wantTask(s.task(id), got)
			}
			s.noLease(holder)
		}},
		{"what is said of a task is a text, whatever an error was made of", func(s *suite) {
			asked := work("")
			asked.Message = "a\x00\xff"
			id := s.addTask(asked, nil).ID
			want := func(message string) {
				s.Helper()
				if got := s.task(id).Message; got != message {
					s.Errorf("message %q, want %q", got, message)
				}
			}
			want("a\uFFFD\uFFFD")
			s.lease(holder, time.Minute)
			if err := s.Tasks.RenewTask(s.Context(), id, holder, time.Minute, "\x00b", nil); err != nil {
				s.Error(err)
			}
			want("\uFFFDb")
			end := &registry.Task{ID: id, Status: registry.TaskFailure, Message: "c\xff"}
			if err := s.Tasks.EndTask(s.Context(), end, holder, nil); err != nil {
				s.Error(err)
			}
			want("c\uFFFD")
			_, err := s.Tasks.AddTask(s.Context(), &registry.Task{Input: json.RawMessage("{\"k\":\"\xff\"}")}, nil)
			s.wantErr(err, registry.ErrInvalid)
			for _, id := range []string{"", "\x00", "\xff"} {
				_, err := s.Tasks.GetTask(s.Context(), id)
				s.wantErr(err, registry.ErrNotFound)
			}
		}},
		{"nobody leases without a name", func(s *suite) {
			s.addTask(work(""), nil)
			_, err := s.Tasks.LeaseTask(s.Context(), "", time.Minute)
			s.wantErr(err, registry.ErrInvalid)
		}},
		{"of many who race for one lease, one gets it", func(s *suite) {
			for range 10 {
				s.addTask(work(""), nil)
				got := parallel(10, func(i int) bool {
					_, err := s.Tasks.LeaseTask(s.Context(), fmt.Sprint("holder ", i), time.Minute)
					if err != nil && !errors.Is(err, registry.ErrNotFound) {
						s.Errorf("lease: %v", err)
					}
					return err == nil
				})
				if got != 1 {
					s.Errorf("%d have the lease", got)
				}
			}
		}},
		{"of many who race for many tasks, each task is leased once", func(s *suite) {
			const n = 20
			for range n {
				s.addTask(work(""), nil)
			}
			var mu sync.Mutex
			leased := map[string]int{}
			parallel(n, func(i int) bool {
				t, err := s.Tasks.LeaseTask(s.Context(), fmt.Sprint("holder ", i), time.Minute)
				if err != nil {
					s.Errorf("lease: %v", err)
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				leased[t.ID]++
				return true
			})
			if len(leased) != n {
				s.Errorf("%d tasks leased", len(leased))
			}
		}},
		{"a lease that ran out goes to the next one, and the first must stop", func(s *suite) {
			id := s.addTask(work(""), nil).ID
			s.lease("a", time.Minute)
			s.Pass(59 * time.Second)
			s.noLease("b")
			s.Pass(2 * time.Second)
			if got := s.lease("b", time.Minute); got.ID != id || got.Attempts != 2 || got.Secret != "hush" {
				s.Errorf("leased %+v", got)
			}
			s.wantErr(s.Tasks.RenewTask(s.Context(), id, "a", time.Minute, "", nil), registry.ErrConflict)
			s.wantErr(s.Tasks.EndTask(s.Context(), &registry.Task{ID: id, Status: registry.TaskFailure}, "a", nil), registry.ErrConflict)
			if err := s.Tasks.ReleaseTask(s.Context(), id, "a"); err != nil {
				s.Error(err)
			}
			s.noLease("a")
			if err := s.Tasks.RenewTask(s.Context(), id, "b", time.Minute, "", nil); err != nil {
				s.Error(err)
			}
		}},
		{"a renewal prolongs the lease and notes how far the work is", func(s *suite) {
			id := s.addTask(work(""), nil).ID
			s.lease("a", time.Minute)
			for n := range 3 {
				s.Pass(50 * time.Second)
				result := json.RawMessage(fmt.Sprintf(`{"bytes": %d, "size": 9}`, n))
				if err := s.Tasks.RenewTask(s.Context(), id, "a", time.Minute, "on its way", result); err != nil {
					s.Fatal(err)
				}
				s.noLease("b")
				got := s.task(id)
				if string(got.Result) != string(result) || got.Message != "on its way" || got.Attempts != 1 {
					s.Errorf("task %+v", got)
				}
			}
			err := s.Tasks.RenewTask(s.Context(), id, "a", time.Minute, "", json.RawMessage("9"))
			s.wantErr(err, registry.ErrInvalid)
			s.Pass(61 * time.Second)
			s.lease("b", time.Minute)
		}},
		{"who is late renews if nobody took the lease meanwhile", func(s *suite) {
			id := s.addTask(work(""), nil).ID
			s.lease("a", time.Minute)
			s.Pass(time.Hour)
			if err := s.Tasks.RenewTask(s.Context(), id, "a", time.Minute, "", nil); err != nil {
				s.Error(err)
			}
			s.noLease("b")
		}},
		{"whoever wins of a late renewal and the next lease, one has it", func(s *suite) {
			for range 10 {
				id := s.addTask(work(""), nil).ID
				s.lease("a", time.Minute)
				s.Pass(2 * time.Minute)
				var renewed, leased error
				var race sync.WaitGroup
				race.Go(func() { renewed = s.Tasks.RenewTask(s.Context(), id, "a", time.Minute, "", nil) })
				race.Go(func() { _, leased = s.Tasks.LeaseTask(s.Context(), "b", time.Minute) })
				race.Wait()
				if (renewed == nil) == (leased == nil) {
					s.Errorf("renewal: %v, lease: %v", renewed, leased)
				}
				by := "a"
				if leased == nil {
					by = "b"
				}
				if err := s.Tasks.EndTask(s.Context(), &registry.Task{ID: id, Status: registry.TaskSuccess}, by, nil); err != nil {
					s.Error(err)
				}
			}
		}},
		{"a task that is released need not be waited for", func(s *suite) {
			id := s.addTask(work(""), nil).ID
			s.lease("a", time.Hour)
			for _, by := range []string{"b", ""} {
				if err := s.Tasks.ReleaseTask(s.Context(), id, by); err != nil {
					s.Error(err)
				}
				s.noLease("b")
			}
			if err := s.Tasks.ReleaseTask(s.Context(), id, "a"); err != nil {
				s.Fatal(err)
			}
			if got := s.task(id); got.Status != registry.TaskPending || got.Attempts != 1 {
				s.Errorf("task %+v", got)
			}
			s.wantErr(s.Tasks.RenewTask(s.Context(), id, "a", time.Minute, "", nil), registry.ErrConflict)
			if got := s.lease("b", time.Minute); got.ID != id || got.Attempts != 2 {
				s.Errorf("leased %+v", got)
			}
			if err := s.Tasks.ReleaseTask(s.Context(), someID, "a"); err != nil {
				s.Error(err)
			}
		}},
		{"an ended task is leased and released no more", func(s *suite) {
			id := s.addTask(work(""), nil).ID
			s.lease("a", time.Minute)
			if err := s.Tasks.EndTask(s.Context(), &registry.Task{ID: id, Status: registry.TaskSuccess}, "a", nil); err != nil {
				s.Fatal(err)
			}
			if err := s.Tasks.ReleaseTask(s.Context(), id, "a"); err != nil {
				s.Error(err)
			}
			s.wantErr(s.Tasks.RenewTask(s.Context(), id, "a", time.Minute, "", nil), registry.ErrConflict)
			s.Pass(time.Hour)
			s.noLease("b")
			if got := s.task(id); got.Status != registry.TaskSuccess {
				s.Errorf("task %+v", got)
			}
		}},
	}
}
