package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"nearsight/registry"
	"nearsight/registry/client"
)

// The examples speak to a server in this process, which stands for nearsight serve.

func Example() {
	s := newSite()
	defer s.Close()
	ctx := context.Background()

	c, err := client.New(client.Options{Server: s.URL, Token: "red"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	name := "hello"
	img, err := c.Create(ctx, &registry.Image{Name: &name, DiskFormat: "raw", ContainerFormat: "bare", Tags: []string{"small"}})
	if err != nil {
		log.Fatal(err)
	}
	data := "hello, world\n"
	if err := c.Upload(ctx, img.ID, strings.NewReader(data), int64(len(data))); err != nil {
		log.Fatal(err)
	}
	img, err = c.Get(ctx, img.ID) // as it is now
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(*img.Name, img.Status, *img.Size)
	if err := c.Copy(ctx, img, os.Stdout, client.SaveOptions{}); err != nil {
		log.Fatal(err)
	}
	// Output:
	// hello active 13
	// hello, world
}

// withImage starts a server that has one image, called hello.
func withImage() (*site, *client.Client, string) {
	s := newSite()
	c := s.as("red")
	name := "hello"
	img := must(c.Create(context.Background(), &registry.Image{Name: &name, DiskFormat: "raw", ContainerFormat: "bare"}))
	if err := c.Upload(context.Background(), img.ID, strings.NewReader("hello\n"), 6); err != nil {
		log.Fatal(err)
	}
	return s, c, img.ID
}

func ExampleClient_List() {
	s, c, _ := withImage()
	defer s.Close()
	q := registry.Query{
		Match: []registry.Match{{Column: "status", Values: []string{"active", "queued"}}},
		Sort:  []registry.Order{{Key: "name"}},
	}
	for img, err := range c.List(context.Background(), q) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(*img.Name, img.Status)
	}
	// Output: hello active
}

func ExampleClient_Get() {
	s, c, _ := withImage()
	defer s.Close()
	_, err := c.Get(context.Background(), "00000000-0000-0000-0000-000000000000")
	fmt.Println(errors.Is(err, registry.ErrNotFound))
	var refused *client.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Status)
	}
	// Output:
	// true
	// 404
}

func ExampleClient_Patch() {
	s, c, id := withImage()
	defer s.Close()
	img, err := c.Patch(context.Background(), id, client.Set("name", "hallo"), client.Set("os_distro", "debian"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(*img.Name, img.Properties["os_distro"])
	// Output: hallo debian
}

func ExampleClient_Save() {
	s, c, id := withImage()
	defer s.Close()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "hello.raw")

	ctx := context.Background()
	img, err := c.Get(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Save(ctx, img, path, client.SaveOptions{Parallel: 4}); err != nil {
		log.Fatal(err)
	}
	b, err := os.ReadFile(path)
	fmt.Printf("%s%v\n", b, err)
	// Output:
	// hello
	// <nil>
}

func ExampleClient_Download() {
	s, c, id := withImage()
	defer s.Close()
	part, err := c.Download(context.Background(), id, client.Range{Offset: 1, Length: 3})
	if err != nil {
		log.Fatal(err)
	}
	defer part.Body.Close()
	b, err := io.ReadAll(part.Body)
	fmt.Printf("%s of %d bytes, %v\n", b, part.Size, err)
	// Output: ell of 6 bytes, <nil>
}

func ExampleClient_AddMember() {
	s, owner, id := withImage()
	defer s.Close()
	ctx := context.Background()
	if _, err := owner.AddMember(ctx, id, "blue"); err != nil {
		log.Fatal(err)
	}
	other := s.as("blue")
	if _, err := other.SetMember(ctx, id, "blue", registry.Accepted); err != nil {
		log.Fatal(err)
	}
	members, err := owner.Members(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range members {
		fmt.Println(m.Project, m.Status)
	}
	// Output: blue accepted
}

func ExampleClient_Import() {
	s := newSite()
	defer s.Close()
	c := s.as("red")
	ctx := context.Background()
	img, err := c.Create(ctx, &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Stage(ctx, img.ID, strings.NewReader("hello"), 5); err != nil {
		log.Fatal(err)
	}
	if err := c.Import(ctx, img.ID, client.ImportOptions{Method: client.Direct, Stores: []string{"fast"}}); err != nil {
		log.Fatal(err)
	}
	img, err = c.WaitImported(ctx, img.ID, nil)
	var failed *client.TaskError
	if errors.As(err, &failed) {
		log.Fatal(failed.Task.Message)
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Println(img.Status, *img.Size)
	// Output: active 5
}

func ExampleClient_CopyTo() {
	s, _, id := withImage()
	defer s.Close()
	c := s.as("admin")
	ctx := context.Background()
	stores, err := c.Stores(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range stores {
		fmt.Println(s.ID, s.Weight, s.Default)
	}
	if err := c.CopyTo(ctx, id, "fast"); err != nil {
		log.Fatal(err)
	}
	if _, err := c.WaitImported(ctx, id, nil); err != nil {
		log.Fatal(err)
	}
	locations, err := c.Locations(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range locations {
		fmt.Println(l.Metadata["store"])
	}
	// Output:
	// disk 1 true
	// fast 2 false
	// fast
	// disk
}

func ExampleNewV1() {
	s := newSite()
	defer s.Close()
	c, err := client.NewV1(client.Options{Server: s.URL, Token: "red"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	img, err := c.AddImage(ctx, &client.V1Image{Name: "hello", DiskFormat: "raw", ContainerFormat: "bare"}, strings.NewReader("hello"))
	if err != nil {
		log.Fatal(err)
	}
	meta, body, err := c.Image(ctx, img.ID)
	if err != nil {
		log.Fatal(err)
	}
	defer body.Close()
	b, err := io.ReadAll(body) // compared with meta.Checksum
	fmt.Printf("%s is %s: %s, %v\n", meta.Name, meta.Status, b, err)
	// Output: hello is active: hello, <nil>
}

func ExampleOptions() {
	s := newSite()
	defer s.Close()
	c, err := client.New(client.Options{
		Server:  s.URL,
		Retries: 5,
		// Asked again when the server refuses the token that it gave.
		TokenSource: func(context.Context) (string, error) { return "red", nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.Create(context.Background(), &registry.Image{})
	fmt.Println(err)
	// Output: <nil>
}
