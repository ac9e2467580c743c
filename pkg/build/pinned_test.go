package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// publish writes packages and an index of them to DIR/x86_64, as a repository
// that serves just these.
func publish(t *testing.T, dir string, key *apk.SigningKey, metas ...apk.Meta) {
	t.Helper()
	dir = filepath.Join(dir, "x86_64")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for i := range metas {
		metas[i].Arch, metas[i].License = "x86_64", "MIT"
		tree := rootfs.New()
		if err := tree.Add(rootfs.Regular("usr/share/"+metas[i].Name, 0o644, []byte(metas[i].Version))); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		m, err := apk.Write(&b, metas[i], tree, key, 1)
		if err != nil {
			t.Fatal(err)
		}
		metas[i] = m
		if err := os.WriteFile(filepath.Join(dir, m.FileName()), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, key, 1); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, indexFile), index.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPinnedPackages follows a repository that moves on.
func TestPinnedPackages(t *testing.T) {
	theirs, err := apk.GenerateKey("theirs")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := apk.GenerateKey("ours")
	if err != nil {
		t.Fatal(err)
	}
	keys := theirs.Keyring()
	for name, key := range ours.Keyring() {
		keys[name] = key
	}
	remote, local, recipeDir := t.TempDir(), t.TempDir(), t.TempDir()
	var refused atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refused.Load() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		http.FileServer(http.Dir(remote)).ServeHTTP(w, r)
	}))
	defer server.Close()
	edge := t.TempDir()
	publish(t, edge, theirs, apk.Meta{Name: "new", Version: "9.0-r0"}, apk.Meta{Name: "lib", Version: "9.0-r0"})
	publish(t, local, ours, apk.Meta{Name: "app", Version: "1.0-r0", Depends: []string{"lib"}})
	publish(t, remote, theirs, apk.Meta{Name: "lib", Version: "1.0-r0"}, apk.Meta{Name: "unused", Version: "1.0-r0"})

	locked := &lock.Lock{SourceDate: 1}
	var said strings.Builder
	frozen := false
	// try is what a build with this cache, "" for a new one, would install, and
	// the inputs its bundle would name as changed. Whatever it locks is kept.
	try := func(cache string, offline, relock bool) (string, []string, error) {
		t.Helper()
		if cache == "" {
			cache = t.TempDir()
		}
		said.Reset()
		b := &Builder{
			opts:   &options{cacheDir: cache, offline: offline, relockMissing: relock, frozen: frozen, events: func(e Event) { fmt.Fprintln(&said, e) }},
			recipe: &recipe.Recipe{Dir: recipeDir, Path: "recipe.yaml", Packages: []string{"app", "new@edge"}, Repositories: []string{server.URL, "@edge " + edge}},
			arch:   arch{Apk: "x86_64"}, lock: locked.Clone(), key: ours, epoch: 1,
		}
		var err error
		if b.store, err = store.Open(filepath.Join(cache, "store")); err != nil {
			t.Fatal(err)
		}
		if b.fetcher, err = b.newFetcher(); err != nil {
			t.Fatal(err)
		}
		ports, err := apk.OpenRepository(t.Context(), local, "x86_64", keys)
		if err != nil {
			t.Fatal(err)
		}
		repositories := []apk.Repository{ports}
		var pinned []apk.Repository
		err = b.relocking(t.Context(), func(ctx context.Context) (err error) {
			pinned, err = b.pinnedRepositories(ctx, ports, keys)
			return err
		})
		locked = b.Lock()
		if err != nil {
			return "", nil, err
		}
		repositories = append(repositories, pinned...)
		selected, err := apk.Solve(t.Context(), b.recipe.Packages, repositories)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, s := range selected {
			ids = append(ids, s.Meta.ID())
		}
		return strings.Join(ids, " "), b.result.Changed, nil
	}
	solve := func(cache string, offline bool) (string, error) {
		t.Helper()
		got, _, err := try(cache, offline, false)
		return got, err
	}
	check := func(what, got string, err error) {
		t.Helper()
		if err != nil || !strings.Contains(got, "lib-1.0-r0") || !strings.Contains(got, "new-9.0-r0") || !strings.Contains(got, "app-1.0-r0") {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}

	cache := t.TempDir()
	frozen = true
	if _, err := solve(cache, false); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "the packages for x86_64 are not locked") || len(locked.Packages) != 0 {
		t.Errorf("a frozen lock without packages: %v", err)
	}
	frozen = false
	got, err := solve(cache, false)
	check("the first build", got, err)
	l := locked
	if len(l.Packages) != 2 || l.Packages[0].File() != "x86_64/lib-1.0-r0.apk" || l.Packages[0].Repository != server.URL ||
		l.Packages[1].Tag != "edge" || l.Packages[1].Repository != edge {
		t.Fatalf("the lock has %+v", l.Packages)
	}

	// On another machine, while the repository has both.
	publish(t, remote, theirs, apk.Meta{Name: "lib", Version: "1.0-r0"}, apk.Meta{Name: "lib", Version: "2.0-r0"})
	frozen = true
	got, err = solve("", false)
	check("another machine", got, err)
	frozen = false

	// The old version has left: whoever has it goes on, offline too.
	publish(t, remote, theirs, apk.Meta{Name: "lib", Version: "2.0-r0"})
	got, err = solve(cache, true)
	check("offline", got, err)
	_, err = solve("", false)
	var missing *source.MissingError
	if !errors.As(err, &missing) || fault.HintOf(err) != "lock other versions of packages" {
		t.Errorf("a package that is gone: %v (%s)", err, fault.HintOf(err))
	}

	// Other bytes under the old name.
	if err := os.WriteFile(filepath.Join(remote, "x86_64", "lib-1.0-r0.apk"), make([]byte, l.Packages[0].Size), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = solve("", false); fault.ClassOf(err) != fault.Verification {
		t.Errorf("other bytes: %v", err)
	}

	if _, _, err = try("", false, true); fault.ClassOf(err) != fault.Verification {
		t.Errorf("other bytes are no reason to lock others: %v", err)
	}
	before := textOf(t, locked)
	if err := os.Remove(filepath.Join(remote, "x86_64", "lib-1.0-r0.apk")); err != nil {
		t.Fatal(err)
	}

	// A repository that refuses has not said that the package has gone.
	refused.Store(true)
	if _, _, err = try("", false, true); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "403") {
		t.Errorf("refused: %v", err)
	}
	if textOf(t, locked) != before {
		t.Error("a refusal changed the lock")
	}
	refused.Store(false)

	// It has: the pins are made anew, and the bundle says so.
	got, changed, err := try("", false, true)
	if err != nil || !strings.Contains(got, "lib-2.0-r0") || fmt.Sprint(changed) != "[packages]" {
		t.Errorf("locked anew: %q, %v, %v", got, changed, err)
	}
	if !strings.Contains(said.String(), "x86_64/lib-1.0-r0.apk is gone from its repository; locked anew: 2.0-r0") {
		t.Errorf("said %q", said.String())
	}
	if l = locked; l.Packages[0].Relocked != "1.0-r0" || l.Packages[1].Relocked != "" || len(l.Packages) != 2 {
		t.Errorf("the lock has %+v", l)
	}

	// Gone with nothing in its place: it ends, and the lock stays.
	before = textOf(t, locked)
	publish(t, remote, theirs, apk.Meta{Name: "lib", Version: "2.0-r0"})
	if err := os.Remove(filepath.Join(remote, "x86_64", "lib-2.0-r0.apk")); err != nil {
		t.Fatal(err)
	}
	if _, _, err = try("", false, true); fault.ClassOf(err) != fault.Source {
		t.Errorf("nothing in its place: %v", err)
	}
	if textOf(t, locked) != before {
		t.Error("the lock was changed for nothing")
	}

	// Let go of the pins, the next build takes what is there.
	b := &Builder{recipe: &recipe.Recipe{Repositories: []string{server.URL, "@edge " + edge}}}
	if dropped := b.dropPackages(l, false); len(dropped) != 0 {
		t.Errorf("dropped %v of a repository the recipe has", dropped)
	}
	if dropped := b.dropPackages(l, true); len(dropped) != 2 {
		t.Errorf("dropped %v", dropped)
	}
	locked = l
	// An index of long ago shows.
	publish(t, remote, theirs, apk.Meta{Name: "lib", Version: "1.5-r0"})
	if got, err = solve(cache, false); err != nil || !strings.Contains(got, "lib-1.5-r0") {
		t.Errorf("after the update: %q, %v", got, err)
	}
	if !strings.Contains(said.String(), "lib: 1.5-r0 is older than 2.0-r0, which was locked") {
		t.Errorf("said %q", said.String())
	}
	if l = locked; len(l.Released) != 0 || len(l.Changed()) != 0 || len(l.Packages) != 2 {
		t.Errorf("the lock has %+v", l)
	}
}

func textOf(t *testing.T, l *lock.Lock) string {
	t.Helper()
	text, err := l.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
