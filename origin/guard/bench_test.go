package guard_test

import (
	"io"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

// What a guard adds to a body that costs only its copy, read in pieces of 256 KiB.
func BenchmarkBody(b *testing.B) {
	var f origintest.Fake
	loc := f.Add("i", make([]byte, 16<<20))
	m := guard.NewMetrics(prometheus.NewRegistry())
	for name, s := range map[string]origin.Store{"bare": &f, "guarded": guard.New(&f, guard.Options{Observer: m.Store("near")})} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(16 << 20)
			b.ReportAllocs()
			buf := make([]byte, 256<<10)
			for b.Loop() {
				o, err := s.Open(b.Context(), loc, 0, -1)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, o.Body, buf); err != nil {
					b.Fatal(err)
				}
				o.Body.Close()
			}
		})
	}
}
