package erofs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

func TestReadBack(t *testing.T) {
	tree := build(t, sample(), "many/zz-link")
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Write(t.Context(), f, tree, Options{Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	back, err := Read(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := rootfs.Diff(t.Context(), tree, back)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		t.Errorf("%+v", c)
	}
}

// loop is an image with a directory that holds itself.
func loop(t testing.TB) []byte {
	t.Helper()
	tree := rootfs.New()
	if err := tree.Add(rootfs.Dir("a/loop", 0o755)); err != nil {
		t.Fatal(err)
	}
	image, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if _, err := Write(t.Context(), image, tree, Options{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(image.Name())
	if err != nil {
		t.Fatal(err)
	}
	// Before the names stand the entries, of 12 bytes: the inode first.
	names := bytes.Index(b, []byte("...loop"))
	if names < 0 {
		t.Fatal("no such names in the image")
	}
	copy(b[names-12:names-4], b[names-36:names-28])
	return b
}

func TestDirectoryLoop(t *testing.T) {
	if _, err := Read(t.Context(), bytes.NewReader(loop(t))); err == nil || !strings.Contains(err.Error(), "a/loop is the directory a already") {
		t.Errorf("got %v", err)
	}
}

// FuzzRead checks that damage is an error, never a panic.
func FuzzRead(f *testing.F) {
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{
		rootfs.Regular("etc/passwd", 0o644, []byte("root:x:0:0")),
		rootfs.Symlink("bin/sh", "busybox"),
		{Path: "x", Mode: 0o600, Xattrs: map[string][]byte{"user.a": {1}}},
	} {
		if err := tree.Add(e); err != nil {
			f.Fatal(err)
		}
	}
	image, err := os.Create(filepath.Join(f.TempDir(), "image"))
	if err != nil {
		f.Fatal(err)
	}
	defer image.Close()
	if _, err := Write(f.Context(), image, tree, Options{}); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(image.Name())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:1100])
	f.Add(loop(f))
	for _, name := range Algorithms() {
		tree := rootfs.New()
		for i, b := range [][]byte{bytes.Repeat([]byte("0123456789abcdef"), 3000), []byte(strings.Repeat("one two ", 300)), make([]byte, 100_000)} {
			if err := tree.Add(rootfs.Regular(fmt.Sprint(i), 0o644, b)); err != nil {
				f.Fatal(err)
			}
		}
		path, _ := write(f, tree, Options{Compression: Compression{Algorithm: name, ClusterSize: BlockSize}})
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := Read(t.Context(), bytes.NewReader(b))
		if err != nil {
			return
		}
		for e := range tree.All() {
			if !e.IsRegular() {
				continue
			}
			in, err := e.Open()
			if err != nil {
				continue
			}
			// An image of a few bytes may say that a file is huge.
			_, _ = io.CopyN(io.Discard, in, 1<<20)
			_ = in.Close()
		}
	})
}
