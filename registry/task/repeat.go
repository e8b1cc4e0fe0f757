package task

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	// firstRetry is doubled from failure to failure.
	firstRetry = time.Second
	// lookEvery is the time between two looks whether the image that is worked
	// on is still wanted. A deletion may cost that much reading in vain.
	lookEvery = 5 * time.Second
)

// errUnwanted: there is no reason any more for what is being done.
var errUnwanted = errors.New("the image was deleted or changed meanwhile")

// A bell can be rung before somebody listens, and never blocks.
type bell chan struct{}

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// repeat does one thing when the bell rings and every now and then, until ctx ends.
// After a failure it is deaf and waits, longer from one to the next up to every;
// failed is told how long.
func repeat(ctx context.Context, wake bell, every time.Duration, do func(context.Context) error, failed func(error, time.Duration)) {
	var retry time.Duration // 0: the last time did not fail
	for {
		wait, wake := every, wake
		if err := do(ctx); err == nil {
			retry = 0
		} else if ctx.Err() == nil {
			retry = min(max(2*retry, firstRetry), every)
			wait, wake = retry, nil
			failed(err, wait)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-wake:
			t.Stop()
		case <-t.C:
		}
	}
}

// sleep waits for d or until ctx ends, and returns the cause of that.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// whileWanted returns a context that ends with errUnwanted when the image is gone
// or wanted says no. The caller calls stop, which waits.
func whileWanted(ctx context.Context, images registry.Reader, id string, wanted func(*registry.Image) bool) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, lookEvery) == nil {
			img, err := images.Get(ctx, id)
			if errors.Is(err, registry.ErrNotFound) || err == nil && !wanted(img) {
				cancel(errUnwanted)
			} // if the registry cannot tell, the work goes on
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// isDecided says whether the registry understood the call and refused it. After any
// other error it may have been done, and may be repeated.
func isDecided(err error) bool {
	for _, refusal := range []error{
		registry.ErrNotFound, registry.ErrInvalid, registry.ErrForbidden, registry.ErrConflict, registry.ErrTooLarge,
	} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// malformed is shown of a location that is not even a URL.
const malformed = "(a malformed location)"

// shown returns the URL of loc for logs and errors: without what may be a
// credential, which for foreign locations a query may be.
func shown(loc origin.Location) string {
	u, err := url.Parse(loc.URL)
	if err != nil {
		return malformed
	}
	u.User, u.ForceQuery, u.RawQuery, u.Fragment = nil, false, "", ""
	return u.String()
}

func orLog(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.Default()
	}
	return log
}

// orDefault returns v, or the default if v is not set.
func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
