// Package apko holds our apk packages against another client of the format,
// apko's. It is a module of its own because apko brings a hundred modules that
// nothing but this test needs.
package apko

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	apko "chainguard.dev/apko/pkg/apk/apk"
	apkofs "chainguard.dev/apko/pkg/apk/fs"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

const epoch = 1_700_000_000

// TestSample has a package of every kind of entry and dependency.
func TestSample(t *testing.T) {
	key, err := apk.GenerateKey("ours")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "x86_64"), 0o755); err != nil {
		t.Fatal(err)
	}
	var metas []apk.Meta
	add := func(m apk.Meta, entries ...rootfs.Entry) {
		m.Arch = "x86_64"
		tree := rootfs.New()
		for _, e := range entries {
			if err := tree.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		var b bytes.Buffer
		m, err := apk.Write(&b, m, tree, key, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x86_64", m.FileName()), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		metas = append(metas, m)
	}
	add(apk.Meta{Name: "zlib", Version: "1.3.1-r0", License: "Zlib", Provides: []string{"so:libz.so.1=1.3.1"}},
		rootfs.Regular("usr/lib/libz.so.1.3.1", 0o755, []byte("z")), rootfs.Symlink("usr/lib/libz.so.1", "libz.so.1.3.1"))
	add(apk.Meta{Name: "icu-data-full", Version: "76.1-r0", Provides: []string{"icu-data"}, ProviderPriority: 5}, rootfs.Regular("usr/share/icu/76.1/icudt76l.dat", 0o644, make([]byte, 3<<20)))
	add(apk.Meta{Name: "sample", Version: "1.2.3_rc1-r4", Description: "a sample", License: "MIT", URL: "https://example.org/", Origin: "sample-src", Depends: []string{"so:libz.so.1", "icu-data-full~76"}, Provides: []string{"cmd:sample=1.2.3_rc1-r4"}},
		rootfs.Entry{Path: "usr/bin/sample", Mode: fs.ModeSetuid | 0o755, Size: 5, Content: rootfs.Bytes([]byte("hello"))},
		rootfs.Hardlink("usr/bin/alias", "usr/bin/sample"),
		rootfs.Entry{Path: "var/lib/sample", Mode: fs.ModeDir | 0o700, UID: 70, GID: 70},
		rootfs.Regular("etc/empty", 0o600, nil))
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, key, epoch); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x86_64", "APKINDEX.tar.gz"), index.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	if _, err := key.Save(keys); err != nil {
		t.Fatal(err)
	}
	agree(t, dir, filepath.Join(keys, key.Name), []string{"sample"}, "usr/bin/sample", "usr/bin/alias", "usr/share/icu/76.1/icudt76l.dat")
}

// TestBuilt is the repository of the real build, beside the bundle that
// SOVEREIGN_E2E names.
func TestBuilt(t *testing.T) {
	bundle := os.Getenv("SOVEREIGN_E2E")
	if bundle == "" {
		t.Skip("SOVEREIGN_E2E does not name a bundle; run make test-e2e")
	}
	dir := filepath.Join(filepath.Dir(bundle), "packages")
	agree(t, dir, filepath.Join(dir, "sovereign-local.rsa.pub"), []string{"postgresql17", "icu-data-full"}, "usr/libexec/postgresql17/postgres", "usr/share/zoneinfo/Europe/Stockholm")
}

// agree installs the world with both clients: apko has to accept the index's
// signature and every package, its database has to say what ours says, and
// every path of our tree has to be the same in its.
func agree(t *testing.T, dir, publicKey string, world []string, compared ...string) {
	t.Helper()
	ours := agreeOn(t, dir, "x86_64", publicKey, world, false)
	for _, p := range compared {
		if _, ok := ours.Lookup(p); !ok {
			t.Errorf("%s is not there", p)
		}
	}
}

func agreeOn(t *testing.T, dir, arch, publicKey string, world []string, scripts bool) *rootfs.Tree {
	t.Helper()
	trusted, err := apk.LoadKeyring(publicKey)
	if err != nil {
		t.Fatal(err)
	}
	repository, err := apk.OpenRepository(t.Context(), dir, arch, trusted)
	if err != nil {
		t.Fatal(err)
	}
	selected, err := apk.Solve(t.Context(), world, []apk.Repository{repository})
	if err != nil {
		t.Fatal(err)
	}
	spool, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	o := apk.InstallOptions{Spool: spool, World: world, Arch: arch}
	if scripts { // apko runs none either
		list, err := apk.Scripts(t.Context(), selected)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			o.Actions = append(o.Actions, apk.Action{Package: s.Package, Kind: s.Kind, Digest: s.Digest})
		}
	}
	ours := rootfs.New()
	if err := apk.Install(t.Context(), ours, selected, o); err != nil {
		t.Fatal(err)
	}
	if changes, err := apk.Audit(ours); err != nil || len(changes) > 0 {
		t.Errorf("audit of what was just installed: %v, %v", changes, err)
	}

	ctx := t.Context()
	theirs := apkofs.NewMemFS()
	a, err := apko.New(ctx, apko.WithFS(theirs), apko.WithArch(arch), apko.WithIgnoreMknodErrors(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return a.InitDB(ctx) },
		func() error { return a.InitKeyring(ctx, []string{publicKey}, nil) },
		func() error { return a.SetRepositories(ctx, []string{dir}) },
		func() error { return a.SetWorld(ctx, world) },
		func() error { _, err := a.FixateWorld(ctx, nil); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	db, err := theirs.ReadFile("lib/apk/db/installed")
	if err != nil {
		db, err = theirs.ReadFile("usr/lib/apk/db/installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, want := comparable(text(t, ours, "lib/apk/db/installed")), comparable(string(db)); !slices.Equal(got, want) {
		t.Errorf("only our database has\n%s\nonly apko's has\n%s", strings.Join(minus(got, want), "\n"), strings.Join(minus(want, got), "\n"))
	}
	// apko reads our database too, less the sums of extended attributes, which
	// apk writes after the mode and apko does not know.
	installed, err := apko.ParseInstalled(strings.NewReader(regexp.MustCompile(`(?m)^([aM]:\d+:\d+:\d+):Q1.*$`).ReplaceAllString(text(t, ours, "lib/apk/db/installed"), "$1")))
	if err != nil || len(installed) != len(selected) {
		t.Errorf("apko reads %d packages from our database, not %d: %v", len(installed), len(selected), err)
	}
	for e := range ours.All() {
		if strings.HasPrefix(e.Path, "lib/apk") || strings.HasPrefix(e.Path, "etc/apk") || e.Path == "lib" {
			continue
		}
		if e.IsSymlink() {
			if target, err := theirs.Readlink(e.Path); err != nil || target != e.Link {
				t.Errorf("%s links to %s, apko's to %s, %v", e.Path, e.Link, target, err)
			}
			continue
		}
		info, err := theirs.Stat(e.Path)
		if err != nil {
			t.Errorf("apko has no %s: %v", e.Path, err)
			continue
		}
		switch {
		case info.Mode().Type() != e.Mode.Type():
			t.Errorf("%s is %v, apko's is %v", e.Path, e.Mode, info.Mode())
		case info.Mode().Perm() != e.Mode.Perm() && !e.IsDir():
			t.Errorf("%s is %v, apko's is %v", e.Path, e.Mode, info.Mode())
		case e.IsRegular():
			if data, err := theirs.ReadFile(e.Path); err != nil || string(data) != text(t, ours, e.Path) {
				t.Errorf("%s: other contents than apko's %d bytes, %v", e.Path, len(data), err)
			}
		}
	}
	return ours
}

func text(t *testing.T, tree *rootfs.Tree, path string) string {
	t.Helper()
	e, ok := tree.Lookup(path)
	if !ok {
		t.Fatalf("%s is not there", path)
	}
	var b bytes.Buffer
	if err := e.CopyTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// comparable are the lines of a database that two clients have to agree on:
// names, versions, checksums, sums of files. The order of packages and of
// fields is each client's own.
func comparable(db string) []string {
	var out []string
	for block := range strings.SplitSeq(db, "\n\n") {
		pkg := ""
		for line := range strings.Lines(block) {
			if sum, ok := strings.CutPrefix(line, "C:"); ok {
				pkg = strings.TrimSpace(sum)
			}
		}
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			key, value, _ := strings.Cut(line, ":")
			if value != "" && slices.Contains([]string{"P", "V", "A", "D", "p", "L", "R", "Z", "F"}, key) {
				out = append(out, pkg+" "+line)
			}
		}
	}
	slices.Sort(out)
	return out
}
