package build

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

func content(t *testing.T, tree *rootfs.Tree, path string) string {
	t.Helper()
	e, ok := tree.Lookup(path)
	if !ok {
		t.Fatalf("the tree has no %s", path)
	}
	r, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBaseTree(t *testing.T) {
	r := &recipe.Recipe{Name: "demo", Users: []recipe.User{{Name: "web", UID: 1000, Home: "/data/web"}, {Name: "db", UID: 70}}}
	tree, err := baseTree(r, spec.Spec{Schema: spec.Schema, Name: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, tree, "etc/passwd"), `root:x:0:0:root:/root:/bin/sh
db:x:70:70:db:/:/sbin/nologin
web:x:1000:1000:web:/data/web:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
`; got != want {
		t.Errorf("etc/passwd is\n%swant\n%s", got, want)
	}
	for line := range strings.Lines(content(t, tree, "etc/shadow")) {
		if !strings.Contains(line, ":!:") {
			t.Errorf("an account can log in: %s", line)
		}
	}
	var guest spec.Spec
	if err := json.Unmarshal([]byte(content(t, tree, "etc/sovereign/guest.json")), &guest); err != nil || guest.Name != "demo" {
		t.Errorf("guest spec %+v, %v", guest, err)
	}
	if e, ok := tree.Lookup("etc/resolv.conf"); !ok || e.Link != "../run/resolv.conf" {
		t.Errorf("etc/resolv.conf is %+v; the root is read-only, so it must lead to /run", e)
	}
}

func TestOverlay(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &recipe.Recipe{Path: "recipe.yaml", Dir: dir, Users: []recipe.User{{Name: "db", UID: 70}}, Files: []recipe.File{
		{Path: "/etc/a.conf", From: "conf", Mode: "0640", User: "db"},
		{Path: "/etc/b.conf", Content: "written here"},
		{Path: "/etc/c.conf", Link: "b.conf"},
		{Path: "/srv", Directory: true, Mode: "1777"},
	}}
	tree := rootfs.New()
	if err := addText(tree, "etc/b.conf", "a package's own", 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	handed := rootfs.New()
	for _, e := range []rootfs.Entry{rootfs.Dir("srv", 0o700), {Path: "srv/own", Mode: 0o644, Size: 11, Content: rootfs.File(filepath.Join(dir, "conf"))}} {
		if err := handed.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	b := &Builder{opts: &options{files: handed}, recipe: r, store: st}
	files, err := b.readOverlay(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// What is written to the files from now on is another build's.
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte("overwritten"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := files.addTo(tree); err != nil {
		t.Fatal(err)
	}
	if got := content(t, tree, "srv/own"); got != "from a file" {
		t.Errorf("srv/own holds %q", got)
	}
	if got := content(t, tree, "etc/a.conf"); got != "from a file" {
		t.Errorf("etc/a.conf holds %q", got)
	}
	if e, _ := tree.Lookup("etc/a.conf"); e.Mode != 0o640 || e.UID != 70 || e.GID != 70 {
		t.Errorf("etc/a.conf is %v of %d:%d", e.Mode, e.UID, e.GID)
	}
	if got := content(t, tree, "etc/b.conf"); got != "written here" {
		t.Errorf("etc/b.conf holds %q: the recipe has the last word", got)
	}
	if e, _ := tree.Lookup("etc/c.conf"); e.Link != "b.conf" {
		t.Errorf("etc/c.conf leads to %q", e.Link)
	}
	if e, _ := tree.Lookup("srv"); !e.IsDir() || rootfs.UnixMode(e.Mode)&0o7777 != 0o1777 {
		t.Errorf("srv is %v", e.Mode)
	}
}
