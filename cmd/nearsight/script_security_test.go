package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdRaw writes bytes to a new connection of the API listener and compares the statuses
// of all that comes back until the server closes it: raw STATUSES BYTES...
//
// STATUSES are numbers with blanks between them, or - for none; 400|501 is either. BYTES
// may have the escapes of Go, and a*70000 is as many of them; all are written in one go.
// The last request must make the server close.
func cmdRaw(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: raw STATUSES BYTES...")
	}
	text := unescape(ts, args[1:])
	conn, err := net.Dial("tcp", running(ts).listen)
	ts.Check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, text)
	ts.Check(err)
	got, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		ts.Fatalf("raw %.300q: the connection stays open after %.300q", text, got)
	}
	method, _, _ := strings.Cut(text, " ")
	statuses, err := statusesOf(string(got), method)
	if err != nil || !matches(statuses, strings.Fields(args[0])) {
		ts.Fatalf("raw %.300q: answered %v, want %s: %v\n%.1000s", text, statuses, args[0], err, got)
	}
}

// unescape joins texts and reads the escapes in them.
func unescape(ts *testscript.TestScript, args []string) string {
	var b strings.Builder
	for _, arg := range args {
		if c, times, ok := strings.Cut(arg, "*"); ok && len(c) == 1 {
			if n, err := strconv.Atoi(times); err == nil {
				b.WriteString(strings.Repeat(c, n))
				continue
			}
		}
		text, err := strconv.Unquote(`"` + strings.ReplaceAll(arg, `"`, `\"`) + `"`)
		ts.Check(err)
		b.WriteString(text)
	}
	return b.String()
}

// statusesOf reads the answers of a connection, whose first request had the method.
func statusesOf(raw, method string) (statuses []string, err error) {
	r := bufio.NewReader(strings.NewReader(raw))
	for {
		if _, err := r.Peek(1); err == io.EOF {
			return statuses, nil
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return statuses, err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return statuses, err
		}
		statuses = append(statuses, strconv.Itoa(resp.StatusCode))
		method = http.MethodGet
	}
}

func matches(got, want []string) bool {
	if len(want) == 1 && want[0] == "-" {
		want = nil
	}
	return slices.EqualFunc(got, want, func(g, w string) bool { return slices.Contains(strings.Split(w, "|"), g) })
}

// cmdDrip writes bytes to a new connection and then an x at a time, for as long as the
// server takes them: drip BYTES. It must close the connection in the end.
func cmdDrip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: drip BYTES")
	}
	conn, err := net.Dial("tcp", running(ts).listen)
	ts.Check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, unescape(ts, args))
	ts.Check(err)
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	}()
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case err := <-ended:
			if errors.Is(err, os.ErrDeadlineExceeded) {
				ts.Fatalf("drip %.300q: the connection stays open", args[0])
			}
			return
		case <-pace.C:
			conn.Write([]byte("x")) // fails when it is closed, which the reader tells
		}
	}
}

// cmdRepeat sends the same GET again and again until it is answered with a status: repeat
// STATUS PATH ['Name: value'...].
func cmdRepeat(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: repeat STATUS PATH ['Name: value'...]")
	}
	deadline := time.After(patience)
	often := time.NewTicker(10 * time.Millisecond)
	defer often.Stop()
	for {
		exchange(ts, false, http.MethodGet, args[1], args[2:])
		got := strconv.Itoa(siteOf(ts).answer.status)
		if got == args[0] {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			ts.Fatalf("%s is answered with %s, and never with %s", args[1], got, args[0])
		}
	}
}
