package port

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

func tree(t *testing.T, entries ...rootfs.Entry) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for _, e := range entries {
		if e.Mode == 0 {
			e.Mode, e.Content = 0o644, rootfs.Bytes([]byte(e.Path))
		}
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func paths(tree *rootfs.Tree) []string {
	var out []string
	for e := range tree.All() {
		if !e.IsDir() {
			out = append(out, e.Path)
		}
	}
	return out
}

func library() *recipe.PortFile {
	return &recipe.PortFile{
		Name: "lib", Path: "lib/port.yaml", Sources: []string{"lib-1.2"}, Summary: "a library", License: "MIT", URL: "https://example.org/",
		Packages: []recipe.PortPackage{
			{Name: "lib-dev", Summary: "headers", Files: []string{"usr/include/**", "usr/lib/*.a"}, Depends: []string{"lib=${version}"}},
			{Name: "lib", Files: []string{"usr/lib/**", "etc/**"}, Owners: map[string]string{"etc/secret": "70:71"}, Provides: []string{"virtual=${version}"}},
		},
	}
}

func TestPack(t *testing.T) {
	in := tree(t,
		rootfs.Entry{Path: "usr/lib", Mode: fs.ModeDir | 0o750},
		rootfs.Entry{Path: "usr/include/lib.h"},
		rootfs.Entry{Path: "usr/lib/lib.a"},
		// A page of a forge, and no path of the build.
		rootfs.Entry{Path: "usr/lib/data", Mode: 0o644, Content: rootfs.Bytes([]byte("/lib/src/branch/main"))},
		rootfs.Entry{Path: "usr/lib/again", Hard: "usr/lib/data", Mode: 0o644},
		rootfs.Entry{Path: "etc/secret"},
		rootfs.Entry{Path: "usr/share/empty", Mode: fs.ModeDir | 0o755},
	)
	packages, err := Pack(library(), "1.2-r3", "x86_64", in, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) != 2 {
		t.Fatalf("%d packages, want 2", len(packages))
	}
	dev, lib := packages[0], packages[1]
	if got, want := paths(dev.Tree), []string{"usr/include/lib.h", "usr/lib/lib.a"}; !slices.Equal(got, want) {
		t.Errorf("lib-dev holds %v, want %v", got, want)
	}
	if got, want := paths(lib.Tree), []string{"etc/secret", "usr/lib/again", "usr/lib/data"}; !slices.Equal(got, want) {
		t.Errorf("lib holds %v, want %v", got, want)
	}
	if e, _ := lib.Tree.Lookup("usr/lib"); e.Mode.Perm() != 0o750 {
		t.Errorf("usr/lib has mode %v, the script gave it 0750", e.Mode)
	}
	if e, _ := lib.Tree.Lookup("etc/secret"); e.UID != 70 || e.GID != 71 {
		t.Errorf("etc/secret is owned by %d:%d, want 70:71", e.UID, e.GID)
	}
	if dev.Meta.Description != "headers" || lib.Meta.Description != "a library" {
		t.Errorf("descriptions %q and %q", dev.Meta.Description, lib.Meta.Description)
	}
	if !slices.Equal(dev.Meta.Depends, []string{"lib=1.2-r3"}) || !slices.Equal(lib.Meta.Provides, []string{"virtual=1.2-r3"}) {
		t.Errorf("depends %v, provides %v", dev.Meta.Depends, lib.Meta.Provides)
	}
	if lib.Meta.Version != "1.2-r3" || lib.Meta.Origin != "lib" || lib.Meta.BuildDate != 1000 {
		t.Errorf("metadata %+v", lib.Meta)
	}
}

func TestPackRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		tree  *rootfs.Tree
		class fault.Class
		want  string
	}{
		"a file of no package":     {tree(t, rootfs.Entry{Path: "usr/lib/x"}, rootfs.Entry{Path: "usr/include/x"}, rootfs.Entry{Path: "opt/stray"}), fault.Usage, "no package takes opt/stray"},
		"a package without files":  {tree(t, rootfs.Entry{Path: "usr/lib/x"}), fault.Usage, "package lib-dev takes no file"},
		"a path of the build":      {tree(t, rootfs.Entry{Path: "usr/lib/x", Mode: 0o644, Content: rootfs.Bytes([]byte("made in /work/lib"))}), fault.Verification, "usr/lib/x"},
		"a path of a source":       {tree(t, rootfs.Entry{Path: "usr/lib/x", Mode: 0o644, Content: rootfs.Bytes([]byte("made of /src/lib-1.2/x.c"))}), fault.Verification, "usr/lib/x"},
		"a link to what is no one": {tree(t, rootfs.Entry{Path: "usr/lib/x"}, rootfs.Entry{Path: "usr/include/x"}, rootfs.Entry{Path: "opt/a"}, rootfs.Entry{Path: "usr/lib/b", Hard: "opt/a", Mode: 0o644}), fault.Usage, "opt/a"},
	} {
		_, err := Pack(library(), "1-r0", "x86_64", c.tree, 0)
		if err == nil || fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v (class %d), want class %d and %q", name, err, fault.ClassOf(err), c.class, c.want)
		}
	}
}

func TestOwnersAgree(t *testing.T) {
	tree := rootfs.New()
	if err := tree.Add(rootfs.Regular("etc/secret", 0o600, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		owners map[string]string
		want   uint32
		err    string
	}{
		{map[string]string{"etc/*": "70:71", "etc/secret": "70:71"}, 70, ""},
		{map[string]string{"etc/*": "70:71", "usr/*": "1:1"}, 70, ""},
		{map[string]string{"etc/*": "70:71", "etc/secret": "80:80"}, 0, `etc/secret has two owners, 70:71 by "etc/*" and 80:80 by "etc/secret"`},
	} {
		// Often enough that the order of a map would show.
		for range 50 {
			p := &recipe.PortFile{Path: "port.yaml", Packages: []recipe.PortPackage{{Name: "p", Files: []string{"etc/**"}, Owners: c.owners}}}
			parts, err := split(p, tree)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || fault.ClassOf(err) != fault.Usage {
					t.Fatalf("%v: %v", c.owners, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if e, _ := parts[0].tree.Lookup("etc/secret"); e.UID != c.want {
				t.Fatalf("%v: owner %d", c.owners, e.UID)
			}
		}
	}
}
