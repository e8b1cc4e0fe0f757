package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"nearsight/origin"
)

var (
	// errNoBucket is what a server cannot say in answer to HEAD.
	errNoBucket = &smithy.GenericAPIError{Code: "NoSuchBucket"}
	// errExists is what it says to If-None-Match.
	errExists = &smithy.GenericAPIError{Code: "PreconditionFailed"}
	// errStopped: who ranges over a list wants no more of it.
	errStopped = errors.New("stopped")
)

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = 24 * time.Hour

// A failure is an error of the store: what was being done, one sentinel, and
// words. It keeps nothing of the error of the client, which may hold anything.
type failure struct {
	op, url  string
	sentinel error
	text     string
	wait     time.Duration
}

func (f *failure) Error() string {
	return fmt.Sprintf("%s %s: %v: %s", f.op, f.url, f.sentinel, f.text)
}

func (f *failure) Unwrap() error { return f.sentinel }

// RetryAfter returns how long the server asked to be left alone, 0 if it did not.
func (f *failure) RetryAfter() time.Duration { return f.wait }

// failed makes an error of ours out of what the client said to a reader.
func (s *Store) failed(ctx context.Context, op string, loc origin.Location, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", op, loc.URL, ctx.Err())
	}
	text, sentinel := s.judge(err)
	return &failure{op, loc.URL, sentinel, text, retryAfter(err, time.Now())}
}

// failedWrite does so for a writer, to whom a failed precondition means that
// there is an object, and not that it is another one.
func (s *Store) failedWrite(ctx context.Context, op string, loc origin.Location, err error) error {
	if isConflict(err) {
		return fmt.Errorf("%s %s: %w", op, loc.URL, origin.ErrExists)
	}
	return s.failed(ctx, op, loc, err)
}

// blame returns what is wrong with the credentials, "" if nothing is.
func blame(code string) string {
	switch code {
	case "InvalidAccessKeyId":
		return "the access key is unknown"
	case "SignatureDoesNotMatch":
		return "the secret key is wrong, or the clock of this machine"
	case "AuthorizationHeaderMalformed":
		return "the credentials or the region are wrong"
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return "the credentials have expired"
	case "InvalidToken", "InvalidSecurity", "InvalidClientTokenId":
		return "the credentials are wrong"
	case "RequestTimeTooSkewed":
		return "the clock of this machine is wrong"
	}
	return ""
}

// judge returns words for an error of the client, and its sentinel. Of an answer
// the words hold the code alone: the message that S3 sends with it may repeat
// the key, the signature, and what was signed.
func (s *Store) judge(err error) (text string, sentinel error) {
	code, status := codeOf(err), statusOf(err)
	if words := blame(code); words != "" {
		return fmt.Sprintf("%s (%s)", words, code), origin.ErrUnavailable
	}
	if status == http.StatusInsufficientStorage || status == http.StatusRequestEntityTooLarge {
		return fmt.Sprintf("status %d", status), origin.ErrFull // a gateway's, perhaps, in words of its own
	}
	switch code {
	case "":
		return reason(err), origin.ErrUnavailable
	case "NoSuchKey", "NotFound":
		return code, origin.ErrNotFound
	case "PreconditionFailed":
		return code, origin.ErrChanged
	case "NoSuchBucket":
		return fmt.Sprintf("there is no bucket %q (%s)", s.o.Bucket, code), origin.ErrUnavailable
	case "PermanentRedirect", "TemporaryRedirect", "MovedPermanently", "IllegalLocationConstraintException":
		return fmt.Sprintf("bucket %q is in another region or at another endpoint (%s)", s.o.Bucket, code), origin.ErrUnavailable
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden":
		return fmt.Sprintf("access denied (%s)", code), origin.ErrUnavailable
	case "EntityTooLarge", "QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded",
		"InsufficientStorage", "RequestEntityTooLarge", "StorageFull":
		return code, origin.ErrFull
	}
	return fmt.Sprintf("status %d (%s)", status, code), origin.ErrUnavailable
}

// reason leaves out what the client puts around an error that is no answer of a
// server: names of operations, and the URL.
func reason(err error) string {
	var ue *url.Error
	var oe *smithy.OperationError
	switch {
	case errors.As(err, &ue):
		err = ue.Err
	case errors.As(err, &oe):
		err = oe.Err
	}
	return fmt.Sprintf("%.500s", strings.Join(strings.Fields(err.Error()), " "))
}

// codeOf returns the error code of S3, or the status in words if the answer had
// no code; "" if there was no answer.
func codeOf(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	code := api.ErrorCode()
	if len(code) > 64 || strings.ContainsFunc(code, func(c rune) bool { return c > unicode.MaxASCII || !unicode.IsLetter(c) && !unicode.IsDigit(c) }) {
		return "Unknown"
	}
	return code
}

func isCode(err error, code string) bool { return codeOf(err) == code }

func isMissing(err error) bool {
	return isCode(err, "NotFound") || isCode(err, "NoSuchKey")
}

// isConflict says whether the server refused to replace an object, or to decide
// between two writers.
func isConflict(err error) bool {
	return isCode(err, "PreconditionFailed") || isCode(err, "ConditionalRequestConflict")
}

func statusOf(err error) int {
	var resp *smithyhttp.ResponseError
	if !errors.As(err, &resp) || resp.Response == nil || resp.Response.Response == nil {
		return 0
	}
	return resp.HTTPStatusCode()
}

// retryAfter returns what the answer asked for (RFC 9110, section 10.2.3).
func retryAfter(err error, now time.Time) time.Duration {
	var resp *smithyhttp.ResponseError
	if statusOf(err) == 0 || !errors.As(err, &resp) {
		return 0
	}
	field := resp.Response.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(field, 10, 63); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	t, perr := http.ParseTime(field)
	if perr != nil {
		return 0
	}
	return min(max(t.Sub(now), 0), maxRetryAfter)
}
