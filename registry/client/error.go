package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"nearsight/registry"
)

// ErrIntegrity: the bytes that arrived are not those that the record describes.
var ErrIntegrity = errors.New("integrity check failed")

// ErrUnauthorized: the server does not know who is calling (401). It is a
// registry.ErrForbidden too.
var ErrUnauthorized = fmt.Errorf("%w: not authenticated", registry.ErrForbidden)

const (
	maxErrorBody = 64 << 10 // bytes read of an error's body
	maxMessage   = 1000     // bytes kept of its message
)

// An Error is a refusal or failure that the server reported.
type Error struct {
	// Status is the HTTP status code.
	Status int
	// Message is the server's explanation as it was sent; it may be empty, and
	// it may hold control characters.
	Message string
	// RequestID names the request in the server's log, "" if it said none.
	RequestID string
	// RetryAfter is how long the server asks to wait, 0 if it does not.
	RetryAfter time.Duration

	mayRetry bool // it named a time, which may have been none
}

func (e *Error) Error() string {
	status := strings.TrimSpace(strconv.Itoa(e.Status) + " " + http.StatusText(e.Status))
	if e.Status >= 500 && e.RequestID != "" {
		status += ", request " + e.RequestID
	}
	if e.Message == "" {
		return "the server answered " + status
	}
	return fmt.Sprintf("%s (%s)", e.Message, status)
}

// Unwrap returns the sentinel of package registry that the status stands for,
// or nil: the server itself failed.
func (e *Error) Unwrap() error {
	switch e.Status {
	case http.StatusNotFound, http.StatusGone:
		return registry.ErrNotFound
	case http.StatusUnauthorized:
		return ErrUnauthorized
	case http.StatusForbidden:
		return registry.ErrForbidden
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusNoContent:
		return registry.ErrConflict // 204: there is no data yet
	case http.StatusRequestEntityTooLarge:
		return registry.ErrTooLarge
	case http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return registry.ErrUnavailable
	}
	if e.Status >= 400 && e.Status < 500 {
		return registry.ErrInvalid
	}
	return nil
}

// readError makes an Error of an answer, and leaves its body for the caller to
// close.
func readError(resp *http.Response) *Error {
	// What could not be read is left out: the status says enough.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	e := &Error{
		Status:    resp.StatusCode,
		Message:   errorMessage(resp.Header.Get("Content-Type"), body),
		RequestID: clip(resp.Header.Get("X-Openstack-Request-Id"), 100),
	}
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
		e.RetryAfter, e.mayRetry = time.Duration(s)*time.Second, true
	} else if at, err := http.ParseTime(resp.Header.Get("Retry-After")); err == nil {
		e.RetryAfter, e.mayRetry = max(0, time.Until(at)), true
	}
	return e
}

// errorMessage finds the explanation in the body of an error: problem documents
// (RFC 9457), {"message": ...} and {"error": {"message": ...}} of the Images
// API, and plain text below a status line. Of any other body it returns "".
func errorMessage(contentType string, body []byte) string {
	mediaType, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return ""
	case strings.HasSuffix(mediaType, "json"):
		return clip(jsonMessage(body, 1), maxMessage)
	case mediaType == "text/plain":
		text := string(body)
		if _, rest, ok := strings.Cut(text, "\n\n"); ok {
			text = rest
		}
		return clip(text, maxMessage)
	}
	return ""
}

// jsonMessage looks for a message in an object and in objects depth levels
// below it.
func jsonMessage(body []byte, depth int) string {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil {
		return ""
	}
	for _, name := range []string{"detail", "message", "title"} {
		var s string
		if json.Unmarshal(object[name], &s) == nil && s != "" {
			return s
		}
	}
	if depth > 0 {
		return jsonMessage(object["error"], depth-1)
	}
	return ""
}

// clip returns s trimmed, in valid UTF-8 and at most n bytes long.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "\uFFFD")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n-3], "") + "..."
	}
	return s
}
