package task

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

func TestCopiesAreWholeInEverySize(t *testing.T) {
	for _, size := range []int{0, 1, origin.MinChunkSize, origin.MinChunkSize + 1, 5 * origin.MinChunkSize} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				data := noise(1, size)
				img := s.upload(t, s.a, data)
				s.run(t)
				task := s.copy(t, img.ID, "b", "c")
				settle()
				s.wantEnd(t, task.ID, registry.TaskSuccess)
				s.wantData(t, img.ID, data, "a", "b", "c")
				if s.b.Puts.Load() != 1 || s.log.with("level=WARN") != 0 {
					t.Errorf("%d puts; log:\n%s", s.b.Puts.Load(), s.log.all())
				}
			})
		})
	}
}

// Whatever happens to the location that is read, what is written is the image or
// nothing.
func TestCopiesReadFromWhereTheyCan(t *testing.T) {
	const n = 5*origin.MinChunkSize + 7
	data := noise(1, n)
	for _, tt := range []struct {
		name   string
		second bool // the image is in b too
		break_ func(s *site, loc origin.Location)
		copied bool
	}{
		{"the connection breaks", false, func(s *site, _ origin.Location) { s.a.set(nil, 3*origin.MinChunkSize+5) }, true},
		{"the connection breaks again and again", false, func(s *site, _ origin.Location) {
			s.a.set(nil, origin.MinChunkSize+5, origin.MinChunkSize+6, 2*origin.MinChunkSize+1)
		}, true},
		{"the store is down", false, func(s *site, _ origin.Location) { s.a.set(errDown) }, false},
		{"the store is down and there is another", true, func(s *site, _ origin.Location) { s.a.set(errDown) }, true},
		{"the connection breaks and there is another", true, func(s *site, _ origin.Location) { s.a.set(nil, 3*origin.MinChunkSize+5) }, true},
		{"it has wrong bytes", false, func(s *site, _ origin.Location) { s.a.Inject(origintest.Faults{Flip: []int64{n - 1}}) }, false},
		{"it has wrong bytes and there is another", true, func(s *site, _ origin.Location) {
			s.a.Inject(origintest.Faults{Flip: []int64{3 * origin.MinChunkSize}})
		}, true},
		{"it has other data and there is another", true, func(s *site, loc origin.Location) { s.a.Replace(loc, noise(2, n)) }, true},
		{"the data is gone", false, func(s *site, loc origin.Location) { s.a.Delete(context.Background(), loc) }, false},
		{"it says another size", false, func(s *site, _ origin.Location) { s.a.Inject(origintest.Faults{Size: new(int64(n + 1))}) }, false},
		{"it ends early", false, func(s *site, _ origin.Location) { s.a.Inject(origintest.Faults{Cut: new(int64(n - 1))}) }, false},
		{"it sends other bytes than asked for", false, func(s *site, _ origin.Location) { s.a.Inject(origintest.Faults{Shift: 1}) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				img := s.upload(t, s.a, data)
				s.run(t)
				if tt.second {
					s.copy(t, img.ID, "b")
					settle()
				}
				tt.break_(s, img.Locations[0])
				task := s.copy(t, img.ID, "c")
				settle()
				if tt.copied {
					s.wantEnd(t, task.ID, registry.TaskSuccess)
				} else {
					s.wantEnd(t, task.ID, registry.TaskFailure)
					s.wantProperties(t, img.ID, "c")
				}
				if (s.c.Len() == 1) != tt.copied || s.get(t, img.ID).Status != registry.Active {
					t.Errorf("%d copies; log:\n%s", s.c.Len(), s.log.all())
				}
				s.wantClean(t)
				if tt.copied || tt.name == "the data is gone" {
					return
				}
				s.a.set(nil) // whoever wants it asks again
				s.a.Inject(origintest.Faults{})
				s.copy(t, img.ID, "c")
				settle()
				s.wantData(t, img.ID, data, "a", "c")
			})
		})
	}
}

// Each step fails, with and without having done its work: there is a whole copy or
// none, and nothing is left.
func TestFaultsOfTheBooksLeaveAWholeCopyOrNone(t *testing.T) {
	broken := errors.New("broken")
	data := noise(1, 300_000)
	for _, tt := range []struct {
		name   string
		fault  func(s *site)
		copied bool
	}{
		{"the copy does not begin", func(s *site) { s.fail(1, broken, false) }, false},
		{"the copy begins and says that it failed", func(s *site) { s.fail(1, broken, true) }, false},
		{"the registry is away as it begins", func(s *site) { s.fail(1, registry.ErrUnavailable, false) }, true},
		{"the store takes nothing", func(s *site) { s.b.Inject(origintest.Faults{Put: errFull}) }, false},
		{"the store takes it and says that it failed", func(s *site) { s.b.Inject(origintest.Faults{Put: errFull, PutStored: true}) }, false},
		{"the location is not added", func(s *site) { s.failSecond(2, broken, false) }, true},
		{"the location is added and the registry says that it failed", func(s *site) { s.failSecond(1, broken, true) }, true},
		{"the location is never added", func(s *site) { s.failSecond(8, broken, false) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				img := s.upload(t, s.a, data)
				tt.fault(s)
				task := s.copy(t, img.ID, "b")
				s.run(t)
				settle()
				if tt.copied {
					s.wantEnd(t, task.ID, registry.TaskSuccess)
					s.wantData(t, img.ID, data, "a", "b")
					return
				}
				s.wantEnd(t, task.ID, registry.TaskFailure)
				s.wantProperties(t, img.ID, "b")
				s.wantHeld(t, 1)
			})
		})
	}
}

// failSecond lets the copy begin and then fails the calls after it.
func (s *site) failSecond(times int, err error, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = func() { s.fault, s.times, s.done = err, times, done }
}

const (
	away        = "http://images.example.org/debian.img"
	webDownload = `{"method":{"name":"web-download","uri":"` + away + `"}}`
	lenient     = `{"method":{"name":"web-download","uri":"` + away + `"},"all_stores_must_succeed":false}`
)

func TestDownloads(t *testing.T) {
	const n = 5*origin.MinChunkSize + 7
	data := noise(1, n)
	for _, tt := range []struct {
		name, request string
		stores        []string
		fault         func(s *site)
		in            []string // the data is there then
		failed        string
	}{
		{"to the default store", webDownload, nil, nil, []string{"a"}, ""},
		{"to another store", webDownload, []string{"b"}, nil, []string{"b"}, ""},
		{"from a scheme in capitals", strings.Replace(webDownload, "http", "HTTP", 1), []string{"b"}, nil, []string{"b"}, ""},
		{"to several stores", webDownload, []string{"c", "a", "b"}, nil, []string{"c", "a", "b"}, ""},
		{"to several stores that need not all succeed", lenient, []string{"c", "a", "b"}, nil, []string{"c", "a", "b"}, ""},
		{"a connection that breaks again and again", webDownload, []string{"b"}, func(s *site) {
			s.web.set(nil, 100, origin.MinChunkSize+5, 2*origin.MinChunkSize+1)
		}, []string{"b"}, ""},
		{"nothing is there", webDownload, []string{"b", "c"}, func(s *site) { delete(s.web.at, away) }, nil, "b,c"},
		{"the server is down", lenient, []string{"b", "c"}, func(s *site) { s.web.set(errDown) }, nil, "b,c"},
		{"the server breaks off for good", lenient, []string{"b", "c"}, func(s *site) {
			s.web.Inject(origintest.Faults{Cut: new(int64(n - 1))})
		}, nil, "b,c"},
		{"more than is allowed", webDownload, []string{"b"}, func(s *site) { s.im.Limit = n - 1 }, nil, "b"},
		{"as much as is allowed", webDownload, []string{"b"}, func(s *site) { s.im.Limit = n }, []string{"b"}, ""},
		{"more than there is room for", webDownload, []string{"b"}, func(s *site) {
			s.im.Room = func(context.Context, string) (int64, error) { return n - 1, nil }
		}, nil, "b"},
		{"the first store is full", webDownload, []string{"b", "c"}, func(s *site) { s.b.Inject(origintest.Faults{Put: errFull}) }, nil, "b"},
		{"the second store is full", webDownload, []string{"b", "c"}, func(s *site) { s.c.Inject(origintest.Faults{Put: errFull}) }, nil, "c"},
		{"the first of several that need not succeed is full", lenient, []string{"b", "c", "a"},
			func(s *site) { s.b.Inject(origintest.Faults{Put: errFull}) }, []string{"c", "a"}, "b"},
		{"the last of several that need not succeed is full", lenient, []string{"b", "c"},
			func(s *site) { s.c.Inject(origintest.Faults{Put: errFull}) }, []string{"b"}, "c"},
		{"all that need not succeed are full", lenient, []string{"b", "c"}, func(s *site) {
			s.b.Inject(origintest.Faults{Put: errFull})
			s.c.Inject(origintest.Faults{Put: errFull})
		}, nil, "b,c"},
		{"the registry fails as it ends", webDownload, []string{"b"}, func(s *site) { s.failSecond(2, errors.New("broken"), false) }, []string{"b"}, ""},
		{"the registry says so and is wrong", webDownload, []string{"b"}, func(s *site) { s.failSecond(1, errors.New("broken"), true) }, []string{"b"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.web.publish(away, data)
				if tt.fault != nil {
					tt.fault(s)
				}
				id := s.queue(t)
				task := s.order(t, id, tt.request, tt.stores...)
				if img := s.get(t, id); img.Status != registry.Importing || img.Properties[TaskProperty] != task.ID ||
					img.Properties[ImportingProperty] != strings.Join(tt.stores, ",") {
					t.Errorf("image is %s, with %v", img.Status, img.Properties)
				}
				s.run(t)
				settle()
				if tt.in == nil {
					s.wantEnd(t, task.ID, registry.TaskFailure)
					s.wantQueued(t, id, tt.failed)
					return
				}
				s.wantEnd(t, task.ID, registry.TaskSuccess)
				img := s.get(t, id)
				if len(img.Locations) != len(tt.in) || img.Status != registry.Active || img.Digest != digestOf(t, data) {
					t.Fatalf("image is %s, at %v; log:\n%s", img.Status, img.Locations, s.log.all())
				}
				for i, loc := range img.Locations {
					if name, _ := s.stores.NameOf(loc); name != tt.in[i] {
						t.Errorf("location %d is in %s, want %s", i, name, tt.in[i])
					}
				}
				s.wantProperties(t, id, tt.failed)
				s.wantHeld(t, len(tt.in))
			})
		})
	}
}

func TestADownloadThatBreaksGoesOnWhereItBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.web.publish(away, noise(1, 3<<20))
		s.web.set(nil, 1<<20)
		s.run(t)
		task := s.order(t, s.queue(t), webDownload, "b")
		settle()
		s.wantEnd(t, task.ID, registry.TaskSuccess)
		if got := s.web.seen(); len(got) != 2 || got[0] != 0 || got[1] != 1<<20 {
			t.Errorf("the server was asked for the bytes from %d on", got)
		}
	})
}

func TestNothingShowsBeforeAllStoresHaveTheData(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		status        registry.Status
	}{
		{"all must succeed", webDownload, registry.Importing},
		{"all need not succeed", lenient, registry.Active},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				data := noise(1, 3<<20)
				s.web.publish(away, data)
				gate := origintest.NewGate(1 << 20)
				s.b.Inject(origintest.Faults{Gate: gate}) // whose object is read for the next
				s.run(t)
				id := s.queue(t)
				task := s.order(t, id, tt.request, "b", "c")
				<-gate.Reached
				time.Sleep(reportEvery + time.Second)
				img := s.get(t, id)
				if img.Status != tt.status || img.Properties[ImportingProperty] != "c" {
					t.Errorf("image is %s, with %v", img.Status, img.Properties)
				}
				if got := s.task(t, task.ID); got.Status != registry.TaskProcessing || got.Message != "writing to store c" ||
					!strings.Contains(string(got.Result), `"size":3145728`) || got.Secret != "" {
					t.Errorf("task %+v with %s", got, got.Result)
				}
				close(gate.Pass)
				settle()
				s.b.Inject(origintest.Faults{})
				s.wantData(t, id, data, "b", "c")
			})
		})
	}
}

func TestStagedDataIsImported(t *testing.T) {
	data := noise(1, 600_000)
	for _, tt := range []struct {
		name, request string
		stores        []string
		puts          int64 // in a: that of the stage is one
		broken        bool
	}{
		{"where it is", `{"method":{"name":"glance-direct"}}`, []string{"a"}, 1, false},
		{"to the default store, which is where it is", `{"method":{"name":"glance-direct"}}`, nil, 1, false},
		{"to another store", `{"method":{"name":"glance-direct"}}`, []string{"b"}, 1, false},
		{"to both", `{"method":{"name":"glance-direct"}}`, []string{"a", "b"}, 1, false},
		{"to both, the other way round", `{"method":{"name":"glance-direct"}}`, []string{"b", "a"}, 1, false},
		{"to both, which need not succeed", `{"method":{"name":"glance-direct"},"all_stores_must_succeed":false}`, []string{"a", "b"}, 1, false},
		{"to a store that is full", `{"method":{"name":"glance-direct"}}`, []string{"a", "b"}, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				id := s.queue(t)
				s.stage(t, id, s.a, data)
				if tt.broken {
					s.b.Inject(origintest.Faults{Put: errFull})
				}
				s.run(t)
				task := s.order(t, id, tt.request, tt.stores...)
				settle()
				if s.a.Puts.Load() != tt.puts {
					t.Errorf("%d puts", s.a.Puts.Load())
				}
				if tt.broken {
					s.wantEnd(t, task.ID, registry.TaskFailure)
					s.wantQueued(t, id, "b")
					return
				}
				s.wantEnd(t, task.ID, registry.TaskSuccess)
				in := tt.stores
				if len(in) == 0 || len(in) == 2 {
					in = []string{"a", "b"}[:max(len(in), 1)]
				}
				s.wantData(t, id, data, in...)
			})
		})
	}
}

func TestImagesOfOtherRegionsAreImported(t *testing.T) {
	data := noise(1, 600_000)
	const theirs, request = "7f8a1c54-52b5-4f0a-8d32-000000000001", `{"method":{"name":"glance-download",
		"glance_region":"east","glance_image_id":"7f8a1c54-52b5-4f0a-8d32-000000000001"}}`
	for _, tt := range []struct {
		name   string
		change func(s *site, img *registry.Image)
		get    error
		want   bool
	}{
		{"as it is", func(*site, *registry.Image) {}, nil, true},
		{"by an older registry, which knows no SHA-512", func(_ *site, img *registry.Image) { img.HashAlgo, img.HashValue = "", "" }, nil, true},
		{"there is none", nil, registry.ErrNotFound, false},
		{"the region does not answer", nil, registry.ErrUnavailable, false},
		{"it is not active there", func(_ *site, img *registry.Image) { img.Status = registry.Queued }, nil, false},
		{"its data is not what it says", func(_ *site, img *registry.Image) { img.HashValue = strings.Repeat("0", 128) }, nil, false},
		{"its data is shorter than it says", func(_ *site, img *registry.Image) { img.Size = new(int64(7)) }, nil, false},
		{"its data is gone", func(s *site, _ *registry.Image) { delete(s.web.at, away) }, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.web.publish(away, data)
				img := s.upload(t, &origintest.Fake{}, data).Clone()
				img.ID, img.DiskFormat = theirs, "qcow2"
				img.Properties = map[string]string{"hw_disk_bus": "scsi", "trait:X": "required", "os_type": "linux", "colour": "red"}
				if tt.change != nil {
					tt.change(s, img)
				}
				s.im.Peer = func(region, token string) (*Peer, error) {
					if region != "east" || token != "the token" {
						t.Errorf("region %s, token %s", region, token)
					}
					return &Peer{
						Get: func(_ context.Context, id string) (*registry.Image, error) {
							if id != theirs {
								t.Errorf("image %s", id)
							}
							return img, tt.get
						},
						Store: s.web, Locate: func(string) origin.Location { return origin.Location{URL: away} },
					}, nil
				}
				s.run(t)
				id := s.queue(t)
				task := s.order(t, id, request, "b")
				settle()
				got := s.get(t, id)
				if !tt.want {
					s.wantEnd(t, task.ID, registry.TaskFailure)
					s.wantQueued(t, id, "b")
					if got.DiskFormat != "raw" || len(got.Properties) != 2 {
						t.Errorf("it was touched: %s, %v", got.DiskFormat, got.Properties)
					}
					return
				}
				s.wantEnd(t, task.ID, registry.TaskSuccess)
				s.wantData(t, id, data, "b")
				if p := got.Properties; got.DiskFormat != "qcow2" || p["hw_disk_bus"] != "scsi" || p["trait:X"] != "required" || p["os_type"] != "linux" || p["colour"] != "" {
					t.Errorf("%s, %v", got.DiskFormat, p)
				}
				if s.log.with("the token") > 0 {
					t.Error("the log has the token")
				}
			})
		})
	}
}

func TestImportsOfTheTasksAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.web.publish(away, []byte("hello"))
		s.run(t)
		id := s.queue(t)
		task := New(registry.TaskImport, id, Download{From: away, Format: "raw"})
		s.add(t, task, Announce(task, []string{"a"}))
		settle()
		if got := s.wantEnd(t, task.ID, registry.TaskSuccess); string(got.Result) != `{"image_id":"`+id+`"}` {
			t.Errorf("result %s", got.Result)
		}
		s.wantData(t, id, []byte("hello"), "a")
	})
}
