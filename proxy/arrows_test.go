package proxy

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows says what of ours each package may import, and why not more. Imports
// only ever go cmd -> proxy -> cache -> origin and proxy -> registry -> origin.
var arrows = []struct {
	prefix string // of the package, below the module
	may    []string
	reason string
}{
	{"origin/origintest", []string{"origin", "origin/faultproxy"}, "a conformance suite knows its contract alone"},
	{"origin/faultproxy", nil, "it harms connections, whatever they carry"},
	{"deploy/", []string{"origin"}, "what measures a server speaks to it as anybody does"},
	{"origin/diskformat", []string{"origin/diskformat/"}, "disk formats know nothing of stores"},
	{"origin/", []string{"origin"}, "a backend knows the contract that it fulfils, and no other backend"},
	{"origin", nil, "origin stands at the end of all arrows"},
	{"cache", []string{"origin"}, "the cache knows bytes, and neither records nor HTTP"},
	{"registry/registrytest", []string{"registry", "origin"}, "a conformance suite knows its contract alone"},
	{"registry/metadef", []string{"registry"}, "definitions are seen by callers, and know nothing else"},
	{"registry/db", []string{"registry", "registry/metadef", "origin", "registry/db/"}, "an implementation of registry knows no other"},
	{"registry/bus", []string{"registry", "origin"}, "an implementation of registry knows no other"},
	{"registry/client", []string{"registry", "origin"}, "an implementation of registry knows no other"},
	{"registry/remote", []string{"registry", "registry/identity", "origin"}, "a central is known by what it answers"},
	{"registry/task", []string{"registry", "origin", "origin/diskformat"}, "tasks work on contracts"},
	{"registry/identity", []string{"registry"}, "who somebody is has nothing to do with images"},
	{"registry/identity/keystone", []string{"registry", "registry/identity"}, "an implementation of identity knows no other"},
	{"registry/api", []string{"registry", "registry/metadef", "registry/identity", "registry/task", "origin"}, "the API speaks over any registry.Images"},
	{"registry/api/v1", []string{"registry", "registry/api"}, "another face of the same registry, which takes from the first what they share"},
	{"registry/api/v1/v1test", nil, "a client of 2011 knows a server by what it answers"},
	{"registry", []string{"origin"}, "records name data, and know neither cache nor HTTP"},
	{"proxy/wire", []string{"cache"}, "the short way of a request knows connections and sections of files"},
	{"proxy", []string{"proxy/wire", "cache", "registry", "registry/api", "registry/api/v1", "registry/identity", "origin", "origin/diskformat"}, "the proxy gets its backends from cmd, as contracts"},
	{"cmd/", nil, ""}, // everything: here the parts are put together
}

// foreign says where packages that are not ours may be imported.
var foreign = []struct {
	path   string
	by     []string
	reason string
}{
	{"github.com/gin-gonic/gin", []string{"proxy", "registry/api", "registry/api/v1"}, "routes are the affair of proxy and registry/api"},
	{"net/http", []string{"proxy", "proxy/wire", "registry/api", "registry/api/v1", "registry/api/v1/v1test", "registry/client", "registry/remote", "registry/identity/keystone", "origin/s3", "origin/swift", "origin/web",
		"origin/faultproxy", "origin/origintest", "cmd/", "deploy/"},
		"there is no HTTP below registry/api but in what speaks to a server"},
	{"github.com/mattn/go-sqlite3", []string{"registry/db"}, "only registry/db knows SQL"},
	{"database/sql", []string{"registry/db"}, "only registry/db knows SQL"},
	{"github.com/jackc/pgx/v5", []string{"registry/db"}, "only registry/db knows SQL"},
}

func TestImportsFollowTheArrows(t *testing.T) {
	const module = "nearsight/"
	root := ".."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != root) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if ours, ok := strings.CutPrefix(imported, module); ok {
				checkArrow(t, path, pkg, ours)
			}
			for _, f := range foreign {
				if f.path == imported && !matches(f.by, pkg) {
					t.Errorf("%s imports %s: %s", path, imported, f.reason)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkArrow(t *testing.T, path, pkg, imported string) {
	if pkg != "cmd" && strings.HasSuffix(imported, "test") {
		t.Errorf("%s imports %s: what is for tests is imported by tests and conformance suites alone", path, imported)
	}
	for _, a := range arrows {
		if !matches([]string{a.prefix}, pkg) {
			continue
		}
		if a.reason != "" && !matches(a.may, imported) {
			t.Errorf("%s imports %s: %s", path, imported, a.reason)
		}
		return
	}
	t.Errorf("%s imports %s: the table of arrows does not know package %s", path, imported, pkg)
}

// matches reports whether pkg is one of the names, or lies below one that ends
// in a slash.
func matches(names []string, pkg string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return name == pkg || strings.HasSuffix(name, "/") && strings.HasPrefix(pkg, name)
	})
}
