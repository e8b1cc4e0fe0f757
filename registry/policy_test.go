package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func project(name string, roles ...string) *Caller { return &Caller{Project: name, Roles: roles} }

// The callers of the tests: of the project that owns the image, of one that it is
// shared with, of another, and those who need no project.
var callers = map[string]*Caller{
	"nobody":           {},
	"roleless":         project("own"),
	"stranger":         {Stranger: true},
	"own reader":       project("own", "reader"),
	"own member":       project("own", "member"),
	"image reader":     project("guest", "reader"),
	"image member":     project("guest", "member"),
	"other reader":     project("other", "reader"),
	"other member":     project("other", "member"),
	"service":          {Roles: []string{"service"}},
	"admin":            project("ops", "admin"),
	"everybody":        Everybody(),
	"own service":      project("own", "service"),
	"guest of nothing": project("", "member"),
}

func someImage(v Visibility) *Image {
	owner := "own"
	return &Image{Visibility: v, Owner: &owner, Members: []Member{
		{Project: "guest", Status: Rejected}, {Project: "own", Status: Pending}, // an owner may share with itself
	}}
}

// Images API v2, "Visibility": who knows that there is an image.
func TestSees(t *testing.T) {
	always := "admin,everybody"
	owners := always + ",own reader,own member,own service"
	known := owners + ",image reader,image member,other reader,other member,service,guest of nothing"
	ownerless := someImage(Private)
	ownerless.Owner = nil
	for _, tt := range []struct {
		name string
		img  *Image
		by   string
	}{
		{"public", someImage(Public), known + ",stranger"},
		{"community", someImage(Community), known},
		{"shared", someImage(Shared), owners + ",image reader,image member"},
		{"private, whatever members it has", someImage(Private), owners},
		{"without an owner", ownerless, known},
	} {
		for name, c := range callers {
			t.Run(tt.name+" by "+name, func(t *testing.T) {
				want := slices.Contains(strings.Split(tt.by, ","), name)
				if got := c.Sees(tt.img); got != want {
					t.Errorf("%v, want %v", got, want)
				}
				err := c.May(Show, tt.img)
				if want && err != nil || !want && !errors.Is(err, ErrNotFound) {
					t.Errorf("show: %v", err)
				}
			})
		}
	}
}

// Images API v2, "Default policy", cell by cell. Its last column but one is for images
// that are public or of the community.
func TestPolicy(t *testing.T) {
	const (
		invisible = iota // 404
		no               // 403
		yes
	)
	columns := []struct {
		caller string
		img    *Image
	}{
		{"own reader", someImage(Shared)},
		{"own member", someImage(Shared)},
		{"image reader", someImage(Shared)},
		{"image member", someImage(Shared)},
		{"other reader", someImage(Public)},
		{"other member", someImage(Public)},
		{"other member", someImage(Community)},
		{"service", someImage(Public)},
		{"stranger", someImage(Public)},
		{"admin", someImage(Private)},
		{"everybody", someImage(Private)},
		{"other member", someImage(Shared)},
		{"image member", someImage(Private)},
		{"service", someImage(Shared)},
		{"stranger", someImage(Community)},
		{"nobody", someImage(Public)},
		{"roleless", someImage(Private)},
	}
	for _, tt := range []struct {
		action Action
		cells  string // for each column y, n or, for those to whom it is invisible, a dot
	}{
		//               own  img  other  srv str adm  unseen
		{Show, "         yy   yy   yyy    y   y   yy   ......"},
		{Download, "     ny   ny   nyy    n   y   yy   ......"},
		{ReadDeactivate, "nn  nn   nnn    n   n   yy   ......"},
		{Modify, "       ny   nn   nnn    n   n   yy   ......"},
		{Remove, "       ny   nn   nnn    n   n   yy   ......"},
		{Publicize, "    nn   nn   nnn    n   n   yy   ......"},
		{GiveAway, "     nn   nn   nnn    n   n   yy   ......"},
		{Deactivate, "   ny   nn   nnn    n   n   yy   ......"},
		{CopyToStore, "  nn   nn   nnn    n   n   yy   ......"},
		{AddLocation, "  ny   nn   nnn    y   n   yy   ......"},
		{DropLocation, " nn   nn   nnn    n   n   yy   ......"},
		{ListLocations, "nn   nn   nnn    y   n   yy   ......"},
		{ShareWith, "    ny   nn   nnn    n   n   yy   ......"},
		{ListMembers, "  yy   yy   nnn    n   n   yy   ......"},
		{AnswerSharing, "nn   ny   nnn    n   n   yy   ......"},
		{"invented", "   nn   nn   nnn    n   n   nn   ......"},
	} {
		cells := strings.ReplaceAll(tt.cells, " ", "")
		if len(cells) != len(columns) {
			t.Fatalf("%s has %d cells, not %d", tt.action, len(cells), len(columns))
		}
		for i, column := range columns {
			t.Run(fmt.Sprintf("%s of a %s image by %s", tt.action, column.img.Visibility, column.caller), func(t *testing.T) {
				got := yes
				switch err := callers[column.caller].May(tt.action, column.img); {
				case errors.Is(err, ErrNotFound):
					got = invisible
				case errors.Is(err, ErrForbidden):
					got = no
				case err != nil:
					t.Fatal(err)
				}
				if want := strings.IndexByte(".ny", cells[i]); got != want {
					t.Errorf("%d, want %d (0 not found, 1 forbidden, 2 yes)", got, want)
				}
			})
		}
	}
}

// Who is several things at once may do what each of them may.
func TestRolesAddUp(t *testing.T) {
	own, public := someImage(Private), someImage(Public)
	for _, tt := range []struct {
		name   string
		caller *Caller
		action Action
		img    *Image
		want   error
	}{
		{"a service of the owner's project lists locations", project("own", "reader", "service"), ListLocations, own, nil},
		{"and still may not change the image", project("own", "reader", "service"), Modify, own, ErrForbidden},
		{"an owner who is shared with does not answer", project("own", "member"), AnswerSharing, someImage(Shared), ErrForbidden},
		{"an admin of the owner's project does", project("own", "admin"), AnswerSharing, someImage(Shared), nil},
		{"a service downloads as a member", project("other", "member", "service"), Download, public, nil},
		{"an unknown role is none", project("own", "superuser"), Show, own, ErrNotFound},
		{"roles are lower-case", project("own", "Admin"), Modify, own, ErrNotFound},
		{"who has no project owns nothing", project("", "member"), Modify, &Image{Visibility: Private}, ErrForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.caller.May(tt.action, tt.img); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestDuties(t *testing.T) {
	readers := "own reader,own member,image reader,image member,other reader,other member,guest of nothing,admin,everybody"
	for duty, by := range map[Duty]string{
		ListImages:    readers + ",stranger,service,own service",
		CreateImages:  "own member,image member,other member,admin,everybody",
		ManageTasks:   "admin,everybody",
		ManageCache:   "admin,everybody",
		DetailStores:  "admin,everybody,service,own service",
		WriteMetadefs: "admin,everybody",
		RunServers:    "admin,everybody",
	} {
		for name, c := range callers {
			t.Run(fmt.Sprintf("%s by %s", duty, name), func(t *testing.T) {
				err := c.MayAtAll(duty)
				if want := slices.Contains(strings.Split(by, ","), name); want != (err == nil) || err != nil && !errors.Is(err, ErrForbidden) {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

func TestMembersAreShownToWhomTheyConcern(t *testing.T) {
	img := someImage(Shared)
	for name, want := range map[string]string{
		"own reader": "guest own", "own member": "guest own", "admin": "guest own", "image member": "guest", "image reader": "guest", "other member": "",
	} {
		var seen []string
		for _, m := range img.Members {
			if callers[name].SeesMember(img, m.Project) {
				seen = append(seen, m.Project)
			}
		}
		if got := strings.Join(seen, " "); got != want {
			t.Errorf("%s sees %q, want %q", name, got, want)
		}
	}
}

func TestCallerOfNobodyMayNothing(t *testing.T) {
	c := CallerOf(t.Context())
	for _, v := range []Visibility{Public, Community, Shared, Private} {
		if c.Sees(someImage(v)) {
			t.Errorf("sees what is %s", v)
		}
	}
	for _, d := range []Duty{ListImages, CreateImages, ManageTasks, ManageCache, DetailStores, WriteMetadefs, RunServers} {
		if c.MayAtAll(d) == nil {
			t.Errorf("may %s", d)
		}
	}
	if got := CallerOf(WithCaller(t.Context(), callers["admin"])); got != callers["admin"] {
		t.Errorf("%v", got)
	}
}
