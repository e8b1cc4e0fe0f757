package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

const (
	memberJSON = `{"member_id":"p","image_id":"` + testID + `","status":"accepted","created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:06Z","schema":"/v2/schemas/member"}`
	taskJSON   = `{"id":"` + testID + `","type":"import","status":"processing","owner":"p","user_id":null,"image_id":null,"request_id":"req-1",` +
		`"input":{"import_from":"http://x"},"result":null,"message":"","created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:06Z","expires_at":null}`
)

var (
	second = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	member = registry.Member{Project: "p", Status: registry.Accepted, CreatedAt: second, UpdatedAt: second.Add(time.Second)}
	task   = &registry.Task{ID: testID, Type: "import", Status: registry.TaskProcessing, Owner: "p", RequestID: "req-1",
		Input: json.RawMessage(`{"import_from":"http://x"}`), CreatedAt: second, UpdatedAt: second.Add(time.Second)}
)

// Each call is one request, and its answer is understood.
func TestCallsAndWhatTheyReturn(t *testing.T) {
	const image = "/v2/images/" + testID
	none := func(err error) (any, error) { return nil, err }
	for _, tt := range []struct {
		name   string
		answer string
		do     func(context.Context, *Client) (any, error)
		want   call
		result any
	}{
		{"members", `{"members":[` + memberJSON + `],"schema":"s"}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Members(ctx, testID) },
			call{"GET", image + "/members", "", ""}, []registry.Member{member}},
		{"a member", memberJSON,
			func(ctx context.Context, c *Client) (any, error) { return c.Member(ctx, testID, "a/b") },
			call{"GET", image + "/members/a%2Fb", "", ""}, member},
		{"a new member", memberJSON,
			func(ctx context.Context, c *Client) (any, error) { return c.AddMember(ctx, testID, "p") },
			call{"POST", image + "/members", "application/json", `{"member":"p"}`}, member},
		{"a member's word", memberJSON,
			func(ctx context.Context, c *Client) (any, error) {
				return c.SetMember(ctx, testID, "p", registry.Accepted)
			},
			call{"PUT", image + "/members/p", "application/json", `{"status":"accepted"}`}, member},
		{"a member less", "",
			func(ctx context.Context, c *Client) (any, error) { return none(c.RemoveMember(ctx, testID, "p")) },
			call{"DELETE", image + "/members/p", "", ""}, nil},
		{"deactivate", "", func(ctx context.Context, c *Client) (any, error) { return none(c.Deactivate(ctx, testID)) },
			call{"POST", image + "/actions/deactivate", "", ""}, nil},
		{"reactivate", "", func(ctx context.Context, c *Client) (any, error) { return none(c.Reactivate(ctx, testID)) },
			call{"POST", image + "/actions/reactivate", "", ""}, nil},
		{"an import of what was staged", "", func(ctx context.Context, c *Client) (any, error) {
			return none(c.Import(ctx, testID, ImportOptions{Method: Direct}))
		}, call{"POST", image + "/import", "application/json", `{"method":{"name":"glance-direct"}}`}, nil},
		{"an import from the web", "", func(ctx context.Context, c *Client) (any, error) {
			return none(c.Import(ctx, testID, ImportOptions{Method: WebDownload, URI: "http://x", Stores: []string{"a"}}))
		}, call{"POST", image + "/import", "application/json", `{"method":{"name":"web-download","uri":"http://x"},"stores":["a"]}`}, nil},
		{"an import from a region", "", func(ctx context.Context, c *Client) (any, error) {
			return none(c.Import(ctx, testID, ImportOptions{Method: PeerImage, Region: "r", RegionImageID: "i", AllStores: true, AllowFailures: true}))
		}, call{"POST", image + "/import", "application/json",
			`{"method":{"name":"glance-download","glance_region":"r","glance_image_id":"i"},"all_stores":true,"all_stores_must_succeed":false}`}, nil},
		{"import methods", `{"import-methods":{"description":"d","type":"array","value":["a","b"]}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.ImportMethods(ctx) },
			call{"GET", "/v2/info/import", "", ""}, []string{"a", "b"}},
		{"the tasks of an image, with times of another form", `{"tasks":[` + strings.NewReplacer("05Z", "05.000000", "06Z", "06.000000").Replace(taskJSON) + `]}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Tasks(ctx, testID) },
			call{"GET", image + "/tasks", "", ""}, []*registry.Task{task}},
		{"a task", taskJSON, func(ctx context.Context, c *Client) (any, error) { return c.Task(ctx, testID) },
			call{"GET", "/v2/tasks/" + testID, "", ""}, task},
		{"a new task", taskJSON, func(ctx context.Context, c *Client) (any, error) {
			return c.CreateTask(ctx, registry.TaskImport, map[string]string{"import_from": "http://x"})
		}, call{"POST", "/v2/tasks", "application/json", `{"input":{"import_from":"http://x"},"type":"import"}`}, task},
		{"usage", `{"usage":{"image_count_total":{"limit":10,"usage":3}}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Usage(ctx) },
			call{"GET", "/v2/info/usage", "", ""}, map[string]Quota{"image_count_total": {10, 3}}},
		{"versions", `{"versions":[{"id":"v2.17","status":"CURRENT","links":[{"rel":"self","href":"http://h/v2/"}]}]}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Versions(ctx) },
			call{"GET", "/versions", "", ""}, []Version{{"v2.17", "CURRENT", "http://h/v2/"}}},
		{"a schema", `{"name":"namespace"}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Schema(ctx, "metadefs/namespace") },
			call{"GET", "/v2/schemas/metadefs/namespace", "", ""}, json.RawMessage(`{"name":"namespace"}`)},
		{"store details", `{"stores":[{"id":"a","type":"s3","weight":3,"default":"true","properties":{"n":5,"s":"t"}}]}`,
			func(ctx context.Context, c *Client) (any, error) { return c.StoreDetails(ctx) },
			call{"GET", "/v2/info/stores/detail", "", ""},
			[]Store{{ID: "a", Kind: "s3", Weight: 3, Default: true, Properties: map[string]string{"n": "5", "s": "t"}}}},
		{"what to fetch into the cache", "", func(ctx context.Context, c *Client) (any, error) { return none(c.GlanceCacheQueue(ctx, testID)) },
			call{"PUT", "/v2/cache/" + testID, "", ""}, nil},
		{"what to drop from it", "", func(ctx context.Context, c *Client) (any, error) { return none(c.GlanceCacheDelete(ctx, testID)) },
			call{"DELETE", "/v2/cache/" + testID, "", ""}, nil},
		{"clear all of it", "", func(ctx context.Context, c *Client) (any, error) { return none(c.GlanceCacheClear(ctx, "")) },
			call{"DELETE", "/v2/cache", "", ""}, nil},
		{"clean it", "", func(ctx context.Context, c *Client) (any, error) { return none(c.GlanceCacheClean(ctx)) },
			call{"POST", "/v2/cache/clean", "", ""}, nil},
		{"prune it", `{"total_files_pruned":2,"total_bytes_pruned":30}`, func(ctx context.Context, c *Client) (any, error) {
			files, bytes, err := c.GlanceCachePrune(ctx)
			return []int64{files, bytes}, err
		}, call{"POST", "/v2/cache/prune", "", ""}, []int64{2, 30}},
		{"who else has it", `["http://a"]`, func(ctx context.Context, c *Client) (any, error) { return c.GlanceCacheNodes(ctx, testID) },
			call{"GET", "/v2/cache/nodes/" + testID, "", ""}, []string{"http://a"}},
		{"what the cache holds", `{"cached_images":[{"image_id":"i","hits":2,"last_accessed":0,"last_modified":1767323045.5,"size":10}],"queued_images":["j"]}`,
			func(ctx context.Context, c *Client) (any, error) {
				cached, queued, err := c.GlanceCache(ctx)
				return []any{cached, queued}, err
			}, call{"GET", "/v2/cache", "", ""},
			[]any{[]CachedImage{{ID: "i", Hits: 2, LastModified: second.Add(time.Second / 2), Size: 10}}, []string{"j"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, seen := record(t, 200, tt.answer)
			result, err := tt.do(t.Context(), c)
			if err != nil || !reflect.DeepEqual(result, tt.result) {
				t.Errorf("%+v, %v; want %+v", result, err, tt.result)
			}
			if len(*seen) != 1 || (*seen)[0] != tt.want {
				t.Errorf("the server saw %q, want %q", *seen, tt.want)
			}
			if tt.result == nil {
				return
			}
			c, _ = record(t, 200, `"no object"`)
			if _, err := tt.do(t.Context(), c); !errors.Is(err, errAnswer) && !strings.HasPrefix(tt.name, "a schema") {
				t.Errorf("error %v for an answer that makes no sense", err)
			}
		})
	}
}

func TestTheCacheClearsAPart(t *testing.T) {
	var target string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { target = r.Header.Get("X-Image-Cache-Clear-Target") }))
	if err := c.GlanceCacheClear(t.Context(), "queue"); err != nil || target != "queue" {
		t.Errorf("%v, target %q", err, target)
	}
}

func TestStoresAreShownToThoseWhoMayNotKnowAll(t *testing.T) {
	var seen []string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.Path)
		if strings.HasSuffix(r.URL.Path, "/detail") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(w, `{"stores":[{"id":"a","read-only":"true"}]}`)
	}))
	stores, err := c.Stores(t.Context())
	if want := []Store{{ID: "a", ReadOnly: true}}; err != nil || !reflect.DeepEqual(stores, want) {
		t.Errorf("%+v, %v after %q", stores, err, seen)
	}
}

func TestListTasksPages(t *testing.T) {
	var seen []string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.RawQuery)
		next := "null"
		if len(seen) == 1 {
			next = `"/v2/tasks?marker=x"`
		}
		fmt.Fprintf(w, `{"tasks":[%s],"next":%s}`, taskJSON, next)
	}))
	n := 0
	q := registry.TaskQuery{Type: "import", Status: registry.TaskSuccess, Limit: 1, Marker: "m",
		Sort: []registry.Order{{Key: "status"}, {Key: "id", Desc: true}}}
	for got, err := range c.ListTasks(t.Context(), q) {
		if n++; err != nil || !reflect.DeepEqual(got, task) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	want := []string{"limit=1&marker=m&sort_dir=asc&sort_dir=desc&sort_key=status&sort_key=id&status=success&type=import", "marker=x"}
	if n != 2 || !reflect.DeepEqual(seen, want) {
		t.Errorf("%d tasks after %q, want %q", n, seen, want)
	}
}

func TestAnswersWithoutWhatNamesThem(t *testing.T) {
	for name, do := range map[string]func(context.Context, *Client) error{
		"a member": func(ctx context.Context, c *Client) error { _, err := c.Member(ctx, testID, "p"); return err },
		"a task":   func(ctx context.Context, c *Client) error { _, err := c.Task(ctx, testID); return err },
	} {
		for _, body := range []string{`{}`, `null`} {
			c, _ := record(t, 200, body)
			if err := do(t.Context(), c); !errors.Is(err, errAnswer) {
				t.Errorf("%s from %s: error %v", name, body, err)
			}
		}
	}
}

func FuzzReadMember(f *testing.F) {
	f.Add([]byte(memberJSON))
	f.Add([]byte(`{"member_id":"","created_at":"yesterday"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if m, err := readMember(body, nil); err == nil && m.Project == "" {
			t.Error("a member without a project")
		}
	})
}

func FuzzReadTask(f *testing.F) {
	f.Add([]byte(taskJSON))
	f.Add([]byte(`{"id":"x","created_at":"2026-01-02 03:04:05.123456","result":{"bytes":-1,"size":9e99}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := readTask(body, nil)
		if err != nil {
			return
		}
		if got.ID == "" || string(got.Input) == "null" || string(got.Result) == "null" {
			t.Errorf("task %+v", got)
		}
		if p := progressOf(&registry.Image{}, got); p.Done < 0 || p.Total < 0 {
			t.Errorf("progress %+v", p)
		}
	})
}
