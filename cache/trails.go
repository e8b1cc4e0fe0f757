package cache

// trails remembers where the latest reads that missed left off, so that a guest
// that reads on from there, request by request, is fetched ahead for: twice as
// far each time, up to an extent. Reads that hit do not come here.
type trails struct {
	ends [16]trail
	next int
}

type trail struct {
	chunk  int // the first one not asked for
	streak int
}

const maxStreak = 6 // 1<<6 chunks: an extent

// guess returns the chunk up to which a read of the chunks from i to before end
// should fetch: end, or beyond it where it carries on a trail.
func (r *Reader) guess(i, end int) int {
	e := r.e
	if end-i >= chunksPerExtent {
		return end // a long read: it says itself what it wants
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	t := &e.trails
	for k := range t.ends {
		// A read that begins in the last chunk of another carries it on too.
		if at := &t.ends[k]; at.chunk > 0 && (at.chunk == i || at.chunk == i+1 && at.chunk < end) {
			at.streak = min(at.streak+1, maxStreak)
			at.chunk = min(end+1<<at.streak, e.chunks)
			return at.chunk
		}
	}
	t.ends[t.next] = trail{chunk: end}
	t.next = (t.next + 1) % len(t.ends)
	return end
}
