package swift

import (
	"io"
	"testing"

	"nearsight/origin/origintest"
)

func BenchmarkPut(b *testing.B) {
	s := newLab(b).open(b, Options{})
	data := origintest.Data(256<<20, 1)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		loc := put(b, s, "image", -1, data)
		b.StopTimer()
		if err := s.Delete(b.Context(), loc); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkOpen(b *testing.B) {
	s := newLab(b).open(b, Options{})
	data := origintest.Data(256<<20, 1)
	loc := put(b, s, "image", -1, data)
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(data)))
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
}
