package machine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// restoredText is on the disk that is restored.
const restoredText = "rows as they were yesterday"

// restoreInPlace restores a disk of the machine sql.
func restoreInPlace(ctx context.Context, r *Runtime) error {
	s, err := r.StageInPlace(ctx, "sql")
	if err != nil {
		return err
	}
	err = os.WriteFile(s.Disk(), []byte(restoredText), 0o600)
	if err == nil {
		r.did("fetched")
		_, err = s.Replace(ctx, "", nil, "sql@yesterday")
	}
	return errors.Join(err, s.Close())
}

// restoreAs makes a machine sql2 of a bundle and a disk.
func restoreAs(ctx context.Context, r *Runtime, dir string) error {
	s, err := r.StageNew(ctx, "sql2")
	if err != nil {
		return err
	}
	err = os.WriteFile(s.Disk(), []byte(restoredText), 0o600)
	var digest string
	if err == nil {
		r.did("fetched")
		digest, err = bundle.Digest(dir)
	}
	if err == nil {
		err = s.Commit(ctx, Restored{Bundle: Source{Dir: dir}, Digest: digest, Options: Options{Isolated: true}})
	}
	return errors.Join(err, s.Close())
}

// disks are what the machine's disks hold, by their names without a time.
func (f *fixture) disks(t *testing.T, name string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(f.state, "instances", name, dataFile+"*"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		key := filepath.Base(p)
		if strings.HasPrefix(key, beforePrefix) {
			key = beforePrefix
		}
		found[key] = string(text)
	}
	return found
}

// TestRestoreInPlaceKilled kills a restore after each thing that it does: there
// is either the old disk or the new one, and never none; and the old one is
// kept.
func TestRestoreInPlaceKilled(t *testing.T) {
	for n, last := 1, false; !last; n++ {
		f := setup(t, "good")
		writeFakeBundle(t, f.bundle, "one", "fake=quick")
		f.mark(t)
		f.prepare(t, "install", "")
		at := f.killed(t, n, "in-place", "")
		last = at == ""
		f.open(t)
		if err := f.SweepRestores(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := settle(t.Context(), f.Runtime); err != nil {
			t.Fatalf("killed after %d, %q: %v", n, at, err)
		}
		i, err := f.Instance(t.Context(), "sql")
		if err != nil {
			t.Fatal(err)
		}
		got := f.disks(t, "sql")
		switch done := got[beforePrefix] != ""; {
		case i.rec.Swap != nil || !i.Runs():
			t.Errorf("killed after %d, %q: %+v", n, at, i.rec)
		case done && (got[dataFile] != restoredText || got[beforePrefix] != dataMark):
			t.Errorf("killed after %d, %q: %q", n, at, got)
		case !done && (got[dataFile] != dataMark || at == ""):
			t.Errorf("killed after %d, %q: %q", n, at, got)
		}
		if _, err := os.Lstat(filepath.Join(i.dir, stagingDir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("killed after %d, %q: something was left: %v", n, at, err)
		}
		if last && n < 4 {
			t.Errorf("it had only %d things to do", n)
		}
		f.cutAll(t)
	}
}

// TestRestoreAsKilled does the same with a new machine: there is one, or none.
func TestRestoreAsKilled(t *testing.T) {
	for n, last := 1, false; !last; n++ {
		f := setup(t, "good")
		writeFakeBundle(t, f.bundle, "one", "fake=quick")
		at := f.killed(t, n, "as", f.bundle)
		last = at == ""
		f.open(t)
		if err := f.SweepRestores(t.Context()); err != nil {
			t.Fatal(err)
		}
		i, err := f.Instance(t.Context(), "sql2")
		if err != nil {
			left, dirErr := os.ReadDir(filepath.Join(f.state, "instances"))
			if last || fault.ClassOf(err) != fault.Usage || dirErr != nil || len(left) != 0 {
				t.Errorf("killed after %d, %q: %v; left: %v, %v", n, at, err, left, dirErr)
			}
			// And so it can be done again.
			if err := restoreAs(t.Context(), f.Runtime, f.bundle); err != nil {
				t.Errorf("again, killed after %d, %q: %v", n, at, err)
			}
			continue
		}
		if got := f.disks(t, "sql2"); got[dataFile] != restoredText || i.rec.Wanted != Down || !i.rec.Options.Isolated {
			t.Errorf("killed after %d, %q: %q, %+v", n, at, got, i.rec)
		}
		if _, err := loadSlot(i.slotDir("a"), i.rec.Slots["a"].Digest); err != nil {
			t.Errorf("killed after %d, %q: %v", n, at, err)
		}
	}
}

// A disk that a link leads to is restored beside its target, and kept.
func TestRestoreInPlaceThroughLink(t *testing.T) {
	f := setup(t, "good")
	writeFakeBundle(t, f.bundle, "one", "fake=quick")
	f.mark(t)
	dir, other := filepath.Join(f.state, "instances", "sql"), t.TempDir()
	target := filepath.Join(other, "large.img")
	if err := errors.Join(os.Rename(filepath.Join(dir, dataFile), target), os.Symlink(target, filepath.Join(dir, dataFile))); err != nil {
		t.Fatal(err)
	}
	f.prepare(t, "install", "")
	if err := restoreInPlace(t.Context(), f.Runtime); err != nil {
		t.Fatal(err)
	}
	if got := f.disks(t, "sql"); got[dataFile] != restoredText || got[beforePrefix] != dataMark {
		t.Errorf("%q", got)
	}
	if to, err := os.Readlink(filepath.Join(dir, dataFile)); err != nil || filepath.Dir(to) != other {
		t.Errorf("the new disk lies at %s, %v", to, err)
	}
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	n, err := i.ForgetFormerDisks(t.Context())
	if _, gone := os.Lstat(target); n != 1 || err != nil || !errors.Is(gone, os.ErrNotExist) {
		t.Errorf("%d were forgotten, %v; its image: %v", n, err, gone)
	}
	f.cutAll(t)
}

// A restored machine has no network, and no ports, until Up activates it.
func TestIsolated(t *testing.T) {
	f := setup(t, "good")
	writeFakeBundle(t, f.bundle, "one", "fake=quick")
	if err := restoreAs(t.Context(), f.Runtime, f.bundle); err != nil {
		t.Fatal(err)
	}
	// Of a hypervisor that cannot leave the network out it is not taken.
	if _, err := f.Up(t.Context(), "sql2", UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if i, err := f.Settle(t.Context(), "sql2"); fault.ClassOf(err) != fault.Device || i.Runs() {
		t.Errorf("without a way to have none: %v", err)
	}
	r, err := Open(f.state, WithHypervisor(machinetest.NetworkHV{HV: f.hv}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f.Runtime = r
	up := func(o UpOptions) *Instance {
		t.Helper()
		if _, err := f.Up(t.Context(), "sql2", o, nil); err != nil {
			t.Fatal(err)
		}
		i, err := f.Settle(t.Context(), "sql2")
		if err != nil || !i.Runs() {
			t.Fatalf("it does not run: %v", err)
		}
		return i
	}
	i := up(UpOptions{})
	defer func() {
		if now, err := f.Instance(context.Background(), "sql2"); err != nil || now.Runs() && now.cutPower(context.Background(), now.proc) != nil {
			t.Error("sql2 was left")
		}
	}()
	if s, err := i.hostStatus(t.Context()); err != nil || !s.Isolated || len(s.Ports) != 0 || i.rec.Network != nil {
		t.Errorf("%+v, %v, %v", s, i.rec.Network, err)
	}
	if _, err := f.Up(t.Context(), "sql2", UpOptions{Activate: true}, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("activated while it runs: %v", err)
	}
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	i = up(UpOptions{Activate: true})
	if s, err := i.hostStatus(t.Context()); err != nil || s.Isolated || len(s.Ports) == 0 || i.rec.Network == nil {
		t.Errorf("%+v, %v, %v", s, i.rec.Network, err)
	}
}

// What was restored is what the machine is held to from then on.
func TestRestoreKnowsHistory(t *testing.T) {
	f := setup(t, "good")
	writeFakeBundle(t, f.bundle, "one", "fake=quick")
	f.mark(t)
	f.prepare(t, "install", "")
	f.cutAll(t)
	s, err := f.StageInPlace(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.WriteFile(s.Disk(), []byte(restoredText), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &runtime.Continuity{Lineage: strings.Repeat("a", 32), Epoch: 7, Hash: strings.Repeat("b", 64)}
	if _, err := s.Replace(t.Context(), "11-22", c, "sql@x"); err != nil {
		t.Fatal(err)
	}
	i, err := f.load("sql")
	if err != nil || i.rec.Continuity == nil || i.rec.Continuity.Continuity != *c || i.rec.Data.FileSystem != "11-22" {
		t.Errorf("%+v, %v", i.rec, err)
	}
}
