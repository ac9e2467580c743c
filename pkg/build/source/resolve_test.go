package source

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/debtest"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// world is a machine whose apt knows a Debian archive with updates and its
// security archive.
type world struct {
	t              *testing.T
	main, security *debtest.Archive
	etc            string
	declared       Declared
}

func newWorld(t *testing.T) *world {
	needAptGet(t)
	w := &world{t: t, main: debtest.New(t), security: debtest.New(t)}
	for _, suite := range []string{"trixie", "trixie-updates"} {
		w.main.Suite(suite)
	}
	w.security.Suite("trixie-security")
	w.etc = debtest.Etc(t, map[*debtest.Archive][]string{w.main: {"bookworm", "bookworm-updates"}, w.security: {"bookworm-security"}})
	w.declared = Declared{Sources: map[string]recipe.Source{"pg": {Debian: recipe.Debian{Suite: "trixie", Source: "postgresql"}, Series: "17"}}, SourceDate: 1}
	return w
}

// list lists a version in a suite; there says whether its tarball is in the
// pool too. The content is the version's own.
func (w *world) list(suite, version string, there bool) string {
	return w.listContent(suite, version, "postgresql "+version, there)
}

func (w *world) listContent(suite, version, content string, there bool) string {
	a := w.main
	if strings.HasSuffix(suite, "-security") {
		a = w.security
	}
	upstream, _, _ := strings.Cut(version, "-")
	path := a.Source(suite, "postgresql", version, "postgresql_"+upstream+".orig.tar.gz", content)
	if there {
		a.Put(path, content)
	}
	return path
}

// fetcher is one run: it has lists of its own.
func (w *world) fetcher() *Fetcher {
	f, _ := fetcher(w.t, WithAptDir(w.etc))
	return f
}

// locked is a lock of the newest version that can be had now.
func (w *world) locked() *lock.Lock {
	w.t.Helper()
	u, err := w.fetcher().Update(w.t.Context(), nil, w.declared, []string{"pg"})
	if err != nil {
		w.t.Fatal(err)
	}
	return u.Lock
}

func (w *world) update(old *lock.Lock) *Updated {
	w.t.Helper()
	u, err := w.fetcher().Update(w.t.Context(), old, w.declared, []string{"pg"})
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func mirrorOfOnly(l *lock.Lock) string { return strings.Join(l.Sources[0].Mirrors, " ") }

// Fixes come to -updates and -security first, and the lock says so.
func TestResolveTakesFixes(t *testing.T) {
	w := newWorld(t)
	w.list("trixie", "17.11-1", true)
	l := w.locked()
	if mirrorOfOnly(l) != "debian:trixie/postgresql=17.11-1" {
		t.Fatalf("locked %+v", l.Sources)
	}
	w.list("trixie-updates", "17.12-1", true)
	u := w.update(l)
	if mirrorOfOnly(u.Lock) != "debian:trixie-updates/postgresql=17.12-1" || len(u.Notes) != 0 {
		t.Fatalf("from updates: %+v, %v", u.Lock.Sources, u.Notes)
	}
	path := w.list("trixie-security", "17.13-1", true)
	u = w.update(u.Lock)
	if mirrorOfOnly(u.Lock) != "debian:trixie-security/postgresql=17.13-1" || fmt.Sprint(u.Changes) != "[pg 17.12 → 17.13]" {
		t.Fatalf("from security: %+v, %v", u.Lock.Sources, u.Changes)
	}
	if stale := w.declared.Stale(u.Lock); stale != nil {
		t.Errorf("stale: %v", stale)
	}
	// It is fetched from there, also when only the lists say where it is.
	f := w.fetcher()
	if err := f.Sources(t.Context(), u.Lock.Sources, nil); err != nil || !f.store.Has(u.Lock.Sources[0].Digest) {
		t.Fatalf("fetched: %v", err)
	}
	if w.security.Asked(path) == 0 {
		t.Error("the security archive was not asked for the file")
	}
}

// A machine whose apt has no security archive does not look for one, and one
// that cannot be asked is told of.
func TestResolveWithoutSecurity(t *testing.T) {
	w := newWorld(t)
	w.list("trixie", "17.11-1", true)
	w.list("trixie-security", "17.12-1", true)
	w.etc = debtest.Etc(t, map[*debtest.Archive][]string{w.main: {"bookworm"}})
	if l := w.locked(); l.Sources[0].Version != "17.11" {
		t.Errorf("without: %+v", l.Sources)
	}
	w.etc = debtest.Etc(t, map[*debtest.Archive][]string{w.main: {"bookworm"}, w.security: {"bookworm-security"}})
	w.security.Answer("dists/trixie-security/InRelease", http.StatusForbidden)
	u := w.update(w.locked())
	if len(u.Changes) != 0 || len(u.Notes) != 1 || !strings.Contains(u.Notes[0], "pg: trixie-security could not be asked") || !strings.Contains(u.Notes[0], "403") {
		t.Errorf("refused: %v, %v", u.Changes, u.Notes)
	}
	// Unstable, say, has none.
	w.security.Answer("dists/trixie-security/InRelease", http.StatusNotFound)
	w.security.Answer("dists/trixie-security/Release", http.StatusNotFound)
	if u := w.update(w.locked()); len(u.Notes) != 0 {
		t.Errorf("no such suite: %v", u.Notes)
	}
}

// A lock that is good stays as it is where what is newer cannot be had.
func TestUpdateKeepsWhatIsGood(t *testing.T) {
	w := newWorld(t)
	w.etc = debtest.Etc(t, map[*debtest.Archive][]string{w.main: {"bookworm"}}) // each suite takes apt a while
	w.list("trixie", "17.11-1", true)
	l := w.locked()
	w.main.Clear("trixie")
	next := w.list("trixie", "17.12-1", false)
	u := w.update(l)
	if len(u.Changes) != 0 || u.Lock.Sources[0].Version != "17.11" {
		t.Fatalf("changes %v, %+v", u.Changes, u.Lock.Sources)
	}
	if len(u.Notes) != 1 || u.Notes[0] != "pg: 17.12-1 is listed in trixie, but the archive answers 404 for postgresql_17.12.orig.tar.gz; it may have it later" {
		t.Errorf("notes %q", u.Notes)
	}
	// Nothing is known of a file that an archive refuses: no guess is made.
	w.main.Answer(next, http.StatusForbidden)
	if _, err := w.fetcher().Update(t.Context(), l, w.declared, []string{"pg"}); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "403") {
		t.Errorf("refused: %v", err)
	}
	w.main.Answer(next, 0)

	// Without a lock there is nothing to keep.
	_, err := w.fetcher().Update(t.Context(), nil, w.declared, []string{"pg"})
	if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "17.12-1 is listed in trixie, but") {
		t.Errorf("nothing locked: %v", err)
	}

	// An update never goes back, whatever the lists say.
	w.main.Clear("trixie")
	w.list("trixie", "17.9-1", true)
	if u := w.update(l); len(u.Changes) != 0 {
		t.Errorf("went back: %v", u.Changes)
	}

	// The same bytes under a packager's new name change nothing.
	w.main.Clear("trixie")
	w.listContent("trixie", "17.11-1+deb13u1", "postgresql 17.11-1", true)
	if u := w.update(l); len(u.Changes) != 0 || mirrorOfOnly(u.Lock) != "debian:trixie/postgresql=17.11-1" {
		t.Errorf("the same bytes: %v, %+v", u.Changes, u.Lock.Sources)
	}

	// What the machine had chosen is now chosen on purpose.
	relocked := l.Clone()
	relocked.Sources[0].Relocked = "17.10"
	if u := w.update(relocked); len(u.Lock.Changed()) != 0 || len(u.Changes) != 1 {
		t.Errorf("the mark stays: %v, %v", u.Lock.Changed(), u.Changes)
	}
}

// A re-lock takes what can be had, and says when that is older.
func TestRelockGoesBack(t *testing.T) {
	w := newWorld(t)
	w.list("trixie", "17.11-1", true)
	fix := w.list("trixie-security", "17.12-1", true)
	l := w.locked()
	w.security.Remove(fix)
	u, err := w.fetcher().Relock(t.Context(), l, w.declared, []string{"pg"})
	if err != nil {
		t.Fatal(err)
	}
	if s := u.Lock.Sources[0]; s.Version != "17.11" || s.Relocked != "17.12" {
		t.Errorf("locked %+v", s)
	}
	if notes := strings.Join(u.Notes, "\n"); !strings.Contains(notes, "pg: 17.11 is older than 17.12, which was locked") || !strings.Contains(notes, "17.12-1 is listed in trixie-security, but") {
		t.Errorf("notes %s", notes)
	}
	// And says when there is nothing.
	w.main.Clear("trixie")
	if _, err := w.fetcher().Relock(t.Context(), l, w.declared, []string{"pg"}); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "nothing to lock") {
		t.Errorf("nothing: %v", err)
	}
	w.security.Put(fix, "postgresql 17.12-1")
	if _, err := w.fetcher().Relock(t.Context(), l, w.declared, []string{"pg"}); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "nothing else that can be had") {
		t.Errorf("the same: %v", err)
	}
}

func TestUpdateToolchain(t *testing.T) {
	w := newWorld(t)
	w.declared.ToolchainSuite, w.declared.ToolchainPackages = "bookworm", []string{"make"}
	update := func(old *lock.Lock, relock bool) (*Updated, error) {
		f := w.fetcher()
		if relock {
			return f.Relock(t.Context(), old, w.declared, []string{"toolchain"})
		}
		return f.Update(t.Context(), old, w.declared, []string{"toolchain"})
	}
	w.main.Put(w.main.Package("bookworm", "make", "4.3-2", "make 2"), "make 2")
	w.main.Put(w.main.Package("bookworm", "libc6", "2.36-9", "libc 9"), "libc 9")
	u, err := update(nil, false)
	if err != nil || len(u.Lock.Toolchain.Packages) != 2 {
		t.Fatalf("%+v, %v", u, err)
	}
	l := u.Lock

	// Re-locking what the lists still have ends.
	if _, err := update(l, true); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "nothing else") {
		t.Errorf("unchanged: %v", err)
	}

	// Listed and not there.
	w.main.Clear("bookworm")
	w.main.Package("bookworm", "make", "4.3-3", "make 3")
	w.main.Put(w.main.Package("bookworm", "libc6", "2.36-9", "libc 9"), "libc 9")
	u, err = update(l, false)
	if err != nil || len(u.Changes) != 0 || len(u.Notes) != 1 || !strings.Contains(u.Notes[0], "404 for make_4.3-3_amd64.deb") {
		t.Errorf("absent: %+v, %v", u, err)
	}
	if _, err := update(l, true); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "make_4.3-3_amd64.deb") {
		t.Errorf("absent, and the old one has gone: %v", err)
	}

	// A list that went back in time.
	w.main.Clear("bookworm")
	w.main.Put(w.main.Package("bookworm", "make", "4.3-1", "make 1"), "make 1")
	w.main.Put(w.main.Package("bookworm", "libc6", "2.36-10", "libc 10"), "libc 10")
	u, err = update(l, false)
	if err != nil || len(u.Changes) != 1 || fmt.Sprint(u.Notes) != "[toolchain: older than what was locked: make 4.3-1 (was 4.3-2)]" {
		t.Errorf("older: %+v, %v", u, err)
	}
}

func TestOutdated(t *testing.T) {
	w := newWorld(t)
	w.declared.ToolchainSuite, w.declared.ToolchainPackages = "bookworm", []string{"make"}
	w.list("trixie", "17.10-1", true)
	w.main.Put(w.main.Package("bookworm", "make", "4.3-2", "make 2"), "make 2")
	u, err := w.fetcher().Update(t.Context(), nil, w.declared, []string{"pg", "toolchain"})
	if err != nil {
		t.Fatal(err)
	}
	l := u.Lock
	before, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	outdated := func() string {
		t.Helper()
		all, notes, err := w.fetcher().Outdated(t.Context(), l, w.declared)
		if err != nil || len(notes) != 0 {
			t.Fatalf("%v, %v", notes, err)
		}
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got := outdated(); got != "null" {
		t.Errorf("all is newest: %s", got)
	}

	w.main.Clear("trixie")
	w.list("trixie", "17.12-1", false)
	w.list("trixie-updates", "17.11-1", true)
	w.list("trixie-security", "18.1-1", true)
	w.main.Clear("bookworm")
	w.main.Package("bookworm", "make", "4.3-3", "make 3")
	want := `[{"name":"pg","locked":"17.10","newer":[` +
		`{"version":"17.12","where":"debian:trixie/postgresql=17.12-1","available":false,"why":"listed, but the archive answers 404 for postgresql_17.12.orig.tar.gz"},` +
		`{"version":"17.11","where":"debian:trixie-updates/postgresql=17.11-1","available":true}],` +
		`"beyond_series":{"version":"18.1","where":"debian:trixie-security/postgresql=18.1-1","available":true}},` +
		`{"name":"toolchain","locked":"bookworm, 1 packages","newer":[{"version":"bookworm, 1 packages, 1 others","where":"debian:bookworm","available":false,` +
		`"why":"listed, but the archive answers 404 for make_4.3-3_amd64.deb","packages":["make 4.3-3"]}]}]`
	if got := outdated(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if after, err := json.Marshal(l); err != nil || string(after) != string(before) {
		t.Errorf("the lock was changed: %v", err)
	}
	f, _ := fetcher(t, WithOffline(true))
	if _, _, err := f.Outdated(t.Context(), l, w.declared); fault.ClassOf(err) != fault.Source {
		t.Errorf("offline: %v", err)
	}
}
