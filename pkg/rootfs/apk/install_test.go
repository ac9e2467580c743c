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

func TestScripts(t *testing.T) {
	r := newRepo(t)
	m := r.addScripts(Meta{Name: "p", Version: "1-r0", Triggers: []string{"/usr/lib/*"}}, map[string]string{
		"post-install": "#!/bin/sh\nadduser p\n", "trigger": "#!/bin/sh\nexec ldconfig\n", "post-deinstall": "x"},
		rootfs.Regular("usr/bin/p", 0o755, []byte("p")))
	_, err := installWorld(t, r, InstallOptions{}, "p")
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "adduser p") || !strings.Contains(fault.HintOf(err), "action") {
		t.Errorf("got %v", err)
	}
	selected, err := Solve(context.Background(), []string{"p"}, []Repository{r.open()})
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := Scripts(context.Background(), selected)
	if err != nil || len(scripts) != 2 || scripts[0].Kind != "post-install" || scripts[1].Kind != "trigger" || scripts[1].Triggers[0] != "/usr/lib/*" {
		t.Fatalf("scripts are %+v, %v", scripts, err)
	}
	actions := []Action{
		{Package: "p", Kind: "post-install", Digest: scripts[0].Digest, Steps: []Step{
			AddGroup{"p", 70}, AddUser{Name: "p", UID: 70, GID: 70, Home: "/var/lib/p"}, AddMember{"p", "p"},
			MakeDir{Path: "/var/lib/p", Mode: 0o700, UID: 70, GID: 70}, MakeLink{"/usr/bin/q", "p"}, MakeLink{"/usr/bin/p", "never"},
			MakeFile{"/etc/p.list", 0o644, []byte("/bin/one\n/usr/bin/p\n")}, Applets{"/etc/p.list", "/usr/bin/p"},
		}},
		{Package: "p", Kind: "trigger", Digest: scripts[1].Digest},
	}
	tr, err := installWorld(t, r, InstallOptions{Actions: actions, Epoch: epoch}, "p")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"etc/passwd": "p:x:70:70::/var/lib/p:/sbin/nologin\n", "etc/group": "p:x:70:p\n", "etc/shadow": "p:!::0:::::\n", "usr/bin/p": "p",
		"lib/apk/db/triggers": m.Checksum + " /usr/lib/*\n"} {
		if got := text(t, tr, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if e, _ := tr.Lookup("var/lib/p"); e.UID != 70 || e.Mode != fs.ModeDir|0o700 {
		t.Errorf("%+v", e)
	}
	if e, _ := tr.Lookup("bin/one"); e.Link != "/usr/bin/p" {
		t.Errorf("%+v", e)
	}
	if s := text(t, tr, "lib/apk/db/scripts.tar"); !strings.HasPrefix(s, "p-1-r0."+m.Checksum+".post-deinstall\x00") {
		t.Errorf("scripts.tar begins with %q", s[:40])
	}
	actions[0].Steps = []Step{AddGroup{"p", 70}, AddGroup{"p", 71}}
	if _, err := installWorld(t, r, InstallOptions{Actions: actions}, "p"); err == nil || !strings.Contains(err.Error(), "step 2") {
		t.Errorf("another number for a group: %v", err)
	}
	actions[0].Digest = actions[1].Digest
	if _, err := installWorld(t, r, InstallOptions{Actions: actions}, "p"); err == nil || !strings.Contains(err.Error(), scripts[0].Digest) || !strings.Contains(fault.HintOf(err), "another text") {
		t.Errorf("an action for another text: %v", err)
	}
}

func TestReplacesPriorityAndOrigin(t *testing.T) {
	r := newRepo(t)
	file := func(s string) rootfs.Entry { return rootfs.Regular("etc/x", 0o644, []byte(s)) }
	r.add(Meta{Name: "a", Version: "1-r0", Replaces: []string{"b"}, ReplacesPriority: 2}, file("a"))
	r.add(Meta{Name: "b", Version: "1-r0", Replaces: []string{"a"}, ReplacesPriority: 1}, file("b"))
	r.add(Meta{Name: "c", Version: "1-r0", Origin: "src"}, file("c"))
	r.add(Meta{Name: "d", Version: "1-r0", Origin: "src"}, file("d"))
	for world, want := range map[string]string{"a b": "a", "b a": "a", "c d": "d", "d c": "c"} {
		tr, err := installWorld(t, r, InstallOptions{}, strings.Fields(world)...)
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, tr, "etc/x"); got != want {
			t.Errorf("%s: etc/x is %s's, want %s's", world, got, want)
		}
		if db := text(t, tr, "lib/apk/db/installed"); strings.Contains(world, "a") && !strings.Contains(db, "r:b\nq:2\n") {
			t.Errorf("%s: the database has\n%s", world, db)
		}
	}
}
