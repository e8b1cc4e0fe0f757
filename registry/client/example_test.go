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
