package rootfs

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	check(os.Chmod(dir, 0o750))
	check(os.Mkdir(at("d"), 0o755))
	check(os.Chmod(at("d"), os.ModeSetgid|0o2770))
	check(os.WriteFile(at("d/file"), []byte("contents"), 0o640))
	check(os.Link(at("d/file"), at("d/again")))
	check(os.Link(at("d/file"), at("z")))
	check(os.Symlink("nowhere/../at all", at("link")))
	check(unix.Mkfifo(at("fifo"), 0o600))
	check(os.WriteFile(at("empty"), nil, 0o600))
	withXattr := true
	if err := unix.Setxattr(at("empty"), "user.x", []byte("y"), 0); err != nil {
		t.Logf("no extended attributes here: %v", err)
		withXattr = false
	}
	root := os.Getuid() == 0
	if root {
		check(unix.Mknod(at("node"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 300))))
		check(os.Lchown(at("link"), 70_000, 80_000))
	}
	via := filepath.Join(t.TempDir(), "via")
	check(os.Symlink(dir, via))
	tree, err := ReadDir(context.Background(), via)
	check(err)

	want := []string{"d", "d/again", "d/file", "empty", "fifo", "link", "z"}
	if root {
		want = []string{"d", "d/again", "d/file", "empty", "fifo", "link", "node", "z"}
	}
	var got []string
	for e := range tree.All() {
		got = append(got, e.Path)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("entries %q, want %q", got, want)
	}
	if names := tree.HardLinks()["d/again"]; strings.Join(names, " ") != "d/again d/file z" {
		t.Errorf("hard links %q", names)
	}
	lookup := func(name string) Entry {
		e, ok := tree.Lookup(name)
		if !ok {
			t.Errorf("%s is missing", name)
		}
		return e
	}
	if e := lookup(Root); e.Mode != fs.ModeDir|0o750 {
		t.Errorf("root %v", e.Mode)
	}
	if e := lookup("d"); e.Mode != fs.ModeDir|fs.ModeSetgid|0o770 {
		t.Errorf("d %v", e.Mode)
	}
	var b bytes.Buffer
	if e := lookup("d/file"); e.Mode != 0o640 || e.CopyTo(&b) != nil || b.String() != "contents" {
		t.Errorf("d/file %v %q", e.Mode, b.String())
	}
	if e := lookup("link"); e.Link != "nowhere/../at all" || root && (e.UID != 70_000 || e.GID != 80_000) {
		t.Errorf("link to %q of %d:%d", e.Link, e.UID, e.GID)
	}
	if e := lookup("empty"); withXattr && string(e.Xattrs["user.x"]) != "y" {
		t.Errorf("attributes %q", e.Xattrs)
	}
	if root {
		if e := lookup("node"); e.Mode != fs.ModeDevice|0o600 || e.Major != 259 || e.Minor != 300 {
			t.Errorf("node %v %d:%d", e.Mode, e.Major, e.Minor)
		}
	}
	if _, err := ReadDir(context.Background(), at("z")); err == nil || !strings.Contains(err.Error(), "is not a directory") {
		t.Errorf("a file: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := ReadDir(ctx, dir); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}
