package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"

	"nearsight/registry"
)

// bothWays measures what one connection gets by the short way and by net/http:
//
//	go test -run '^$' -bench BothWays -count 10 ./proxy | benchstat -col /way -
//
// The client allocates nothing, so that the allocations are the server's.
func bothWays(b *testing.B, cfg siteConfig, field func(*registry.Image) string, status string, body int) {
	s, img := benchSite(b, cfg)
	request := fmt.Appendf(nil, "GET /v2/images/%s/file HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", img.ID, field(img))
	for _, way := range []struct{ name, addr string }{{"direct", s.addr}, {"ordinary", s.plain}} {
		b.Run("way="+way.name, func(b *testing.B) {
			c, err := net.Dial("tcp", way.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			br := bufio.NewReaderSize(c, 128<<10)
			b.SetBytes(int64(body))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				line, err := br.ReadSlice('\n')
				if err != nil || string(line) != status {
					b.Fatalf("%q, %v", line, err)
				}
				for len(line) > len("\r\n") {
					if line, err = br.ReadSlice('\n'); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := br.Discard(body); err != nil {
					b.Fatal(err)
				}
			}
			if n := br.Buffered(); n > 0 {
				b.Errorf("%d bytes more than were asked for", n)
			}
		})
	}
}

func BenchmarkBothWays64KiB(b *testing.B) {
	bothWays(b, siteConfig{}, func(*registry.Image) string { return "Range: bytes=1048576-1114111" }, "HTTP/1.1 206 Partial Content\r\n", 64<<10)
}

// BenchmarkBothWaysToken is BenchmarkBothWays304 with callers told apart.
func BenchmarkBothWaysToken(b *testing.B) {
	bothWays(b, siteConfig{identity: people}, func(img *registry.Image) string {
		return "X-Auth-Token: admin\r\nIf-None-Match: \"" + string(img.Digest) + `"`
	}, "HTTP/1.1 304 Not Modified\r\n", 0)
}

func BenchmarkBothWays304(b *testing.B) {
	bothWays(b, siteConfig{}, func(img *registry.Image) string { return `If-None-Match: "` + string(img.Digest) + `"` }, "HTTP/1.1 304 Not Modified\r\n", 0)
}

// BenchmarkBothWaysPipelined asks for 304 in bunches: what the work itself costs,
// when the network is out of the picture.
func BenchmarkBothWaysPipelined(b *testing.B) {
	const bunch = 16
	s, img := benchSite(b, siteConfig{})
	one := fmt.Sprintf("GET /v2/images/%s/file HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n", img.ID)
	var requests []byte
	for range bunch {
		requests = append(requests, one...)
	}
	for _, way := range []struct{ name, addr string }{{"direct", s.addr}, {"ordinary", s.plain}} {
		b.Run("way="+way.name, func(b *testing.B) {
			c, err := net.Dial("tcp", way.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			answer := len(exchangeHead(b, c, one))
			answers := make([]byte, bunch*answer)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(requests); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, answers); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/bunch, "ns/answer")
		})
	}
}

// exchangeHead returns the bytes of one answer without a body.
func exchangeHead(b *testing.B, c net.Conn, request string) (head string) {
	if _, err := io.WriteString(c, request); err != nil {
		b.Fatal(err)
	}
	for br := bufio.NewReaderSize(c, 1<<10); ; {
		line, err := br.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		if head += line; line == "\r\n" {
			return head
		}
	}
}
