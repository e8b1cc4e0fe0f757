package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A server is a nearsight that keeps images in one store.
type server struct {
	base   string // http://HOST:PORT
	cmd    *exec.Cmd
	client *http.Client
}

// start runs a server in dir. It lives until stop.
func start(ctx context.Context, binary, dir string, settings map[string]string) (*server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	text := "origin:\n  store: bench\ncache:\n  budget: 8GiB\n  min_free: 0\n  local: copy\nstores:\n  bench:\n"
	for key, value := range settings {
		text += fmt.Sprintf("    %s: %q\n", key, value)
	}
	conf := filepath.Join(dir, "nearsight.yaml")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "serve", "--config", conf, "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, client: &http.Client{Transport: transport()}}
	ready := make(chan string, 1)
	go func() { // ends with the server
		lines := bufio.NewScanner(log)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line struct{ Msg, Level, Listen string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
				ready <- line.Listen
			} else if line.Level != "INFO" {
				fmt.Fprintf(os.Stderr, "%s\n", lines.Bytes())
			}
		}
		close(ready)
	}()
	select {
	case addr, ok := <-ready:
		if !ok {
			return nil, errors.Join(errors.New("nearsight ended"), cmd.Wait())
		}
		s.base = "http://" + addr
		return s, nil
	case <-time.After(time.Minute):
	case <-ctx.Done():
	}
	return nil, errors.Join(errors.New("nearsight is not ready"), s.stop())
}

func (s *server) stop() error {
	s.client.CloseIdleConnections()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}

// call returns the body of a good answer.
func (s *server) call(ctx context.Context, method, path, contentType string, body io.Reader, size int64, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	if body != nil {
		req.ContentLength = size
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return pour(w, resp.Body)
}

// create makes an image without data.
func (s *server) create(ctx context.Context) (id string, err error) {
	record := []byte(`{"name":"bench","disk_format":"raw","container_format":"bare"}`)
	var text bytes.Buffer
	if err := s.call(ctx, http.MethodPost, "/v2/images", "application/json", bytes.NewReader(record), int64(len(record)), &text); err != nil {
		return "", err
	}
	var made struct{ ID string }
	err = json.Unmarshal(text.Bytes(), &made)
	return made.ID, err
}

func (s *server) put(ctx context.Context, id, path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.call(ctx, http.MethodPut, "/v2/images/"+id+"/file", "application/octet-stream", f, size, io.Discard)
}

func (s *server) get(ctx context.Context, id string, w io.Writer) error {
	return s.call(ctx, http.MethodGet, "/v2/images/"+id+"/file", "", nil, 0, w)
}

// forget empties the cache of the image.
func (s *server) forget(ctx context.Context, id string) error {
	return s.call(ctx, http.MethodDelete, "/nearsight/cache/images/"+id, "", nil, 0, io.Discard)
}

func (s *server) remove(ctx context.Context, id string) error {
	return s.call(ctx, http.MethodDelete, "/v2/images/"+id, "", nil, 0, io.Discard)
}
