package v1_test

import (
	"errors"
	"io"
	"iter"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/client"
)

// TestOurClientUnderstandsTheServer: the two were written from the same document.
func TestOurClientUnderstandsTheServer(t *testing.T) {
	g := newRig(t, "")
	ctx := t.Context()
	c, err := client.NewV1(client.Options{Server: g.api})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	public := true
	img, err := c.AddImage(ctx, &client.V1Image{Name: "a b", DiskFormat: "raw", ContainerFormat: "bare", Public: &public,
		Checksum: sum("data"), Properties: map[string]string{"os_type": "linux"}}, strings.NewReader("data"))
	if err != nil || img.Status != registry.Active || img.Checksum != sum("data") || img.Properties["os_type"] != "linux" || !*img.Public {
		t.Fatalf("%+v, %v", img, err)
	}
	got, body, err := c.Image(ctx, img.ID)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(body)
	if body.Close(); err != nil || string(data) != "data" || got.Name != "a b" || *got.Size != 4 || !got.CreatedAt.Equal(g.image(img.ID).CreatedAt.Truncate(1000)) {
		t.Errorf("%+v, %q, %v", got, data, err)
	}
	if n := count(t, c.Images(ctx, client.V1Query{Limit: 1})); n != 1 {
		t.Errorf("%d images", n)
	}
	if got, err = c.UpdateImage(ctx, img.ID, &client.V1Image{Name: "c"}, nil, true); err != nil || got.Name != "c" || len(got.Properties) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.AddImage(ctx, &client.V1Image{ID: img.ID}, nil); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("a duplicate: %v", err)
	}

	r, err := client.NewRegistryV1(client.Options{Server: g.records})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err = r.Image(ctx, img.ID); err != nil || got.Name != "c" || got.Location == "" {
		t.Errorf("%+v, %v", got, err)
	}
	if n := count(t, r.ImagesDetailed(ctx, client.V1Query{})); n != 1 {
		t.Errorf("%d records", n)
	}
	if got, err = r.AddImage(ctx, &client.V1Image{Name: "d", Status: registry.Queued}); err != nil || got.Status != registry.Queued {
		t.Errorf("%+v, %v", got, err)
	}
	for _, id := range []string{img.ID, got.ID} {
		if err := r.DeleteImage(ctx, id); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.ImageMeta(ctx, img.ID); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("after the delete: %v", err)
	}
}

func count(t *testing.T, images iter.Seq2[*client.V1Image, error]) (n int) {
	t.Helper()
	for _, err := range images {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}
