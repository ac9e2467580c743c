package rootfs

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

func paths(t *Tree) []string {
	var out []string
	for e := range t.All() {
		out = append(out, e.Path)
	}
	return out
}

func mustAdd(t *testing.T, tree *Tree, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, tree *Tree, name string) string {
	t.Helper()
	e, ok := tree.Lookup(name)
	if !ok {
		t.Fatalf("%s is not there", name)
	}
	var b strings.Builder
	if err := e.CopyTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAddMakesParentsOnce(t *testing.T) {
	tree := New()
	mustAdd(t, tree, Regular("var/lib/x", 0o600, []byte("x")), Dir("var", 0o700))
	if e, _ := tree.Lookup("var"); e.Mode.Perm() != 0o700 {
		t.Errorf("var has mode %v", e.Mode)
	}
	if err := tree.Add(Dir("var", 0o755)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Add of var: %v", err)
	}
	if got, want := paths(tree), []string{"var", "var/lib", "var/lib/x"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAddRefuses(t *testing.T) {
	tree := New()
	mustAdd(t, tree, Symlink("lib", "usr/lib"), Regular("file", 0o644, nil), Dir("dir", 0o755))
	for name, e := range map[string]Entry{
		"absolute":          Regular("/etc/passwd", 0o644, nil),
		"dot dot":           Regular("a/../b", 0o644, nil),
		"empty":             Regular("", 0o644, nil),
		"trailing slash":    Dir("a/", 0o755),
		"NUL":               Regular("a\x00b", 0o644, nil),
		"long name":         Regular(strings.Repeat("a", 256), 0o644, nil),
		"long path":         Regular(strings.Repeat("aaaaaaaaa/", 410)+"a", 0o644, nil),
		"below a link":      Regular("lib/libc.so", 0o755, nil),
		"below a file":      Regular("file/x/y", 0o755, nil),
		"link to nothing":   Hardlink("a", "b"),
		"link to directory": Hardlink("a", "dir"),
		"empty symlink":     Symlink("s", ""),
		"root as file":      Regular(".", 0o644, nil),
		"no contents":       {Path: "x", Mode: 0o644, Size: 4},
		"wrong size":        {Path: "x", Mode: 0o644, Size: 4, Content: Bytes([]byte("abc"))},
		"irregular":         {Path: "x", Mode: fs.ModeIrregular},
		"octal setuid":      Regular("x", 0o4755, nil),
		"bare xattr":        {Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"capability": nil}},
		"huge xattr":        {Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"user.x": make([]byte, MaxXattrs)}},
	} {
		if err := tree.Add(e); err == nil {
			t.Errorf("%s: Add accepted %q", name, e.Path)
		}
	}
	if got := tree.Len(); got != 3 {
		t.Errorf("%d entries after refusals, want 3", got)
	}
}

func TestHardLinksSurviveRemoval(t *testing.T) {
	tree := New()
	mustAdd(t, tree, Regular("m", fs.ModeSetuid|0o755, []byte("body")), Hardlink("z", "m"), Hardlink("a", "z"))
	if got := tree.HardLinks(); len(got) != 1 || !slices.Equal(got["a"], []string{"a", "m", "z"}) {
		t.Fatalf("groups %v", got)
	}
	tree.Remove("m")
	if got := tree.HardLinks(); len(got) != 1 || !slices.Equal(got["a"], []string{"a", "z"}) {
		t.Fatalf("groups after removal %v", got)
	}
	if err := tree.Set(Regular("a", 0o644, []byte("new"))); err != nil {
		t.Fatal(err)
	}
	if len(tree.HardLinks()) != 0 || content(t, tree, "z") != "body" || content(t, tree, "a") != "new" {
		t.Error("replacing one name changed the other")
	}
	if e, _ := tree.Lookup("z"); e.Mode != fs.ModeSetuid|0o755 {
		t.Errorf("z has mode %v", e.Mode)
	}
}

func TestSetAndRemoveDirectories(t *testing.T) {
	tree := New()
	mustAdd(t, tree, Regular("d/a/x", 0o644, nil), Regular("d/b", 0o644, nil), Regular("d-not", 0o644, nil))
	if err := tree.Set(Dir("d", 0o711)); err != nil || tree.Len() != 5 {
		t.Fatalf("Set of a directory over a directory: %v, %v", err, paths(tree))
	}
	if err := tree.Set(Symlink("d", "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if got, want := paths(tree), []string{"d", "d-not"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	tree.Remove(Root)
	if tree.Len() != 0 {
		t.Errorf("left %v", paths(tree))
	}
}

func TestMerge(t *testing.T) {
	dst, src := New(), New()
	mustAdd(t, dst, Regular("same", 0o644, []byte("1")), Regular("differs", 0o644, []byte("1")),
		Regular("etc/x", 0o644, nil), Dir("var", 0o700), Regular("file", 0o644, nil))
	mustAdd(t, src, Regular("same", 0o644, []byte("1")), Regular("differs", 0o644, []byte("2")),
		Dir("etc", 0o750), Regular("var/new", 0o644, []byte("n")), Regular("file/below", 0o644, nil),
		Hardlink("also-same", "same"), Hardlink("also-differs", "differs"))
	conflicts, err := dst.Merge(src)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range conflicts {
		got = append(got, c.String())
	}
	want := []string{"differs: other contents of the same 1 bytes", "file: mode -rw-r--r--, not drwxr-xr-x"}
	if !slices.Equal(got, want) {
		t.Errorf("conflicts %q, want %q", got, want)
	}
	if e, _ := dst.Lookup("etc"); e.Mode.Perm() != 0o750 {
		t.Errorf("etc kept the implied mode %v", e.Mode)
	}
	if e, _ := dst.Lookup("var"); e.Mode.Perm() != 0o700 {
		t.Errorf("var lost its mode: %v", e.Mode)
	}
	if content(t, dst, "differs") != "1" || content(t, dst, "also-differs") != "2" || content(t, dst, "var/new") != "n" {
		t.Error("wrong contents after the merge")
	}
	if e, _ := dst.Lookup("also-same"); e.Hard != "same" {
		t.Errorf("also-same is %+v", e)
	}
}

func TestModes(t *testing.T) {
	for _, u := range []uint32{0o100644, 0o104755, 0o042755, 0o041777, 0o120777, 0o060660, 0o020666, 0o010600, 0o140755} {
		if got := UnixMode(ModeFromUnix(u)); got != u {
			t.Errorf("%o came back as %o", u, got)
		}
	}
}
