package build

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

func TestOutdatedPackages(t *testing.T) {
	dir := t.TempDir()
	key, err := apk.GenerateKey("theirs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Save(dir); err != nil {
		t.Fatal(err)
	}
	repository := filepath.Join(dir, "repository")
	publish(t, repository, key, apk.Meta{Name: "lib", Version: "1.0-r0"}, apk.Meta{Name: "lib", Version: "1.1-r0"},
		apk.Meta{Name: "lib", Version: "1.10-r0"}, apk.Meta{Name: "same", Version: "1.0-r0"}, apk.Meta{Name: "other", Version: "2.0-r0"})
	if err := os.Remove(filepath.Join(repository, "x86_64", "lib-1.10-r0.apk")); err != nil {
		t.Fatal(err)
	}
	b := &Builder{opts: &options{cacheDir: t.TempDir()}, key: key, recipe: &recipe.Recipe{Dir: dir, Repositories: []string{"repository"}, Keys: []string{"theirs.rsa.pub"}},
		lock: &lock.Lock{Packages: []lock.Package{
			{Name: "lib", Version: "1.0-r0", Arch: "x86_64", Repository: "repository"},
			{Name: "same", Version: "1.0-r0", Arch: "x86_64", Repository: "repository"}}}}
	if b.store, err = store.Open(filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	if b.fetcher, err = source.New(source.WithStore(b.store)); err != nil {
		t.Fatal(err)
	}
	outdated, err := b.outdatedPackages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(outdated)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"name":"packages x86_64/lib","locked":"1.0-r0","newer":[` +
		`{"version":"1.10-r0","where":"repository","available":false,"why":"listed, but the repository does not have lib-1.10-r0.apk"},` +
		`{"version":"1.1-r0","where":"repository","available":true}]}]`
	if string(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

func TestOutdatedWithoutLock(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../recipes")); err != nil {
		t.Fatal(err)
	}
	sql := filepath.Join(dir, "sql")
	if err := os.Remove(filepath.Join(sql, lock.FileName)); err != nil {
		t.Fatal(err)
	}
	r, err := recipe.Load(sql)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(r, nil, WithCacheDir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, outdated := b.Outdated(t.Context())
	_, bundle := b.Bundle(t.Context())
	_, plan := b.Plan(t.Context())
	for _, err := range []error{outdated, bundle, plan, b.CheckLock()} {
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "there is no lock for "+sql) || b.Lock() != nil {
			t.Errorf("%v (%s)", err, fault.HintOf(err))
		}
	}
}
