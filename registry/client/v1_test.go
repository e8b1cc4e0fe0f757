package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

// v1Client has a V1 speak to a server.
func v1Client(c *Client) *V1 { return &V1{c} }

func ptr[T any](v T) *T { return &v }

// v1Headers are those of a server that sends both spellings.
var v1Headers = map[string]string{
	"X-Image-Meta-Id": "7", "X-Image-Meta-Name": "n\u00e4me", "X-Image-Meta-Status": "active", "X-Image-Meta-Size": "5",
	"X-Image-Meta-Disk-Format": "raw", "X-Image-Meta-Container_format": "bare", "X-Image-Meta-Is_public": "True",
	"X-Image-Meta-Protected": "false", "X-Image-Meta-Min-Ram": "512", "X-Image-Meta-Min_disk": "3", "X-Image-Meta-Owner": "p",
	"X-Image-Meta-Checksum": "5d41402abc4b2a76b9719d911017c592", "X-Image-Meta-Created-At": "2026-01-02T03:04:05.5",
	"X-Image-Meta-Updated_at": "2026-01-02 03:04:05", "X-Image-Meta-Deleted-At": "", "X-Image-Meta-Deleted": "False",
	"X-Image-Meta-Location": "None", "X-Image-Meta-Property-Kernel-Id": "k", "X-Image-Meta-Property-Os_distro": "debian",
}

var v1Image = V1Image{
	ID: "7", Name: "n\u00e4me", Status: registry.Active, Size: ptr(int64(5)), DiskFormat: "raw", ContainerFormat: "bare",
	Public: ptr(true), Protected: ptr(false), MinRAM: ptr(512), MinDisk: ptr(3), Owner: "p",
	Checksum: "5d41402abc4b2a76b9719d911017c592", Properties: map[string]string{"kernel_id": "k", "os_distro": "debian"},
	CreatedAt: second.Add(time.Second / 2), UpdatedAt: second,
}

const v1JSON = `{"id":7,"name":"n\u00e4me","status":"active","size":"5","disk_format":"raw","container_format":"bare","is_public":true,` +
	`"protected":"False","min_ram":512,"min_disk":3,"owner":"p","checksum":"5d41402abc4b2a76b9719d911017c592","location":null,` +
	`"created_at":"2026-01-02T03:04:05.500000","updated_at":"2026-01-02T03:04:05Z","deleted_at":null,"deleted":false,` +
	`"properties":{"kernel_id":"k","os_distro":"debian","none":null}}`

func TestV1ReadsBothFormsOfAnImage(t *testing.T) {
	h := http.Header{}
	for name, value := range v1Headers {
		h[name] = []string{value}
	}
	if img, err := readV1Header(h); err != nil || !reflect.DeepEqual(*img, v1Image) {
		t.Errorf("%+v, %v; want %+v", img, err, v1Image)
	}
	if img, err := readV1Image([]byte(`{"image":` + v1JSON + `}`)); err != nil || !reflect.DeepEqual(*img, v1Image) {
		t.Errorf("%+v, %v; want %+v", img, err, v1Image)
	}
}

func TestV1DoesNotUnderstand(t *testing.T) {
	for _, fields := range []map[string]string{
		{}, {"X-Image-Meta-Id": "1", "X-Image-Meta-Size": "-1"}, {"X-Image-Meta-Id": "1", "X-Image-Meta-Min-Ram": "x"},
		{"X-Image-Meta-Id": "1", "X-Image-Meta-Created-At": "yesterday"},
	} {
		h := http.Header{}
		for name, value := range fields {
			h.Set(name, value)
		}
		if _, err := readV1Header(h); !errors.Is(err, errAnswer) {
			t.Errorf("%v: error %v", fields, err)
		}
	}
	for _, body := range []string{``, `{}`, `{"image":null}`, `{"image":[]}`, `{"image":{}}`, `{"image":{"id":"1","size":"big"}}`} {
		if _, err := readV1Image([]byte(body)); !errors.Is(err, errAnswer) {
			t.Errorf("%s: error %v", body, err)
		}
	}
}

func TestV1SendsWhatIsSet(t *testing.T) {
	for _, tt := range []struct {
		name string
		img  *V1Image
		want map[string]string
		err  error
	}{
		{"nothing", nil, map[string]string{}, nil},
		{"all", &V1Image{ID: "7", Name: "n", Size: ptr(int64(0)), DiskFormat: "raw", ContainerFormat: "bare", Public: ptr(true), Protected: ptr(false),
			MinRAM: ptr(0), MinDisk: ptr(3), Owner: "p", Checksum: "c", Location: "http://l", CopyFrom: "http://c", Store: "s",
			Properties: map[string]string{"kernel_id": "k"}},
			map[string]string{"X-Image-Meta-Id": "7", "X-Image-Meta-Name": "n", "X-Image-Meta-Size": "0", "X-Image-Meta-Disk-Format": "raw",
				"X-Image-Meta-Container-Format": "bare", "X-Image-Meta-Is-Public": "True", "X-Image-Meta-Protected": "False",
				"X-Image-Meta-Min-Ram": "0", "X-Image-Meta-Min-Disk": "3", "X-Image-Meta-Owner": "p", "X-Image-Meta-Checksum": "c",
				"X-Image-Meta-Location": "http://l", "X-Glance-Api-Copy-From": "http://c", "X-Image-Meta-Store": "s",
				"X-Image-Meta-Property-Kernel-Id": "k"}, nil},
		{"no status, which is the server's", &V1Image{Status: registry.Active}, map[string]string{}, nil},
		{"no name with a line end", &V1Image{Name: "a\r\nX-Roles: admin"}, nil, registry.ErrInvalid},
		{"no property that cannot be a header", &V1Image{Properties: map[string]string{"a b": "c"}}, nil, registry.ErrInvalid},
		{"no property without a name", &V1Image{Properties: map[string]string{"": "c"}}, nil, registry.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := v1Header(tt.img)
			got := map[string]string{}
			for name := range h {
				got[name] = h.Get(name)
			}
			if !errors.Is(err, tt.err) || err == nil && !maps.Equal(got, tt.want) {
				t.Errorf("%q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestV1Calls(t *testing.T) {
	none := func(err error) (any, error) { return nil, err }
	const image = `{"image":{"id":"7"}}`
	size := int64(5)
	for _, tt := range []struct {
		name   string
		answer string
		do     func(context.Context, *V1) (any, error)
		want   call
		result any
	}{
		{"an image without data", image, func(ctx context.Context, v *V1) (any, error) { return v.AddImage(ctx, &V1Image{Name: "n"}, nil) },
			call{"POST", "/v1/images", "", ""}, &V1Image{ID: "7"}},
		{"an image with data", image, func(ctx context.Context, v *V1) (any, error) {
			return v.AddImage(ctx, &V1Image{Size: &size}, strings.NewReader("hello"))
		}, call{"POST", "/v1/images", "application/octet-stream", "hello"}, &V1Image{ID: "7"}},
		{"an image with data of unknown size, and nothing else", image, func(ctx context.Context, v *V1) (any, error) {
			return v.AddImage(ctx, nil, strings.NewReader("hello"))
		}, call{"POST", "/v1/images", "application/octet-stream", "hello"}, &V1Image{ID: "7"}},
		{"a change", image, func(ctx context.Context, v *V1) (any, error) { return v.UpdateImage(ctx, "7", &V1Image{}, nil, true) },
			call{"PUT", "/v1/images/7", "", ""}, &V1Image{ID: "7"}},
		{"late data", image, func(ctx context.Context, v *V1) (any, error) {
			return v.UpdateImage(ctx, "7", nil, strings.NewReader("hello"), false)
		}, call{"PUT", "/v1/images/7", "application/octet-stream", "hello"}, &V1Image{ID: "7"}},
		{"an image by its URI goes", "", func(ctx context.Context, v *V1) (any, error) {
			return none(v.DeleteImage(ctx, "http://h:9292/images/7"))
		},
			call{"DELETE", "/v1/images/7", "", ""}, nil},
		{"members", `{"members":[{"member_id":"p","can_share":true}]}`, func(ctx context.Context, v *V1) (any, error) { return v.Members(ctx, "7") },
			call{"GET", "/v1/images/7/members", "", ""}, []V1Member{{"p", true}}},
		{"a member's images", `{"shared_images":[{"image_id":"7","can_share":false}]}`, func(ctx context.Context, v *V1) (any, error) { return v.MemberImages(ctx, "p/q") },
			call{"GET", "/v1/shared-images/p%2Fq", "", ""}, []V1Shared{{"7", false}}},
		{"other members", "", func(ctx context.Context, v *V1) (any, error) {
			return none(v.ReplaceMembers(ctx, "7", []V1Member{{"p", true}}))
		},
			call{"PUT", "/v1/images/7/members", "application/json", `{"memberships":[{"member_id":"p","can_share":true}]}`}, nil},
		{"no members", "", func(ctx context.Context, v *V1) (any, error) { return none(v.ReplaceMembers(ctx, "7", nil)) },
			call{"PUT", "/v1/images/7/members", "application/json", `{"memberships":[]}`}, nil},
		{"a member more", "", func(ctx context.Context, v *V1) (any, error) { return none(v.AddMember(ctx, "7", V1Member{"p", true})) },
			call{"PUT", "/v1/images/7/members/p", "application/json", `{"member":{"can_share":true}}`}, nil},
		{"a member less", "", func(ctx context.Context, v *V1) (any, error) { return none(v.DeleteMember(ctx, "7", "p")) },
			call{"DELETE", "/v1/images/7/members/p", "", ""}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, seen := record(t, 200, tt.answer)
			result, err := tt.do(t.Context(), v1Client(c))
			if err != nil || !reflect.DeepEqual(result, tt.result) {
				t.Errorf("%+v, %v; want %+v", result, err, tt.result)
			}
			if len(*seen) != 1 || (*seen)[0] != tt.want {
				t.Errorf("the server saw %q, want %q", *seen, tt.want)
			}
		})
	}
}

func TestV1TakesLargeRecords(t *testing.T) {
	note := strings.Repeat("x", 100<<10)
	c, _ := record(t, 200, `{"image":{"id":"7","properties":{"note":"`+note+`"}}}`)
	img, err := v1Client(c).AddImage(t.Context(), nil, strings.NewReader("hello"))
	if err != nil || img.Properties["note"] != note {
		t.Errorf("%v; want the record that the server sent", err)
	}
}

func TestV1ErrorsAreTyped(t *testing.T) {
	for status, want := range map[int]error{
		400: registry.ErrInvalid, 401: ErrUnauthorized, 403: registry.ErrForbidden, 404: registry.ErrNotFound,
		409: registry.ErrConflict, 413: registry.ErrTooLarge, 503: registry.ErrUnavailable,
	} {
		c, _ := record(t, status, "")
		v := v1Client(c)
		_, add := v.AddImage(t.Context(), nil, strings.NewReader("hello"))
		_, head := v.ImageMeta(t.Context(), "7")
		_, _, get := v.Image(t.Context(), "7")
		for _, err := range []error{add, head, get} {
			if !errors.Is(err, want) {
				t.Errorf("%d: error %v, want %v", status, err, want)
			}
		}
	}
	c, seen := record(t, 200, "")
	for _, id := range []string{"", "..", "a/b", "http://h/images/", "a?b"} {
		if err := v1Client(c).DeleteImage(t.Context(), id); !errors.Is(err, registry.ErrNotFound) || len(*seen) > 0 {
			t.Errorf("%q: error %v after %q", id, err, *seen)
		}
	}
}

func TestV1Data(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		is         error
	}{
		{"that is right", "hello", nil},
		{"that is not", "hullo", ErrIntegrity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for name, value := range v1Headers {
					w.Header()[name] = []string{value}
				}
				io.WriteString(w, tt.body)
			}))
			img, body, err := v1Client(c).Image(t.Context(), "7")
			if err != nil || !reflect.DeepEqual(*img, v1Image) {
				t.Fatalf("%+v, %v", img, err)
			}
			defer body.Close()
			if got, err := io.ReadAll(body); string(got) != tt.body || !errors.Is(err, tt.is) {
				t.Errorf("%q, %v; want %v", got, err, tt.is)
			}
			if img, err := v1Client(c).ImageMeta(t.Context(), "7"); err != nil || !reflect.DeepEqual(*img, v1Image) {
				t.Errorf("%+v, %v", img, err)
			}
		})
	}
}

func TestV1Lists(t *testing.T) {
	list := func(ids ...string) string {
		for i, id := range ids {
			ids[i] = `{"id":` + id + `}`
		}
		return `{"images":[` + strings.Join(ids, ",") + `]}`
	}
	for _, tt := range []struct {
		name  string
		pages map[string]string
		ids   []string
		err   error
	}{
		{"follow to the last page", map[string]string{"": list("3", "2"), "2": list("1"), "1": list()}, []string{"3", "2", "1"}, nil},
		{"of servers without pages are shown once", map[string]string{"": list("3", "2"), "2": list("3", "2")}, []string{"3", "2"}, nil},
		{"end with an error", map[string]string{"": list("3"), "3": `{"images":[{}]}`}, []string{"3"}, errAnswer},
		{"end with what is no list", map[string]string{"": `{"images":7}`}, nil, errAnswer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				if r.URL.Path != "/v1/images/detail" || q.Get("property-a") != "b" || q.Get("sort_key") != "name" || q.Get("sort_dir") != "asc" || q.Get("limit") != "2" {
					t.Errorf("the server saw %s", r.URL)
				}
				io.WriteString(w, tt.pages[q.Get("marker")])
			}))
			var ids []string
			var failed error
			q := V1Query{Filters: map[string]string{"property-a": "b"}, SortKey: "name", SortDir: "asc", Limit: 2}
			for img, err := range v1Client(c).ImagesDetailed(t.Context(), q) {
				if failed = err; err == nil {
					ids = append(ids, img.ID)
				}
			}
			if !slices.Equal(ids, tt.ids) || !errors.Is(failed, tt.err) {
				t.Errorf("%q, %v; want %q, %v", ids, failed, tt.ids, tt.err)
			}
		})
	}
}

func TestRegistryV1(t *testing.T) {
	const image = `{"image":` + v1JSON + `}`
	for _, tt := range []struct {
		name   string
		answer string
		do     func(context.Context, *RegistryV1) (any, error)
		want   call
		result any
	}{
		{"show", image, func(ctx context.Context, r *RegistryV1) (any, error) { return r.Image(ctx, "7") }, call{"GET", "/images/7", "", ""}, &v1Image},
		{"add", image, func(ctx context.Context, r *RegistryV1) (any, error) {
			return r.AddImage(ctx, &V1Image{ID: "7", Status: registry.Queued, Public: ptr(false), Properties: map[string]string{"a": "b"}})
		}, call{"POST", "/images", "application/json", `{"image":{"id":"7","is_public":false,"properties":{"a":"b"},"status":"queued"}}`}, &v1Image},
		{"update", image, func(ctx context.Context, r *RegistryV1) (any, error) {
			return r.UpdateImage(ctx, "7", &V1Image{Size: ptr(int64(5)), Location: "http://l"}, true)
		}, call{"PUT", "/images/7", "application/json", `{"image":{"location":"http://l","size":5}}`}, &v1Image},
		{"delete", "", func(ctx context.Context, r *RegistryV1) (any, error) { return nil, r.DeleteImage(ctx, "7") }, call{"DELETE", "/images/7", "", ""}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, seen := record(t, 200, tt.answer)
			result, err := tt.do(t.Context(), &RegistryV1{c})
			if err != nil || !reflect.DeepEqual(result, tt.result) {
				t.Errorf("%+v, %v; want %+v", result, err, tt.result)
			}
			if len(*seen) != 1 || (*seen)[0] != tt.want {
				t.Errorf("the server saw %q, want %q", *seen, tt.want)
			}
		})
	}
}

func FuzzReadV1Header(f *testing.F) {
	for name, value := range v1Headers {
		f.Add(name, value)
	}
	f.Add("X-Image-Meta-", "")
	f.Add("X-Image-Meta-Size", "99999999999999999999")
	f.Fuzz(func(t *testing.T, name, value string) {
		img, err := readV1Header(http.Header{"X-Image-Meta-Id": {"1"}, name: {value}})
		if err == nil && (img.ID == "" || img.Size != nil && *img.Size < 0) {
			t.Errorf("%s: %s means %+v", name, value, img)
		}
	})
}

func FuzzReadV1Image(f *testing.F) {
	f.Add([]byte(`{"image":` + v1JSON + `}`))
	f.Add([]byte(`{"image":{"id":1e9,"properties":[],"size":1.5}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		img, err := readV1Image(body)
		if err == nil && (img.ID == "" || img.Size != nil && *img.Size < 0) {
			t.Errorf("%s means %+v", body, img)
		}
	})
}

func FuzzV1Header(f *testing.F) {
	f.Add("name", "kernel_id", "value")
	f.Add("a\nb", "a b", "\x00")
	f.Fuzz(func(t *testing.T, name, property, value string) {
		h, err := v1Header(&V1Image{ID: "1", Name: name, Properties: map[string]string{property: value}})
		if err != nil {
			return
		}
		img, err := readV1Header(h)
		if err != nil {
			t.Fatal(err)
		}
		key := strings.ToLower(strings.ReplaceAll(property, "-", "_"))
		if img.Name != name || img.Properties[key] != value {
			t.Errorf("%q came back as %q", fmt.Sprint(name, property, value), fmt.Sprint(img.Name, img.Properties))
		}
	})
}
