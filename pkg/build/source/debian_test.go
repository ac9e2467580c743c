package source

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// mirrorOf sets up an apt directory whose only Debian archive is h.
func mirrorOf(t *testing.T, h http.HandlerFunc) Option {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	etc := t.TempDir()
	if err := os.WriteFile(filepath.Join(etc, "sources.list"), []byte("deb [trusted=yes] "+srv.URL+"/debian bookworm main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return WithAptDir(etc)
}

// TestDebs: exact packages come from the pool of the machine's archive without
// any lists; plain http will do, because digests decide.
func TestDebs(t *testing.T) {
	var hits atomic.Int64
	opt := mirrorOf(t, func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		switch r.URL.Path {
		case "/debian/pool/main/m/make/make_1+b1_amd64.deb":
			w.Write(body())
		default:
			http.NotFound(w, r)
		}
	})
	f, _ := fetcher(t, opt)
	tc := lock.Toolchain{Suite: "bookworm", Packages: []lock.DebPackage{
		{Name: "make", Version: "1+b1", Arch: "amd64", File: "pool/main/m/make/make_1+b1_amd64.deb", Digest: store.FromBytes(body()), Size: int64(len(body()))},
	}}
	for range 2 {
		if err := f.Debs(t.Context(), tc); err != nil || hits.Load() != 1 {
			t.Fatalf("error %v, %d requests", err, hits.Load())
		}
	}
	tc.Packages = append(tc.Packages, lock.DebPackage{Name: "gone", Version: "1", Arch: "all", File: "pool/gone_1_all.deb", Digest: store.FromBytes(nil), Size: 1})
	err := f.Debs(t.Context(), tc)
	var missing *MissingError
	if !errors.As(err, &missing) || missing.Names[0] != "toolchain" || !strings.Contains(err.Error(), "gone_1_all.deb") {
		t.Fatalf("error %v", err)
	}
}

// Failures of which nobody can say that they mean absence.
func TestDebsUnfetched(t *testing.T) {
	deb := func(file string) lock.Toolchain {
		return lock.Toolchain{Suite: "bookworm", Packages: []lock.DebPackage{
			{Name: "make", Version: "1", Arch: "amd64", File: file, Digest: store.FromBytes(body()), Size: int64(len(body()))}}}
	}
	empty, filled := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(filled, "pool"), 0o755); err != nil {
		t.Fatal(err)
	}
	for uri, missing := range map[string]bool{
		"nosuchmethod+http://127.0.0.1:1/debian": false,
		"file://" + empty:                        false, // not mounted, say
		"file://" + empty + "/absent":            false,
		"file://" + filled:                       true,
	} {
		etc := t.TempDir()
		if err := os.WriteFile(filepath.Join(etc, "sources.list"), []byte("deb "+uri+" bookworm main\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		f, _ := fetcher(t, WithAptDir(etc))
		err := f.Debs(t.Context(), deb("pool/main/m/make/make_1_amd64.deb"))
		var m *MissingError
		if fault.ClassOf(err) != fault.Source || errors.As(err, &m) != missing {
			t.Errorf("%s: %v, want missing %v", uri, err, missing)
		}
	}
}

// A pool without the file is not enough to say that a Debian source has left:
// the lists may know it elsewhere, and here they cannot be had.
func TestSourceWithoutLists(t *testing.T) {
	needAptGet(t)
	f, _ := fetcher(t, mirrorOf(t, http.NotFound))
	err := f.Sources(t.Context(), []lock.Source{src("zlib", "debian:bookworm/zlib=1.3-1")}, nil)
	var missing *MissingError
	if fault.ClassOf(err) != fault.Source || errors.As(err, &missing) || !strings.Contains(err.Error(), "lists of bookworm") {
		t.Fatalf("error %v", err)
	}
}

func TestNoDebianArchive(t *testing.T) {
	f, _ := fetcher(t, WithAptDir(t.TempDir()))
	err := f.Sources(t.Context(), []lock.Source{src("zlib", "debian:trixie/zlib=1.3-1")}, nil)
	if fault.ClassOf(err) != fault.Environment || fault.HintOf(err) == "" {
		t.Fatalf("error %v", err)
	}
}

func needAptGet(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("no apt-get on this machine")
	}
}

// needApt skips where the real thing cannot be tried.
func needApt(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("downloads lists: not with -short")
	}
	needAptGet(t)
	if found, err := findArchives("/etc/apt"); err != nil || len(found) == 0 {
		t.Skipf("no Debian archive in /etc/apt: %v", err)
	}
}

// TestRealApt locks and fetches musl from the machine's own archive, and shows
// what a version that has gone looks like.
func TestRealApt(t *testing.T) {
	needApt(t)
	f, _ := fetcher(t)
	decl := recipe.Source{Debian: recipe.Debian{Suite: "trixie", Source: "musl"}, Series: "1.2"}
	old := &lock.Lock{Schema: 1, SourceDate: 1}
	u, err := f.Update(t.Context(), old, Declared{Sources: map[string]recipe.Source{"musl": decl}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, changes := u.Lock, u.Changes
	s, ok := l.Source("musl")
	if !ok || len(changes) != 1 || !strings.HasPrefix(s.File, "musl_1.2.") || len(old.Sources) != 0 {
		t.Fatalf("locked %+v, changes %v", s, changes)
	}
	if err := f.Sources(t.Context(), l.Sources, nil); err != nil {
		t.Fatal(err)
	}
	if n, err := f.store.Size(s.Digest); err != nil || n != s.Size {
		t.Fatalf("size %d, %v, want %d", n, err, s.Size)
	}

	// A pin that has rotted, and its re-lock.
	l.Sources[0].Digest, l.Sources[0].Version, l.Sources[0].File = store.FromBytes(nil), "1.2.0", "musl_1.2.0.orig.tar.gz"
	err = f.Sources(t.Context(), l.Sources, nil)
	var missing *MissingError
	if !errors.As(err, &missing) || !slices.Equal(missing.Names, []string{"musl"}) || !strings.Contains(err.Error(), "trixie has 1.2.") {
		t.Fatalf("error %v", err)
	}
	if u, err = f.Relock(t.Context(), l, Declared{Sources: map[string]recipe.Source{"musl": decl}}, missing.Names); err != nil {
		t.Fatal(err)
	}
	if l, changes = u.Lock, u.Changes; len(changes) != 1 || !slices.Equal(l.Changed(), []string{"musl"}) || l.Sources[0].Relocked != "1.2.0" || l.Sources[0].Digest != s.Digest {
		t.Fatalf("re-locked %+v, %v, %v", l.Sources, changes, err)
	}

	// The same file under another name of the pool is found by its digest.
	if err := os.Remove(f.store.Path(s.Digest)); err != nil {
		t.Fatal(err)
	}
	l.Sources[0].File = "musl_renamed.orig.tar.gz"
	if err := f.Sources(t.Context(), l.Sources, nil); err != nil {
		t.Fatal(err)
	}

	_, err = f.Resolve(t.Context(), "musl", recipe.Source{Debian: decl.Debian, Series: "9"})
	if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "not in the series 9") {
		t.Fatalf("series: %v", err)
	}
	_, err = f.Resolve(t.Context(), "nothing", recipe.Source{Debian: recipe.Debian{Suite: "trixie", Source: "no-such-package"}})
	if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "no source package") {
		t.Fatalf("no package: %v", err)
	}
}

func TestRealToolchain(t *testing.T) {
	needApt(t)
	f, _ := fetcher(t)
	tc, err := f.ResolveToolchain(t.Context(), "bookworm", []string{"make"})
	if err != nil {
		t.Fatal(err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(tc.Packages, func(p lock.DebPackage) bool { return p.Name == name })
	}
	if !has("make") || !has("libc6") || !has("dpkg") || has("gcc") {
		t.Fatalf("%d packages: %v", len(tc.Packages), tc.Packages)
	}
	if _, err := (&lock.Lock{SourceDate: 1, Toolchain: tc}).Marshal(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ResolveToolchain(t.Context(), "bookworm", []string{"no-such-package"}); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "no-such-package") {
		t.Fatalf("unknown package: %v", err)
	}
	if _, err := f.ResolveToolchain(t.Context(), "bookworm", []string{"-o=x"}); fault.ClassOf(err) != fault.Usage {
		t.Fatalf("an option as package: %v", err)
	}
}
