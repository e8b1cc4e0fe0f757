package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"nearsight/registry"
)

// imageAt is the JSON form of an image at these URLs.
func imageAt(urls ...string) string {
	var list []string
	for _, u := range urls {
		list = append(list, fmt.Sprintf(`{"url":%q,"metadata":{"store":"s","n":1}}`, u))
	}
	return fmt.Sprintf(`{"id":%q,"status":"active","locations":[%s]}`, testID, strings.Join(list, ","))
}

func TestCallsAboutLocationsAndStores(t *testing.T) {
	const image = "/v2/images/" + testID
	for _, tt := range []struct {
		name string
		call func(context.Context, *Client) (any, error)
		want []string // method, path and body, in turn
		// answers are statuses and bodies, in turn
		answers []string
		result  any
		err     error
	}{
		{"locations", func(ctx context.Context, c *Client) (any, error) { return c.Locations(ctx, testID) },
			[]string{"GET " + image + "/locations "}, []string{`200 [{"url":"http://a","metadata":{"store":"s"}}]`},
			[]Location{{"http://a", map[string]string{"store": "s"}}}, nil},
		{"locations that are not shown", func(ctx context.Context, c *Client) (any, error) { return c.Locations(ctx, testID) },
			[]string{"GET " + image + "/locations "}, []string{`403 {}`}, nil, registry.ErrForbidden},
		{"add a location", func(ctx context.Context, c *Client) (any, error) {
			img, err := c.AddLocation(ctx, testID, "http://a", nil)
			if err != nil {
				return nil, err
			}
			return fmt.Sprint(img.Locations[0].URL, img.LocationMetadata["http://a"]), nil
		}, []string{`PATCH ` + image + ` [{"op":"add","path":"/locations/-","value":{"url":"http://a","metadata":{}}}]`},
			[]string{"200 " + imageAt("http://a")}, "http://amap[store:s]", nil},
		{"add one that may not be read", func(ctx context.Context, c *Client) (any, error) {
			return c.AddLocation(ctx, testID, "http://127.0.0.1", map[string]string{"a": "b"})
		}, []string{`PATCH ` + image + ` [{"op":"add","path":"/locations/-","value":{"url":"http://127.0.0.1","metadata":{"a":"b"}}}]`},
			[]string{"400 {}"}, nil, registry.ErrInvalid},
		{"remove a location", func(ctx context.Context, c *Client) (any, error) {
			img, err := c.RemoveLocation(ctx, testID, "http://b")
			if err != nil {
				return nil, err
			}
			return len(img.Locations), nil
		}, []string{"GET " + image + " ", `PATCH ` + image + ` [{"op":"remove","path":"/locations/1"}] if "1"`},
			[]string{"200 " + imageAt("http://a", "http://b"), "200 " + imageAt("http://a")}, 1, nil},
		{"remove one while the others change", func(ctx context.Context, c *Client) (any, error) {
			img, err := c.RemoveLocation(ctx, testID, "http://b")
			if err != nil {
				return nil, err
			}
			return len(img.Locations), nil
		}, []string{"GET " + image + " ", `PATCH ` + image + ` [{"op":"remove","path":"/locations/1"}] if "1"`,
			"GET " + image + " ", `PATCH ` + image + ` [{"op":"remove","path":"/locations/0"}] if "3"`},
			[]string{"200 " + imageAt("http://a", "http://b"), "412 {}", "200 " + imageAt("http://b", "http://a"), "200 " + imageAt("http://a")}, 1, nil},
		{"remove one that is not there", func(ctx context.Context, c *Client) (any, error) { return c.RemoveLocation(ctx, testID, "http://b") },
			[]string{"GET " + image + " "}, []string{"200 " + imageAt("http://a")}, nil, registry.ErrNotFound},
		{"remove the last", func(ctx context.Context, c *Client) (any, error) { return c.RemoveLocation(ctx, testID, "http://a") },
			[]string{"GET " + image + " ", `PATCH ` + image + ` [{"op":"remove","path":"/locations/0"}] if "1"`},
			[]string{"200 " + imageAt("http://a"), "403 {}"}, nil, registry.ErrForbidden},
		{"stores", func(ctx context.Context, c *Client) (any, error) { return c.Stores(ctx) },
			[]string{"GET /v2/info/stores/detail "},
			[]string{`200 {"stores":[{"id":"a","default":"true","type":"file","weight":3,"properties":{"k":"v"}},{"id":"w","read-only":"true","type":"http"}]}`},
			[]Store{{ID: "a", Kind: "file", Default: true, Weight: 3, Properties: map[string]string{"k": "v"}}, {ID: "w", Kind: "http", ReadOnly: true}}, nil},
		{"stores where there is one", func(ctx context.Context, c *Client) (any, error) { return c.Stores(ctx) },
			[]string{"GET /v2/info/stores/detail "}, []string{"404 {}"}, nil, registry.ErrNotFound},
		{"copy", func(ctx context.Context, c *Client) (any, error) { return nil, c.CopyTo(ctx, testID, "a", "b") },
			[]string{"POST " + image + `/import {"method":{"name":"copy-image"},"stores":["a","b"]}`}, []string{"202 "}, nil, nil},
		{"copy to all", func(ctx context.Context, c *Client) (any, error) { return nil, c.CopyTo(ctx, testID) },
			[]string{"POST " + image + `/import {"method":{"name":"copy-image"},"all_stores":true}`}, []string{"202 "}, nil, nil},
		{"delete from a store", func(ctx context.Context, c *Client) (any, error) { return nil, c.RemoveFrom(ctx, testID, "a") },
			[]string{"DELETE /v2/stores/a/" + testID + " "}, []string{"204 "}, nil, nil},
		{"delete from no store", func(ctx context.Context, c *Client) (any, error) { return nil, c.RemoveFrom(ctx, testID, "") },
			nil, nil, nil, registry.ErrInvalid},
		{"upload to a store", func(ctx context.Context, c *Client) (any, error) {
			return nil, c.UploadTo(ctx, "a", testID, strings.NewReader("data"), 4)
		}, []string{"PUT " + image + "/file data to a"}, []string{"204 "}, nil, nil},
		{"what is no id", func(ctx context.Context, c *Client) (any, error) { return c.RemoveLocation(ctx, "x", "http://a") },
			nil, nil, nil, registry.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var seen []string
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				line := r.Method + " " + r.URL.Path + " " + string(body)
				if match := r.Header.Get("If-Match"); match != "" {
					line += " if " + match
				}
				if store := r.Header.Get("X-Image-Meta-Store"); store != "" {
					line += " to " + store
				}
				seen = append(seen, line)
				status, text, _ := strings.Cut(tt.answers[len(seen)-1], " ")
				var code int
				fmt.Sscan(status, &code)
				w.Header().Set("ETag", fmt.Sprintf(`"%d"`, len(seen)))
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(code)
				io.WriteString(w, text)
			}))
			got, err := tt.call(t.Context(), c)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && !reflect.DeepEqual(got, tt.result) {
				t.Errorf("got %#v, want %#v", got, tt.result)
			}
			if !reflect.DeepEqual(seen, tt.want) {
				t.Errorf("requests %q, want %q", seen, tt.want)
			}
		})
	}
}
