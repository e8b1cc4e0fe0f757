package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"nearsight/origin/faultproxy"
)

// TestStoreScripts runs the scripts that say the same of every kind of store, once
// for each: $KIND.
func TestStoreScripts(t *testing.T) {
	each, err := filepath.Glob("testdata/stores/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	uploads, err := filepath.Glob("testdata/stores/uploads/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind    string
		scripts []string
	}{
		{"file", slices.Concat(each, uploads)},
		{"s3", slices.Concat(each, uploads)},
		{"swift", slices.Concat(each, uploads)},
		{"http", each},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			p := scripts(t)
			p.Files = tt.scripts
			p.Condition = func(cond string) (bool, error) {
				switch cond {
				case "uploads": // the kind takes some
					return tt.kind != "http", nil
				case "file", "s3", "swift", "http":
					return cond == tt.kind, nil
				}
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			setup := p.Setup
			p.Setup = func(env *testscript.Env) error {
				env.Setenv("KIND", tt.kind)
				env.Setenv("MIB", cmp.Or(os.Getenv("NEARSIGHT_TEST_MIB"), "1024"))
				return setup(env)
			}
			testscript.Run(t, p)
		})
	}
}

type shelfKey struct{}

// A shelf is what one script has of stores and their servers.
type shelf struct {
	t         *testing.T                   // of all scripts: it ends after each of them
	keepers   map[string]keeper            // by the name of the store
	proxies   map[string]*faultproxy.Proxy // by variable
	published sync.Map                     // what the web server has at a path: see cmdPublish
	web       *httptest.Server             // nil until something is published
}

// newShelf gives a script its shelf.
func newShelf(t *testing.T, env *testscript.Env) {
	env.Values[shelfKey{}] = &shelf{
		t: t, keepers: map[string]keeper{},
		proxies: map[string]*faultproxy.Proxy{},
	}
}

func shelfOf(ts *testscript.TestScript) *shelf { return ts.Value(shelfKey{}).(*shelf) }

// cmdStore adds a store to the configuration stores.yaml, with a place of its own
// at the server that deploy/lab started. Further settings are added to those or
// take their place:
//
//	store NAME file|s3|swift|http [KEY=VALUE...]
func cmdStore(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: store NAME KIND [KEY=VALUE...]")
	}
	s, name, kind := shelfOf(ts), args[0], args[1]
	place := "script-" + strings.ToLower(rand.Text())
	var h keeper
	var settings map[string]string
	var err error
	switch kind {
	case "file":
		dir := ts.MkAbs(place)
		h, settings = fileKeeper(dir), map[string]string{"dirs": dir}
	case "s3":
		h, settings, err = newS3Keeper(place)
	case "swift":
		h, settings, err = newSwiftKeeper(place)
	case "http":
		settings = map[string]string{"allow": "127.0.0.1/32", "allow_ports": "1-65535"}
	}
	ts.Check(err)
	for _, arg := range args[2:] {
		key, value, _ := strings.Cut(arg, "=")
		settings[key] = value
	}
	if h != nil {
		s.keepers[name] = h
		ts.Defer(func() { ts.Check(empty(h)) })
	}
	file := ts.MkAbs("stores.yaml")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte("stores:\n")
	} else {
		ts.Check(err)
	}
	text = fmt.Appendf(text, "  %s:\n    kind: %s\n", name, kind)
	for key, value := range settings {
		text = fmt.Appendf(text, "    %s: %q\n", key, value)
	}
	ts.Check(os.WriteFile(file, text, 0o600))
}

// cmdLose removes every object of a store behind its back: lose STORE.
func cmdLose(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || shelfOf(ts).keepers[args[0]] == nil {
		ts.Fatalf("usage: lose STORE, of a kind that holds objects")
	}
	ts.Check(empty(shelfOf(ts).keepers[args[0]]))
}

// cmdOverwrite gives every object of a store the bytes of a file behind its back:
// overwrite STORE FILE.
func cmdOverwrite(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || shelfOf(ts).keepers[args[0]] == nil {
		ts.Fatalf("usage: overwrite STORE FILE, of a kind that holds objects")
	}
	data, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	h := shelfOf(ts).keepers[args[0]]
	objects, _, err := h.list(shelfOf(ts).t.Context())
	ts.Check(err)
	for _, name := range objects {
		ts.Check(h.replace(shelfOf(ts).t.Context(), name, data))
	}
}

// cmdHolds waits until a store has so many whole objects, and so many pieces that
// belong to none; + is one or more: holds STORE OBJECTS LEFTOVERS.
func cmdHolds(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || shelfOf(ts).keepers[args[0]] == nil {
		ts.Fatalf("usage: holds STORE OBJECTS|+ LEFTOVERS|+")
	}
	right := func(names []string, want string) bool {
		return strconv.Itoa(len(names)) == want || want == "+" && len(names) > 0
	}
	ts.Check(awaitHeld(shelfOf(ts).keepers[args[0]], func(objects, leftovers []string) bool {
		return right(objects, args[1]) && right(leftovers, args[2])
	}))
}

// cmdFront puts a proxy before a server of the lab, and sets a variable to the URL
// by which it is used: front VAR s3|swift.
func cmdFront(ts *testscript.TestScript, neg bool, args []string) {
	names := map[string]string{"s3": "S3_ENDPOINT", "swift": "SWIFT_AUTH_URL"}
	if neg || len(args) != 2 || names[args[1]] == "" {
		ts.Fatalf("usage: front VAR s3|swift")
	}
	text, err := fromLab(args[1], names[args[1]])
	ts.Check(err)
	u, err := url.Parse(text)
	ts.Check(err)
	p := faultproxy.New(shelfOf(ts).t, "http://"+u.Host)
	shelfOf(ts).proxies[args[0]] = p
	ts.Setenv(args[0], p.URL+u.Path)
}

// cmdFault lets the server behind a proxy seem to fail: to refuse connections, to
// break off every body at a byte, to answer with a status; or to be well again.
//
//	fault VAR refuse|none|reset BYTE|status N
func cmdFault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || shelfOf(ts).proxies[args[0]] == nil {
		ts.Fatalf("usage: fault VAR refuse|none|reset BYTE|status N, after front VAR")
	}
	p := shelfOf(ts).proxies[args[0]]
	n := int64(0)
	if len(args) == 3 {
		var err error
		n, err = strconv.ParseInt(args[2], 10, 64)
		ts.Check(err)
	}
	switch args[1] {
	case "none":
		p.Inject()
	case "refuse":
		p.Inject(faultproxy.Fault{Refuse: true})
	case "reset":
		p.Inject(faultproxy.Fault{Reset: &n})
	case "status":
		p.Inject(faultproxy.Fault{Status: int(n)})
	default:
		ts.Fatalf("unknown fault %q", args[1])
	}
}

// cmdPublish lets a web server give out a file, or so many MiB of noise, or send
// readers elsewhere; and sets a variable to the URL. The file may change or go.
//
//	publish VAR FILE|noise:MIB|URL
func cmdPublish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: publish VAR FILE|noise:MIB|URL")
	}
	s := shelfOf(ts)
	if s.web == nil {
		s.web = httptest.NewServer(http.HandlerFunc(s.serveFile))
		ts.Defer(s.web.Close)
	}
	to := args[1]
	if !strings.Contains(to, ":") {
		to = ts.MkAbs(to)
	}
	s.published.Store("/"+args[0], to)
	ts.Setenv(args[0], s.web.URL+"/"+args[0])
}

func (s *shelf) serveFile(w http.ResponseWriter, r *http.Request) {
	published, _ := s.published.Load(r.URL.Path)
	to, _ := published.(string)
	if strings.Contains(to, "://") {
		http.Redirect(w, r, to, http.StatusFound)
		return
	}
	if mib, ok := strings.CutPrefix(to, "noise:"); ok {
		n, _ := strconv.ParseInt(mib, 10, 64)
		w.Header().Set("ETag", `"noise"`)
		http.ServeContent(w, r, "", time.Time{}, noise(n<<20).reader())
		return
	}
	f, err := os.Open(to)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, st.Size(), st.ModTime().UnixNano()))
	http.ServeContent(w, r, "", st.ModTime(), f)
}

// cmdKeep makes an image of a file, with its data in the default store of a server
// whose stores are of $KIND, and sets a variable to its id: keep VAR FILE. Stores
// that take no uploads are given its URL, and hash it.
func cmdKeep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: keep VAR FILE")
	}
	cmdCreate(ts, false, args[:1])
	file := "/v2/images/" + ts.Getenv(args[0])
	if ts.Getenv("KIND") != "http" {
		ts.Check(ts.Exec("curl", "-sS", "--fail-with-body", "-T", ts.MkAbs(args[1]), "-H", "Expect:",
			"-H", "Content-Type: application/octet-stream", ts.Getenv("SERVER")+file+"/file"))
		return
	}
	cmdPublish(ts, false, []string{"URL_" + args[0], args[1]})
	cmdRequest(ts, false, []string{http.MethodPost, file + "/locations", `={"url":"` + ts.Getenv("URL_"+args[0]) + `"}`})
	cmdStatus(ts, false, []string{"202"})
	cmdHashed(ts, false, args[:1])
}

// cmdCreate makes an image that waits for its data, and sets a variable to its id:
// create VAR.
func cmdCreate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: create VAR")
	}
	cmdRequest(ts, false, []string{http.MethodPost, "/v2/images", `={"name":"` + args[0] + `","disk_format":"raw","container_format":"bare"}`})
	cmdStatus(ts, false, []string{"201"})
	cmdField(ts, false, []string{args[0], "id", "body"})
}

// cmdHashed waits until the data of an image is hashed: hashed VAR.
func cmdHashed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hashed VAR")
	}
	awaitRecord(ts, ts.Getenv(args[0]), `"os_hash_value":"`)
}

// cmdRecorded waits until the record of an image has a text: recorded VAR TEXT.
func cmdRecorded(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: recorded VAR TEXT")
	}
	awaitRecord(ts, ts.Getenv(args[0]), args[1])
}

func awaitRecord(ts *testscript.TestScript, id, want string) {
	often := time.NewTicker(50 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		exchange(ts, false, http.MethodGet, "/v2/images/"+id, nil)
		found := ts.ReadFile(siteOf(ts).answer.body)
		if strings.Contains(found, want) {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			ts.Fatalf("the record does not come to have %s: %s", want, found)
		}
	}
}

// cmdFrugal fails if stores were asked more than once for 16 MiB of a file, since
// the server started, or gave out anything that the cache did not count: frugal FILE.
func cmdFrugal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: frugal FILE")
	}
	st, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	asked := metricOf(ts, "nearsight_store_requests_total")
	ts.Logf("%.0f requests for %d bytes", asked, st.Size())
	mustHold(ts, "requests", asked, "<=", strconv.FormatInt((st.Size()-1)>>24+1, 10))
	counted := metricOf(ts, "nearsight_cache_filled_bytes_total") + metricOf(ts, "nearsight_cache_overread_bytes_total")
	mustHold(ts, "bytes of stores", metricOf(ts, "nearsight_store_bytes_total"), "==", strconv.FormatFloat(counted, 'f', 0, 64))
}

// cmdHighWater compares the most memory that the server ever had, with the files
// that it maps: highwater OP BYTES. It says nothing of one with the race detector.
func cmdHighWater(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: highwater OP BYTES")
	}
	text := ts.ReadFile(fmt.Sprintf("/proc/%d/status", running(ts).cmd.Process.Pid))
	_, rest, _ := strings.Cut(text, "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseFloat(kib, 64)
	ts.Check(err)
	ts.Logf("at most %.0f MiB resident", n/1024)
	mustHold(ts, "memory", n*1024, args[0], args[1])
}
