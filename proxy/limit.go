package proxy

import (
	"context"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"nearsight/registry"
	"nearsight/registry/api"
)

const (
	// defaultCallers is how many callers are remembered, at some 300 bytes each.
	defaultCallers = 10000
	// uploadWait is when who has too many uploads under way should ask again.
	uploadWait = 5 * time.Second
)

// Limits bound what one caller may ask for. A caller is a project, or else a user, or
// else an address: of IPv6 the first 64 bits, which are one household's. Nodes are not
// bound. 0 means no bound.
type Limits struct {
	// RequestsPerSecond is the lasting rate of requests, and Burst how many may
	// come at once after a rest; 0 means one second's. Tokens that name nobody
	// are counted by the address that they come from, at the same rate.
	RequestsPerSecond, Burst int
	// Concurrent is how many requests are answered at a time, and Uploads how many
	// of them may bring image data.
	Concurrent, Uploads int
	// Callers is how many callers without a request under way are remembered. 0
	// means 10000. Who is forgotten has a whole burst again.
	Callers int
}

// A limiter keeps the books of Limits. A nil one lets everybody in.
type limiter struct {
	Limits
	refused *prometheus.CounterVec

	mu   sync.Mutex
	busy map[account]*usage // those with requests under way: as many as there are of these
	idle *simplelru.LRU[account, *usage]
}

// An account is that of a caller. Exactly one field says whose.
type account struct {
	project, user string
	address       netip.Prefix // of who has neither; zero if that is unknown too
	guesses       netip.Prefix // of who sends tokens that name nobody
}

// usage is guarded by the limiter's mu.
type usage struct {
	rate              *rate.Limiter // nil: not bound
	requests, uploads int           // under way
}

// newLimiter returns nil if nothing is bound.
func newLimiter(o Limits, reg *prometheus.Registry) *limiter {
	if o.RequestsPerSecond <= 0 && o.Concurrent <= 0 && o.Uploads <= 0 {
		return nil
	}
	if o.Burst <= 0 {
		o.Burst = o.RequestsPerSecond
	}
	if o.Callers <= 0 {
		o.Callers = defaultCallers
	}
	l := &limiter{Limits: o, busy: make(map[account]*usage), refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nearsight_http_limited_total",
		Help: "Requests refused with 429, by the limit that their caller had reached: rate, concurrent, uploads or guesses (of tokens).",
	}, []string{"limit"})}
	l.idle, _ = simplelru.NewLRU[account, *usage](o.Callers, nil) // fails for sizes below 1 alone
	reg.MustRegister(l.refused)
	return l
}

// A turn is that of one request. The zero turn is of who is not bound.
type turn struct {
	l      *limiter
	who    account
	u      *usage
	upload bool
}

// A refusal names the limit that was reached, "" for none, and after what time to ask
// again.
type refusal struct {
	limit string
	wait  time.Duration
}

// accountOf returns the account of a caller, nil for one who is not told apart, at the
// address remote.
func accountOf(c *registry.Caller, remote string) account {
	switch {
	case c != nil && c.Project != "":
		return account{project: c.Project}
	case c != nil && c.User != "":
		return account{user: c.User}
	}
	return account{address: household(remote)}
}

// household returns the addresses that are taken for those of one caller.
func household(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := at.Addr().Unmap().WithZone(""), 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // which an address has
	return p
}

// enter begins a request. Unless it is refused, its turn must be ended.
func (l *limiter) enter(c *registry.Caller, remote string, upload bool) (turn, refusal) {
	if l == nil || c != nil && c.Is("node") {
		return turn{}, refusal{}
	}
	t := turn{l: l, who: accountOf(c, remote), upload: upload && l.Uploads > 0}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.u = l.usageOf(t.who)
	switch {
	case l.Concurrent > 0 && t.u.requests >= l.Concurrent:
		return turn{}, refusal{"concurrent", time.Second}
	case t.upload && t.u.uploads >= l.Uploads:
		return turn{}, refusal{"uploads", uploadWait}
	case t.u.rate != nil && !t.u.rate.Allow():
		return turn{}, refusal{"rate", l.untilNext(t.u)}
	}
	t.begin()
	return t, refusal{}
}

// guess begins to look up a token that may name nobody. While that is not known it
// counts as if it did, so that many at once get no further than one after the other.
func (l *limiter) guess(remote string) (turn, refusal) {
	t := turn{l: l, who: account{guesses: household(remote)}}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.u = l.usageOf(t.who)
	if t.u.rate.Tokens() < float64(t.u.requests+1) {
		return turn{}, refusal{"guesses", l.untilNext(t.u)}
	}
	t.begin()
	return t, refusal{}
}

// begin counts the request; l.mu is held.
func (t *turn) begin() {
	if t.u.requests++; t.upload {
		t.u.uploads++
	}
	if t.u.requests == 1 {
		t.l.idle.Remove(t.who)
		t.l.busy[t.who] = t.u
	}
}

// end ends the request, once, however often it is called.
func (t *turn) end() { t.settle(false) }

// settle is end. charged takes the request off the caller's rate.
func (t *turn) settle(charged bool) {
	l := t.l
	if l == nil {
		return
	}
	t.l = nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if charged {
		t.u.rate.Allow()
	}
	if t.u.requests--; t.upload {
		t.u.uploads--
	}
	if t.u.requests == 0 {
		delete(l.busy, t.who)
		l.idle.Add(t.who, t.u)
	}
}

// usageOf returns that of an account, a new one for one that is not remembered; l.mu is
// held.
func (l *limiter) usageOf(who account) *usage {
	if u := l.busy[who]; u != nil {
		return u
	}
	if u, ok := l.idle.Get(who); ok {
		return u
	}
	u := &usage{}
	if l.RequestsPerSecond > 0 {
		u.rate = rate.NewLimiter(rate.Limit(l.RequestsPerSecond), l.Burst)
	}
	l.idle.Add(who, u)
	return u
}

// untilNext returns when the next request is let in.
func (l *limiter) untilNext(u *usage) time.Duration {
	missing := 1 - u.rate.Tokens()
	return time.Duration(max(missing, 0) / float64(l.RequestsPerSecond) * float64(time.Second))
}

// refuse answers 429 (RFC 6585, section 4).
func (l *limiter) refuse(w http.ResponseWriter, r *http.Request, why refusal) {
	l.refused.WithLabelValues(why.limit).Inc()
	seconds := max(1, int(math.Ceil(why.wait.Seconds())))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	detail := map[string]string{
		"rate":       "you ask more often than this server allows one caller",
		"concurrent": "as many of your requests are being answered as this server allows one caller",
		"uploads":    "as many uploads of yours are under way as this server allows one caller",
		"guesses":    "too many tokens that name nobody came from your address",
	}[why.limit]
	api.FailStatus(w, r, http.StatusTooManyRequests, detail)
}

// limitCallers holds requests whose caller is known to the limits.
func (p *Proxy) limitCallers(next http.Handler) http.Handler {
	if p.limiter == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := registry.CallerOf(r.Context())
		if guess, ok := r.Context().Value(guessKey{}).(*turn); ok {
			guess.end() // it names somebody
		}
		t, why := p.limiter.enter(caller, r.RemoteAddr, bringsData(r))
		if why.limit != "" {
			exchangeOf(w).caller = caller
			p.limiter.refuse(w, r, why)
			return
		}
		defer t.end()
		next.ServeHTTP(w, r)
	})
}

// guessKey is that of the turn of a guess, which ends when the token names somebody.
type guessKey struct{}

// limitGuesses bounds how often tokens are tried, since finding out whom one names
// may be dear. Tokens that are known are not asked about, so that a neighbour of one
// who guesses keeps his access.
func (p *Proxy) limitGuesses(next http.Handler) http.Handler {
	if p.limiter == nil || p.limiter.RequestsPerSecond <= 0 || p.identity == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.guesses(r.Header) {
			next.ServeHTTP(w, r)
			return
		}
		t, why := p.limiter.guess(r.RemoteAddr)
		if why.limit != "" {
			p.limiter.refuse(w, r, why)
			return
		}
		defer func() { t.settle(exchangeOf(w).status == http.StatusUnauthorized) }()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), guessKey{}, &t)))
	})
}

// guesses reports whether a request brings a token that has to be asked about, for
// itself or as that of a service beside its own.
func (p *Proxy) guesses(h http.Header) bool {
	token, sent := api.TokenOf(h)
	if !sent { // then a service's is not looked at
		return false
	}
	if p.known == nil || p.known.Remembered(token) == nil {
		return true
	}
	for _, service := range h[api.ServiceTokenHeader] {
		if service != "" && p.known.Remembered(service) == nil {
			return true
		}
	}
	return false
}

// bringsData reports whether the body of r is image data, which has one type in both
// APIs.
func bringsData(r *http.Request) bool {
	if r.ContentLength == 0 || r.Method != http.MethodPut && r.Method != http.MethodPost {
		return false
	}
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(media), "application/octet-stream")
}
