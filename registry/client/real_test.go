package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/client"
)

// newData returns n bytes that are the same each time.
func newData(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{2}).Read(b)
	return b
}

// ready starts a site and makes a queued image of red.
func ready(t *testing.T, img *registry.Image) (*site, *client.Client, string) {
	t.Helper()
	s := newSite()
	t.Cleanup(s.Close)
	red := s.as("red")
	if img == nil {
		img = &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"}
	}
	made, err := red.Create(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	return s, red, made.ID
}

// want checks an error, nil for none.
func want(t *testing.T, doing string, err, is error) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Fatalf("%s: error %v, want %v", doing, err, is)
	}
}

func TestDataGoesToTheServerAndBack(t *testing.T) {
	_, red, id := ready(t, nil)
	ctx := t.Context()
	data := newData(10 << 20)
	want(t, "upload", red.Upload(ctx, id, bytes.NewReader(data), int64(len(data))), nil)
	want(t, "a second upload", red.Upload(ctx, id, bytes.NewReader(data), int64(len(data))), registry.ErrConflict)
	img, err := red.Get(ctx, id)
	want(t, "get", err, nil)
	for _, n := range []int{1, 4} {
		path := filepath.Join(t.TempDir(), "image")
		want(t, "save", red.Save(ctx, img, path, client.SaveOptions{Parallel: n}), nil)
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d connections: %d bytes, %v", n, len(got), err)
		}
	}
	part, err := red.Download(ctx, id, client.Range{Offset: 5, Length: 3})
	want(t, "download", err, nil)
	defer part.Body.Close()
	if got, err := io.ReadAll(part.Body); err != nil || !bytes.Equal(got, data[5:8]) {
		t.Errorf("%x, %v", got, err)
	}
	_, err = red.Download(ctx, id, client.Range{ETag: `"other"`})
	want(t, "another version", err, origin.ErrChanged)
}

func TestSharing(t *testing.T) {
	s, red, id := ready(t, nil)
	ctx := t.Context()
	blue := s.as("blue")
	listed := func() bool {
		for img, err := range blue.List(ctx, registry.Query{Visibility: registry.Shared}) {
			want(t, "list", err, nil)
			if img.ID == id {
				return true
			}
		}
		return false
	}
	_, err := blue.Get(ctx, id)
	want(t, "get of a stranger", err, registry.ErrNotFound)
	m, err := red.AddMember(ctx, id, "blue")
	want(t, "share", err, nil)
	if m.Status != registry.Pending || m.CreatedAt.IsZero() {
		t.Errorf("member %+v", m)
	}
	_, err = red.AddMember(ctx, id, "blue")
	want(t, "share twice", err, registry.ErrConflict)
	_, err = blue.Get(ctx, id)
	want(t, "get of a member", err, nil)
	if listed() {
		t.Error("it is listed before it was accepted")
	}
	_, err = red.SetMember(ctx, id, "blue", registry.Accepted)
	want(t, "the owner accepts", err, registry.ErrForbidden)
	_, err = blue.SetMember(ctx, id, "blue", "maybe")
	want(t, "a word that is none", err, registry.ErrInvalid)
	m, err = blue.SetMember(ctx, id, "blue", registry.Accepted)
	want(t, "accept", err, nil)
	if m.Status != registry.Accepted || !listed() {
		t.Errorf("member %+v", m)
	}
	members, err := red.Members(ctx, id)
	want(t, "members", err, nil)
	one, err := blue.Member(ctx, id, "blue")
	want(t, "member", err, nil)
	if len(members) != 1 || members[0] != one {
		t.Errorf("members %+v, member %+v", members, one)
	}
	want(t, "the member leaves", blue.RemoveMember(ctx, id, "blue"), registry.ErrForbidden)
	want(t, "share no more", red.RemoveMember(ctx, id, "blue"), nil)
	want(t, "share no more twice", red.RemoveMember(ctx, id, "blue"), registry.ErrNotFound)
	_, err = blue.Get(ctx, id)
	want(t, "get of a stranger again", err, registry.ErrNotFound)
}

func TestActions(t *testing.T) {
	s, red, id := ready(t, nil)
	ctx := t.Context()
	want(t, "deactivate without data", red.Deactivate(ctx, id), registry.ErrForbidden)
	want(t, "upload", red.Upload(ctx, id, strings.NewReader("hello"), 5), nil)
	want(t, "deactivate", red.Deactivate(ctx, id), nil)
	_, err := red.Download(ctx, id, client.Range{})
	want(t, "download", err, registry.ErrForbidden)
	want(t, "reactivate", red.Reactivate(ctx, id), nil)
	want(t, "reactivate again", red.Reactivate(ctx, id), nil)
	want(t, "for a stranger", s.as("blue").Deactivate(ctx, id), registry.ErrNotFound)
}

func TestImports(t *testing.T) {
	s, red, id := ready(t, nil)
	ctx := t.Context()
	methods, err := red.ImportMethods(ctx)
	want(t, "methods", err, nil)
	if !slices.Contains(methods, client.Direct) || !slices.Contains(methods, client.CopyImage) {
		t.Fatalf("methods %q", methods)
	}
	want(t, "import of nothing", red.Import(ctx, id, client.ImportOptions{Method: client.Direct}), registry.ErrConflict)
	want(t, "import by nothing", red.Import(ctx, id, client.ImportOptions{}), registry.ErrInvalid)
	want(t, "stage", red.Stage(ctx, id, strings.NewReader("hello"), 5), nil)
	want(t, "import", red.Import(ctx, id, client.ImportOptions{Method: client.Direct}), nil)
	var last client.Progress
	img, err := red.WaitImported(ctx, id, func(p client.Progress) { last = p })
	want(t, "wait", err, nil)
	if img.Status != registry.Active || *img.Size != 5 || last.Status != registry.Active {
		t.Errorf("image %+v after %+v", img, last)
	}
	admin := s.as("admin")
	want(t, "copy", red.CopyTo(ctx, id, "fast"), registry.ErrForbidden)
	want(t, "copy", admin.CopyTo(ctx, id, "fast"), nil)
	_, err = admin.WaitImported(ctx, id, nil)
	want(t, "wait for the copy", err, nil)
	locations, err := admin.Locations(ctx, id)
	want(t, "locations", err, nil)
	if len(locations) != 2 || locations[0].Metadata["store"] != "fast" {
		t.Errorf("locations %+v", locations)
	}
	tasks, err := red.Tasks(ctx, id)
	want(t, "tasks", err, nil)
	if len(tasks) != 1 || tasks[0].Status != registry.TaskSuccess || tasks[0].ImageID != id || !json.Valid(tasks[0].Input) {
		t.Errorf("tasks %+v", tasks)
	}
	n := 0
	for task, err := range admin.ListTasks(ctx, registry.TaskQuery{Status: registry.TaskSuccess, Sort: []registry.Order{{Key: "created_at"}}, Limit: 1}) {
		want(t, "list of tasks", err, nil)
		again, err := admin.WaitTask(ctx, task.ID, nil)
		want(t, "task", err, nil)
		if again.ID != task.ID || again.ImageID != id {
			t.Errorf("task %+v, and %+v", task, again)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d tasks, want 2", n)
	}
	_, err = red.Task(ctx, tasks[0].ID)
	want(t, "a task for members", err, registry.ErrForbidden)
	_, err = admin.CreateTask(ctx, "export", map[string]string{})
	want(t, "a task of no type", err, registry.ErrInvalid)
	want(t, "remove from a store", admin.RemoveFrom(ctx, id, "fast"), nil)
}

func TestWhatServersTellOfThemselves(t *testing.T) {
	s, red, _ := ready(t, nil)
	ctx := t.Context()
	nobody, err := client.New(client.Options{Server: s.URL})
	want(t, "new", err, nil)
	defer nobody.Close()
	versions, err := nobody.Versions(ctx)
	want(t, "versions", err, nil)
	if !slices.ContainsFunc(versions, func(v client.Version) bool { return v.Status == "CURRENT" && strings.HasSuffix(v.URL, "/v2/") }) {
		t.Errorf("versions %+v", versions)
	}
	_, err = nobody.Usage(ctx)
	want(t, "usage without a token", err, client.ErrUnauthorized)
	usage, err := red.Usage(ctx)
	want(t, "usage", err, nil)
	if len(usage) != 0 {
		t.Errorf("usage %+v without quotas", usage)
	}
	for _, name := range []string{"image", "images", "member", "members", "task", "tasks"} {
		doc, err := red.Schema(ctx, name)
		want(t, "schema", err, nil)
		if !json.Valid(doc) {
			t.Errorf("schema %s: %s", name, doc)
		}
	}
	_, err = red.Schema(ctx, "nothing")
	want(t, "schema of nothing", err, registry.ErrNotFound)
	_, err = red.StoreDetails(ctx)
	want(t, "details of stores", err, registry.ErrForbidden)
	stores, err := red.Stores(ctx)
	want(t, "stores", err, nil)
	if len(stores) != 2 || stores[0].ID != "disk" || !stores[0].Default {
		t.Errorf("stores %+v", stores)
	}
	stores, err = s.as("admin").StoreDetails(ctx)
	want(t, "details of stores for admins", err, nil)
	if len(stores) != 2 || stores[1].Weight != 2 {
		t.Errorf("stores %+v", stores)
	}
}

// What one face stores the other shows.
func TestTheAPIOf2011(t *testing.T) {
	s, red, id := ready(t, nil)
	ctx := t.Context()
	old, err := client.NewV1(client.Options{Server: s.URL, Token: "red"})
	want(t, "new", err, nil)
	defer old.Close()
	yes, size := true, int64(5)
	img, err := old.AddImage(ctx, &client.V1Image{Name: "n\u00e4me", DiskFormat: "raw", ContainerFormat: "bare", Protected: &yes, Size: &size,
		Properties: map[string]string{"os_distro": "k"}}, strings.NewReader("hello"))
	want(t, "add", err, nil)
	if img.Status != registry.Active || *img.Size != 5 || img.Checksum == "" {
		t.Errorf("image %+v", img)
	}
	meta, body, err := old.Image(ctx, img.ID)
	want(t, "get", err, nil)
	defer body.Close()
	data, err := io.ReadAll(body)
	want(t, "read", err, nil)
	if string(data) != "hello" || meta.Name != "n\u00e4me" || meta.Properties["os_distro"] != "k" || meta.ID != img.ID || meta.CreatedAt.IsZero() {
		t.Errorf("%q of %+v", data, meta)
	}
	now, err := red.Get(ctx, img.ID)
	want(t, "get of v2", err, nil)
	if *now.Name != "n\u00e4me" || !now.Protected {
		t.Errorf("image of v2 %+v", now)
	}
	want(t, "delete of a protected image", old.DeleteImage(ctx, img.ID), registry.ErrForbidden)
	no := false
	img, err = old.UpdateImage(ctx, img.ID, &client.V1Image{Protected: &no, Properties: map[string]string{"a": "b"}}, nil, true)
	want(t, "update", err, nil)
	if len(img.Properties) != 1 || *img.Protected {
		t.Errorf("image %+v", img)
	}
	_, err = old.UpdateImage(ctx, img.ID, nil, strings.NewReader("more"), false)
	want(t, "more data", err, registry.ErrConflict)
	_, err = old.UpdateImage(ctx, id, nil, strings.NewReader("late"), false)
	want(t, "late data", err, nil)
	_, err = old.AddImage(ctx, &client.V1Image{ID: id}, nil)
	want(t, "add what is there", err, registry.ErrConflict)

	want(t, "share", old.AddMember(ctx, id, client.V1Member{Project: "blue", CanShare: true}), nil)
	members, err := old.Members(ctx, id)
	want(t, "members", err, nil)
	if len(members) != 1 || members[0] != (client.V1Member{Project: "blue", CanShare: true}) {
		t.Errorf("members %+v", members)
	}
	want(t, "share with others", old.ReplaceMembers(ctx, id, []client.V1Member{{Project: "green"}}), nil)
	want(t, "share no more", old.DeleteMember(ctx, id, "green"), nil)
	want(t, "delete", old.DeleteImage(ctx, img.ID), nil)
	_, err = old.ImageMeta(ctx, img.ID)
	want(t, "get what was deleted", err, registry.ErrNotFound)
}

func TestListsOf2011(t *testing.T) {
	s := newSite()
	defer s.Close()
	ctx := t.Context()
	old, err := client.NewV1(client.Options{Server: s.URL, Token: "admin"})
	want(t, "new", err, nil)
	defer old.Close()
	yes := true
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		_, err := old.AddImage(ctx, &client.V1Image{Name: name, DiskFormat: "raw", ContainerFormat: "bare", Public: &yes}, strings.NewReader(name))
		want(t, "add", err, nil)
	}
	records, err := client.NewRegistryV1(client.Options{Server: s.RegistryURL, Token: "admin"})
	want(t, "new", err, nil)
	defer records.Close()
	q := client.V1Query{Filters: map[string]string{"disk_format": "raw"}, SortKey: "name", SortDir: "asc"}
	for name, list := range map[string]func(context.Context, client.V1Query) func(func(*client.V1Image, error) bool){
		"brief": func(ctx context.Context, q client.V1Query) func(func(*client.V1Image, error) bool) {
			return old.Images(ctx, q)
		},
		"detailed": func(ctx context.Context, q client.V1Query) func(func(*client.V1Image, error) bool) {
			return old.ImagesDetailed(ctx, q)
		},
		"registry's brief": func(ctx context.Context, q client.V1Query) func(func(*client.V1Image, error) bool) {
			return records.Images(ctx, q)
		},
		"registry": func(ctx context.Context, q client.V1Query) func(func(*client.V1Image, error) bool) {
			return records.ImagesDetailed(ctx, q)
		},
	} {
		var names string
		for img, err := range list(ctx, q) {
			want(t, name, err, nil)
			names += img.Name
		}
		if names != "abcde" {
			t.Errorf("%s list %q", name, names)
		}
	}
}

func TestTheRegistryAPI(t *testing.T) {
	s := newSite()
	defer s.Close()
	ctx := t.Context()
	r, err := client.NewRegistryV1(client.Options{Server: s.RegistryURL, Token: "admin"})
	want(t, "new", err, nil)
	defer r.Close()
	img, err := r.AddImage(ctx, &client.V1Image{Name: "n", Status: registry.Queued, DiskFormat: "raw", ContainerFormat: "bare", Properties: map[string]string{"a": "b"}})
	want(t, "add", err, nil)
	_, err = r.AddImage(ctx, &client.V1Image{ID: img.ID, Status: registry.Queued})
	want(t, "add again", err, registry.ErrConflict)
	img, err = r.UpdateImage(ctx, img.ID, &client.V1Image{Name: "m", Properties: map[string]string{"c": "d"}}, true)
	want(t, "update", err, nil)
	if img.Name != "m" || len(img.Properties) != 1 || img.Status != registry.Queued {
		t.Errorf("image %+v", img)
	}
	same, err := r.Image(ctx, img.ID)
	want(t, "show", err, nil)
	if same.Name != "m" {
		t.Errorf("image %+v", same)
	}
	want(t, "delete", r.DeleteImage(ctx, img.ID), nil)
	_, err = r.Image(ctx, img.ID)
	want(t, "show what was deleted", err, registry.ErrNotFound)
}
