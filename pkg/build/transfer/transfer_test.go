package transfer

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func open(t *testing.T) (*store.Store, *source.Fetcher) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := source.New(source.WithStore(s), source.WithCacheDir(dir), source.WithOffline(true))
	if err != nil {
		t.Fatal(err)
	}
	return s, f
}

// What the lock pins and the store lacks is named when it may not be fetched.
func TestMissing(t *testing.T) {
	s, f := open(t)
	_, err := Export(t.Context(), io.Discard, s, f, []string{"../../../recipes/sql"}, nil)
	if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "zlib") || !strings.Contains(err.Error(), "linux") {
		t.Errorf("got %v", err)
	}
	if _, err := Export(t.Context(), io.Discard, s, f, nil, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("an empty store: %v", err)
	}
}

// Go modules are found on the other machine, which asks nobody for them.
func TestModules(t *testing.T) {
	s, f := open(t)
	dir := t.TempDir()
	// A module without dependencies needs no network to begin with.
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.org/x\n\ngo 1.26\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := &recipe.PortFile{Name: "x", Dir: recipe.Ref{Name: dir}, Go: &recipe.GoPort{Source: "port"}}
	key, digest, err := modules(t.Context(), f, port)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := Export(t.Context(), &archive, s, f, nil, nil); err != nil {
		t.Fatal(err)
	}
	other, _ := open(t)
	if _, err := Import(t.Context(), &archive, other, nil); err != nil {
		t.Fatal(err)
	}
	a, ok, err := other.Action(key)
	if err != nil || !ok || a.Outputs["tar"] != digest {
		t.Errorf("%+v, %v, %v", a, ok, err)
	}
}

// Every input of the lock of recipes/sql is in the list.
func TestLockInputs(t *testing.T) {
	l, err := lock.Load("../../../recipes/sql/sovereign.lock")
	if err != nil {
		t.Fatal(err)
	}
	l.Packages = []lock.Package{{Name: "zlib", Version: "1.3-r0", Arch: "x86_64", Digest: l.Sources[0].Digest, Size: 1}}
	inputs := l.Inputs()
	if len(inputs) != len(l.Sources)+len(l.Toolchain.Packages)+len(l.Go.Modules)+1 {
		t.Errorf("%d inputs", len(inputs))
	}
	for _, b := range inputs {
		if b.Digest.Hex() == "" || b.Size == 0 || b.Name == "" {
			t.Errorf("%+v", b)
		}
	}
}
