package machine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// TestDataKilledAtEveryStep kills updates and rollbacks that take the data with
// them after each thing that they do: the disk is either that of the bundle that
// runs, or what is to be done is done in the end, and nothing is lost.
func TestDataKilledAtEveryStep(t *testing.T) {
	const later = dataMark + machinetest.Written // as the second bundle leaves it
	for _, tt := range []struct {
		name, verb, cmdline string
		before, dead        bool   // the update has been committed; the first bundle does not start again
		want                string // the root of what runs in the end
		data, kept, former  string // the disks' contents
	}{
		{name: "a good update", verb: "update-kept", cmdline: "fake=quick writes", want: "two", data: later, kept: dataMark},
		{name: "an update that panics", verb: "update-kept", cmdline: "fake=panics writes", want: "one", data: dataMark, former: later},
		{name: "an update that does not start", verb: "update-kept", cmdline: "fake=dead writes", want: "one", data: dataMark, former: dataMark},
		{name: "a rollback", verb: "rollback-data", cmdline: "fake=quick writes", before: true, want: "one", data: dataMark, former: later},
		{name: "a rollback that does not start", verb: "rollback-data", cmdline: "fake=quick writes", before: true, dead: true, want: "two", data: later, kept: dataMark},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for n, last := 1, false; !last; n++ {
				f := setup(t, "good")
				writeFakeBundle(t, f.bundle, "one", "fake=quick mortal")
				second := f.bundle + "-2"
				writeFakeBundle(t, second, "two", tt.cmdline)
				f.mark(t)
				f.prepare(t, "install", "")
				if tt.before {
					f.update(t, second)
				}
				if tt.dead {
					if err := os.WriteFile(filepath.Join(f.state, "instances", "sql", machinetest.DeadFile), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				at := f.killed(t, n, tt.verb, second)
				last = at == ""
				f.open(t)
				if err := settle(t.Context(), f.Runtime); err != nil {
					t.Fatalf("killed after %d, %q: %v", n, at, err)
				}
				i, err := f.load("sql")
				if err != nil {
					t.Fatal(err)
				}
				text, err := os.ReadFile(filepath.Join(i.slotDir(i.rec.Active), "root.img"))
				got := f.disks(t, "sql")
				for name, text := range got { // each start writes
					if once, written := strings.CutSuffix(text, machinetest.Written); written {
						got[name] = strings.TrimRight(once, machinetest.Written) + machinetest.Written
					}
				}
				begun := i.rec.Outcome != nil && i.rec.Outcome.Kind == strings.SplitN(tt.verb, "-", 2)[0]
				switch {
				case err != nil || i.rec.Trial != nil || i.rec.Swap != nil:
					t.Errorf("%v, %+v", err, i.rec)
				case !begun: // killed before anything was written down
					if at == "" || !strings.HasPrefix(got[dataFile], dataMark) || got[beforePrefix] != "" || (i.rec.Kept != nil) != tt.before {
						t.Errorf("%q, %+v", got, i.rec)
					}
				default:
					if string(text) != tt.want+"root" || got[dataFile] != tt.data || got[keptFile] != tt.kept || got[beforePrefix] != tt.former || (i.rec.Kept != nil) != (tt.kept != "") {
						t.Errorf("%q runs with %q, %+v", text, got, i.rec)
					}
					if (i.rec.Outcome.Disk != "") != (tt.former != "") {
						t.Errorf("%+v", i.rec.Outcome)
					}
				}
				if t.Failed() {
					t.Fatalf("killed after %d, %q", n, at)
				}
				if last && n < 5 {
					t.Errorf("it had only %d things to do", n)
				}
				f.cutAll(t)
			}
		})
	}
}

// update tries a bundle, and keeps the data.
func (f *fixture) update(t *testing.T, dir string) *Instance {
	t.Helper()
	_, err := f.UpdateFrom(t.Context(), "sql", Source{Dir: dir, KeepData: true}, 10*time.Minute, nil)
	if err == nil {
		err = settle(t.Context(), f.Runtime)
	}
	if err != nil {
		t.Fatal(err)
	}
	i, err := f.load("sql")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestKeptData(t *testing.T) {
	f := setup(t, "good")
	writeFakeBundle(t, f.bundle, "one", "fake=quick")
	second, third := f.bundle+"-2", f.bundle+"-3"
	writeFakeBundle(t, second, "two", "fake=quick writes")
	writeFakeBundle(t, third, "three", "fake=quick writes")
	f.mark(t)
	f.prepare(t, "install", "")
	if _, err := f.Rollback(t.Context(), "sql", 0, runtime.WithData); fault.ClassOf(err) != fault.Usage {
		t.Errorf("nothing was kept: %v", err)
	}
	i := f.update(t, second)
	if i.rec.Kept == nil || i.rec.Kept.Bundle != i.rec.Slots[i.rec.Previous].Digest || f.disks(t, "sql")[keptFile] != dataMark {
		t.Fatalf("%+v, %q", i.rec, f.disks(t, "sql"))
	}
	// It is of the bundle before, and goes with it.
	if _, err := f.Update(t.Context(), "sql", third, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := settle(t.Context(), f.Runtime); err != nil {
		t.Fatal(err)
	}
	if _, left := f.disks(t, "sql")[keptFile]; left {
		t.Error("the copy is left")
	}
	if _, err := f.Rollback(t.Context(), "sql", 0, runtime.WithData); fault.ClassOf(err) != fault.Usage {
		t.Errorf("its bundle is gone: %v", err)
	}
	f.update(t, second)
	if n, err := f.ForgetKept(t.Context(), "sql"); err != nil || n == 0 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := f.ForgetKept(t.Context(), "sql"); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
	if _, left := f.disks(t, "sql")[keptFile]; left {
		t.Error("the copy is left")
	}
	f.cutAll(t)
}

// A machine that is down stages it, and takes it back.
func TestKeptDataStaged(t *testing.T) {
	f := setup(t, "good")
	writeFakeBundle(t, f.bundle, "one", "fake=quick")
	second := f.bundle + "-2"
	writeFakeBundle(t, second, "two", "fake=quick writes")
	f.mark(t)
	f.prepare(t, "install", "")
	i, err := f.Instance(t.Context(), "sql")
	if err == nil {
		_, err = i.Stop(t.Context(), 0)
	}
	if err == nil {
		_, err = f.UpdateFrom(t.Context(), "sql", Source{Dir: second, KeepData: true}, 0, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if cancelled, err := f.Rollback(t.Context(), "sql", 0); !cancelled || err != nil {
		t.Fatalf("%v, %v", cancelled, err)
	}
	if got := f.disks(t, "sql"); len(got) != 1 || got[dataFile] != dataMark {
		t.Errorf("%q", got)
	}
}

// A disk that a link leads to is copied beside its target.
func TestKeptThroughLink(t *testing.T) {
	f := setup(t, "good")
	writeFakeBundle(t, f.bundle, "one", "fake=quick")
	second := f.bundle + "-2"
	writeFakeBundle(t, second, "two", "fake=quick writes")
	f.mark(t)
	dir, other := filepath.Join(f.state, "instances", "sql"), t.TempDir()
	target := filepath.Join(other, "large.img")
	if err := errors.Join(os.Rename(filepath.Join(dir, dataFile), target), os.Symlink(target, filepath.Join(dir, dataFile))); err != nil {
		t.Fatal(err)
	}
	f.prepare(t, "install", "")
	f.update(t, second)
	to, err := os.Readlink(filepath.Join(dir, keptFile))
	if err != nil || filepath.Dir(to) != other || f.disks(t, "sql")[keptFile] != dataMark {
		t.Fatalf("%s, %v", to, err)
	}
	if _, err := f.Rollback(t.Context(), "sql", 0, runtime.WithData); err != nil {
		t.Fatal(err)
	}
	if err := settle(t.Context(), f.Runtime); err != nil {
		t.Fatal(err)
	}
	if got := f.disks(t, "sql"); got[dataFile] != dataMark || got[beforePrefix] != dataMark+machinetest.Written {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat(target); err != nil {
		t.Error(err)
	}
	f.cutAll(t)
}

// Without the room for a copy nothing is begun.
func TestKeptRoom(t *testing.T) {
	f := setup(t, "good")
	f.prepare(t, "install", "")
	i, err := f.load("sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.roomToKeep(); err != nil {
		t.Errorf("a small disk: %v", err)
	}
	if shared, err := i.canShare(); err != nil {
		t.Errorf("%v, %v", shared, err)
	}
	if left, err := filepath.Glob(i.dataPath() + keptMark + "*"); err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	f.cutAll(t)
}
