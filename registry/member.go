package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// MemberStatus is what a project says to being shared an image with. Whatever it
// says, it sees the image; only accepted ones are in its lists unasked.
type MemberStatus string

const (
	Pending  MemberStatus = "pending"
	Accepted MemberStatus = "accepted"
	Rejected MemberStatus = "rejected"
)

// AllMemberStatuses in Query.MemberStatus lists what is shared, whatever was said
// to that.
const AllMemberStatuses MemberStatus = "all"

// A Member is a project that an image is shared with. It counts only while the
// image's visibility is shared.
type Member struct {
	Project string
	Status  MemberStatus
	// CanShare is of the API of 2011 alone, which shows it again.
	CanShare bool
	// Times are in UTC, and the registry's to set: UpdatedAt moves with Status
	// and CanShare.
	CreatedAt, UpdatedAt time.Time
}

// Member returns the member of that project, or nil. It must not be altered unless
// img may be.
func (img *Image) Member(project string) *Member {
	i, ok := slices.BinarySearchFunc(img.Members, project, func(m Member, p string) int { return strings.Compare(m.Project, p) })
	if !ok {
		return nil
	}
	return &img.Members[i]
}

// AddMember adds a pending member. ErrConflict if there is one of that project.
func (img *Image) AddMember(m Member) error {
	if img.Member(m.Project) != nil {
		return fmt.Errorf("%w: the image is shared with %.80q already", ErrConflict, m.Project)
	}
	if m.Status == "" {
		m.Status = Pending
	}
	img.Members = append(img.Members, m)
	img.sortMembers()
	return nil
}

// RemoveMember removes the member of that project. ErrNotFound if there is none.
func (img *Image) RemoveMember(project string) error {
	if img.Member(project) == nil {
		return fmt.Errorf("%w: the image is not shared with %.80q", ErrNotFound, project)
	}
	img.Members = slices.DeleteFunc(img.Members, func(m Member) bool { return m.Project == project })
	return nil
}

func (img *Image) sortMembers() {
	slices.SortFunc(img.Members, func(a, b Member) int { return strings.Compare(a.Project, b.Project) })
}

// sameMembers compares what is for change.
func sameMembers(a, b []Member) bool {
	return slices.EqualFunc(a, b, func(a, b Member) bool {
		return a.Project == b.Project && a.Status == b.Status && a.CanShare == b.CanShare
	})
}

func checkMembers(members []Member, limit int) error {
	for i, m := range members {
		if m.Project == "" {
			return fmt.Errorf("%w: a member needs the id of a project", ErrInvalid)
		}
		if err := checkText("member", m.Project); err != nil {
			return err
		}
		switch m.Status {
		case Pending, Accepted, Rejected:
		default:
			return fmt.Errorf("%w: member status %.80q is not one of pending, accepted, rejected", ErrInvalid, m.Status)
		}
		if i > 0 && members[i-1].Project == m.Project {
			return fmt.Errorf("%w: the image is shared twice with %.80q", ErrInvalid, m.Project)
		}
	}
	if limit >= 0 && len(members) > limit {
		return fmt.Errorf("%w: %d members, more than %d", ErrTooLarge, len(members), limit)
	}
	return nil
}
