package api

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"nearsight/registry"
)

// maxAlternatives bounds the values of one in: filter; databases bound the
// variables of a statement.
const maxAlternatives = 1000

// A param is one parameter of a query string.
type param struct {
	name, value string
	raw         string // as the client wrote it
}

// parseParams reads a query string and keeps order and repetitions.
func parseParams(rawQuery string) ([]param, error) {
	var params []param
	for raw := range strings.SplitSeq(rawQuery, "&") {
		if raw == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(raw, "=")
		name, err1 := url.QueryUnescape(rawName)
		value, err2 := url.QueryUnescape(rawValue)
		if err1 != nil || err2 != nil {
			return nil, refuse(http.StatusBadRequest, "the query has a broken escape in %.80q", raw)
		}
		if !utf8.ValidString(raw) || !utf8.ValidString(name+value) || strings.ContainsRune(name+value, 0) {
			return nil, refuse(http.StatusBadRequest, "the query is not UTF-8 in %.80q", raw)
		}
		params = append(params, param{name, value, raw})
	}
	return params, nil
}

// query translates the parameters of a list. Parameters about the page as a
// whole count once, the last one; filters count each time.
func (a *API) query(params []param) (registry.Query, error) {
	q := registry.Query{Limit: a.defaultLimit}
	var order ordering
	for _, p := range params {
		var err error
		switch p.name {
		case "limit":
			q.Limit, err = a.limit(p)
		case "marker":
			if q.Marker = p.value; p.value == "" {
				err = badQuery(p.name, "it is empty")
			}
		case "sort", "sort_key", "sort_dir":
			order.add(p)
		default:
			err = addFilter(&q, p)
		}
		if err != nil {
			return registry.Query{}, err
		}
	}
	var err error
	q.Sort, err = order.orders()
	return q, err
}

// limit reads the length of the page. What is more than the maximum is the
// maximum, however large.
func (a *API) limit(p param) (int, error) {
	n, err := strconv.ParseInt(p.value, 10, 64)
	switch {
	case n < 0, err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, badQuery(p.name, "%.80q is not a number of images", p.value)
	case n > int64(a.maxLimit):
		return a.maxLimit, nil
	}
	return int(n), nil
}

// addFilter adds the filter that p is. What is no column names a custom
// property.
func addFilter(q *registry.Query, p param) error {
	switch p.name {
	case "name", "id", "status", "container_format", "disk_format":
		values, err := alternatives(p)
		q.Match = append(q.Match, registry.Match{Column: p.name, Values: values})
		return err
	case "owner", "checksum", "os_hash_value":
		q.Match = append(q.Match, registry.Match{Column: p.name, Values: []string{p.value}})
	case "size", "virtual_size", "min_ram", "min_disk":
		n, err := strconv.ParseInt(p.value, 10, 64)
		if err != nil { // no image has such a size
			nothing(q)
			return nil
		}
		q.Bounds = append(q.Bounds, registry.Bound{Column: p.name, Min: &n, Max: &n})
	case "size_min", "virtual_size_min", "min_ram_min", "min_disk_min",
		"size_max", "virtual_size_max", "min_ram_max", "min_disk_max":
		return addBound(q, p)
	case "created_at", "updated_at":
		op, t, err := timeFilter(p)
		q.Times = append(q.Times, registry.TimeBound{Column: p.name, Op: op, Time: t})
		return err
	case "visibility":
		q.Visibility = registry.Visibility(p.value)
		return oneOf(p, "public", "community", "shared", "private", "all")
	case "member_status":
		q.MemberStatus = registry.MemberStatus(p.value)
		return oneOf(p, "pending", "accepted", "rejected", "all")
	case "os_hidden":
		p.value = strings.ToLower(p.value)
		hidden := p.value == "true"
		q.Hidden = &hidden
		return oneOf(p, "true", "false")
	case "protected":
		protected := p.value == "true"
		q.Protected = &protected
		return oneOf(p, "true", "false")
	case "tag":
		if !slices.Contains(q.Tags, p.value) {
			q.Tags = append(q.Tags, p.value)
		}
	case "changes-since":
		return badQuery(p.name, "there is no such filter; use updated_at=gte:TIME")
	default:
		if old, ok := q.Properties[p.name]; ok && old != p.value {
			nothing(q)
			return nil
		}
		if q.Properties == nil {
			q.Properties = make(map[string]string)
		}
		q.Properties[p.name] = p.value
	}
	return nil
}

// nothing makes q match no image.
func nothing(q *registry.Query) {
	one, zero := int64(1), int64(0)
	q.Bounds = append(q.Bounds, registry.Bound{Column: "size", Min: &one, Max: &zero})
}

// oneOf checks a parameter against the words that it can be.
func oneOf(p param, words ...string) error {
	if slices.Contains(words, p.value) {
		return nil
	}
	return badQuery(p.name, "%.80q is none of %s", p.value, strings.Join(words, ", "))
}

// addBound adds a filter COLUMN_min or COLUMN_max. Bounds are inclusive.
func addBound(q *registry.Query, p param) error {
	n, err := strconv.ParseInt(p.value, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // beyond the range, n is its end
		return badQuery(p.name, "%.80q is not an integer", p.value)
	}
	if column, ok := strings.CutSuffix(p.name, "_min"); ok {
		q.Bounds = append(q.Bounds, registry.Bound{Column: column, Min: &n})
	} else {
		column = strings.TrimSuffix(p.name, "_max")
		q.Bounds = append(q.Bounds, registry.Bound{Column: column, Max: &n})
	}
	return nil
}

// cutOperator splits OP:REST. A time without an operator has colons of its own.
func cutOperator(value string) (op, rest string) {
	op, rest, found := strings.Cut(value, ":")
	if !found {
		return "eq", value
	}
	if _, ok := parseTime(value); ok {
		return "eq", value
	}
	return op, rest
}

// timeFilter reads a filter by time: OP:TIME, or TIME for eq:TIME.
func timeFilter(p param) (op string, t time.Time, err error) {
	op, text := cutOperator(p.value)
	if !slices.Contains([]string{"gt", "gte", "lt", "lte", "eq", "neq"}, op) {
		return "", t, badQuery(p.name, "%.80q is no comparison", op)
	}
	t, ok := parseTime(text)
	if !ok {
		return "", t, badQuery(p.name, "%.80q is no time; write it as 2026-01-02T03:04:05Z", text)
	}
	return op, t, nil
}

// timeLayouts are the forms of ISO 8601 that are taken. Without a zone a time
// is in UTC. Fractions of a second may follow the seconds of each.
var timeLayouts = [...]string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07", "2006-01-02T15:04:05",
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04",
	"20060102T150405Z07:00", "20060102T150405Z0700", "20060102T150405",
	"2006-01-02", "20060102",
}

// parseTime reads a time and drops what is below a second.
func parseTime(s string) (time.Time, bool) {
	if len(s) < len("20060102") || len(s) > 40 || s[0] < '0' || s[0] > '9' {
		return time.Time{}, false
	}
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	for _, layout := range timeLayouts {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		// A zone can move the first or last hours out of the years that SQL and
		// RFC 3339 can write.
		if t = t.UTC().Truncate(time.Second); t.Year() >= 1 && t.Year() <= 9999 {
			return t, true
		}
	}
	return time.Time{}, false
}

// alternatives reads VALUE, eq:VALUE or in:VALUE,VALUE. Between double quotes a
// comma belongs to the value, and \" is a quote.
func alternatives(p param) ([]string, error) {
	op, rest := cutOperator(p.value)
	switch op {
	case "eq":
		return []string{rest}, nil
	case "in":
	default:
		return nil, badQuery(p.name, "%.80q is no comparison; use eq: or in:", op)
	}
	var values []string
	for more := true; more; {
		var value string
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			if value, rest, ok = cutQuoted(quoted); !ok {
				return nil, badQuery(p.name, "a quotation mark is not closed")
			}
			if rest != "" && rest[0] != ',' {
				return nil, badQuery(p.name, "there is no comma after a quotation")
			}
			rest, more = strings.CutPrefix(rest, ",")
		} else {
			value, rest, more = strings.Cut(rest, ",")
			if strings.Contains(strings.ReplaceAll(value, `\"`, ""), `"`) {
				return nil, badQuery(p.name, "there is no comma before a quotation")
			}
			value = strings.ReplaceAll(value, `\"`, `"`)
		}
		values = append(values, value)
		if len(values) > maxAlternatives {
			return nil, badQuery(p.name, "there are more than %d values", maxAlternatives)
		}
	}
	return values, nil
}

// cutQuoted returns the text before the closing quotation mark, unescaped, and
// what follows the mark.
func cutQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// An ordering collects the parameters about the order of a list.
type ordering struct {
	keys, dirs []string
	sort       *string
}

func (o *ordering) add(p param) {
	switch p.name {
	case "sort":
		o.sort = &p.value
	case "sort_key":
		o.keys = append(o.keys, p.value)
	case "sort_dir":
		o.dirs = append(o.dirs, p.value)
	}
}

// orders returns the keys to sort by, each at most once.
func (o *ordering) orders() ([]registry.Order, error) {
	keys, dirs := o.keys, o.dirs
	switch {
	case o.sort != nil && (len(keys) > 0 || len(dirs) > 0):
		return nil, badQuery("sort", "it cannot be used together with sort_key and sort_dir")
	case o.sort != nil:
		for item := range strings.SplitSeq(*o.sort, ",") {
			key, dir, found := strings.Cut(strings.TrimSpace(item), ":")
			if !found {
				dir = "desc"
			}
			keys, dirs = append(keys, key), append(dirs, dir)
		}
	case len(keys) == 0 && len(dirs) > 0:
		keys = []string{"created_at"}
	}
	switch {
	case len(dirs) == 0:
		dirs = []string{"desc"}
		fallthrough
	case len(dirs) == 1:
		dirs = slices.Repeat(dirs, max(len(keys), 1))
	}
	if len(keys) > 0 && len(keys) != len(dirs) {
		return nil, badQuery("sort_dir", "%d directions for %d keys", len(dirs), len(keys))
	}
	var orders []registry.Order
	for i, key := range keys {
		switch key {
		case "name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at":
		default:
			return nil, badQuery("sort_key", "there is no key %.80q", key)
		}
		if dirs[i] != "asc" && dirs[i] != "desc" {
			return nil, badQuery("sort_dir", "%.80q is neither asc nor desc", dirs[i])
		}
		if !slices.ContainsFunc(orders, func(o registry.Order) bool { return o.Key == key }) {
			orders = append(orders, registry.Order{Key: key, Desc: dirs[i] == "desc"})
		}
	}
	return orders, nil
}
