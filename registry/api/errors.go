package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"nearsight/origin"
	"nearsight/registry"
)

// maxDetail bounds the explanation in an error body, in bytes: what a client
// sent is quoted there.
const maxDetail = 1000

// StatusClientLeft is what nginx calls an answer that its client did not wait
// for. It is seldom read, but stands in the access record.
const StatusClientLeft = 499

// A statusError is a refusal that only HTTP knows of.
type statusError struct {
	status int
	detail string
}

func (e *statusError) Error() string { return e.detail }

// refuse returns an error that Fail answers with status and this explanation.
// People read it, so %q puts strings between quotation marks without the escapes
// of Go.
func refuse(status int, format string, args ...any) error {
	plain := make([]any, len(args))
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			arg = text(s)
		}
		plain[i] = arg
	}
	return &statusError{status, fmt.Sprintf(format, plain...)}
}

// A text is a string in an explanation.
type text string

// Format implements fmt.Formatter. A precision is the longest text that is shown
// whole, in characters. Control characters become U+FFFD.
func (t text) Format(f fmt.State, verb rune) {
	s := []rune(string(t))
	if limit, ok := f.Precision(); ok && len(s) > limit {
		s = append(s[:limit], []rune("...")...)
	}
	for i, c := range s {
		if unicode.IsControl(c) {
			s[i] = utf8.RuneError
		}
	}
	mark := ""
	if verb == 'q' {
		mark = `"`
	}
	io.WriteString(f, mark+string(s)+mark)
}

// Fail answers a request with the status that err means and explains it. It is
// the only place where errors become statuses. It must be called before
// anything was written; what was set for the answer that did not come about
// (validators, lengths, freshness) is taken back first, and the error is not
// to be stored (RFC 9110, section 15.1).
//
// What registry errors and refusals say is wrong reaches the client. The texts
// of other errors may name paths and backends, and do not.
func Fail(w http.ResponseWriter, r *http.Request, err error) {
	status, detail := statusOf(r.Context(), err)
	FailStatus(w, r, status, detail)
}

// explain returns the reason in an error that wraps the sentinel. What was being
// done stands before it, and is the log's.
func explain(err, sentinel error) string {
	_, reason, ok := strings.Cut(err.Error(), sentinel.Error()+": ")
	if !ok {
		return sentinel.Error()
	}
	return reason
}

// statusOf maps the error of a request with this context to its status and to
// the text for the client.
func statusOf(ctx context.Context, err error) (status int, detail string) {
	var refused *statusError
	var cut *cutError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &refused):
		return refused.status, refused.detail
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return StatusClientLeft, "the request was given up"

	case errors.Is(err, registry.ErrNotFound):
		return http.StatusNotFound, explain(err, registry.ErrNotFound)
	case errors.Is(err, registry.ErrInvalid):
		return http.StatusBadRequest, explain(err, registry.ErrInvalid)
	case errors.Is(err, registry.ErrForbidden):
		return http.StatusForbidden, explain(err, registry.ErrForbidden)
	case errors.Is(err, registry.ErrConflict):
		return http.StatusConflict, explain(err, registry.ErrConflict)
	case errors.Is(err, registry.ErrTooLarge):
		return http.StatusRequestEntityTooLarge, explain(err, registry.ErrTooLarge)
	case errors.Is(err, registry.ErrUnavailable):
		return http.StatusServiceUnavailable, "the registry cannot be asked just now"

	case errors.Is(err, origin.ErrSize):
		return http.StatusBadRequest, "the data is not as long as it was said to be"
	case errors.Is(err, origin.ErrFull):
		return http.StatusRequestEntityTooLarge, "there is no room for the image"
	case errors.Is(err, origin.ErrUnavailable):
		return http.StatusServiceUnavailable, "the store of the image does not answer"
	case errors.Is(err, origin.ErrNotFound):
		return http.StatusBadGateway, "the data of the image is not in its store any more"
	case errors.Is(err, origin.ErrChanged):
		return http.StatusBadGateway, "the data of the image in its store is not what it was"
	case errors.Is(err, origin.ErrLocation):
		return http.StatusBadGateway, "the data of the image is in no place that this server can read"

	case errors.As(err, &cut):
		return http.StatusBadRequest, fmt.Sprintf("the body broke off after %d bytes", cut.n)
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, "the body is too large"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout, "the body did not arrive in time"
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "the answer took too long"
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, "the request was given up"
	}
	return http.StatusInternalServerError, "the server failed; its log says more about this request id"
}

// FailStatus is Fail for a status that follows from no error. It keeps what
// belongs to an error: Allow, Accept-Patch, Retry-After, and Content-Range when
// status is 416. While the body is not read the connection cannot be used again,
// and the answer does not wait for it.
func FailStatus(w http.ResponseWriter, r *http.Request, status int, detail string) {
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + " ..."
	}
	if !utf8.ValidString(detail) {
		detail = strings.ToValidUTF8(detail, "\uFFFD")
	}
	h := w.Header()
	forget(h, status)
	contentType, body := errorBody(r, h.Get(RequestIDHeader), status, detail)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get("Retry-After") == "" {
		switch status {
		case http.StatusServiceUnavailable:
			h.Set("Retry-After", "5")
		case http.StatusTooManyRequests:
			h.Set("Retry-After", "1")
		}
	}
	if unread(r) {
		h.Set("Connection", "close")
	}
	if r.Method == http.MethodHead {
		body = nil
	}
	writeBody(w, status, body)
}

// forget removes the fields that describe a representation and its freshness.
func forget(h http.Header, status int) {
	for name := range h {
		switch {
		case name == "Content-Range" && status == http.StatusRequestedRangeNotSatisfiable:
		case name == "Etag", name == "Last-Modified", name == "Accept-Ranges", name == "Expires",
			name == "Repr-Digest", name == "Xkey", name == "Cdn-Cache-Control",
			strings.HasPrefix(name, "Content-"), strings.HasPrefix(name, "Cache-"):
			delete(h, name)
		}
	}
}

// writeBody sends the header and body. Even an empty body is written, because
// gin sends its own for an answer that it thinks unwritten.
func writeBody(w http.ResponseWriter, status int, body []byte) {
	w.WriteHeader(status)
	w.Write(body) // a client that left needs no answer
}

// errorBody renders an error in the form that the request's Accept asks for.
//
// The routes of the Images API never answer application/problem+json to a
// client that does not name it: its test suite accepts no such type. A client
// library that sends */* fails on a JSON object whose values are strings, and
// so gets HTML, as from Glance. nearsight's own routes know only RFC 9457.
func errorBody(r *http.Request, requestID string, status int, detail string) (contentType string, body []byte) {
	title := http.StatusText(status)
	code := strings.TrimSpace(strconv.Itoa(status) + " " + title)
	form := formProblem
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		form = formPlain // its clients show what comes
	} else if !strings.HasPrefix(r.URL.Path, "/nearsight/") {
		form = negotiate(strings.Join(r.Header.Values("Accept"), ","))
	}
	switch form {
	case formProblem:
		return "application/problem+json", encodeJSON(struct {
			Type     string `json:"type"`
			Title    string `json:"title"`
			Status   int    `json:"status"`
			Detail   string `json:"detail,omitempty"`
			Instance string `json:"instance,omitempty"`
		}{"about:blank", title, status, detail, requestID})
	case formJSON:
		return "application/json", encodeJSON(struct {
			Message string `json:"message"`
			Code    string `json:"code"`
			Title   string `json:"title"`
		}{detail, code, title})
	case formHTML:
		// Quotation marks mean nothing here, and clients show them as they come.
		text := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(detail)
		return "text/html; charset=UTF-8", fmt.Appendf(nil,
			"<html>\n<head>\n<title>%[1]s</title>\n</head>\n<body>\n<h1>%[1]s</h1>\n<p>%[2]s</p>\n</body>\n</html>\n", code, text)
	}
	return "text/plain; charset=UTF-8", []byte(code + "\n\n" + detail + "\n")
}

// encodeJSON is json.Marshal for values that cannot fail, without the escapes
// that are meant for HTML.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("api: " + err.Error()) // a value of ours that JSON cannot say
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
