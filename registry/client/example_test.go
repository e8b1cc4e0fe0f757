package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"nearsight/registry"
	"nearsight/registry/client"
)

// server stands for nearsight serve.
func server() *httptest.Server {
	const image = `{"id":"6a1f9c0e-2f6b-4c52-9a3f-0d7a1f5b8e11","name":"hello","status":"active","size":6,` +
		`"checksum":"b1946ac92492d2347c6235b4d2611184","tags":["small"]}`
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case strings.HasSuffix(path, "/file"):
			io.WriteString(w, "hello\n")
		case path == "/v2/images":
			fmt.Fprintf(w, `{"images":[%s]}`, image)
		case strings.HasSuffix(path, "11"):
			io.WriteString(w, image)
		default:
			http.NotFound(w, r)
		}
	}))
}

func ExampleClient_List() {
	s := server()
	defer s.Close()
	c, err := client.New(client.Options{Server: s.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for img, err := range c.List(context.Background(), registry.Query{Tags: []string{"small"}}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(*img.Name, img.Status)
	}
	// Output: hello active
}

func ExampleClient_Get() {
	s := server()
	defer s.Close()
	c, err := client.New(client.Options{Server: s.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.Get(context.Background(), "00000000-0000-0000-0000-000000000000")
	fmt.Println(errors.Is(err, registry.ErrNotFound))
	// Output: true
}

func ExampleClient_Save() {
	s := server()
	defer s.Close()
	c, err := client.New(client.Options{Server: s.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "hello.raw")

	ctx := context.Background()
	img, err := c.Get(ctx, "6a1f9c0e-2f6b-4c52-9a3f-0d7a1f5b8e11")
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Save(ctx, img, path, client.SaveOptions{}); err != nil {
		log.Fatal(err)
	}
	b, err := os.ReadFile(path)
	fmt.Printf("%s%v\n", b, err)
	// Output:
	// hello
	// <nil>
}

// storesServer stands for a server with several stores.
func storesServer() *httptest.Server {
	const id = "6a1f9c0e-2f6b-4c52-9a3f-0d7a1f5b8e11"
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + strings.Replace(r.URL.Path, id, "ID", 1) {
		case "PATCH /v2/images/ID":
			io.WriteString(w, `{"id":"`+id+`","status":"active","size":6,"locations":[{"url":"https://example.org/hello.raw","metadata":{"store":"web"}}]}`)
		case "GET /v2/images/ID/locations":
			io.WriteString(w, `[{"url":"s3://fast/x","metadata":{"store":"fast"}},{"url":"file://disk/x","metadata":{"store":"disk"}}]`)
		case "GET /v2/info/stores/detail":
			io.WriteString(w, `{"stores":[{"id":"disk","type":"file","default":"true"},{"id":"fast","type":"s3","weight":10}]}`)
		case "POST /v2/images/ID/import":
			w.WriteHeader(http.StatusAccepted)
		default:
			http.NotFound(w, r)
		}
	}))
}

func ExampleClient_AddLocation() {
	s := storesServer()
	defer s.Close()
	c, err := client.New(client.Options{Server: s.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	img, err := c.AddLocation(context.Background(), "6a1f9c0e-2f6b-4c52-9a3f-0d7a1f5b8e11", "https://example.org/hello.raw", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(img.Status, *img.Size)
	// Output: active 6
}

func ExampleClient_CopyTo() {
	s := storesServer()
	defer s.Close()
	c, err := client.New(client.Options{Server: s.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	const id = "6a1f9c0e-2f6b-4c52-9a3f-0d7a1f5b8e11"
	stores, err := c.Stores(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range stores {
		fmt.Println(s.ID, s.Kind, s.Weight, s.Default)
	}
	if err := c.CopyTo(ctx, id, "fast"); err != nil {
		log.Fatal(err)
	}
	locations, err := c.Locations(ctx, id) // some time later
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range locations {
		fmt.Println(l.Metadata["store"], l.URL)
	}
	// Output:
	// disk file 0 true
	// fast s3 10 false
	// fast s3://fast/x
	// disk file://disk/x
}
