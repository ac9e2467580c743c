package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const digestB = store.Digest("sha256:cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34")

// open begins a lock file and opens it as often as there are processes.
func open(t *testing.T, n int) (string, []*File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	if err := New(path).Save(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	var files []*File
	for range n {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return path, files
}

func load(t *testing.T, path string) *Lock {
	t.Helper()
	l, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// change is one of the ways in which a lock changes.
type change func(l *Lock)

func version(name, version string) change {
	return func(l *Lock) {
		for i := range l.Sources {
			if l.Sources[i].Name == name {
				l.Sources[i].Version, l.Sources[i].Digest = version, digestB
			}
		}
	}
}

func pins(arch, version string) change {
	return func(l *Lock) {
		l.DropPackages(arch)
		l.Packages = append(l.Packages, Package{Name: "lib", Version: version, Arch: arch, Repository: "https://packages.example/main", Digest: digestB, Size: 2})
	}
}

func TestSaveMerges(t *testing.T) {
	add := func(l *Lock) {
		l.Sources = append(l.Sources, Source{Name: "icu", Version: "76.1", File: "icu.tgz", Digest: digestB, Size: 4, Mirrors: []string{"https://icu.example/icu.tgz"}})
	}
	remove := func(l *Lock) { l.Sources = l.Sources[:len(l.Sources)-1] } // zlib
	suite := func(l *Lock) { l.Toolchain.Packages[0].Digest = digestB }
	date := func(l *Lock) { l.SourceDate++ }
	release := func(l *Lock) { l.Released, l.Packages = append(l.Released, l.Packages...), nil }
	for name, tt := range map[string]struct {
		theirs, ours change
		conflict     string
	}{
		"nothing there":    {func(*Lock) {}, version("musl", "1.2.6"), ""},
		"nothing here":     {version("musl", "1.2.6"), func(*Lock) {}, ""},
		"two sources":      {version("musl", "1.2.6"), version("zlib", "1.3.2"), ""},
		"the same":         {version("musl", "1.2.6"), version("musl", "1.2.6"), ""},
		"added":            {version("musl", "1.2.6"), add, ""},
		"both added":       {add, add, ""},
		"removed":          {remove, version("musl", "1.2.6"), ""},
		"removed here":     {version("musl", "1.2.6"), remove, ""},
		"two archs":        {pins("aarch64", "3-r0"), pins("x86_64", "3-r0"), ""},
		"pins and sources": {version("musl", "1.2.6"), pins("x86_64", "3-r0"), ""},
		"toolchain":        {suite, version("musl", "1.2.6"), ""},
		"date":             {date, suite, ""},
		"otherwise":        {version("musl", "1.2.6"), version("musl", "1.2.7"), "musl (1.2.6; here 1.2.7)"},
		"removed, changed": {remove, version("zlib", "1.3.2"), "zlib (none; here 1.3.2)"},
		"changed, removed": {version("zlib", "1.3.2"), remove, "zlib (1.3.2; here none)"},
		"one arch":         {pins("x86_64", "3-r0"), pins("x86_64", "4-r0"), "packages of x86_64"},
		"released, pinned": {release, pins("x86_64", "4-r0"), "packages of x86_64"},
	} {
		t.Run(name, func(t *testing.T) {
			path, files := open(t, 2)
			theirs, ours := files[0], files[1]
			want := load(t, path)
			tt.theirs(want)
			if err := theirs.Save(t.Context(), want.Clone()); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			mine := ours.Lock()
			tt.ours(mine)
			err = ours.Save(t.Context(), mine)
			if tt.conflict != "" {
				if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), tt.conflict) || fault.HintOf(err) == "" {
					t.Errorf("error %v, want %q", err, tt.conflict)
				}
				if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
					t.Errorf("the lock was changed: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if name != "both added" && name != "the same" {
				tt.ours(want)
			}
			wantText, err := want.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != string(wantText) {
				t.Errorf("merged to\n%s, %v, want\n%s", got, err, wantText)
			}
			now, err := ours.Lock().Digest()
			if err != nil {
				t.Fatal(err)
			}
			if is, err := mine.Digest(); err != nil || now != is {
				t.Errorf("the lock is not the one that this process works with: %v", err)
			}
		})
	}
}

// A second change of one process does not undo what another did between.
func TestSaveTwice(t *testing.T) {
	path, files := open(t, 2)
	mine := files[0].Lock()
	pins("x86_64", "3-r0")(mine)
	if err := files[0].Save(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	other := files[1].Lock()
	version("musl", "1.2.6")(other)
	if err := files[1].Save(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	mine = mine.Clone()
	version("zlib", "1.3.2")(mine)
	if err := files[0].Save(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	l := load(t, path)
	musl, _ := l.Source("musl")
	zlib, _ := l.Source("zlib")
	if musl.Version != "1.2.6" || zlib.Version != "1.3.2" || l.PackagesOf("x86_64")[0].Version != "3-r0" {
		t.Errorf("the lock has %+v", l)
	}
}

// Two processes make the first lock at once.
func TestSaveFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	one, two := New(path), New(path)
	a, b := sample(), sample()
	a.Sources, b.Sources = a.Sources[:1], b.Sources[1:]
	b.SourceDate++
	if err := one.Save(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := two.Save(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if l := load(t, path); len(l.Sources) != 2 || l.SourceDate != a.SourceDate {
		t.Errorf("the lock has %+v", l)
	}
}

func TestSaveOverWhatIsNoLock(t *testing.T) {
	path, _ := open(t, 0)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append([]byte("\n\n"), text...) // as somebody's editor may leave it
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.Save(t.Context(), f.Lock()); err != nil {
		t.Errorf("saving no change: %v", err)
	}
	l := f.Lock()
	l.SourceDate++
	if err := f.Save(t.Context(), l); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), path) {
		t.Errorf("over a file that is no lock: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.Save(t.Context(), l); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "removed") {
		t.Errorf("over a lock that somebody removed: %v", err)
	}
}

func TestSaveIsCancelled(t *testing.T) {
	path, files := open(t, 1)
	held, err := flock.AcquireDir(t.Context(), filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	changed := sample()
	changed.SourceDate++
	if err := files[0].Save(ctx, changed); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the lock of the directory: %v", err)
	}
}

// TestSaveProcess is one process of TestTwoProcesses.
func TestSaveProcess(t *testing.T) {
	name, path := os.Getenv("LOCK_TEST_SOURCE"), os.Getenv("LOCK_TEST_PATH")
	if path == "" {
		t.Skip("run by TestTwoProcesses")
	}
	for i := range 20 {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		l := f.Lock()
		version(name, fmt.Sprint("9.", i))(l)
		if err := f.Save(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
}

// Two processes lock different inputs at once, over and over: every change
// survives, and nothing lies beside the lock.
func TestTwoProcesses(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path, _ := open(t, 0)
	var running []*exec.Cmd
	for _, name := range []string{"musl", "zlib"} {
		cmd := exec.Command(program, "-test.run=^TestSaveProcess$")
		cmd.Env = append(os.Environ(), "LOCK_TEST_SOURCE="+name, "LOCK_TEST_PATH="+path)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	l := load(t, path)
	for _, s := range l.Sources {
		if s.Version != "9.19" {
			t.Errorf("%s is %s: a change was lost", s.Name, s.Version)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("files beside the lock: %v, %v", entries, err)
	}
}
