package s3

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A fakeServer is an S3 server in memory for one bucket, addressed by path. It
// takes parts of any size, believes every signature, and fails on demand.
type fakeServer struct {
	*httptest.Server
	// hook, when set, sees every request first. It may answer itself and
	// return true, or let the fake answer into another writer.
	hook func(w http.ResponseWriter, r *http.Request) bool
	// ignore and refuse If-None-Match, as servers of old.
	ignore, refuse bool

	mu       sync.Mutex
	objects  map[string]*fakeObject
	uploads  map[string]*fakeUpload
	requests []*http.Request // without their bodies
	made     int
}

type fakeObject struct {
	data []byte
	etag string
	mark string
	time time.Time
}

type fakeUpload struct {
	key, mark string
	parts     map[int][]byte
}

func newFake(t testing.TB) *fakeServer {
	f := &fakeServer{objects: make(map[string]*fakeObject), uploads: make(map[string]*fakeUpload)}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeServer) options() Options {
	return Options{Endpoint: f.URL, Bucket: "bucket", AccessKey: "key-id", SecretKey: "secret"}
}

// left returns how many objects and uploads there are.
func (f *fakeServer) left() (objects, uploads int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.objects), len(f.uploads)
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r.Clone(r.Context()))
	hook := f.hook
	f.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	f.answer(w, r)
}

func (f *fakeServer) answer(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(r)
	if err != nil {
		return // the client has gone
	}
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	q := r.URL.Query()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch id := q.Get("uploadId"); {
	case r.Method == "HEAD" && key == "":
	case q.Has("uploads") && r.Method == "POST":
		f.made++
		id = fmt.Sprintf("upload-%d", f.made)
		f.uploads[id] = &fakeUpload{key, r.Header.Get("X-Amz-Meta-" + mark), make(map[int][]byte)}
		reply(w, struct {
			XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
			UploadId string
		}{UploadId: id})
	case id != "" && f.uploads[id] == nil:
		refuse(w, r, 404, "NoSuchUpload")
	case id != "" && r.Method == "PUT":
		n, _ := strconv.Atoi(q.Get("partNumber"))
		f.uploads[id].parts[n] = body
		w.Header().Set("ETag", etagOf(body))
	case id != "" && r.Method == "POST":
		f.complete(w, r, id)
	case id != "" && r.Method == "DELETE":
		delete(f.uploads, id)
		w.WriteHeader(204)
	case id != "":
		f.listParts(w, f.uploads[id])
	case q.Has("uploads"):
		f.listUploads(w, q.Get("prefix"))
	case q.Has("list-type"):
		f.list(w, q.Get("prefix"))
	case r.Method == "PUT":
		f.commit(w, r, key, &fakeObject{body, etagOf(body), r.Header.Get("X-Amz-Meta-" + mark), time.Now()})
	case r.Method == "DELETE":
		delete(f.objects, key)
		w.WriteHeader(204)
	case f.objects[key] == nil:
		refuse(w, r, 404, "NoSuchKey")
	default:
		f.get(w, r, f.objects[key])
	}
}

func (f *fakeServer) get(w http.ResponseWriter, r *http.Request, o *fakeObject) {
	h := w.Header()
	h.Set("ETag", o.etag)
	h.Set("X-Amz-Meta-"+mark, o.mark)
	h.Set("Content-Type", contentType)
	http.ServeContent(w, r, "", o.time, bytes.NewReader(o.data))
}

// commit stores o, with the preconditions that the fake knows. f is locked.
func (f *fakeServer) commit(w http.ResponseWriter, r *http.Request, key string, o *fakeObject) bool {
	if r.Header.Get("If-None-Match") != "" {
		switch {
		case f.refuse:
			refuse(w, r, 501, "NotImplemented")
			return false
		case !f.ignore && f.objects[key] != nil:
			refuse(w, r, 412, "PreconditionFailed")
			return false
		}
	}
	f.objects[key] = o
	w.Header().Set("ETag", o.etag)
	return true
}

func (f *fakeServer) complete(w http.ResponseWriter, r *http.Request, id string) {
	u := f.uploads[id]
	o := &fakeObject{mark: u.mark, time: time.Now()}
	for i := range len(u.parts) {
		o.data = append(o.data, u.parts[i+1]...)
	}
	o.etag = strings.TrimSuffix(etagOf(o.data), `"`) + fmt.Sprintf(`-%d"`, len(u.parts))
	if !f.commit(w, r, u.key, o) {
		return
	}
	delete(f.uploads, id)
	reply(w, struct {
		XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
		ETag    string
	}{ETag: o.etag})
}

func (f *fakeServer) list(w http.ResponseWriter, prefix string) {
	type item struct {
		Key, LastModified string
		Size              int
	}
	var items []item
	for key, o := range f.objects {
		if rest, ok := strings.CutPrefix(key, prefix); ok && !strings.Contains(rest, "/") {
			items = append(items, item{key, o.time.UTC().Format(time.RFC3339), len(o.data)})
		}
	}
	reply(w, struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Contents []item
	}{Contents: items})
}

func (f *fakeServer) listUploads(w http.ResponseWriter, prefix string) {
	type item struct{ Key, UploadId, Initiated string }
	var items []item
	for id, u := range f.uploads {
		if strings.HasPrefix(u.key, prefix) {
			items = append(items, item{u.key, id, "2026-01-02T03:04:05Z"})
		}
	}
	reply(w, struct {
		XMLName xml.Name `xml:"ListMultipartUploadsResult"`
		Upload  []item
	}{Upload: items})
}

func (f *fakeServer) listParts(w http.ResponseWriter, u *fakeUpload) {
	type item struct{ PartNumber, Size int }
	var items []item
	for n, part := range u.parts {
		items = append(items, item{n, len(part)})
	}
	reply(w, struct {
		XMLName xml.Name `xml:"ListPartsResult"`
		Part    []item
	}{Part: items})
}

func reply(w http.ResponseWriter, doc any) {
	b, err := xml.Marshal(doc)
	if err != nil {
		panic(err)
	}
	w.Write(b)
}

func refuse(w http.ResponseWriter, r *http.Request, status int, code string) {
	w.WriteHeader(status)
	if r.Method != "HEAD" {
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>fake</Message></Error>", code)
	}
}

func etagOf(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// readBody reads a body, without the framing that trailing checksums need.
func readBody(r *http.Request) ([]byte, error) {
	if !slices.Contains(r.Header.Values("Content-Encoding"), "aws-chunked") {
		return io.ReadAll(r.Body)
	}
	var data []byte
	br := bufio.NewReader(r.Body)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 64)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			_, err := io.Copy(io.Discard, br)
			return data, err
		}
		piece := make([]byte, n+2)
		if _, err := io.ReadFull(br, piece); err != nil {
			return nil, err
		}
		data = append(data, piece[:n]...)
	}
}

// isPut, isPart, isCreate and isComplete say what a request is.
func isPut(r *http.Request) bool    { return r.Method == "PUT" && !r.URL.Query().Has("partNumber") }
func isPart(r *http.Request) bool   { return r.Method == "PUT" && r.URL.Query().Has("partNumber") }
func isCreate(r *http.Request) bool { return r.Method == "POST" && r.URL.Query().Has("uploads") }
func isComplete(r *http.Request) bool {
	return r.Method == "POST" && r.URL.Query().Has("uploadId")
}
