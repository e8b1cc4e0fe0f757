package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imageimport"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/members"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/tasks"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

// A cloud is a server whose callers are told apart, seen through gophercloud.
type cloud struct {
	*testing.T
	dir string
	p   *server
}

// newCloud starts the real program. Everything at loopback may be imported.
func newCloud(t *testing.T) *cloud {
	c := &cloud{T: t, dir: t.TempDir()}
	log, err := os.Create(filepath.Join(c.dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	c.token("nobody", "reader") // so that there is a file
	env := append(os.Environ(), "NEARSIGHT_IDENTITY_KIND=tokens", "NEARSIGHT_IDENTITY_TOKENS=tokens.json",
		"NEARSIGHT_STORES_WEB_KIND=http", "NEARSIGHT_STORES_WEB_ALLOW=127.0.0.0/8", "NEARSIGHT_STORES_WEB_ALLOW_PORTS=1-65535", "NEARSIGHT_STORES_MORE_KIND=file",
		"NEARSIGHT_STORES_MORE_DIRS="+filepath.Join(c.dir, "more"))
	c.p, err = startServer("nearsight", c.dir, env, []string{"--data", "data", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.p.kill)
	select {
	case <-c.p.ready:
	case <-c.p.exited:
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("the server ended: %v\n%s", c.p.err, text)
	case <-time.After(patience):
		t.Fatal("the server is not ready")
	}
	return c
}

// token makes a token of a project.
func (c *cloud) token(project, role string) string {
	cmd := exec.Command("nearsight", "token", "create", "--file", "tokens.json", "--project", project, "--role", role, "--name", project+"-"+role)
	cmd.Dir = c.dir
	out, err := cmd.Output()
	if err != nil {
		c.Fatalf("token create: %v", err)
	}
	words := strings.Fields(string(out))
	return words[len(words)-1]
}

// as returns the image service for one who has a new token.
func (c *cloud) as(project, role string) *gophercloud.ServiceClient {
	provider := &gophercloud.ProviderClient{TokenID: c.token(project, role)}
	url := "http://" + c.p.listen + "/"
	return &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: url, ResourceBase: url + "v2/", Type: "image"}
}

func (c *cloud) create(as *gophercloud.ServiceClient, opts images.CreateOpts) *images.Image {
	c.Helper()
	if opts.DiskFormat == "" {
		opts.DiskFormat, opts.ContainerFormat = "raw", "bare"
	}
	img, err := images.Create(c.Context(), as, opts).Extract()
	if err != nil {
		c.Fatal(err)
	}
	return img
}

// filled returns an image with data.
func (c *cloud) filled(as *gophercloud.ServiceClient, name string, data []byte) *images.Image {
	c.Helper()
	img := c.create(as, images.CreateOpts{Name: name})
	if err := imagedata.Upload(c.Context(), as, img.ID, bytes.NewReader(data)).ExtractErr(); err != nil {
		c.Fatal(err)
	}
	return img
}

func (c *cloud) data(as *gophercloud.ServiceClient, id string) []byte {
	c.Helper()
	body, err := imagedata.Download(c.Context(), as, id).Extract()
	if err != nil {
		c.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		c.Fatal(err)
	}
	return data
}

// list returns the ids of a list, of all its pages.
func (c *cloud) list(as *gophercloud.ServiceClient, opts images.ListOpts) (ids []string) {
	c.Helper()
	err := images.List(as, opts).EachPage(c.Context(), func(_ context.Context, page pagination.Page) (bool, error) {
		found, err := images.ExtractImages(page)
		for _, img := range found {
			ids = append(ids, img.ID)
		}
		return true, err
	})
	if err != nil {
		c.Fatal(err)
	}
	return ids
}

// awaitActive waits for the end of an import.
func (c *cloud) awaitActive(as *gophercloud.ServiceClient, id string) {
	c.Helper()
	often := time.NewTicker(50 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		img, err := images.Get(c.Context(), as, id).Extract()
		if err != nil {
			c.Fatal(err)
		}
		if img.Status == images.ImageStatusActive {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			c.Fatalf("image %s is %s", id, img.Status)
		}
	}
}

// wantStatus fails the test unless err is an answer with this status.
func (c *cloud) wantStatus(err error, status int) {
	c.Helper()
	if !gophercloud.ResponseCodeIs(err, status) {
		c.Errorf("%v; want status %d", err, status)
	}
}

// TestGophercloud drives the image service of gophercloud against the real program.
func TestGophercloud(t *testing.T) {
	c := newCloud(t)
	one, two, ops := c.as("one", "member"), c.as("two", "member"), c.as("ops", "admin")
	ctx := t.Context()
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	for _, tt := range []struct {
		name string
		run  func(*cloud)
	}{
		{"an image is made, filled, read, changed and deleted", func(c *cloud) {
			img := c.filled(one, "main", data)
			got, err := images.Get(ctx, one, img.ID).Extract()
			if err != nil || got.Status != images.ImageStatusActive || got.SizeBytes != int64(len(data)) || got.Owner != "one" {
				t.Fatalf("%+v, %v", got, err)
			}
			if !bytes.Equal(c.data(one, img.ID), data) {
				t.Error("other bytes came back")
			}
			hidden := images.ReplaceImageHidden{NewHidden: true}
			got, err = images.Update(ctx, one, img.ID, images.UpdateOpts{
				images.ReplaceImageName{NewName: "other"}, images.ReplaceImageTags{NewTags: []string{"a", "b"}},
				images.ReplaceImageMinDisk{NewMinDisk: 3}, images.ReplaceImageMinRam{NewMinRam: 4}, hidden,
				images.ReplaceImageProtected{NewProtected: true},
				images.UpdateImageProperty{Op: images.AddOp, Name: "os_distro", Value: "debian"},
			}).Extract()
			if err != nil || got.Name != "other" || got.MinDiskGigabytes != 3 || got.MinRAMMegabytes != 4 || !got.Hidden ||
				!got.Protected || len(got.Tags) != 2 || got.Properties["os_distro"] != "debian" {
				t.Fatalf("%+v, %v", got, err)
			}
			c.wantStatus(images.Delete(ctx, one, img.ID).ExtractErr(), http.StatusForbidden)
			_, err = images.Update(ctx, one, img.ID, images.UpdateOpts{images.ReplaceImageProtected{NewProtected: false}}).Extract()
			if err != nil {
				t.Fatal(err)
			}
			if err := images.Delete(ctx, one, img.ID).ExtractErr(); err != nil {
				t.Fatal(err)
			}
			c.wantStatus(images.Get(ctx, one, img.ID).Err, http.StatusNotFound)
		}},
		{"300 images are listed in pages, each once and in order", func(c *cloud) {
			many := c.as("many", "member")
			want := map[string]bool{}
			for i := range 300 {
				want[c.create(many, images.CreateOpts{Name: fmt.Sprintf("n%03d", i%50)}).ID] = true
			}
			got := c.list(many, images.ListOpts{Limit: 7, Sort: "name:asc,created_at:desc"})
			if len(got) != 300 {
				t.Fatalf("%d images", len(got))
			}
			for _, id := range got {
				if !want[id] {
					t.Errorf("image %s twice, or of somebody else", id)
				}
				delete(want, id)
			}
		}},
		{"filters find what they say", func(c *cloud) {
			mine := c.as("filters", "member")
			small := c.filled(mine, "small", data[:1000])
			large := c.filled(mine, "large", data)
			tagged := c.create(mine, images.CreateOpts{Name: "tagged", Tags: []string{"x", "y"}, DiskFormat: "qcow2", ContainerFormat: "ovf"})
			for _, f := range []struct {
				opts images.ListOpts
				want []string
			}{
				{images.ListOpts{Name: "small"}, []string{small.ID}},
				{images.ListOpts{Name: "in:small,large", Sort: "name:asc"}, []string{large.ID, small.ID}},
				{images.ListOpts{Status: images.ImageStatusQueued}, []string{tagged.ID}},
				{images.ListOpts{Tags: []string{"x", "y"}}, []string{tagged.ID}},
				{images.ListOpts{Tags: []string{"x", "z"}}, nil},
				{images.ListOpts{DiskFormat: "qcow2"}, []string{tagged.ID}},
				{images.ListOpts{ContainerFormat: "in:ovf,ami"}, []string{tagged.ID}},
				{images.ListOpts{ID: large.ID}, []string{large.ID}},
				{images.ListOpts{Owner: "filters", SortKey: "size", SortDir: "desc", Status: images.ImageStatusActive}, []string{large.ID, small.ID}},
				{images.ListOpts{Visibility: images.ImageVisibilityPublic}, nil},
				{images.ListOpts{CreatedAtQuery: &images.ImageDateQuery{Date: small.CreatedAt, Filter: images.FilterLT}}, nil},
			} {
				if got := c.list(mine, f.opts); !slices.Equal(got, f.want) {
					t.Errorf("%+v: %v; want %v", f.opts, got, f.want)
				}
			}
		}},
		{"an image is shared, accepted, rejected and taken back", func(c *cloud) {
			img := c.filled(one, "shared", data[:5000])
			c.wantStatus(images.Get(ctx, two, img.ID).Err, http.StatusNotFound)
			m, err := members.Create(ctx, one, img.ID, "two").Extract()
			if err != nil || m.Status != "pending" || m.MemberID != "two" || m.ImageID != img.ID {
				t.Fatalf("%+v, %v", m, err)
			}
			c.wantStatus(members.Create(ctx, one, img.ID, "two").Err, http.StatusConflict)
			c.wantStatus(members.Update(ctx, one, img.ID, "two", members.UpdateOpts{Status: "accepted"}).Err, http.StatusForbidden)
			for _, step := range []struct {
				status string
				listed bool
			}{{"accepted", true}, {"rejected", false}, {"accepted", true}} {
				if _, err := members.Update(ctx, two, img.ID, "two", members.UpdateOpts{Status: step.status}).Extract(); err != nil {
					t.Fatal(err)
				}
				if got := slices.Contains(c.list(two, images.ListOpts{}), img.ID); got != step.listed {
					t.Errorf("%s: listed %v", step.status, got)
				}
				if !bytes.Equal(c.data(two, img.ID), data[:5000]) {
					t.Error("other bytes came")
				}
			}
			pages, err := members.List(one, img.ID).AllPages(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if all, err := members.ExtractMembers(pages); err != nil || len(all) != 1 || all[0].Status != "accepted" {
				t.Errorf("%+v, %v", all, err)
			}
			if err := members.Delete(ctx, one, img.ID, "two").ExtractErr(); err != nil {
				t.Fatal(err)
			}
			c.wantStatus(images.Get(ctx, two, img.ID).Err, http.StatusNotFound)
			c.wantStatus(members.Get(ctx, one, img.ID, "two").Err, http.StatusNotFound)
		}},
		{"only admins make an image public, and then everybody reads it", func(c *cloud) {
			img := c.filled(one, "public", data[:100])
			public := images.UpdateOpts{images.UpdateVisibility{Visibility: images.ImageVisibilityPublic}}
			c.wantStatus(images.Update(ctx, one, img.ID, public).Err, http.StatusForbidden)
			if _, err := images.Update(ctx, ops, img.ID, public).Extract(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.data(two, img.ID), data[:100]) {
				t.Error("other bytes came")
			}
			c.wantStatus(images.Delete(ctx, two, img.ID).ExtractErr(), http.StatusForbidden)
		}},
		{"staged data is imported", func(c *cloud) {
			img := c.create(one, images.CreateOpts{Name: "staged"})
			if err := imagedata.Stage(ctx, one, img.ID, bytes.NewReader(data)).ExtractErr(); err != nil {
				t.Fatal(err)
			}
			if err := imageimport.Create(ctx, one, img.ID, imageimport.CreateOpts{Name: imageimport.GlanceDirectMethod}).ExtractErr(); err != nil {
				t.Fatal(err)
			}
			c.awaitActive(one, img.ID)
			if !bytes.Equal(c.data(one, img.ID), data) {
				t.Error("other bytes came back")
			}
		}},
		{"data is imported from the web, and a task tells of it", func(c *cloud) {
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(data))
			}))
			defer web.Close()
			info, err := imageimport.Get(ctx, one).Extract()
			if err != nil || !slices.Contains(info.ImportMethods.Value, "web-download") {
				t.Fatalf("%+v, %v", info, err)
			}
			img := c.create(one, images.CreateOpts{Name: "web"})
			if err := imageimport.Create(ctx, one, img.ID, imageimport.CreateOpts{Name: imageimport.WebDownloadMethod, URI: web.URL}).ExtractErr(); err != nil {
				t.Fatal(err)
			}
			c.awaitActive(one, img.ID)
			if !bytes.Equal(c.data(two, c.reveal(ops, img.ID)), data) {
				t.Error("other bytes came back")
			}
			pages, err := tasks.List(ops, tasks.ListOpts{}).AllPages(ctx)
			if err != nil {
				t.Fatal(err)
			}
			all, err := tasks.ExtractTasks(pages)
			if err != nil || len(all) == 0 {
				t.Fatalf("%+v, %v", all, err)
			}
			if got, err := tasks.Get(ctx, ops, all[0].ID).Extract(); err != nil || got.Status != "success" && got.Status != "processing" {
				t.Errorf("%+v, %v", got, err)
			}
			c.wantStatus(tasks.Get(ctx, one, all[0].ID).Err, http.StatusForbidden)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(&cloud{T: t, dir: c.dir, p: c.p}) })
	}
}

// reveal makes an image public and returns its id.
func (c *cloud) reveal(as *gophercloud.ServiceClient, id string) string {
	c.Helper()
	public := images.UpdateOpts{images.UpdateVisibility{Visibility: images.ImageVisibilityPublic}}
	if _, err := images.Update(c.Context(), as, id, public).Extract(); err != nil {
		c.Fatal(err)
	}
	return id
}
