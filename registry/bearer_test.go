package registry

import (
	"errors"
	"testing"
)

func TestWhoHoldsASignedURLMayDownloadThatImageAlone(t *testing.T) {
	const mine, other = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	for _, tt := range []struct {
		name   string
		caller *Caller
	}{
		{"a bearer", &Caller{Image: mine}},
		{"one of the owner's project", &Caller{Image: mine, Project: "own"}},
		{"one with all roles", &Caller{Image: mine, Project: "own", Roles: []string{"member", "service", "admin"}}},
		{"a stranger", &Caller{Image: mine, Stranger: true}},
	} {
		for _, v := range []Visibility{Public, Community, Shared, Private} {
			t.Run(tt.name+", "+string(v), func(t *testing.T) {
				img := someImage(v)
				img.ID = mine
				for action := range policy {
					err := tt.caller.May(action, img)
					if want := action == Download; want != (err == nil) || err != nil && !errors.Is(err, ErrForbidden) {
						t.Errorf("%s: %v", action, err)
					}
				}
				img.ID = other
				for action := range policy {
					if err := tt.caller.May(action, img); !errors.Is(err, ErrNotFound) {
						t.Errorf("%s another image: %v", action, err)
					}
				}
			})
		}
	}
	for duty := range map[Duty]bool{ListImages: true, CreateImages: true, ManageTasks: true, ManageCache: true, DetailStores: true, WriteMetadefs: true, RunServers: true} {
		if (&Caller{Image: mine, Project: "own", Roles: []string{"member", "admin"}}).MayAtAll(duty) == nil {
			t.Errorf("may %s", duty)
		}
	}
}
