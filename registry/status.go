package registry

import (
	"fmt"
	"slices"
)

// CanBecome reports whether an image in status s may come into status t. Queued
// is where an image begins; a status never becomes itself.
func (s Status) CanBecome(t Status) bool {
	return slices.Contains(s.next(), t)
}

// next is the table of the status machine (Images API v2 as Glance has it).
func (s Status) next() []Status {
	switch s {
	case Queued:
		return []Status{Saving, Uploading, Importing, Active, Killed, Deleted}
	case Saving:
		return []Status{Active, Queued, Killed, Deleted}
	case Uploading:
		return []Status{Importing, Queued, Deleted}
	case Importing:
		return []Status{Active, Queued, Deleted}
	case Active:
		return []Status{Deactivated, PendingDelete, Deleted}
	case Deactivated:
		return []Status{Active, Deleted}
	case PendingDelete:
		return []Status{Deleted, Active}
	case Killed:
		return []Status{Deleted}
	}
	return nil // Deleted, and what is no status
}

// movesFreely reports whether an image may come from s into t without anything
// being done to its data.
func (s Status) movesFreely(t Status) bool {
	return s == Active && t == Deactivated || s == Deactivated && t == Active || s == Queued && t == Killed
}

// Become moves the image to status t and clears what does not belong there:
// size and virtual size while queued. ErrConflict if the status machine has no
// such step; ErrInvalid if data would come to an image without formats.
func (img *Image) Become(t Status) error {
	if !img.Status.CanBecome(t) {
		return fmt.Errorf("%w: image is %s: %s", ErrConflict, img.Status, t.wanted())
	}
	switch t {
	case Saving, Importing, Active:
		if err := img.checkFormatsSet(); err != nil {
			return err
		}
	case Queued:
		img.Size, img.VirtualSize = nil, nil
	}
	img.Status = t
	return nil
}

// wanted says, to a client, which images may come into status t.
func (t Status) wanted() string {
	switch t {
	case Saving, Uploading:
		return "data can be uploaded only while it is queued"
	case Importing:
		return "data can be imported only while it is queued or uploading"
	}
	return "it cannot become " + string(t)
}

func (img *Image) checkFormatsSet() error {
	switch {
	case img.DiskFormat == "" && img.ContainerFormat == "":
		return fmt.Errorf("%w: disk_format and container_format are not set, and must be before there is data", ErrInvalid)
	case img.DiskFormat == "":
		return fmt.Errorf("%w: disk_format is not set, and must be before there is data", ErrInvalid)
	case img.ContainerFormat == "":
		return fmt.Errorf("%w: container_format is not set, and must be before there is data", ErrInvalid)
	}
	return nil
}
