package ext4

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

// read reads an image that has to be right.
func read(t testing.TB, path string) *rootfs.Tree {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	tree, err := Read(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// same fails for each difference of two trees.
func same(t testing.TB, want, got *rootfs.Tree) {
	t.Helper()
	changes, err := rootfs.Diff(t.Context(), want, got)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range changes {
		if i == 20 {
			t.Errorf("%d differences in all", len(changes))
			break
		}
		t.Errorf("%.60s %s %.300v %v", c.Path, c.Kind, c.Attributes, c.Bytes)
	}
}

func TestReadBack(t *testing.T) {
	tree := build(t, sample(), "many/zz-link")
	first, _ := write(t, tree, Options{Epoch: epoch})
	back := read(t, first)
	same(t, tree, back)
	again, _ := write(t, back, Options{Epoch: epoch})
	if digest(t, first) != digest(t, again) {
		t.Error("what was read gives another image")
	}
	for seed := range uint64(6) {
		tree := treetest.Random(t, seed)
		path, _ := write(t, tree, Options{Epoch: epoch})
		same(t, tree, read(t, path))
	}
}

// What every mkfs makes is no part of the tree.
func TestReadLostFound(t *testing.T) {
	path, _ := write(t, rootfs.New(), Options{})
	if back := read(t, path); back.Len() != 0 {
		t.Errorf("an empty image has %d entries", back.Len())
	}
	own := rootfs.Dir(lostFound, 0o711)
	path, _ = write(t, treeOf(t, own), Options{})
	if _, ok := read(t, path).Lookup(lostFound); !ok {
		t.Error("a lost+found of one's own is lost")
	}
}

// hostTree makes a directory with everything that needs no special rights of
// its file system.
func hostTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	check(os.MkdirAll(in("usr/lib/deep/er"), 0o755))
	check(os.Mkdir(in("many"), 0o750))
	for i := range 700 {
		check(os.WriteFile(in(fmt.Sprintf("many/file-with-a-long-name-%04d", i)), pattern(i%50), 0o600))
	}
	check(os.WriteFile(in("usr/lib/big"), pattern(2<<20+3), 0o644))
	check(os.WriteFile(in("usr/lib/empty"), nil, 0o644))
	check(os.Symlink("short", in("usr/short")))
	check(os.Symlink(strings.Repeat("l", 60), in("usr/60")))
	check(os.Symlink(strings.Repeat("long/", 190), in("usr/long")))
	check(os.Link(in("usr/lib/big"), in("usr/another-name")))
	f, err := os.Create(in("usr/sparse"))
	check(err)
	for i := range 30 { // more extents than an inode holds, and a map of three levels
		_, err := f.WriteAt([]byte("data"), int64(i)*300<<10)
		check(err)
	}
	_, err = f.WriteAt([]byte("far"), 70<<20)
	check(err)
	check(f.Close())
	check(os.Chmod(in("usr/lib/empty"), os.ModeSetuid|0o755))
	if os.Getuid() == 0 {
		check(unix.Mknod(in("usr/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		check(unix.Mknod(in("usr/wide"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 300))))
		check(os.Lchown(in("usr/short"), 1000, 1001))
	}
	check(unix.Mkfifo(in("usr/fifo"), 0o600))
	for name, size := range map[string]int{"user.small": 5, "user.large": 600} {
		if err := unix.Setxattr(in("usr/lib/big"), name, pattern(size), 0); err != nil && err != unix.ENOTSUP {
			t.Fatal(err)
		}
	}
	return dir
}

// formats are what mke2fs makes and Read reads.
var formats = []struct {
	name string
	args []string
}{
	{"ext4", []string{"-t", "ext4"}},
	{"ext4 with blocks of 1024", []string{"-t", "ext4", "-b", "1024"}},
	{"ext4 with blocks of 2048 and small inodes", []string{"-t", "ext4", "-b", "2048", "-I", "128"}},
	{"ext4 without checksums", []string{"-t", "ext4", "-O", "^metadata_csum,uninit_bg"}},
	{"ext4 with 32 bits", []string{"-t", "ext4", "-O", "^64bit"}},
	{"meta_bg", []string{"-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"}},
	{"seed of its own", []string{"-t", "ext4", "-O", "metadata_csum_seed,large_dir"}},
	{"sparse_super2", []string{"-t", "ext4", "-O", "sparse_super2,^resize_inode"}},
	{"bigalloc", []string{"-t", "ext4", "-O", "bigalloc"}},
	{"no types of files", []string{"-t", "ext4", "-O", "^filetype"}},
	{"casefold", []string{"-t", "ext4", "-O", "casefold"}},
	{"ext3", []string{"-t", "ext3"}},
	{"ext2", []string{"-t", "ext2", "-b", "1024"}},
	{"blocks of 64 KiB", []string{"-t", "ext4", "-b", "65536", "-F"}},
	{"ext2 of 1995", []string{"-t", "ext2", "-r", "0", "-O", "none"}},
}

// Images of mke2fs -d.
func TestReadForeign(t *testing.T) {
	dir := hostTree(t)
	want, err := rootfs.ReadDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range formats {
		t.Run(format.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			args := append([]string{"-q", "-d", dir}, format.args...)
			runTool(t, "mke2fs", append(args, path, "96m")...)
			got := read(t, path)
			if format.name == "ext2 of 1995" { // which has none
				e, _ := want.Lookup("usr/lib/big")
				want.Remove("usr/another-name")
				e.Hard, e.Xattrs = "", nil
				set(t, want, e, rootfs.Hardlink("usr/another-name", "usr/lib/big"))
			}
			same(t, want, got)
		})
	}
}

func set(t testing.TB, tree *rootfs.Tree, entries ...rootfs.Entry) {
	t.Helper()
	for _, e := range entries {
		if err := tree.Set(e); err != nil {
			t.Fatal(err)
		}
	}
}

// Images that the kernel's ext4 wrote.
func TestReadWritten(t *testing.T) {
	for _, format := range formats {
		t.Run(format.name, func(t *testing.T) {
			switch format.name {
			case "blocks of 64 KiB":
				t.Skip("older kernels mount no blocks larger than a page")
			case "casefold":
				t.Skip("not every kernel has it")
			}
			path := filepath.Join(t.TempDir(), "image")
			args := append([]string{"-q"}, format.args...)
			runTool(t, "mke2fs", append(args, path, "96m")...)
			dir, _, unmount := mount(t, path, "rw,user_xattr")
			runTool(t, "cp", "-a", "--sparse=always", hostTree(t)+"/.", dir)
			for i := 0; i < 700; i += 3 { // leaves holes between the names
				if err := os.Remove(filepath.Join(dir, fmt.Sprintf("many/file-with-a-long-name-%04d", i))); err != nil {
					t.Fatal(err)
				}
			}
			f, err := os.Create(filepath.Join(dir, "unwritten"))
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<20); err != nil && err != unix.EOPNOTSUPP {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			unmount()
			got := read(t, path)
			dir, _, _ = mount(t, path, "ro")
			want, err := rootfs.ReadDir(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			want.Remove(lostFound)
			same(t, want, got)
		})
	}
}

// Every bit that a checksum covers is covered: a changed one is an error.
func TestReadChecksums(t *testing.T) {
	holes := make([]byte, 2*400*BlockSize)
	for i := range 400 { // a block of extents
		holes[2*i*BlockSize] = 1
	}
	entries := append(sample()[:14:14], rootfs.Regular("holes", 0o644, holes))
	for i := range 300 {
		entries = append(entries, file(fmt.Sprintf("many/file-with-a-long-name-%04d", i), 0))
	}
	tree := treeOf(t, entries...)
	path, _ := write(t, tree, Options{Epoch: epoch})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(tree)
	if err != nil {
		t.Fatal(err)
	}
	m := &image{r: bytes.NewReader(whole), budget: rootfs.NewBudget(rootfs.DefaultLimits()), claims: newClaims()}
	if err := m.readSuperblock(); err != nil {
		t.Fatal(err)
	}
	if err := m.readGroups(t.Context()); err != nil {
		t.Fatal(err)
	}
	places := map[string][2]int64{
		"superblock": {1024, 1024},
		"descriptor": {BlockSize, descSize},
		"root":       {int64(m.tables[0])*BlockSize + inodeSize, inodeSize},
		"inodes":     {int64(m.tables[0])*BlockSize + 10*inodeSize, int64(p.lastInode-10) * inodeSize},
	}
	for i, name := range p.paths {
		n, err := m.readInode(p.inodes[i])
		if err != nil {
			t.Fatal(err)
		}
		if n.acl != 0 {
			places["attributes of "+name] = [2]int64{int64(n.acl) * BlockSize, BlockSize}
		}
		if e, _ := tree.Lookup(name); !e.IsDir() && !e.IsRegular() {
			continue
		}
		x, err := m.readMap(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if x.names {
			for _, e := range x.list {
				places["names of "+name] = [2]int64{int64(e.start) * BlockSize, int64(e.n) * BlockSize}
			}
		}
	}
	for block := range m.pointers {
		places[fmt.Sprintf("extents in block %d", block)] = [2]int64{int64(block) * BlockSize, extentTail + 4}
	}
	if len(places) < 10 {
		t.Fatalf("%d places are not all kinds of them: %v", len(places), places)
	}
	for name, place := range places {
		for i := range int64(40) {
			at := place[0] + i*place[1]/40
			if strings.HasPrefix(name, "names of ") && (at%BlockSize >= 4090 || unusedIndex(whole, at)) {
				continue // the index's unused places have no checksum
			}
			whole[at] ^= 0x10
			if _, err := Read(t.Context(), bytes.NewReader(whole)); err == nil {
				t.Errorf("%s: byte %d changed, and no error", name, at-place[0])
			}
			whole[at] ^= 0x10
		}
	}
}

// unusedIndex says whether a byte is in the unused part of an index.
func unusedIndex(whole []byte, at int64) bool {
	b := whole[at/BlockSize*BlockSize:][:BlockSize]
	if u16(b, 4) != 12 || u16(b, 16) != BlockSize-12 || b[29] != 8 {
		return false
	}
	return at%BlockSize >= indexRootAt+8*int64(u16(b, indexRootAt+2))
}

// debug changes an image by debugfs.
func debug(t testing.TB, path string, commands ...string) {
	t.Helper()
	cmd := exec.Command(tool(t, "debugfs"), "-w", "-f", "-", path)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
}

func TestReadRefusals(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/b/c", "d"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), pattern(9000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), pattern(9000), 0o644); err != nil {
		t.Fatal(err)
	}
	mke2fs := []string{"-q", "-t", "ext4", "-d", dir, "-b", "1024", "-O", "^metadata_csum"}
	ext2 := []string{"-q", "-t", "ext2", "-d", dir, "-b", "1024"}
	for _, test := range []struct {
		name   string
		args   []string
		change func(t *testing.T, path string)
		want   string
	}{
		{"journal", mke2fs, func(t *testing.T, path string) { debug(t, path, "feature needs_recovery") }, "journal holds changes"},
		{"inline data", append(mke2fs[:len(mke2fs):len(mke2fs)], "-O", "inline_data"), nil, "not supported: inline_data"},
		{"not unmounted", ext2, func(t *testing.T, path string) { debug(t, path, "ssv state 0") }, "was not unmounted"},
		{"directory loop", mke2fs, func(t *testing.T, path string) { debug(t, path, "link a a/b/loop") }, "is the directory a already"},
		{"second parent", mke2fs, func(t *testing.T, path string) { debug(t, path, "link a/b d/b") }, "is the directory"},
		{"root below itself", mke2fs, func(t *testing.T, path string) { debug(t, path, "link / d/root") }, "is the directory . already"},
		{"block used twice", ext2, func(t *testing.T, path string) { debug(t, path, "sif other block[0] 1") }, "block 1 is used twice"},
		{"pointer loop", ext2, func(t *testing.T, path string) {
			debug(t, path, "sif file block[IND] 40", "sif file block[DIND] 40")
		}, "is used twice"},
		{"block outside", ext2, func(t *testing.T, path string) { debug(t, path, "sif file block[0] 4000000") }, "outside the file system"},
		{"inode outside", mke2fs, func(t *testing.T, path string) { debug(t, path, "link <11> d/x", "ssv inodes_count 12") }, "there are 12 inodes"},
		{"hole in a directory", ext2, func(t *testing.T, path string) { debug(t, path, "sif d block[0] 0") }, "is a hole"},
		{"deleted", mke2fs, func(t *testing.T, path string) { debug(t, path, "sif file links_count 0") }, "link count of 0"},
		{"type", mke2fs, func(t *testing.T, path string) { debug(t, path, "sif file mode 0010644") }, "the directory has it as type"},
		{"fs-verity", mke2fs, func(t *testing.T, path string) { debug(t, path, "sif file flags 0x180000") }, "ext4: file: inode 16: it has fs-verity, which is not supported"},
		{"encrypted", mke2fs, func(t *testing.T, path string) { debug(t, path, "sif file flags 0x80800") }, "it is encrypted, which is not supported"},
		{"size near the end of the numbers", mke2fs, func(t *testing.T, path string) { debug(t, path, "sif file size 0x7fffffffffffffff") }, "a size of 9223372036854775807 bytes"},
		{"negative size", mke2fs, func(t *testing.T, path string) { debug(t, path, "sif file size 0xffffffffffffffff") }, "a size of 18446744073709551615 bytes"},
		{"blocks near the end of the numbers", mke2fs, func(t *testing.T, path string) { debug(t, path, "ssv blocks_count 0xffffffff") }, "groups of blocks are more than"},
		{"cut short", mke2fs, func(t *testing.T, path string) {
			if err := os.Truncate(path, 1<<20); err != nil {
				t.Fatal(err)
			}
		}, "the image ends before"},
		{"something else", mke2fs, func(t *testing.T, path string) {
			if err := os.WriteFile(path, pattern(1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not an image of"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			runTool(t, "mke2fs", append(test.args[:len(test.args):len(test.args)], path, "4m")...)
			if test.change != nil {
				test.change(t, path)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := Read(t.Context(), f); err == nil || !strings.Contains(err.Error(), test.want) || fault.ClassOf(err) != fault.Source {
				t.Errorf("got %v (class %d), want %q", err, fault.ClassOf(err), test.want)
			}
		})
	}
}

// More entries than Read has memory for are refused before they are there.
func TestReadLimit(t *testing.T) {
	path, _ := write(t, treeOf(t, file("a/b", 3), file("a/c", 4)), Options{})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := &image{r: f, budget: rootfs.NewBudget(rootfs.Limits{Entries: 100, Metadata: 2500}), claims: newClaims()}
	if err := m.readSuperblock(); err != nil {
		t.Fatal(err)
	}
	if err := m.readGroups(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := walk{image: m, ctx: t.Context(), tree: rootfs.New(), names: map[uint32]string{}}
	if err := w.run(); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("got %v", err)
	}
}

// Names are bytes: what Linux has comes through, and e2fsck agrees.
func TestNamesThatAreNotUTF8(t *testing.T) {
	tree := treetest.RawNames(t)
	path, _ := write(t, tree, Options{Epoch: epoch})
	fsck(t, path)
	same(t, tree, read(t, path))
}

// An ordinary desktop has some 300,000 names.
func TestManyNames(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	tree := treetest.Many(t, 300_000)
	path, _ := write(t, tree, Options{Epoch: epoch})
	same(t, tree, read(t, path))
}

// Holes are found by the map of the blocks, not by reading them.
func TestReadHoles(t *testing.T) {
	const size, at = 5 << 40, 3 << 40
	name := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(pattern(5000), at); err != nil {
		t.Skip(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Skip(err)
	}
	tree := treeOf(t, rootfs.Entry{Path: "sparse", Mode: 0o644, Size: size, Content: rootfs.File(name)})
	path, _ := write(t, tree, Options{Epoch: epoch, Size: 64 << 20})
	again, _ := write(t, read(t, path), Options{Epoch: epoch, Size: 64 << 20})
	if digest(t, path) != digest(t, again) {
		t.Error("another image came of the image")
	}
}

func TestReadStopsWithItsContext(t *testing.T) {
	path, _ := write(t, build(t, sample(), "top-link"), Options{})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, f); fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("got %v", err)
	}
}

// Contents are an io.ReaderAt, as those of other trees are.
func TestReadContentsAt(t *testing.T) {
	holes := make([]byte, 9*BlockSize+7)
	holes[4*BlockSize], holes[9*BlockSize+6] = 1, 2
	path, _ := write(t, treeOf(t, rootfs.Regular("x", 0o644, holes)), Options{})
	e, _ := read(t, path).Lookup("x")
	in, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	at, ok := in.(io.ReaderAt)
	if !ok {
		t.Fatalf("%T is no io.ReaderAt", in)
	}
	b := make([]byte, 6*BlockSize)
	if _, err := at.ReadAt(b, 3*BlockSize+7); err != nil || !bytes.Equal(b, holes[3*BlockSize+7:]) {
		t.Errorf("other bytes, %v", err)
	}
}
