package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/port"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// packerOf stands in the keys of ports for the code that makes packages of what
// they install, as writers does for that of images.
func packerOf(arch string) (string, error) {
	t := rootfs.New()
	for _, e := range []rootfs.Entry{
		rootfs.Dir("usr", 0o755),
		rootfs.Dir("usr/lib", 0o755),
		rootfs.Regular("usr/lib/data", 0o640, bytes.Repeat([]byte("0123456789abcdef"), 256)),
		rootfs.Hardlink("usr/lib/link", "usr/lib/data"),
		rootfs.Symlink("usr/lib/name", "data"),
		{Path: "usr/lib/ping", Mode: fs.ModeSetuid | 0o755, UID: 70, GID: 80, Xattrs: map[string][]byte{"security.capability": {1, 0, 0, 2}}},
		rootfs.Regular("usr/lib/pkgconfig/data.pc", 0o644, []byte("Name: data\nVersion: 1\nRequires: other\n")),
	} {
		if err := t.Add(e); err != nil {
			return "", err
		}
	}
	p := &recipe.PortFile{Name: "sample", License: "MIT", URL: "https://example.invalid/", Packages: []recipe.PortPackage{
		{Name: "sample-dev", Summary: "A part", Files: []string{"usr/lib/pkgconfig/**"}, Depends: []string{"sample=${version}"}},
		{Name: "sample", Summary: "The rest", Files: []string{"**"}, Provides: []string{"cmd:sample=1"}},
	}}
	packages, err := port.Pack(p, "1.0-r0", arch, t, 1)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, pkg := range packages {
		if _, err := apk.Write(h, pkg.Meta, pkg.Tree, nil, 1); err != nil {
			return "", err
		}
	}
	return store.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil))).String(), nil
}

// writers stands in the root image's key for the code that makes images: it is
// what that code makes of a small tree with an entry of every kind. A change
// of a format then makes new images by itself, and a change that leaves the
// bytes alone keeps those in the cache.
func (b *Builder) writers(ctx context.Context) (string, error) {
	t := rootfs.New()
	block := bytes.Repeat([]byte("0123456789abcdef"), 256)
	entries := []rootfs.Entry{
		rootfs.Regular(guestInit, 0o755, append(bytes.Clone(block), "tail"...)),
		rootfs.Regular("etc/empty", 0o600, nil),
		rootfs.Regular("etc/block", 0o644, block),
		rootfs.Regular("etc/zeros", 0o644, make([]byte, 3*len(block))),
		{Path: "bin/su", Mode: fs.ModeSetuid | 0o755, UID: 70_000, GID: 80_000},
		{Path: "bin/ping", Mode: 0o755, Xattrs: map[string][]byte{"security.capability": {1, 0, 0, 2}}},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "run/fifo", Mode: fs.ModeNamedPipe | 0o600},
		rootfs.Symlink("sbin/init", "sovereign-init"),
		rootfs.Hardlink("bin/link", "etc/block"),
	}
	for i := range 400 { // a directory of several blocks
		entries = append(entries, rootfs.Regular(fmt.Sprintf("many/a-file-with-a-name-%03d", i), 0o644, nil))
	}
	for _, e := range entries {
		if err := t.Add(e); err != nil {
			return "", err
		}
	}
	dir, err := b.tempDir("writers-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	out, err := b.writeRoot(ctx, dir, t)
	if err != nil {
		return "", err
	}
	var sums []string
	for _, path := range []string{out.disk, out.initramfs} {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		d, _, err := digestOf(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", err
		}
		sums = append(sums, d.String())
	}
	return strings.Join(sums, " "), nil
}
