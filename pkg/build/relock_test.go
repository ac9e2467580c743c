package build

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/debtest"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// relockable is a copy of the project's recipes whose sources are all in the
// store and whose toolchain is one package, "make 1", of a Debian archive that
// has nothing yet.
type relockable struct {
	t       *testing.T
	archive *debtest.Archive
	recipe  string // its directory
	opts    []Option
}

func newRelockable(t *testing.T) *relockable {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("no apt-get on this machine")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir()) // the signing key's place
	dir, cache := t.TempDir(), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../recipes")); err != nil {
		t.Fatal(err)
	}
	r := &relockable{t: t, archive: debtest.New(t), recipe: filepath.Join(dir, "sql")}
	if err := os.WriteFile(filepath.Join(dir, "toolchain", "image.yaml"), []byte("suite: bookworm\npackages: [make]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(cache, "store"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := lock.Open(filepath.Join(r.recipe, lock.FileName))
	if err != nil {
		t.Fatal(err)
	}
	l := f.Lock()
	for i := range l.Sources {
		if l.Sources[i].Digest, l.Sources[i].Size, err = s.Put(t.Context(), strings.NewReader(l.Sources[i].Name), ""); err != nil {
			t.Fatal(err)
		}
	}
	l.Toolchain = lock.Toolchain{Suite: "bookworm", Packages: []lock.DebPackage{
		{Name: "make", Version: "1", Arch: "amd64", File: r.archive.Package("bookworm", "make", "1", "make 1"), Digest: store.FromBytes([]byte("make 1")), Size: 6}}}
	if err := f.Save(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	etc := debtest.Etc(t, map[*debtest.Archive][]string{r.archive: {"bookworm"}})
	r.opts = []Option{WithCacheDir(cache), WithOutput(t.TempDir()), WithArch("amd64"), WithRelockMissing(true), WithJobs(1),
		func(o *options) error { o.fetch = []source.Option{source.WithAptDir(etc)}; return nil }}
	return r
}

// build is Bundle, and the lock it ended with.
func (r *relockable) build() (*lock.Lock, error) {
	r.t.Helper()
	b, _ := openDir(r.t, r.recipe, r.opts...)
	_, err := b.Bundle(r.t.Context())
	return b.Lock(), err
}

func (r *relockable) lock() string { return read(r.t, filepath.Join(r.recipe, lock.FileName)) }

// A package of the toolchain that the lists have and the archive has not: the
// build ends, once the lists have been asked, and the lock is as it was.
func TestRelockOfTheToolchainEnds(t *testing.T) {
	r := newRelockable(t)
	before := r.lock()
	l, err := r.build()
	if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "nothing else that can be had") || !strings.Contains(err.Error(), "make_1_amd64.deb") {
		t.Errorf("error %v", err)
	}
	if r.lock() != before || textOf(t, l) != before {
		t.Error("the lock was changed")
	}
	if n := r.archive.Asked("dists/bookworm/main/binary-amd64/Packages"); n != 1 {
		t.Errorf("the lists were asked for %d times", n)
	}
}

// An archive that refuses has not said that the package has gone.
func TestRefusedToolchainIsNotRelocked(t *testing.T) {
	r := newRelockable(t)
	before := r.lock()
	r.archive.Answer("pool/main/m/make/make_1_amd64.deb", http.StatusForbidden)
	r.archive.Clear("bookworm")
	r.archive.Put(r.archive.Package("bookworm", "make", "2", "make 2"), "make 2")
	l, err := r.build()
	var missing *source.MissingError
	if fault.ClassOf(err) != fault.Source || errors.As(err, &missing) || !strings.Contains(err.Error(), "403") {
		t.Errorf("error %v", err)
	}
	if r.lock() != before || textOf(t, l) != before {
		t.Error("the lock was changed")
	}
}

// One that has gone is replaced and the lock says so; that "make 2" is no
// package then ends the build.
func TestToolchainIsRelocked(t *testing.T) {
	r := newRelockable(t)
	r.archive.Clear("bookworm")
	r.archive.Put(r.archive.Package("bookworm", "make", "2", "make 2"), "make 2")
	before := r.lock()
	l, err := r.build()
	if err == nil || fault.ClassOf(err) == fault.Source {
		t.Errorf("error %v", err)
	}
	if r.lock() != before {
		t.Error("the build wrote the lock")
	}
	if l.Toolchain.Packages[0].Version != "2" || l.Toolchain.Relocked == "" {
		t.Errorf("locked %+v", l.Toolchain)
	}
}

// An input is locked anew once, even if there is another version every time.
func TestRelockOncePerInput(t *testing.T) {
	r := newRelockable(t)
	b, _ := openDir(t, r.recipe, r.opts...)
	var versions []string
	err := b.relocking(t.Context(), func(context.Context) error {
		version := b.lock.Toolchain.Packages[0].Version
		versions = append(versions, version)
		r.archive.Clear("bookworm")
		r.archive.Put(r.archive.Package("bookworm", "make", version+".1", "make "+version), "make "+version)
		return fault.Errorf(fault.Source, "%w", &source.MissingError{Names: []string{lock.ToolchainName}, Said: map[string][]string{}})
	})
	if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "toolchain was locked anew once already") || strings.Join(versions, " ") != "1 1.1" {
		t.Errorf("versions %v, error %v", versions, err)
	}
}
