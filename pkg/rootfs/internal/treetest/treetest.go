// Package treetest has what the tests of the image writers share: trees drawn
// by a seed, and what a kernel shows of an image held against its tree.
package treetest

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Random is a tree of every kind of entry; the same for a seed.
func Random(t testing.TB, seed uint64) *rootfs.Tree {
	t.Helper()
	const block = 4096
	r := rand.New(rand.NewPCG(seed, 1))
	tree := rootfs.New()
	dirs := []string{rootfs.Root}
	var others []string
	name := func() string {
		b := make([]byte, 1+r.IntN(1+r.IntN(255)))
		for i := range b {
			if b[i] = byte(1 + r.IntN(255)); b[i] == '/' || b[i] == '.' {
				b[i] = '_'
			}
		}
		return string(b)
	}
	for range r.IntN(3000) {
		p := path.Join(dirs[len(dirs)-1-r.IntN(min(len(dirs), 8))], name())
		if _, ok := tree.Lookup(p); ok || len(p) > 3000 {
			continue
		}
		e := rootfs.Entry{Path: p, Mode: fs.FileMode(r.IntN(0o1000)), UID: r.Uint32() >> r.IntN(32), GID: r.Uint32() >> r.IntN(32)}
		switch r.IntN(12) {
		case 0, 1:
			e.Mode |= fs.ModeDir
			dirs = append(dirs, p)
		case 2:
			e.Mode = fs.ModeSymlink | 0o777
			e.Link = strings.Repeat("x", 1+r.IntN(200))
		case 3:
			e.Mode |= fs.ModeDevice
			e.Major, e.Minor = r.Uint32N(1<<12), r.Uint32N(1<<20)
		case 4:
			e.Mode |= fs.ModeNamedPipe
		case 5:
			e.Mode |= fs.ModeSocket
		case 6:
			if len(others) > 0 {
				e = rootfs.Hardlink(p, others[r.IntN(len(others))])
			}
		default:
			data := make([]byte, r.IntN(1+r.IntN(40*block)))
			for at := 0; at < len(data); at += block {
				if r.IntN(3) > 0 {
					data[at+r.IntN(min(block, len(data)-at))] = 1
				}
			}
			e.Size, e.Content = int64(len(data)), rootfs.Bytes(data)
		}
		if e.Hard == "" {
			for i := range r.IntN(3) * r.IntN(3) {
				if e.Xattrs == nil {
					e.Xattrs = map[string][]byte{}
				}
				e.Xattrs[[]string{"trusted.", "security."}[r.IntN(2)]+fmt.Sprintf("%0*d", 1+r.IntN(20), i)] = make([]byte, r.IntN(1+r.IntN(900)))
			}
		}
		if !e.IsDir() {
			others = append(others, p)
		}
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// RawNames is a tree of names and link targets that are not UTF-8, in an order
// of bytes that is not one of characters. Every file holds its name.
func RawNames(t testing.TB) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for _, name := range []string{
		"umlaut-\xe4", "\xff", "\xc3(", "a\xed\xa0\x80b", "\xf4\x90\x80\x80", "ordinary", "ü", "\xfe/\x80\x81", "\xfe.",
		"long-\xe4" + strings.Repeat("\xe4x", 120), strings.Repeat("\xe4/", 90) + "deep",
	} {
		for _, e := range []rootfs.Entry{rootfs.Regular(name, 0o644, []byte(name)), rootfs.Symlink("links/"+strings.ReplaceAll(name, "/", "_"), name)} {
			if err := tree.Add(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tree.Add(rootfs.Hardlink("hard-\xe9", "\xff")); err != nil {
		t.Fatal(err)
	}
	return tree
}

// Many is a tree of n small files, some of them with contents, an attribute or
// another name, in directories of a thousand.
func Many(t testing.TB, n int) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for i := range n {
		name := fmt.Sprintf("usr/share/doc/some-package-%d/a-file-of-it-%d.html", i/1000, i)
		e := rootfs.Regular(name, 0o644, nil)
		switch i % 10 {
		case 1:
			e = rootfs.Regular(name, 0o600, []byte(name))
		case 2:
			e = rootfs.Symlink(name, "a-file-of-it")
		case 3:
			e.Xattrs = map[string][]byte{"user.number": []byte(fmt.Sprint(i))}
		case 4:
			e = rootfs.Hardlink(name, fmt.Sprintf("usr/share/doc/some-package-%d/a-file-of-it-%d.html", (i-1)/1000, i-1))
		}
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// Compare holds what is mounted at dir, or below dir, against the tree: every
// attribute, all contents, and every time epoch. What is at the paths of extra
// may be there or not.
func Compare(t testing.TB, dir string, tree *rootfs.Tree, epoch int64, extra ...string) {
	t.Helper()
	seen := 0
	for e := range tree.All() {
		seen++
		compareEntry(t, filepath.Join(dir, e.Path), e, epoch)
	}
	root, _ := tree.Lookup(rootfs.Root)
	compareEntry(t, dir, root, epoch)
	onDisk := -1 // the root
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		onDisk++
		return err
	})
	for _, p := range extra {
		if _, ok := tree.Lookup(p); ok {
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, p)); err == nil {
			onDisk--
		}
	}
	if err != nil || onDisk != seen {
		t.Errorf("%d entries in the image, %d in the tree, %v", onDisk, seen, err)
	}
	for _, names := range tree.HardLinks() {
		var first syscall.Stat_t
		for _, name := range names {
			var st syscall.Stat_t
			if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			if first.Ino == 0 {
				first = st
			}
			if st.Ino != first.Ino || int(st.Nlink) != len(names) {
				t.Errorf("%s: inode %d with %d links, want %d with %d", name, st.Ino, st.Nlink, first.Ino, len(names))
			}
		}
	}
}

func compareEntry(t testing.TB, full string, e rootfs.Entry, epoch int64) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(full, &st); err != nil {
		t.Errorf("%.80q: %v", e.Path, err)
		return
	}
	if st.Mode != rootfs.UnixMode(e.Mode) || st.Uid != e.UID || st.Gid != e.GID {
		t.Errorf("%.80q: mode %o owner %d:%d, want %o %d:%d", e.Path, st.Mode, st.Uid, st.Gid, rootfs.UnixMode(e.Mode), e.UID, e.GID)
	}
	if st.Mtim != (syscall.Timespec{Sec: epoch}) || st.Atim != st.Mtim || st.Ctim != st.Mtim {
		t.Errorf("%.80q: times %v %v %v, want %d", e.Path, st.Mtim, st.Atim, st.Ctim, epoch)
	}
	switch {
	case e.IsRegular():
		var want bytes.Buffer
		if err := e.CopyTo(&want); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(full); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%.80q: %v, %d bytes, want %d", e.Path, err, len(got), want.Len())
		}
	case e.IsSymlink():
		if got, err := os.Readlink(full); err != nil || got != e.Link {
			t.Errorf("%.80q: %v, %s", e.Path, err, got)
		}
	case e.IsDevice():
		if unix.Major(st.Rdev) != e.Major || unix.Minor(st.Rdev) != e.Minor {
			t.Errorf("%.80q: device %d:%d, want %d:%d", e.Path, unix.Major(st.Rdev), unix.Minor(st.Rdev), e.Major, e.Minor)
		}
	}
	list := make([]byte, rootfs.MaxXattrs)
	n, err := unix.Llistxattr(full, list)
	if err != nil || bytes.Count(list[:n], []byte{0}) != len(e.Xattrs) {
		t.Errorf("%.80q: attributes %q, %v, want %d", e.Path, list[:max(n, 0)], err, len(e.Xattrs))
	}
	for name, value := range e.Xattrs {
		buf := make([]byte, rootfs.MaxXattrs)
		n, err := unix.Lgetxattr(full, name, buf)
		if err != nil || !bytes.Equal(buf[:n], value) {
			t.Errorf("%.80q: %s: %v, %q, want %q", e.Path, name, err, buf[:max(n, 0)], value)
		}
	}
}
