package apk

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// FuzzPackage opens and installs packages whose .PKGINFO, script and data are
// anything, but whose checksums are right: mutations of a whole package, which
// FuzzOpen makes, hardly get past the decompressor.
func FuzzPackage(f *testing.F) {
	var data bytes.Buffer
	gz, err := gzip.NewReader(bytes.NewReader(sampleData(f)))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := data.ReadFrom(gz); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("pkgname = a\npkgver = 1-r0\narch = x86_64\n"), []byte("#!/bin/sh\n"), data.Bytes())
	f.Add([]byte("pkgname = a\npkgver = 1-r0\narch = noarch\nreplaces = b<1\ntriggers = /usr/lib\n"), []byte{}, []byte{})
	path := filepath.Join(f.TempDir(), "x.apk")
	f.Fuzz(func(t *testing.T, info, script, data []byte) {
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.NoCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		info = fmt.Appendf(info, "\ndatahash = %x\n", sha256.Sum256(packed.Bytes()))
		var control bytes.Buffer
		if err := writeMember(&control, 0, false, memberFile{".PKGINFO", info, 0o644}, memberFile{".post-install", script, 0o755}); err != nil {
			t.Fatal(err)
		}
		sum := sha1.Sum(control.Bytes())
		if err := os.WriteFile(path, append(control.Bytes(), packed.Bytes()...), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := OpenContext(context.Background(), path, nil, Pinned(Meta{Name: "a", Version: "1-r0", Checksum: checksumString(sum[:])}))
		if err != nil {
			if fault.ClassOf(err) == fault.Internal {
				t.Errorf("an error without a class: %v", err)
			}
			return
		}
		defer p.Close()
		tree := rootfs.New()
		in := &installed{meta: p.Meta, scripts: p.Scripts, tree: p.Tree, sums: p.sums, owned: map[string]bool{}}
		if in.replaces, err = parseDependencies("replaces", p.Meta.Replaces); err != nil {
			return
		}
		if err := in.add(tree, map[string]*installed{}); err != nil {
			return
		}
		if err := writeDatabase(tree, []*installed{in}, InstallOptions{Arch: "x86_64"}); err != nil && fault.ClassOf(err) == fault.Internal {
			t.Errorf("the database: %v", err)
		}
	})
}

// sampleData is the data member of a package with an entry of every kind.
func sampleData(t testing.TB) []byte {
	t.Helper()
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{
		rootfs.Regular("usr/bin/a", 0o755, []byte("a")),
		rootfs.Hardlink("usr/bin/b", "usr/bin/a"),
		rootfs.Symlink("bin", "usr/bin"),
		{Path: "dev/null", Mode: os.ModeDevice | os.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "c", Mode: 0o644, Xattrs: map[string][]byte{"security.capability": {1, 0, 0, 2}}},
	} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := writeData(&b, tree, 1); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
