package apk

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// changing gives another text at each opening.
type changing struct {
	texts []string
	n     int
}

func (c *changing) Open() (io.ReadCloser, error) {
	s := c.texts[c.n%len(c.texts)]
	c.n++
	return io.NopCloser(strings.NewReader(s)), nil
}

func installWorld(t *testing.T, r *repo, o InstallOptions, world ...string) (*rootfs.Tree, error) {
	t.Helper()
	pkgs, err := Solve(context.Background(), world, []Repository{r.open()})
	if err != nil {
		t.Fatal(err)
	}
	o.Spool, o.World, o.Arch = spool(t), world, "x86_64"
	tr := rootfs.New()
	return tr, Install(context.Background(), tr, pkgs, o)
}

func text(t *testing.T, tr *rootfs.Tree, path string) string {
	t.Helper()
	e, ok := tr.Lookup(path)
	if !ok {
		t.Fatalf("%s is not there", path)
	}
	var b bytes.Buffer
	if err := e.CopyTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestInstallDatabase(t *testing.T) {
	r := newRepo(t)
	r.add(Meta{Name: "zlib", Version: "1.3.1-r0", Provides: []string{"so:libz.so.1=1.3.1"}}, rootfs.Regular("usr/lib/libz.so.1.3.1", 0o755, []byte("z")), rootfs.Symlink("usr/lib/libz.so.1", "libz.so.1.3.1"))
	m := sample(r)
	tr, err := installWorld(t, r, InstallOptions{}, "sample")
	if err != nil {
		t.Fatal(err)
	}
	want := m.record() + `r:old-sample
F:
R:top
Z:Q1jvvTDv4rqH0Txs4oUyj1bhgmJec=
F:bin
R:alias
a:0:0:4755
Z:Q1qvTGHdzF6KLavt4PO0gs2a6pQ00=
R:link
a:0:0:777
Z:Q1gVHNWWuQCXTbAfSRMFNVONMEjEI=
R:sample
a:0:0:4755
Z:Q1qvTGHdzF6KLavt4PO0gs2a6pQ00=
F:etc
R:empty
a:0:0:600
Z:Q12jmj7l5rSw0yVb/vlWAYkK/YBwk=
F:usr
R:cap
a:0:0:644:Q1
Z:Q1
F:var
F:var/lib
F:var/lib/sample
M:70:70:700

`
	db := text(t, tr, "lib/apk/db/installed")
	_, ours, ok := strings.Cut(db, "\n\n")
	if !ok || !strings.HasPrefix(db, "C:Q1") || !strings.Contains(db[:strings.Index(db, "\n\n")], "P:zlib\n") {
		t.Fatalf("zlib is not first:\n%s", db)
	}
	if got, want := dropSums(ours), dropSums(want); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := text(t, tr, "etc/apk/world"); got != "sample\n" {
		t.Errorf("world %q", got)
	}
	if e, _ := tr.Lookup("var/lib/sample"); e.UID != 70 || e.Mode != fs.ModeDir|0o700 {
		t.Errorf("%+v", e)
	}
	if e, _ := tr.Lookup("bin/sample"); e.Hard != "bin/alias" && len(tr.HardLinks()["bin/alias"]) != 2 {
		t.Errorf("hard link lost: %+v", e)
	}
}

// dropSums leaves the checksums out that TestFileSums compares.
func dropSums(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "Z:") || strings.HasPrefix(l, "a:") {
			lines[i], _, _ = strings.Cut(l, "Q1")
		}
	}
	return strings.Join(lines, "\n")
}

func TestFileSums(t *testing.T) {
	// printf hello | sha1sum; printf '' | sha1sum
	for data, want := range map[string]string{"hello": "Q1qvTGHdzF6KLavt4PO0gs2a6pQ00=", "": "Q12jmj7l5rSw0yVb/vlWAYkK/YBwk="} {
		sum, ok, err := entrySum(rootfs.Regular("x", 0o644, []byte(data)))
		if err != nil || !ok || checksumString(sum) != want {
			t.Errorf("%q: %s, %v", data, checksumString(sum), err)
		}
	}
}

func TestFileConflictsAndReplaces(t *testing.T) {
	r := newRepo(t)
	r.add(Meta{Name: "a", Version: "1-r0"}, rootfs.Regular("etc/x", 0o644, []byte("a")))
	r.add(Meta{Name: "b", Version: "1-r0"}, rootfs.Regular("etc/x", 0o644, []byte("b")))
	r.add(Meta{Name: "c", Version: "1-r0", Replaces: []string{"a<2"}}, rootfs.Regular("etc/x", 0o644, []byte("c")))
	r.add(Meta{Name: "d", Version: "1-r0"}, rootfs.Regular("etc", 0o644, []byte("not a directory")))
	_, err := installWorld(t, r, InstallOptions{}, "a", "b")
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "a-1-r0") || !strings.Contains(err.Error(), "b-1-r0") || !strings.Contains(err.Error(), "etc/x") {
		t.Errorf("conflict: %v", err)
	}
	for _, world := range [][]string{{"a", "c"}, {"c", "a"}} {
		tr, err := installWorld(t, r, InstallOptions{}, world...)
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, tr, "etc/x"); got != "c" {
			t.Errorf("%v: etc/x is %s's", world, got)
		}
		if n := strings.Count(text(t, tr, "lib/apk/db/installed"), "R:x\n"); n != 1 {
			t.Errorf("%v: etc/x is in the database %d times", world, n)
		}
	}
	if _, err := installWorld(t, r, InstallOptions{}, "a", "d"); err == nil {
		t.Error("a file in the place of a directory was accepted")
	}
}

func TestScriptsAreRefused(t *testing.T) {
	in := &installed{meta: Meta{Name: "p", Version: "1-r0", Checksum: "Q1x"}, scripts: map[string]string{"post-install": "#!/bin/sh\nadduser p\n", "post-deinstall": "x"}}
	err := checkScripts(in, nil)
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "adduser p") || !strings.Contains(fault.HintOf(err), "allow") {
		t.Errorf("got %v", err)
	}
	if err := checkScripts(in, []string{"p"}); err != nil {
		t.Errorf("allowed: %v", err)
	}
	tr := rootfs.New()
	in.tree = rootfs.New()
	if err := writeDatabase(tr, []*installed{in}, InstallOptions{Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	if s := text(t, tr, "lib/apk/db/scripts.tar"); !strings.HasPrefix(s, "p-1-r0.Q1x.post-deinstall\x00") {
		t.Errorf("scripts.tar begins with %q", s[:40])
	}
}
