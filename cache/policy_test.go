package cache

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"nearsight/origin"
)

// A request trace in the manner of a day on a compute site: a few images that
// boot again and again, a long tail of others, and now and then a crowd of images
// that are read once from end to end.
func trace(seed uint64, n int) []int {
	r := rand.New(rand.NewPCG(seed, 2))
	zipf := rand.NewZipf(r, 1.1, 8, 3999)
	var reqs []int
	for once := 10_000; len(reqs) < n; {
		reqs = append(reqs, int(zipf.Uint64()))
		if r.IntN(400) == 0 {
			for range 200 {
				reqs = append(reqs, once)
				once++
			}
		}
	}
	return reqs
}

// replay returns the misses of a policy that may hold size extents.
func replay(p policy, reqs []int, size int) (misses int) {
	df := &dataFile{e: &entry{digest: origin.DigestOf(nil)}}
	known, held := map[int]*extent{}, map[int]bool{}
	for _, id := range reqs {
		x := known[id]
		if x == nil {
			x = &extent{df: df, index: id}
			known[id] = x
		}
		p.touch(x)
		if held[id] {
			continue
		}
		misses++
		if len(held) == size {
			v := p.victim()
			v.pins.Add(-evicting)
			delete(held, v.index)
		}
		p.add(x)
		held[id] = true
	}
	return misses
}

func TestS3FIFOAsksTheOriginForLessThanLRU(t *testing.T) {
	for _, size := range []int{100, 400, 1000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			reqs := trace(uint64(size), 60_000)
			s3, lru := replay(newS3FIFO(size), reqs, size), replay(newLRU(), reqs, size)
			t.Logf("%d requests: S3-FIFO %d misses, LRU %d", len(reqs), s3, lru)
			if s3 >= lru {
				t.Errorf("S3-FIFO %d misses, LRU %d", s3, lru)
			}
		})
	}
}

// Every policy keeps these promises, whatever is asked of it.
func TestPolicies(t *testing.T) {
	for name, fresh := range map[string]func() policy{
		"s3fifo": func() policy { return newS3FIFO(10) },
		"lru":    func() policy { return newLRU() },
	} {
		t.Run(name, func(t *testing.T) {
			p := fresh()
			df := &dataFile{e: &entry{digest: origin.DigestOf(nil)}}
			extents := make([]extent, 50)
			for i := range extents {
				extents[i].df, extents[i].index = df, i
			}
			r := rand.New(rand.NewPCG(9, 9))
			in := map[*extent]bool{}
			for range 20_000 {
				x := &extents[r.IntN(len(extents))]
				switch r.IntN(5) {
				case 0:
					if !in[x] {
						p.add(x)
						in[x] = true
					}
				case 1:
					if in[x] {
						p.remove(x)
						delete(in, x)
					}
				case 2:
					p.touch(x)
				case 3:
					x.pins.Store(int32(r.IntN(2)))
				case 4:
					v := p.victim()
					if v == nil {
						for x := range in {
							if x.pins.Load() == 0 {
								t.Fatal("no victim, although one is free")
							}
						}
						break
					}
					if !in[v] || v.pins.Load() != evicting || v.queue != notQueued {
						t.Fatalf("a victim that was not there, or not free: pins %d", v.pins.Load())
					}
					v.pins.Store(0)
					delete(in, v)
				}
				for x := range in {
					if x.queue == notQueued {
						t.Fatal("an extent left its queue by itself")
					}
				}
			}
		})
	}
}
