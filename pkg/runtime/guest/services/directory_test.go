package services

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

func TestDirectoryFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	a := account{uid: os.Getuid(), gid: os.Getgid()}
	for _, p := range []string{dir + "/link", dir + "/link/x"} {
		if err := makeDirectory(spec.Directory{Path: p, Mode: "0700"}, a, func(string) {}); err == nil || !strings.Contains(err.Error(), "without symbolic links") {
			t.Errorf("%s: got %v", p, err)
		}
	}
}

func owner(t *testing.T, path string) int {
	t.Helper()
	i, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(i.Sys().(*syscall.Stat_t).Uid)
}

// A data disk of an image in which the service was root's is of use to one in
// which it has a user of its own.
func TestDirectoryIsHandedOver(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root hands files over")
	}
	const somebody, other = 12345, 54321
	base := t.TempDir()
	dir, outside := base+"/state", base+"/outside"
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	file := func(path string, uid int) {
		must(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600), os.Chown(path, uid, uid))
	}
	for _, path := range []string{dir + "/state.json", dir + "/certs/a/b/key", outside, base + "/linked"} {
		file(path, 0)
	}
	file(dir+"/others/file", other)
	must(os.Chown(dir+"/others", other, other))
	file(dir+"/others/roots", 0)
	must(os.Symlink(outside, dir+"/link"), os.Symlink("/etc", dir+"/certs/etc"), os.Link(base+"/linked", dir+"/linked"))
	a := account{uid: somebody, gid: somebody}
	var notes []string
	hand := func() {
		t.Helper()
		must(makeDirectory(spec.Directory{Path: dir, Mode: "0700"}, a, func(s string) { notes = append(notes, s) }))
	}
	// The power goes when a part is done: the directory itself is not.
	must(os.Chown(dir+"/state.json", somebody, somebody))
	hand()
	for path, want := range map[string]int{
		dir: somebody, dir + "/state.json": somebody, dir + "/certs": somebody, dir + "/certs/a/b/key": somebody,
		dir + "/link": somebody, dir + "/certs/etc": somebody,
		outside: 0, "/etc": owner(t, "/"), base + "/linked": 0,
		dir + "/others": other, dir + "/others/file": other, dir + "/others/roots": 0,
	} {
		if got := owner(t, path); got != want {
			t.Errorf("%s is uid %d's, want %d", path, got, want)
		}
	}
	if len(notes) != 2 || !strings.Contains(notes[0], "were handed over") || !strings.Contains(notes[1], "1 files have other names") {
		t.Errorf("notes: %q", notes)
	}
	// From then on what is in it is not looked at.
	notes = nil
	file(dir+"/roots", 0)
	hand()
	if got := owner(t, dir+"/roots"); got != 0 || len(notes) > 0 {
		t.Errorf("at the next start: uid %d, notes %q", got, notes)
	}
}
