package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"time"

	"nearsight/registry"
	"nearsight/registry/api"
)

// What a central shows and what an edge remembers tell nobody of two times in the wrong
// order.
func TestRecordsPassedOnNeverGoBack(t *testing.T) {
	const shown = "the record of the central"
	for _, tt := range []struct {
		name       string
		status     int   // of the central
		later      int64 // how many revisions than what is remembered
		inRegistry bool
		want       int
		kept       bool // what was remembered
	}{
		{"the same revision", 200, 0, true, 200, true},
		{"a later one is the earliest that is believed from then on", 200, 1, true, 200, false},
		{"an earlier one is not passed on", 200, -1, true, 503, true},
		{"an image that is not there is asked for, and is not", 404, 0, false, 404, false},
		{"an image that is not there is asked for, and is", 404, 0, true, 503, false},
		{"a central in trouble says nothing", 502, 0, true, 502, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, siteConfig{})
			img := s.add(pattern(1000, 1), nil)
			central := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tt.status == http.StatusOK {
					w.Header().Set(api.ImageRevisionHeader, strconv.FormatInt(img.Revision+tt.later, 10))
				}
				w.WriteHeader(tt.status)
				w.Write([]byte(shown))
			}))
			defer central.Close()
			at, err := url.Parse(central.URL)
			if err != nil {
				t.Fatal(err)
			}
			centrals := NewCentrals([]*url.URL{at}, nil)
			defer centrals.Close()
			records := NewRecords(RecordsOptions{Images: ReadOnly(s.db), Log: s.db, Events: s.records.events})
			quiet := slog.New(slog.DiscardHandler)
			pass := NewPass(PassOptions{Centrals: centrals, Records: records, Log: quiet})
			p := &Proxy{records: records, pass: pass, log: quiet}

			was := *img
			records.revision = 100
			records.heardUpTo(time.Now())
			records.known.Add(img.ID, &knownRecord{&was, time.Now()})
			if !tt.inRegistry {
				if err := s.records.Delete(t.Context(), img.ID, func(*registry.Image) error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
			rec := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/v2/images/"+img.ID, nil)
			x := &exchange{ResponseWriter: rec}
			ctx := registry.WithCaller(context.WithValue(r.Context(), exchangeKey{}, x), registry.Everybody())
			p.show(x, r.WithContext(ctx), img.ID)
			if rec.Code != tt.want || (rec.Code == tt.status) != (rec.Body.String() == shown) {
				t.Errorf("status %d, %q; want %d", rec.Code, rec.Body, tt.want)
			}
			if k, _ := records.Remembered(img.ID); (k == &was) != tt.kept {
				t.Errorf("what was remembered is kept: %v", k == &was)
			}
			if least := records.least(img.ID); least < img.Revision+tt.later && tt.later > 0 || least < img.Revision {
				t.Errorf("a record of revision %d would be believed", least)
			}
		})
	}
}
