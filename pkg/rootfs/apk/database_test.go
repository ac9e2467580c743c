package apk

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

func TestDatabaseAndAudit(t *testing.T) {
	r := newRepo(t)
	r.add(Meta{Name: "zlib", Version: "1.3.1-r0", Provides: []string{"so:libz.so.1=1.3.1"}}, rootfs.Regular("usr/lib/libz.so.1.3.1", 0o755, []byte("z")), rootfs.Symlink("usr/lib/libz.so.1", "libz.so.1.3.1"))
	sample(r)
	tr, err := installWorld(t, r, InstallOptions{}, "sample")
	if err != nil {
		t.Fatal(err)
	}
	pkgs, err := ReadDatabase(tr)
	if err != nil || len(pkgs) != 2 || pkgs[1].Meta.Name != "sample" || len(pkgs[1].Paths) != 13 || pkgs[1].Meta.Replaces[0] != "old-sample" {
		t.Fatalf("the database reads as %+v, %v", pkgs, err)
	}
	if changes, err := Audit(tr); err != nil || len(changes) != 0 {
		t.Errorf("a fresh tree has the changes %v, %v", changes, err)
	}
	for _, e := range []rootfs.Entry{
		rootfs.Regular("top", 0o644, []byte("other")),
		rootfs.Regular("etc/empty", 0o644, nil),
		rootfs.Regular("srv/new", 0o644, nil),
		rootfs.Symlink("bin/link", "elsewhere"),
		{Path: "var/lib/sample", Mode: fs.ModeDir | 0o755},
		{Path: "usr/cap", Mode: 0o644, Size: 3, Content: rootfs.Bytes([]byte("cap"))},
	} {
		if err := tr.Set(e); err != nil {
			t.Fatal(err)
		}
	}
	tr.Remove("usr/lib/libz.so.1")
	changes, err := Audit(tr)
	if got := fmt.Sprint(changes); err != nil || got != "[U bin/link M etc/empty A srv A srv/new U top M usr/cap X usr/lib/libz.so.1 M var/lib/sample]" {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := ReadDatabase(rootfs.New()); fault.ClassOf(err) != fault.Source {
		t.Errorf("a tree without a database: %v", err)
	}
}

func TestDatabaseOfMergedUsr(t *testing.T) {
	r := newRepo(t)
	r.add(Meta{Name: "base", Version: "1-r0"}, rootfs.Symlink("lib", "usr/lib"), rootfs.Regular("usr/lib/x", 0o644, nil))
	tr, err := installWorld(t, r, InstallOptions{}, "base")
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := Audit(tr); err != nil || len(changes) != 0 {
		t.Errorf("changes %v, %v", changes, err)
	}
	if !strings.Contains(text(t, tr, "usr/lib/apk/db/installed"), "P:base\n") {
		t.Error("the database is not in usr/lib")
	}
}

func TestBadDatabases(t *testing.T) {
	for _, text := range []string{"R:x", "P:a\nV:1\nA:x\nR:x", "F:../x", "F:/etc", "P:a\nZ:Q1", "F:etc\nZ:Q1", "F:etc\na:0:0:644", "F:etc\nM:0:0", "F:etc\nM:0:0:999", "P:../a\nV:1\nA:x", "x", "F:etc\nR:a/b", "q:x"} {
		if got, err := parseDatabase(strings.NewReader(text + "\n")); err == nil {
			t.Errorf("%q reads as %+v", text, got)
		}
	}
}
