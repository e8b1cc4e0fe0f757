package task

import "time"

const (
	// leastPatience is for what has only begun: a server that is restarted.
	leastPatience = 10 * time.Second
	// firstPause follows the second failure in a row, since the first is mostly
	// a connection that broke; it is doubled up to maxPause.
	firstPause = 500 * time.Millisecond
	maxPause   = 30 * time.Second
	// recovered bytes end a trouble: a server that breaks off sooner again and
	// again is not asked without pauses.
	recovered = 1 << 20
)

// A patience says for how long work that broke is taken up again where it broke,
// before it is given up and begun anew. It waits for as long as the work up to
// there took: so it costs at most twice the time of whoever knows beforehand
// whether the trouble ends.
type patience struct {
	began time.Time
	broke time.Time // when the trouble began; zero: there is none
	pause time.Duration
	bytes int64 // since the last failure
}

func newPatience() patience { return patience{began: time.Now()} }

// progress says that n bytes came.
func (p *patience) progress(n int) {
	if p.bytes += int64(n); p.bytes >= recovered {
		p.broke, p.pause = time.Time{}, 0
	}
}

// next returns how long to wait before the next attempt, or false if it is time to
// give up.
func (p *patience) next() (time.Duration, bool) {
	now := time.Now()
	p.bytes = 0
	if p.broke.IsZero() {
		p.broke = now
	}
	if now.Sub(p.broke) >= max(p.broke.Sub(p.began), leastPatience) {
		return 0, false
	}
	d := p.pause
	p.pause = min(max(2*d, firstPause), maxPause)
	return d, true
}
