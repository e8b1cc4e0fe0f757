package task

import (
	"strings"
	"testing"
	"testing/synctest"

	"nearsight/registry"
)

// The worker reads what package api read when it checked the call.
func TestARequestIsReadAsItWasChecked(t *testing.T) {
	good := request{method: WebDownload, uri: away, mustSucceed: true}
	for _, tt := range []struct {
		name, body string
		want       request
	}{
		{"as it should be", `{"method":{"name":"web-download","uri":"` + away + `"}}`, good},
		{"names in capitals are other names", `{"method":{"name":"web-download","uri":"` + away + `","URI":"fake://a/x","Name":"copy-image"},"METHOD":{"uri":"fake://a/y"}}`, good},
		{"the last of equal members counts", `{"method":{"name":"x","uri":"fake://a/x"},"method":{"name":"web-download","uri":"fake://a/y","uri":"` + away + `"}}`, good},
		{"members of equal objects are not mixed", `{"method":{"name":"web-download","uri":"` + away + `"},"method":{"name":"glance-direct"}}`,
			request{method: GlanceDirect, mustSucceed: true}},
		{"null is nothing", `{"method":{"name":"glance-direct","uri":null}}`, request{method: GlanceDirect, mustSucceed: true}},
		{"not all must succeed", `{"method":{"name":"copy-image"},"all_stores_must_succeed":false}`, request{method: CopyImage}},
		{"not all must succeed, in capitals", `{"method":{"name":"copy-image"},"All_stores_must_succeed":false}`, request{method: CopyImage, mustSucceed: true}},
		{"another region", `{"method":{"name":"glance-download","glance_region":"east","glance_image_id":"x","Glance_region":"west"}}`,
			request{method: GlanceDownload, region: "east", imageID: "x", mustSucceed: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := readRequest([]byte(tt.body)); err != nil || got != tt.want {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	for _, body := range []string{``, `[]`, `{"method":7}`, `{"method":{"uri":7}}`, `{"method":{"name":"copy-image"},"all_stores_must_succeed":"no"}`} {
		if got, err := readRequest([]byte(body)); err == nil {
			t.Errorf("%s is %+v", body, got)
		}
	}
}

// Who knows where the data of an image is kept cannot download it from there.
func TestStoresOfOursAreNotDownloadedFrom(t *testing.T) {
	for _, form := range []string{`{"method":{"name":"web-download","uri":"%"}}`, `{"method":{"name":"web-download","uri":"` + away + `","URI":"%"}}`} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			s.web.publish(away, []byte("hello"))
			secret := s.upload(t, s.a, []byte("secret"))
			s.run(t)
			id := s.queue(t)
			task := s.order(t, id, strings.ReplaceAll(form, "%", secret.Locations[0].URL), "b")
			settle()
			if img := s.get(t, id); img.Digest == secret.Digest {
				t.Errorf("the image has the secret")
			} else if img.Status == registry.Active {
				s.wantEnd(t, task.ID, registry.TaskSuccess)
			} else {
				s.wantEnd(t, task.ID, registry.TaskFailure)
				s.wantProperties(t, id, "b")
			}
			s.wantClean(t)
		})
	}
}
