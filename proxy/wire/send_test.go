package wire

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"nearsight/cache"
)

// An answer that is made of many small sections, or that had to wait for its first
// byte, is written long after its request came.
func TestAnAnswerThatTakesLongerThanAStallFinishes(t *testing.T) {
	f, data := bigFile(t, 8<<20)
	client, server := dial(t, 4*time.Second)
	done := make(chan error, 1)
	go func() {
		defer server.Close()
		server.now, server.ticked = time.Now().Add(-time.Hour), true
		var err error
		for off := 0; off < len(data) && err == nil; off += 64 << 10 {
			_, err = server.ReadFrom(&cache.Section{File: f, Off: int64(off), N: 64 << 10})
		}
		done <- err
	}()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-done; err != nil {
		t.Errorf("the sender failed: %v", err)
	}
}

func TestWhatIsDelayedGoesOutBeforeWhatIsWritten(t *testing.T) {
	f, data := bigFile(t, 100<<10)
	section := func(off, n int64) *cache.Section { return &cache.Section{File: f, Off: off, N: n} }
	text := string(data)
	for _, tt := range []struct {
		name string
		do   func(c *Conn) error
		want string
	}{
		{"a delay and a flush", func(c *Conn) error { c.Delay([]byte("head")); return c.Flush() }, "head"},
		{"a flush of nothing", func(c *Conn) error { return c.Flush() }, ""},
		{"two flushes", func(c *Conn) error { c.Delay([]byte("head")); c.Flush(); return c.Flush() }, "head"},
		{"a delay and a write", func(c *Conn) error {
			c.Delay([]byte("head"))
			n, err := c.Write([]byte("body"))
			if n != 4 {
				t.Errorf("wrote %d", n)
			}
			return err
		}, "headbody"},
		{"a delay and a section", func(c *Conn) error {
			c.Delay([]byte("head"))
			n, err := c.ReadFrom(section(5, 70000))
			if n != 70000 {
				t.Errorf("sent %d", n)
			}
			return err
		}, "head" + text[5:70005]},
		{"a delay and what is no section", func(c *Conn) error {
			c.Delay([]byte("head"))
			_, err := c.ReadFrom(bytes.NewReader([]byte("body")))
			return err
		}, "headbody"},
		{"a delay and a section of nothing", func(c *Conn) error {
			c.Delay([]byte("head"))
			n, err := c.ReadFrom(section(0, 0))
			if n != 0 {
				t.Errorf("sent %d", n)
			}
			return err
		}, "head"},
		{"a delay and a section beyond the end of its file", func(c *Conn) error {
			c.Delay([]byte("head"))
			n, err := c.ReadFrom(section(int64(len(text)), 10))
			if n != 0 {
				t.Errorf("sent %d", n)
			}
			return err
		}, "head"},
		{"a section that its file cuts short, then the rest from elsewhere", func(c *Conn) error {
			c.Delay([]byte("head"))
			n, err := c.ReadFrom(section(int64(len(text))-3, 10))
			if n != 3 || err != nil {
				t.Errorf("sent %d: %v", n, err)
			}
			_, err = c.ReadFrom(section(0, 7))
			return err
		}, "head" + text[len(text)-3:] + text[:7]},
		{"answers one after the other", func(c *Conn) error {
			for _, s := range []string{"1", "2", "3"} {
				c.Delay([]byte(s))
				if _, err := c.ReadFrom(section(0, 4)); err != nil {
					return err
				}
			}
			return nil
		}, "1" + text[:4] + "2" + text[:4] + "3" + text[:4]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, server := dial(t, 0)
			done := make(chan error, 1)
			go func() {
				defer server.Close()
				done <- tt.do(server)
			}()
			got, err := io.ReadAll(client)
			if err != nil || string(got) != tt.want {
				t.Errorf("%d bytes instead of %d, %v", len(got), len(tt.want), err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// Files of /proc have no sendfile.
func TestAFileWithoutSendfileIsCopied(t *testing.T) {
	want, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	client, server := dial(t, 0)
	server.Delay([]byte("head"))
	if n, err := server.ReadFrom(&cache.Section{File: f, N: int64(len(want))}); n != int64(len(want)) || err != nil {
		t.Errorf("sent %d: %v", n, err)
	}
	server.Close()
	if got, err := io.ReadAll(client); string(got) != "head"+string(want) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	// What was read and could not be written was not sent.
	server.sendErr = nil
	if n, err := server.ReadFrom(&cache.Section{File: f, N: int64(len(want))}); n != 0 || err == nil {
		t.Errorf("sent %d on a closed connection: %v", n, err)
	}
}

func TestReadGivesFirstWhatWasReadBefore(t *testing.T) {
	client, server := dial(t, 0)
	server.prefix = []byte("abcde")
	io.WriteString(client, "fgh")
	client.CloseWrite()
	var got []byte
	for b := make([]byte, 2); ; {
		n, err := server.Read(b)
		got = append(got, b[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil || n == 0 {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if string(got) != "abcdefgh" || server.prefix != nil {
		t.Errorf("%q, and %q is left", got, server.prefix)
	}
}
