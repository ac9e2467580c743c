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

func FuzzParseDatabase(f *testing.F) {
	f.Add("C:Q1jvvTDv4rqH0Txs4oUyj1bhgmJec=\nP:a\nV:1-r0\nA:x86_64\nr:b\nq:3\ns:edge\nF:etc\nM:0:0:700\nR:x\na:1:2:4755:Q1aaaa\nZ:Q1jvvTDv4rqH0Txs4oUyj1bhgmJec=\n\n")
	f.Add("F:\nR:x\n\nP:b\n")
	f.Fuzz(func(t *testing.T, text string) {
		pkgs, err := parseDatabase(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, p := range pkgs {
			for _, x := range p.Paths {
				if strings.HasPrefix(x.Path, "/") || strings.HasPrefix(x.Path, "../") {
					t.Errorf("%q has the path %q", text, x.Path)
				}
			}
		}
	})
}

func FuzzSolve(f *testing.F) {
	f.Add("a 1 b\nb 2 | c=1 | d\nd 1 !a", "a c~1")
	f.Add("a 1-r0 b>1\nb 2 a\nb 1", "a@x !b")
	f.Fuzz(func(t *testing.T, repo, world string) {
		var r Repository
		for line := range strings.Lines(repo) {
			parts := strings.Split(line+"||", "|")
			if w := strings.Fields(parts[0]); len(w) > 1 && len(r.Packages) < 12 && len(w) < 8 {
				r.Packages = append(r.Packages, Meta{Name: w[0], Version: w[1], Depends: w[2:], Provides: strings.Fields(parts[1]), InstallIf: strings.Fields(parts[2])})
			}
		}
		got, err := Solve(t.Context(), strings.Fields(world), []Repository{r})
		if err != nil {
			return
		}
		for _, s := range got {
			for _, text := range s.Meta.Depends {
				d, _ := ParseDependency(text)
				met := false
				for _, o := range got {
					c := &candidate{Selected: o}
					if err := c.parse(""); err != nil {
						t.Fatalf("a package that cannot be used was chosen: %v", err)
					}
					met = met || c.satisfies(d) && !(d.Conflict && o.Meta.Name == s.Meta.Name)
				}
				if met == d.Conflict {
					t.Errorf("%s of %s in %v", text, s.Meta.ID(), show(got))
				}
			}
		}
	})
}
