package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	ctar "github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// generator makes random images of the kind tools make: a directory's entry
// before what is in it, whiteouts before their siblings, opaque markers
// anywhere.
type generator struct {
	*rand.Rand
	tame bool // nothing that go-containerregistry's Extract gets wrong
	// xattr is a name the file system under the temporary directory takes.
	xattr string
	dirs  []string
	// files of the image so far, by name; whether they are there still does
	// not matter.
	files []string
	kinds map[string]byte // of tame images: a name's one type
}

func (g *generator) name() string { return string(rune('a' + g.IntN(6))) }

func (g *generator) path() string {
	for {
		dir := g.dirs[g.IntN(len(g.dirs))]
		if k := g.kinds[dir]; dir == "" || k == tar.TypeDir || k == tar.TypeSymlink {
			return path.Join(dir, g.name())
		}
	}
}

func (g *generator) layer() []tar.Header {
	var whiteouts, rest []tar.Header
	made := map[string]bool{} // directories
	seen := map[string]bool{} // everything
	through := false          // a name's parent is a link
	parents := func(name string) {
		for i := range name {
			if dir := name[:i]; name[i] == '/' && !made[dir] && g.kinds[dir] == tar.TypeDir {
				made[dir] = true
				rest = append(rest, g.attributes(tar.Header{Typeflag: tar.TypeDir, Name: dir}))
			}
		}
	}
	hidden := map[string]bool{}
	for range g.IntN(4) {
		name := g.path()
		if g.kinds[name] == 0 || g.tame && hidden[path.Dir(name)] {
			continue
		}
		hidden[name] = true
		whiteouts = append(whiteouts, tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(name), ".wh."+path.Base(name))})
	}
	for range 2 + g.IntN(12) {
		name := g.path()
		if g.tame && (made[name] || seen[name] || below(hidden, name)) {
			continue
		}
		h := tar.Header{Name: name}
		switch n := g.IntN(20); {
		case n < 7:
			h.Typeflag = tar.TypeDir
		case n < 13:
			h.Typeflag, h.Linkname = tar.TypeReg, fmt.Sprint(g.IntN(1000))
		case n < 15:
			h.Typeflag, h.Linkname = tar.TypeSymlink, []string{"a", "b/c", "/a/b", "../a", "/", "nowhere"}[g.IntN(6)]
		case n < 17 && len(g.files) > 0 && !g.tame:
			h.Typeflag, h.Linkname = tar.TypeLink, g.files[g.IntN(len(g.files))]
		case n < 18:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, int64(g.IntN(10))
		case n < 19:
			h.Typeflag = tar.TypeFifo
		default:
			dir := g.dirs[g.IntN(len(g.dirs))]
			if dir != "" && g.kinds[dir] == tar.TypeDir && !through && !(g.tame && below(hidden, dir)) {
				parents(dir + "/")
				rest = append(rest, tar.Header{Typeflag: tar.TypeReg, Name: dir + "/.wh..wh..opq"})
			}
			continue
		}
		if g.tame {
			if k := g.kinds[name]; k != 0 && k != h.Typeflag {
				continue
			}
		}
		parents(name)
		// containerd's opaque markers also hide what their own layer has in
		// directories without an entry, which the specification forbids.
		through = through || path.Dir(name) != "." && !made[path.Dir(name)]
		made[name], seen[name] = h.Typeflag == tar.TypeDir, true
		g.kinds[name] = h.Typeflag
		if h.Typeflag == tar.TypeDir {
			g.dirs = append(g.dirs, name)
		} else if h.Typeflag == tar.TypeReg {
			g.files = append(g.files, name)
		}
		h = g.attributes(h)
		rest = append(rest, h)
		if h.Typeflag == tar.TypeSymlink && !g.tame {
			g.dirs = append(g.dirs, name) // lead later names through it
		}
	}
	return append(whiteouts, rest...)
}

// below says whether a name or a directory above it is in the set.
func below(set map[string]bool, name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if set[name] {
			return true
		}
	}
	return false
}

func (g *generator) attributes(h tar.Header) tar.Header {
	h.Mode = []int64{0o755, 0o644, 0o4711, 0o2750, 0o1777, 0o600}[g.IntN(6)]
	if h.Typeflag == tar.TypeDir {
		h.Mode &^= 0o2000 // what the kernel makes in such a directory inherits its group
	}
	h.Uid, h.Gid = g.IntN(3)*40000, g.IntN(3)*30000
	// containerd lets a directory keep those of lower layers, against the
	// specification: regular files only.
	if g.xattr != "" && h.Typeflag == tar.TypeReg && g.IntN(4) == 0 {
		h.PAXRecords = map[string]string{"SCHILY.xattr." + g.xattr: fmt.Sprint(g.IntN(9))}
	}
	return h
}

// TestContainerd applies random images with containerd, to a real directory,
// and here, and compares everything that can be seen of the files.
func TestContainerd(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: containerd makes owners and device nodes")
	}
	images := 60
	if testing.Short() {
		images = 15
	}
	applied := 0
	xattr := "user.a"
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lsetxattr(probe, xattr, []byte("1"), 0); err != nil {
		t.Logf("without extended attributes: %v", err)
		xattr = ""
	}
	for seed := range images {
		g := &generator{Rand: rand.New(rand.NewPCG(1, uint64(seed))), dirs: []string{""}, kinds: map[string]byte{}, xattr: xattr}
		dir := t.TempDir()
		a := &applier{overlay: newOverlay(rootfs.NewBudget(rootfs.DefaultLimits())), ctx: t.Context(), spool: newSpool(t)}
		var log []string
		for n := range 2 + g.IntN(4) {
			headers := g.layer()
			layer := tarOf(t, headers)
			for _, h := range headers {
				log = append(log, fmt.Sprintf("%d %c %s -> %s %o %d:%d", n+1, h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid))
			}
			_, theirs := ctar.Apply(t.Context(), dir, bytes.NewReader(layer))
			a.layer = n + 1
			ours := a.read(newRawLayer(t, layer), bytes.NewReader(layer))
			if (ours == nil) != (theirs == nil) {
				// It sets directories' times at the end, by names that the layer
				// itself may have led elsewhere since.
				if theirs != nil && (strings.Contains(theirs.Error(), "UtimesNanoAt") || strings.HasPrefix(theirs.Error(), "lstat ")) {
					break
				}
				t.Fatalf("image %d, layer %d: here %v, containerd %v\n%s", seed, n+1, ours, theirs, strings.Join(log, "\n"))
			}
			if ours != nil {
				break
			}
			applied++
			tree, err := a.tree()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range a.all() {
				c.file.path = "" // the tree is made again after the next layer
			}
			if diff := cmp.Diff(onDisk(t, dir), inTree(t, tree)); diff != "" {
				t.Fatalf("image %d, layer %d (- containerd, + here):\n%s\n%s", seed, n+1, diff, strings.Join(log, "\n"))
			}
		}
	}
	t.Logf("%d layers of %d images are the same", applied, images)
}

// all lists the nodes below the root.
func (o *overlay) all() []*node {
	var out []*node
	var walk func(n *node)
	walk = func(n *node) {
		for _, c := range n.children {
			out = append(out, c)
			walk(c)
		}
	}
	walk(o.root)
	return out
}

func newRawLayer(t *testing.T, b []byte) layer {
	return layer{diffID: hashOfBytes(t, b)}
}

// onDisk describes the files of a directory, a line each.
func onDisk(t *testing.T, dir string) []string {
	t.Helper()
	type inode struct{ ino uint64 }
	names := map[inode][]string{}
	lines := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("no stat")
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		mode := rootfs.ModeFromUnix(st.Mode)
		line := fmt.Sprintf("%s %v %d:%d", rel, mode, st.Uid, st.Gid)
		switch mode.Type() {
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += " " + string(b)
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line = fmt.Sprintf("%s link %d:%d %s", rel, st.Uid, st.Gid, target)
		case fs.ModeDevice | fs.ModeCharDevice:
			line += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if mode.Type() != fs.ModeSymlink {
			var value [64]byte
			if n, err := unix.Lgetxattr(p, "user.a", value[:]); err == nil {
				line += " xattr " + string(value[:n])
			}
		}
		lines[rel] = line
		if !info.IsDir() {
			names[inode{st.Ino}] = append(names[inode{st.Ino}], rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, group := range names {
		slices.Sort(group)
		for _, n := range group[1:] {
			lines[n] += " = " + group[0]
		}
	}
	for _, l := range lines {
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

// inTree describes a tree as onDisk does a directory.
func inTree(t *testing.T, tree *rootfs.Tree) []string {
	t.Helper()
	first := map[string]string{}
	for target, names := range tree.HardLinks() {
		for _, n := range names[1:] {
			first[n] = target
		}
	}
	var out []string
	for e := range tree.All() {
		line := fmt.Sprintf("%s %v %d:%d", e.Path, e.Mode, e.UID, e.GID)
		switch e.Mode.Type() {
		case 0:
			var b strings.Builder
			if err := e.CopyTo(&b); err != nil {
				t.Fatal(err)
			}
			line += " " + b.String()
		case fs.ModeSymlink:
			line = fmt.Sprintf("%s link %d:%d %s", e.Path, e.UID, e.GID, e.Link)
		case fs.ModeDevice | fs.ModeCharDevice:
			line += fmt.Sprintf(" %d,%d", e.Major, e.Minor)
		}
		if v, ok := e.Xattrs["user.a"]; ok {
			line += " xattr " + string(v)
		}
		if f, ok := first[e.Path]; ok {
			line += " = " + f
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// TestExtract holds images without type changes or links in parents, which
// go-containerregistry's Extract has its own mind about, against it.
func TestExtract(t *testing.T) {
	for seed := range 40 {
		g := &generator{Rand: rand.New(rand.NewPCG(2, uint64(seed))), dirs: []string{""}, kinds: map[string]byte{}, tame: true}
		var layers [][]byte
		for range 2 + g.IntN(4) {
			layers = append(layers, tarOf(t, g.layer()))
		}
		img := imageOf(t, layers...)
		tree, err := treeOf(t, img)
		if err != nil {
			t.Fatalf("image %d: %v", seed, err)
		}
		want, links := extracted(t, img)
		var got []string
		for e := range tree.All() {
			if e.IsSymlink() && !slices.Contains(links, e.Path) {
				continue // Extract leaves out links that lead out of the image
			}
			got = append(got, fmt.Sprintf("%s %v %d:%d %s %d %d", e.Path, e.Mode, e.UID, e.GID, e.Link, e.Size, e.Minor))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("image %d (- Extract, + here):\n%s", seed, diff)
		}
	}
}

func extracted(t *testing.T, img v1.Image) (lines, links []string) {
	t.Helper()
	rc := mutate.Extract(img)
	defer rc.Close()
	tr := tar.NewReader(rc)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			slices.Sort(lines)
			return lines, links
		}
		if err != nil {
			t.Fatal(err)
		}
		e, err := rootfs.EntryOf(h)
		if err != nil {
			t.Fatal(err)
		}
		if e.IsSymlink() {
			links = append(links, e.Path)
		}
		lines = append(lines, fmt.Sprintf("%s %v %d:%d %s %d %d", e.Path, e.Mode, e.UID, e.GID, e.Link, h.Size, e.Minor))
	}
}
