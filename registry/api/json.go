package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"nearsight/registry"
)

// readBody returns the JSON text of a request: UTF-8, not empty, at most
// maxBody bytes. Its Content-Type is nobody's business but PATCH's.
func (a *API) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", maxBody)
	}
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now().Add(a.stallTimeout)) // not all writers can; those are not sockets
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err == nil && len(body) <= maxBody { // else it still bounds the wait for the rest
		rc.SetReadDeadline(time.Time{})
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), len(body) > maxBody:
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", maxBody)
	case isTimeout(err):
		return nil, refuse(http.StatusRequestTimeout, "the body did not arrive in time")
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "the body could not be read")
	case len(bytes.TrimSpace(body)) == 0:
		return nil, refuse(http.StatusBadRequest, "the body is empty; a JSON document is needed")
	case !utf8.Valid(body):
		return nil, refuse(http.StatusBadRequest, "the body is not UTF-8")
	case halfSurrogate(body):
		return nil, refuse(http.StatusBadRequest, "the body has half of a surrogate pair, which is no character")
	}
	return body, nil
}

// halfSurrogate reports whether a string in a JSON text has an escape \uD800 to
// \uDFFF that is not one of a pair. encoding/json would make U+FFFD of it, and
// so another text than was sent.
func halfSurrogate(text []byte) bool {
	for {
		i := bytes.IndexByte(text, '\\')
		if i < 0 {
			return false
		}
		r := escape(text[i:])
		if r < 0 {
			text = text[min(i+2, len(text)):]
			continue
		}
		text = text[i+6:]
		if utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, escape(text)) == utf8.RuneError {
				return true
			}
			text = text[6:]
		}
	}
}

// escape returns the code unit that text begins with as \uXXXX, or -1.
func escape(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// hasBody reports whether a request brings a body to a call that takes none.
func hasBody(r *http.Request) bool {
	if r.ContentLength < 0 {
		return r.Method == http.MethodPut || r.Method == http.MethodPost || r.Method == http.MethodPatch
	}
	return r.ContentLength > 0
}

// errUnwantedBody refuses such a request.
var errUnwantedBody = refuse(http.StatusBadRequest, "this call takes no body")

// decodeObject returns the members of a JSON object. Names are compared byte by
// byte; of members with equal names the last one counts.
func decodeObject(text []byte) (map[string]json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil || object == nil {
		return nil, malformed("a JSON object", err)
	}
	return object, nil
}

// decodeArray returns the elements of a JSON array.
func decodeArray(text []byte) ([]json.RawMessage, error) {
	var array []json.RawMessage
	if err := json.Unmarshal(text, &array); err != nil || array == nil {
		return nil, malformed("a JSON array", err)
	}
	return array, nil
}

// malformed says what was wanted and, when the text is no JSON, where it fails.
func malformed(want string, err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return refuse(http.StatusBadRequest, "malformed JSON at byte %d: %v", syntax.Offset, syntax)
	}
	return refuse(http.StatusBadRequest, "this must be %s", want)
}

// decodeString returns the value of a JSON string.
func decodeString(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// writeJSON answers with a JSON document. Caching is up to the caller.
func writeJSON(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodHead {
		body = nil
	}
	writeBody(w, status, body)
}

// appendImage appends the JSON form of an image. It is written by hand because
// showing images is what edges do most. Base fields come first in a fixed
// order, custom properties after them by name: equal images have equal texts,
// and so equal tags. No other member may be added: clients take every one that
// they do not know for a custom property.
func appendImage(b []byte, img *registry.Image, p *places) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, img.ID)
	b = append(b, `,"name":`...)
	b = appendNullable(b, img.Name)
	b = append(b, `,"status":`...)
	b = appendString(b, string(img.Status))
	b = append(b, `,"visibility":`...)
	b = appendString(b, string(img.Visibility))
	b = append(b, `,"protected":`...)
	b = strconv.AppendBool(b, img.Protected)
	b = append(b, `,"os_hidden":`...)
	b = strconv.AppendBool(b, img.Hidden)
	b = append(b, `,"checksum":`...)
	b = appendKnown(b, img.Checksum)
	b = append(b, `,"os_hash_algo":`...)
	b = appendKnown(b, img.HashAlgo)
	b = append(b, `,"os_hash_value":`...)
	b = appendKnown(b, img.HashValue)
	b = append(b, `,"owner":`...)
	b = appendNullable(b, img.Owner)
	b = append(b, `,"size":`...)
	b = appendNumber(b, img.Size)
	b = append(b, `,"virtual_size":`...)
	b = appendNumber(b, img.VirtualSize)
	b = append(b, `,"container_format":`...)
	b = appendKnown(b, img.ContainerFormat)
	b = append(b, `,"disk_format":`...)
	b = appendKnown(b, img.DiskFormat)
	b = append(b, `,"min_ram":`...)
	b = strconv.AppendInt(b, int64(img.MinRAM), 10)
	b = append(b, `,"min_disk":`...)
	b = strconv.AppendInt(b, int64(img.MinDisk), 10)
	b = append(b, `,"tags":[`...)
	for i, tag := range img.Tags {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, tag)
	}
	b = append(b, `],"created_at":"`...)
	b = appendTime(b, img.CreatedAt)
	b = append(b, `","updated_at":"`...)
	b = appendTime(b, img.UpdatedAt)
	b = append(b, `","self":"/v2/images/`...)
	b = append(b, img.ID...)
	b = append(b, `","file":"/v2/images/`...)
	b = append(b, img.ID...)
	b = append(b, `/file","schema":"/v2/schemas/image"`...)
	b = p.appendTo(b, img)
	if len(img.Properties) > 0 {
		for _, name := range slices.Sorted(maps.Keys(img.Properties)) {
			b = append(b, ',')
			b = appendString(b, name)
			b = append(b, ':')
			b = appendString(b, img.Properties[name])
		}
	}
	return append(b, '}')
}

// appendNullable appends a string, or null for nil.
func appendNullable(b []byte, s *string) []byte {
	if s == nil {
		return append(b, "null"...)
	}
	return appendString(b, *s)
}

// appendKnown appends a string, or null for "".
func appendKnown(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

// appendNumber appends a number, or null for nil.
func appendNumber(b []byte, n *int64) []byte {
	if n == nil {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, *n, 10)
}

// appendTime appends a time in UTC at whole seconds, as in RFC 3339.
func appendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, "2006-01-02T15:04:05Z")
}

// appendString appends s as a JSON string (RFC 8259, section 7). What is not
// UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, s[start:i]...)
				b = append(b, "\uFFFD"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
