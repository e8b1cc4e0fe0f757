package origintest_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFake(t *testing.T) {
	origintest.TestStore(t, func(*testing.T) origin.WriteStore { return new(origintest.Fake) })
}

func TestFaults(t *testing.T) {
	at := func(n int64) *int64 { return &n }
	broken := errors.New("broken")
	for _, tt := range []struct {
		name           string
		faults         origintest.Faults
		off, n         int64
		offset, length int64 // said
		size           int64
		body           string
		open, read     error
	}{
		{name: "no fault", off: 2, n: 3, offset: 2, length: 3, size: 10, body: "234"},
		{name: "open fails", faults: origintest.Faults{Open: broken}, open: broken},
		{name: "the second open fails", faults: origintest.Faults{Open: broken, Nth: 2}, n: 1, length: 1, size: 10, body: "0"},
		{name: "the body is cut", faults: origintest.Faults{Cut: at(4)}, off: 2, n: 5, offset: 2, length: 5, size: 10, body: "23", read: io.ErrUnexpectedEOF},
		{name: "a cut behind the range is not met", faults: origintest.Faults{Cut: at(4)}, off: 2, n: 2, offset: 2, length: 2, size: 10, body: "23"},
		{name: "a byte is flipped", faults: origintest.Faults{Flip: []int64{3, 9}}, off: 2, n: 2, offset: 2, length: 2, size: 10, body: "2\xcc"},
		{name: "the whole object comes", faults: origintest.Faults{Whole: true}, off: 2, n: 2, length: 10, size: 10, body: "0123456789"},
		{name: "other bytes come", faults: origintest.Faults{Shift: 1}, off: 2, n: 2, offset: 3, length: 2, size: 10, body: "34"},
		{name: "other bytes come unsaid", faults: origintest.Faults{Shift: 1, ShiftSilently: true}, off: 2, n: 2, offset: 2, length: 2, size: 10, body: "34"},
		{name: "the size is a lie", faults: origintest.Faults{Size: at(11)}, n: 1, length: 1, size: 11, body: "0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f origintest.Fake
			loc := f.Add("i", []byte("0123456789"))
			f.Inject(tt.faults)
			o, err := f.Open(t.Context(), loc, tt.off, tt.n)
			if !errors.Is(err, tt.open) || err == nil && tt.open != nil {
				t.Fatalf("Open: error %v; want %v", err, tt.open)
			}
			if err != nil {
				return
			}
			body, err := io.ReadAll(o.Body)
			if o.Offset != tt.offset || o.Length != tt.length || o.Size != tt.size || string(body) != tt.body || !errors.Is(err, tt.read) {
				t.Errorf("%d+%d of %d: %q, %v; want %d+%d of %d: %q, %v", o.Offset, o.Length, o.Size, body, err,
					tt.offset, tt.length, tt.size, tt.body, tt.read)
			}
			if f.Opens.Load() != 1 || f.Bytes.Load() != int64(len(tt.body)) {
				t.Errorf("%d opens, %d bytes; want 1, %d", f.Opens.Load(), f.Bytes.Load(), len(tt.body))
			}
		})
	}
}

func TestGateAndStall(t *testing.T) {
	var f origintest.Fake
	loc := f.Add("i", []byte("0123456789"))
	gate := origintest.NewGate(4)
	stall := int64(6)
	f.Inject(origintest.Faults{Gate: gate, Stall: &stall})
	ctx, cancel := context.WithCancel(t.Context())
	o, err := f.Open(ctx, loc, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, o.Body)
		done <- err
	}()
	<-gate.Reached
	if n := f.Bytes.Load(); n != 4 {
		t.Errorf("%d bytes before the gate; want 4", n)
	}
	close(gate.Pass)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("stalled body: %v", err)
	}
}
