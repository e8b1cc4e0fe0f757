package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Whether there was an answer on its way or not, a client that left is none of
// the operator's business.
func TestAClientThatLeftIsRecordedAsSuch(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(1000, 1), nil)
	for _, tt := range []struct{ name, path string }{
		{"asking for data", "/v2/images/" + img.ID + "/file"},
		{"asking for a list", "/v2/images"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.log.Reset()
			ctx, leave := context.WithCancel(t.Context())
			leave()
			func() {
				defer func() {
					if v := recover(); v != nil && v != http.ErrAbortHandler {
						panic(v)
					}
				}()
				r := httptest.NewRequestWithContext(ctx, "GET", tt.path, nil)
				s.proxy.Handler().ServeHTTP(httptest.NewRecorder(), r)
			}()
			var record map[string]any
			if err := json.Unmarshal([]byte(s.log.String()), &record); err != nil {
				t.Fatalf("%v: %q", err, s.log)
			}
			if record["status"] != 499.0 || record["level"] != "INFO" {
				t.Errorf("record %v", record)
			}
		})
	}
}
