package registrytest

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// population makes n random images, with equal and missing values.
func (s *suite) population(r *rand.Rand, n int) (all []*registry.Image) {
	s.Helper()
	for i := range n {
		all = append(all, s.randomImage(r, i))
	}
	return all
}

func (s *suite) randomImage(r *rand.Rand, n int) *registry.Image {
	s.Helper()
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	img := &registry.Image{
		DiskFormat: pick("", "raw", "qcow2"), ContainerFormat: pick("", "bare", "ovf"),
		Visibility: registry.Visibility(pick("public", "shared", "community", "private")),
		Hidden:     r.IntN(8) == 0, Protected: r.IntN(4) == 0, MinRAM: r.IntN(3), MinDisk: r.IntN(3),
		Properties: map[string]string{pick("p", "q"): pick("1", "2")},
	}
	if name := pick("", "x", "X", "ä", "z z"); r.IntN(4) > 0 {
		img.Name = &name
	}
	if owner := pick("o1", "o2"); r.IntN(2) == 0 {
		img.Owner = &owner
	}
	for range r.IntN(3) {
		img.Tags = append(img.Tags, pick("t1", "t2", "t3"))
	}
	for _, project := range []string{"o1", "o2"} {
		if status := pick("", "pending", "accepted", "rejected"); status != "" {
			img.Members = append(img.Members, registry.Member{Project: project, Status: registry.MemberStatus(status)})
		}
	}
	img = s.create(img)
	if img.DiskFormat != "" && img.ContainerFormat != "" && r.IntN(2) == 0 {
		s.begin(img.ID, place(n))
		img = s.finish(img.ID, place(n), summary(pick("", "a", "b", "abc")))
	}
	return img
}

func randomSort(r *rand.Rand) (order []registry.Order) {
	keys := []string{"name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"}
	for range r.IntN(4) {
		order = append(order, registry.Order{Key: keys[r.IntN(len(keys))], Desc: r.IntN(2) == 0})
	}
	return order
}

func randomQuery(r *rand.Rand, all []*registry.Image) registry.Query {
	sometimes := func() bool { return r.IntN(4) == 0 }
	some := all[r.IntN(len(all))]
	q := registry.Query{Sort: randomSort(r), Limit: 1 + r.IntN(len(all))}
	if r.IntN(2) == 0 {
		q.Visibility = registry.AllVisibilities
	}
	if sometimes() {
		q.Match = append(q.Match, registry.Match{Column: "disk_format", Values: []string{some.DiskFormat, "raw"}})
	}
	if sometimes() {
		q.Match = append(q.Match, registry.Match{Column: "status", Values: []string{string(some.Status)}})
	}
	if sometimes() {
		low, high := int64(r.IntN(3)), int64(1+r.IntN(3))
		q.Bounds = append(q.Bounds, registry.Bound{Column: []string{"size", "virtual_size", "min_ram", "min_disk"}[r.IntN(4)], Min: &low, Max: &high})
	}
	if r.IntN(2) == 0 {
		ops := []string{"gt", "gte", "lt", "lte", "eq", "neq"}
		at := some.CreatedAt.Add(time.Duration(r.IntN(5)-2) * time.Second / 2)
		q.Times = append(q.Times, registry.TimeBound{Column: []string{"created_at", "updated_at"}[r.IntN(2)], Op: ops[r.IntN(6)], Time: at})
	}
	if sometimes() {
		q.Hidden = ptr(some.Hidden)
	}
	if sometimes() {
		q.Protected = ptr(some.Protected)
	}
	if sometimes() {
		q.Tags = some.Tags
	}
	if sometimes() {
		q.Properties = some.Properties
	}
	if sometimes() && some.Digest != "" {
		q.Digests = []origin.Digest{some.Digest}
	}
	if caller := randomCaller(r); caller != nil {
		q.Caller = caller
		q.MemberStatus = registry.MemberStatus([]string{"", "pending", "rejected", "all"}[r.IntN(4)])
	}
	if r.IntN(2) == 0 && (q.Caller == nil || q.Caller.Sees(some)) {
		q.Marker = some.ID
	}
	return q
}

func randomCaller(r *rand.Rand) *registry.Caller {
	c := &registry.Caller{Project: []string{"", "o1", "o2"}[r.IntN(3)]}
	switch r.IntN(8) {
	case 0:
		return nil
	case 1:
		c.Roles = []string{"admin"}
	case 2:
		c.Stranger = true
	default:
		c.Roles = []string{[]string{"member", "reader", "service"}[r.IntN(3)]}
	}
	return c
}

// model is what List promises, done the simple way.
func model(all []*registry.Image, q registry.Query) (page []*registry.Image) {
	order := append(slices.Clone(q.Sort), registry.Order{Key: "created_at", Desc: true}, registry.Order{Key: "id", Desc: true})
	sorted := slices.SortedFunc(slices.Values(all), func(a, b *registry.Image) int { return compare(a, b, order) })
	var marker *registry.Image
	for _, img := range all {
		if img.ID == q.Marker {
			marker = img // whether q matches it or not
		}
	}
	for _, img := range sorted {
		if matches(img, q) && len(page) < q.Limit && (marker == nil || compare(img, marker, order) > 0) {
			page = append(page, img)
		}
	}
	return page
}

func compare(a, b *registry.Image, order []registry.Order) int {
	for _, o := range order {
		n := map[string]int{
			"name":             comparePointers(a.Name, b.Name),
			"size":             comparePointers(a.Size, b.Size),
			"status":           cmp.Compare(a.Status, b.Status),
			"container_format": cmp.Compare(a.ContainerFormat, b.ContainerFormat),
			"disk_format":      cmp.Compare(a.DiskFormat, b.DiskFormat),
			"id":               cmp.Compare(a.ID, b.ID),
			"created_at":       a.CreatedAt.Compare(b.CreatedAt),
			"updated_at":       a.UpdatedAt.Compare(b.UpdatedAt),
		}[o.Key]
		if o.Desc {
			n = -n
		}
		if n != 0 {
			return n
		}
	}
	return 0
}

func comparePointers[T cmp.Ordered](a, b *T) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return cmp.Compare(*a, *b)
}

func matches(img *registry.Image, q registry.Query) bool {
	for _, m := range q.Match {
		value := map[string]string{"disk_format": img.DiskFormat, "status": string(img.Status)}[m.Column]
		if value == "" || !slices.Contains(m.Values, value) {
			return false
		}
	}
	for _, b := range q.Bounds {
		value := map[string]*int64{"size": img.Size, "virtual_size": img.VirtualSize, "min_ram": ptr(int64(img.MinRAM)), "min_disk": ptr(int64(img.MinDisk))}[b.Column]
		if value == nil || *value < *b.Min || *value > *b.Max {
			return false
		}
	}
	for _, b := range q.Times {
		at := img.CreatedAt
		if b.Column == "updated_at" {
			at = img.UpdatedAt
		}
		n := cmp.Compare(at.Unix(), b.Time.Unix())
		if !map[string]bool{"gt": n > 0, "gte": n >= 0, "lt": n < 0, "lte": n <= 0, "eq": n == 0, "neq": n != 0}[b.Op] {
			return false
		}
	}
	for _, tag := range q.Tags {
		if !slices.Contains(img.Tags, tag) {
			return false
		}
	}
	for name, value := range q.Properties {
		if has, ok := img.Properties[name]; !ok || has != value {
			return false
		}
	}
	if len(q.Digests) > 0 && !slices.Contains(q.Digests, img.Digest) {
		return false
	}
	return isListed(img, q) && img.Hidden == (q.Hidden != nil && *q.Hidden) && (q.Protected == nil || *q.Protected == img.Protected)
}

// isListed is what the type registry.Query says of its Caller, Visibility and
// MemberStatus.
func isListed(img *registry.Image, q registry.Query) bool {
	c := q.Caller
	if c == nil {
		c = registry.Everybody()
	}
	if !c.Sees(img) {
		return false
	}
	switch q.Visibility {
	case "":
		if img.Visibility == registry.Community && img.Owner != nil && !c.Owns(img) {
			return false
		}
	case registry.AllVisibilities:
	default:
		if img.Visibility != q.Visibility {
			return false
		}
	}
	member := img.Member(c.Project)
	if c.Is("admin") || img.Visibility != registry.Shared || img.Owner == nil || c.Owns(img) || member == nil {
		return true
	}
	switch q.MemberStatus {
	case "":
		return member.Status == registry.Accepted
	case registry.AllMemberStatuses:
		return true
	}
	return member.Status == q.MemberStatus
}
