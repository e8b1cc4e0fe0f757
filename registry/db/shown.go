package db

import (
	"strings"

	"nearsight/registry"
)

// A set is some of the images that a caller is shown, such that an index finds
// them in the orders that clients ask for.
type set struct {
	condition string
	args      []any
}

// shown returns the sets that together are what the caller is shown in lists of
// images of visibility v: what it sees (registry.Caller.Sees), less what must be
// asked for (registry.Query). With all visibilities and member statuses it is what
// the caller sees. Sets may overlap; without any the caller is shown nothing.
func shown(c *registry.Caller, v registry.Visibility, m registry.MemberStatus) []set {
	var project string
	if c != nil {
		project = c.Project
	}
	one := v != "" && v != registry.AllVisibilities
	switch {
	case c != nil && !c.Is("admin"):
	case one:
		return []set{{"visibility = ?", []any{v}}}
	case v == registry.AllVisibilities:
		return everything()
	default:
		return []set{{unindexed("visibility <> 'community' OR owner IS NULL OR owner = ?"), []any{project}}}
	}

	var sets []set
	knows := c.Is("reader") || c.Is("service")
	if (knows || c.Stranger) && (!one || v == registry.Public) {
		sets = append(sets, set{"visibility = 'public'", nil})
	}
	if knows && (v == registry.AllVisibilities || v == registry.Community) {
		sets = append(sets, set{"visibility = 'community'", nil})
	}
	if !knows || v == registry.Public || v == registry.Community {
		return sets
	}
	sets = append(sets, set{"owner IS NULL", nil})
	if project != "" {
		sets = append(sets, set{"owner = ?", []any{project}})
	}
	if one {
		for i := range sets {
			sets[i].condition += " AND " + unindexed("visibility = ?")
			sets[i].args = append(sets[i].args, v)
		}
	}
	if project != "" && v != registry.Private {
		sets = append(sets, sharedWith(project, m))
	}
	return sets
}

// everything is the set of all images.
func everything() []set { return []set{{"TRUE", nil}} }

// sharedWith returns the set of what is shared with a project that said m to it.
func sharedWith(project string, m registry.MemberStatus) set {
	said, args := "", []any{project}
	switch m {
	case registry.AllMemberStatuses:
	case "":
		m = registry.Accepted
		fallthrough
	default:
		said, args = " AND status = ?", append(args, m)
	}
	return set{"id IN (SELECT image_id FROM members WHERE project = ?" + said + ") AND " + unindexed("visibility = 'shared'"), args}
}

// inAny adds that an image is in one of the sets. It helps no index and misleads
// none.
func (w *where) inAny(sets []set) {
	conditions := []string{"FALSE"}
	var args []any
	for _, s := range sets {
		conditions = append(conditions, s.condition)
		args = append(args, s.args...)
	}
	w.and(unindexed(strings.Join(conditions, " OR ")), args...)
}

// unindexed returns the condition in a form that databases find no index for: where
// they would take the wrong one.
func unindexed(condition string) string {
	return "CASE WHEN " + condition + " THEN TRUE ELSE FALSE END"
}

// pageQuery returns the query for a page: the first limit of the images for which w
// holds and that are in one of the sets. The sets are asked one by one for that
// many each, so that none of them has to be read to its end to find those of
// another.
func pageQuery(w *where, sets []set, keys []sortKey, limit int) (string, []any) {
	order := " ORDER BY " + orderBy(keys) + " LIMIT ?"
	switch len(sets) {
	case 0:
		return "SELECT id, " + columns + " FROM images WHERE FALSE", nil
	case 1:
		all := w.with(sets[0].condition, sets[0].args...)
		return "SELECT id, " + columns + " FROM images" + all.String() + order, append(all.args, limit)
	}
	var pages []string
	var args []any
	for _, s := range sets {
		some := w.with(s.condition, s.args...)
		pages = append(pages, "SELECT id FROM (SELECT id FROM images"+some.String()+order+") AS part")
		args = append(append(args, some.args...), limit)
	}
	return "SELECT id, " + columns + " FROM images WHERE id IN (" + strings.Join(pages, " UNION ALL ") + ")" + order, append(args, limit)
}
