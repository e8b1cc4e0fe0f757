package main

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// echo returns the address of a server that sends back, after the end, what it got.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error {
		for {
			c, err := l.Accept()
			if err != nil {
				return nil // the end of the test
			}
			g.Go(func() error {
				defer c.Close()
				b, err := io.ReadAll(c)
				if err == nil {
					_, err = c.Write(b)
				}
				return err
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestTheRelayCarriesBytesAndEndsBothWays(t *testing.T) {
	for _, rate := range []int64{0, 64 << 20} {
		r, err := newRelay(echo(t), rate)
		if err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for i := range 4 {
			g.Go(func() error {
				c, err := net.Dial("tcp", r.addr())
				if err != nil {
					return err
				}
				defer c.Close()
				sent := bytes.Repeat([]byte{byte(i), 1, 2}, 1<<20)
				if _, err := c.Write(sent); err != nil {
					return err
				}
				c.(*net.TCPConn).CloseWrite()
				got, err := io.ReadAll(c)
				if !bytes.Equal(got, sent) {
					t.Errorf("%d bytes came back of %d", len(got), len(sent))
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		r.close()
	}
}

func TestTheRelayEndsWhatItCarries(t *testing.T) {
	r, err := newRelay(echo(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", r.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	r.close() // waits for all that it began
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the relay")
	}
}

func TestReportGivesTheMedianOfTheRatios(t *testing.T) {
	var out strings.Builder
	err := report(&out, []result{
		{store: "s3", direction: "up", bar: 1.10, straight: []float64{1, 2, 4}, edge: []float64{1, 2.4, 4.4}},
		{store: "s3", direction: "down", bar: 1.05, straight: []float64{1, 1}, edge: []float64{1, 1.2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2.00 s    2.40 s     1.100  1.000 to 1.200  1.10 reached", "1.100  1.000 to 1.200  1.05 missed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}

// A missing variable names the script that prints it.
func TestStoresOfTheLabAreNamed(t *testing.T) {
	t.Setenv("S3_ENDPOINT", "")
	if _, _, err := newS3(0); err == nil || !strings.Contains(err.Error(), "deploy/lab/s3.sh") {
		t.Errorf("error %v", err)
	}
	t.Setenv("SWIFT_AUTH_URL", "")
	if _, _, err := newSwift(0); err == nil || !strings.Contains(err.Error(), "deploy/lab/swift.sh") {
		t.Errorf("error %v", err)
	}
}
