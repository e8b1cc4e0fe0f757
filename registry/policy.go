package registry

import "fmt"

// An Action is something that a caller wants to do with an image.
type Action string

// What can be wanted of an image. Show is what Sees says.
const (
	Show           Action = "show"
	Download       Action = "download"
	Modify         Action = "modify" // patch, tags, upload, stage, import
	Remove         Action = "delete"
	Publicize      Action = "make public"
	GiveAway       Action = "change the owner of"
	Deactivate     Action = "deactivate or reactivate"
	CopyToStore    Action = "copy to another store"
	AddLocation    Action = "add a location to"
	DropLocation   Action = "remove a location from"
	ListLocations  Action = "list the locations of"
	ShareWith      Action = "add or remove members of"
	ListMembers    Action = "list the members of"
	AnswerSharing  Action = "accept or reject the sharing of"
	ReadDeactivate Action = "download while deactivated"
)

// A right is a kind of caller, seen from one image.
type right uint16

const (
	ownReader right = 1 << iota // reader of the owner's project
	ownMember                   // member of the owner's project
	imgMember                   // project that the image is shared with, role member
	imgReader                   // the same, role reader
	anyMember                   // anybody else who sees it, role member
	anyReader                   // anybody else who sees it, role reader
	stranger                    // nobody in particular, see Caller.Stranger
	admin
	service // role service, whatever else
	bearer  // of a signed URL for it, see Caller.Image
)

// policy is the table of who may do what with an image that it sees (Images API
// v2, "Default policy"). Actions that are about things and not images are in
// mayAtAll.
var policy = map[Action]right{
	Show:           ownReader | ownMember | imgMember | imgReader | anyMember | anyReader | stranger | admin | service,
	Download:       ownMember | imgMember | anyMember | stranger | admin | bearer,
	ReadDeactivate: admin,
	Modify:         ownMember | admin,
	Remove:         ownMember | admin,
	Publicize:      admin,
	GiveAway:       admin,
	Deactivate:     ownMember | admin,
	CopyToStore:    admin,
	AddLocation:    ownMember | admin | service,
	DropLocation:   admin,
	ListLocations:  admin | service,
	ShareWith:      ownMember | admin,
	ListMembers:    ownReader | ownMember | imgMember | imgReader | admin, // see SeesMember
	AnswerSharing:  imgMember | admin,
}

// Sees reports whether the caller may know that img exists. To whom an image is
// invisible it is ErrNotFound, whatever is asked.
func (c *Caller) Sees(img *Image) bool {
	switch {
	case c.Image != "":
		return c.Image == img.ID
	case c.Is("admin"):
		return true
	case img.Visibility == Public:
		return c.Stranger || c.Is("reader") || c.Is("service")
	case !c.Is("reader") && !c.Is("service"):
		return false
	case img.Owner == nil, img.Visibility == Community, c.Owns(img):
		return true
	}
	return c.sharedWith(img)
}

// sharedWith reports whether img is shared with the caller's project.
func (c *Caller) sharedWith(img *Image) bool {
	return img.Visibility == Shared && img.Member(c.Project) != nil
}

// SeesMember reports whether a caller who may ListMembers of img is shown the
// member project: those with whom it is shared see themselves alone.
func (c *Caller) SeesMember(img *Image, project string) bool {
	return c.Is("admin") || c.Owns(img) || c.Project == project
}

// May returns nil if the caller may do a with img, ErrNotFound if it does not see
// it, and ErrForbidden otherwise.
func (c *Caller) May(a Action, img *Image) error {
	if !c.Sees(img) {
		return ErrNotFound
	}
	if c.rights(img)&policy[a] == 0 {
		return fmt.Errorf("%w: you may not %s this image", ErrForbidden, a)
	}
	return nil
}

// rights returns what the caller is to an image that it sees.
func (c *Caller) rights(img *Image) right {
	if c.Image != "" {
		return bearer
	}
	var r right
	if c.Is("admin") {
		r |= admin
	}
	if c.Is("service") {
		r |= service
	}
	switch {
	case c.Stranger:
		r |= stranger
	case c.Owns(img) && c.Is("member"):
		r |= ownMember | ownReader
	case c.Owns(img) && c.Is("reader"):
		r |= ownReader
	case c.sharedWith(img) && c.Is("member"):
		r |= imgMember | imgReader
	case c.sharedWith(img) && c.Is("reader"):
		r |= imgReader
	case c.Is("member"):
		r |= anyMember
	case c.Is("reader"):
		r |= anyReader
	}
	return r
}

// A Duty is something that only some callers may do, and that is about no single
// image.
type Duty string

const (
	ListImages    Duty = "list images" // those that the caller sees
	CreateImages  Duty = "create images"
	ManageTasks   Duty = "use the tasks API"
	ManageCache   Duty = "manage the cache"
	DetailStores  Duty = "see the details of stores"
	WriteMetadefs Duty = "change metadata definitions"
	RunServers    Duty = "administer this server"
)

// MayAtAll returns nil if the caller may do d, ErrForbidden otherwise.
func (c *Caller) MayAtAll(d Duty) error {
	ok := c.Is("admin")
	switch d {
	case ListImages:
		ok = c.Stranger || c.Is("reader") || c.Is("service")
	case CreateImages:
		ok = ok || c.Is("member") && c.Project != ""
	case DetailStores:
		ok = ok || c.Is("service")
	}
	if !ok {
		return fmt.Errorf("%w: you may not %s", ErrForbidden, d)
	}
	return nil
}
