package rootfs

import (
	"io/fs"
	"reflect"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	build := func(entries ...Entry) *Tree {
		tree := New()
		for _, e := range entries {
			if err := tree.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		return tree
	}
	long := strings.Repeat("x", 70<<10)
	a := build(
		Regular("same", 0o644, []byte("same")),
		Regular("gone", 0o644, nil),
		Regular("mode", 0o644, nil),
		Regular("far", 0o644, []byte(long+"before")),
		Regular("longer", 0o644, []byte("abc")),
		Symlink("link", "same"),
		Hardlink("linked", "same"),
		Entry{Path: "xattr", Xattrs: map[string][]byte{"user.a": {1}, "user.b": {2}}},
		Entry{Path: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		Dir("dir", 0o755),
	)
	b := build(
		Regular("linked", 0o644, []byte("same")),
		Hardlink("same", "linked"), // the same two names of one file, the other way round
		Regular("new", 0o644, nil),
		Entry{Path: "mode", Mode: fs.ModeSetuid | 0o755, UID: 70000},
		Regular("far", 0o644, []byte(long+"beyond")),
		Regular("longer", 0o644, []byte("abcd")),
		Symlink("link", "mode"),
		Entry{Path: "xattr", Xattrs: map[string][]byte{"user.b": {3}, "user.a": {1}}},
		Entry{Path: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 5},
		Dir("dir", 0o755),
	)
	got, err := Diff(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	digest := func(tree *Tree, p string) string {
		e, _ := tree.Lookup(p)
		h, err := openHashed(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.CopyTo(h.h); err != nil {
			t.Fatal(err)
		}
		return h.digest()
	}
	want := []Change{
		{Path: "far", Kind: Changed, Attributes: []Attribute{{"digest", digest(a, "far"), digest(b, "far")}},
			Bytes: &BytesChange{70<<10 + 2, "666f7265", "796f6e64"}},
		{Path: "gone", Kind: Removed},
		{Path: "link", Kind: Changed, Attributes: []Attribute{{"link", "same", "mode"}}},
		{Path: "longer", Kind: Changed, Attributes: []Attribute{{"size", "3", "4"}, {"digest", digest(a, "longer"), digest(b, "longer")}},
			Bytes: &BytesChange{3, "", "64"}},
		{Path: "mode", Kind: Changed, Attributes: []Attribute{{"mode", "-rw-r--r--", "urwxr-xr-x"}, {"owner", "0:0", "70000:0"}}},
		{Path: "new", Kind: Added},
		{Path: "null", Kind: Changed, Attributes: []Attribute{{"device", "1:3", "1:5"}}},
		{Path: "xattr", Kind: Changed, Attributes: []Attribute{{"xattr user.b", "02", "03"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if same, err := Diff(t.Context(), a, a); err != nil || len(same) != 0 {
		t.Errorf("a tree and itself: %+v, %v", same, err)
	}
}
