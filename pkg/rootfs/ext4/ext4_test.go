package ext4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const epoch = 1700000000

// acl is a POSIX ACL as getxattr gives it: owner rwx, user 1000 r, owning
// group r, mask rwx, others nothing.
var acl = []byte("\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" +
	"\x20\x00\x00\x00\xff\xff\xff\xff")

func file(path string, size int) rootfs.Entry {
	return rootfs.Regular(path, 0o644, pattern(size))
}

// pattern is size bytes without a block of zeros.
func pattern(size int) []byte {
	return bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
}

func sample() []rootfs.Entry {
	capability := []byte{1, 0, 0, 2, 0, 0x20, 18: 0, 19: 0}
	holes := make([]byte, 40*BlockSize)
	for i := range 12 { // more extents than an inode holds
		holes[i*3*BlockSize] = byte(i + 1)
	}
	entries := []rootfs.Entry{
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "srv", Mode: fs.ModeDir | fs.ModeSetgid | 0o770, UID: 70, GID: 71, Xattrs: map[string][]byte{"system.posix_acl_access": acl, "system.posix_acl_default": acl}},
		{Path: "bin/su", Mode: fs.ModeSetuid | 0o755, Size: 4, Content: rootfs.Bytes([]byte("ELF!"))},
		{Path: "bin/ping", Mode: 0o755, Xattrs: map[string][]byte{"security.capability": capability, "trusted.x": []byte("v"), "user.empty": {}}, Size: 1, Content: rootfs.Bytes([]byte("p"))},
		{Path: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "dev/big", Mode: fs.ModeDevice | 0o660, Major: 259, Minor: 300, GID: 6},
		{Path: "dev/most", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o660, Major: 1<<12 - 1, Minor: 1<<20 - 1},
		{Path: "run/fifo", Mode: fs.ModeNamedPipe | 0o600},
		{Path: "run/socket", Mode: fs.ModeSocket | 0o600},
		{Path: "home/ümläut", Mode: 0o640, UID: 70, GID: 70, Size: 3, Content: rootfs.Bytes([]byte("abc"))},
		{Path: "home/huge-owner", Mode: 0o644, UID: 3_000_000, GID: 4_000_000_000},
		{Path: "home/" + strings.Repeat("n", 255), Mode: 0o644},
		{Path: "xattr/both", Mode: 0o644, Xattrs: map[string][]byte{"user.a": pattern(30), "user.large": pattern(3000), "trusted.b": []byte("b"), "security.selinux": []byte("u:r:t:s0")}, Size: 2, Content: rootfs.Bytes([]byte("xx"))},
		{Path: "xattr/dir", Mode: fs.ModeDir | 0o755, Xattrs: map[string][]byte{"user.large": pattern(2000)}},
		{Path: "xattr/node", Mode: fs.ModeDevice | 0o600, Major: 7, Xattrs: map[string][]byte{"trusted.large": pattern(500)}},
		{Path: "xattr/link", Mode: fs.ModeSymlink | 0o777, Link: "fast", Xattrs: map[string][]byte{"trusted.large": pattern(500)}},
		{Path: "lost+found/kept", Mode: 0o600, Size: 4, Content: rootfs.Bytes([]byte("kept"))},
		rootfs.Symlink("lib64", "lib"),
		rootfs.Symlink("etc/59", strings.Repeat("f", 59)),
		rootfs.Symlink("etc/60", strings.Repeat("s", 60)),
		rootfs.Symlink("etc/far", strings.Repeat("../", 1300)+"x"),
		rootfs.Regular("etc/empty", 0o600, nil),
		rootfs.Regular("usr/holes", 0o600, holes),
		rootfs.Regular("usr/only-a-hole", 0o600, make([]byte, 3*BlockSize+5)),
		rootfs.Regular("usr/hole-at-the-end", 0o600, append(pattern(BlockSize), make([]byte, 2*BlockSize)...)),
		rootfs.Dir("empty", 0o700),
		file("usr/share/big", 3<<20+17),
		file("usr/share/block", BlockSize),
		file("usr/share/almost", BlockSize-1),
		file("usr/share/more", BlockSize+1),
	}
	for i := range 1500 { // an indexed directory
		entries = append(entries, file(fmt.Sprintf("many/file-with-a-long-name-%04d", i), i%40))
	}
	return entries
}

// build makes the tree; its hard links are given by the name target.
func build(t testing.TB, entries []rootfs.Entry, target string) *rootfs.Tree {
	t.Helper()
	e := rootfs.Regular(target, 0o751, []byte("linked contents"))
	e.UID, e.Xattrs = 7, map[string][]byte{"trusted.l": []byte("1")}
	tree := treeOf(t, append(entries[:len(entries):len(entries)], e)...)
	for _, name := range []string{"many/aa-link", "many/zz-link", "top-link"} {
		if name != target {
			add(t, tree, rootfs.Hardlink(name, target))
		}
	}
	add(t, tree, rootfs.Symlink("sl-b", "x"))
	add(t, tree, rootfs.Hardlink("sl-a", "sl-b"))
	return tree
}

func treeOf(t testing.TB, entries ...rootfs.Entry) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for _, e := range entries {
		add(t, tree, e)
	}
	return tree
}

func add(t testing.TB, tree *rootfs.Tree, e rootfs.Entry) {
	t.Helper()
	if err := tree.Add(e); err != nil {
		t.Fatal(err)
	}
}

// write writes an image and checks what Info says of it.
func write(t testing.TB, tree *rootfs.Tree, o Options) (string, Info) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.ext4")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := Write(context.Background(), f, tree, o)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != info.Size {
		t.Fatalf("Info has %d bytes, the file %v, %v", info.Size, st.Size(), err)
	}
	return path, info
}

func digest(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestGolden holds the bytes of an image: they may change with the format,
// never with the machine, the run or the order of insertion.
func TestGolden(t *testing.T) {
	const want = "6793ab053b1a33de6bf6bf0b40f88d3656c53982f51983d82800a25003cf6e52"
	entries := sample()
	r := rand.New(rand.NewPCG(1, 2))
	for _, target := range []string{"top-link", "many/zz-link", "many/aa-link"} {
		r.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		path, _ := write(t, build(t, entries, target), Options{Epoch: epoch, Label: "golden"})
		if got := digest(t, path); got != want {
			t.Errorf("links given by %s: digest %s, want %s", target, got, want)
		}
	}
}

func TestUUID(t *testing.T) {
	entries := sample()
	_, a := write(t, build(t, entries[:5], "top-link"), Options{Epoch: epoch})
	_, b := write(t, build(t, entries[:6], "top-link"), Options{Epoch: epoch})
	if a.UUID == b.UUID {
		t.Error("another tree, the same UUID")
	}
	_, c := write(t, build(t, entries[:5], "top-link"), Options{Epoch: epoch, UUID: [16]byte{1, 2, 3}})
	if c.UUID != [16]byte{1, 2, 3} {
		t.Errorf("the UUID given became %x", c.UUID)
	}
}

// A copy of a file that has zeros where the other has a hole gives the same
// image, and a file with holes that is not read in full the right one.
func TestHolesOfTheHost(t *testing.T) {
	dir := t.TempDir()
	full, sparse := filepath.Join(dir, "full"), filepath.Join(dir, "sparse")
	const size = 9<<20 + 100
	f, err := os.Create(sparse)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{1, 3<<20 + 5000, 3<<20 + 9000, 5 << 20, size - 1} {
		if _, err := f.WriteAt([]byte("data")[:min(4, size-at)], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(sparse)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, data, 0o644); err != nil {
		t.Fatal(err)
	}
	var digests []string
	for _, content := range []rootfs.Content{rootfs.File(full), rootfs.File(sparse), rootfs.Bytes(data)} {
		path, _ := write(t, treeOf(t, rootfs.Entry{Path: "x", Mode: 0o644, Size: size, Content: content}), Options{Epoch: epoch})
		digests = append(digests, digest(t, path))
	}
	if digests[0] != digests[1] || digests[0] != digests[2] {
		t.Errorf("three ways of the same bytes, digests %q", digests)
	}
}

func TestRefusals(t *testing.T) {
	tree := func(e rootfs.Entry) *rootfs.Tree { return treeOf(t, e) }
	for _, test := range []struct {
		name string
		tree *rootfs.Tree
		o    Options
		want string
	}{
		{"too small", tree(file("x", 5<<20)), Options{Size: 8 << 20}, "does not fit"},
		{"tiny", rootfs.New(), Options{Size: 1 << 20}, "size 1048576 is not"},
		{"huge", rootfs.New(), Options{Size: 1 << 50}, "is not"},
		{"label", rootfs.New(), Options{Label: "seventeen letters"}, "longer than 16"},
		{"time", rootfs.New(), Options{Epoch: -1}, "time -1"},
		{"reserved", rootfs.New(), Options{ReservedPercent: 51}, "51 %"},
		{"inodes", rootfs.New(), Options{BytesPerInode: 1}, "per inode"},
		{"journal", rootfs.New(), Options{JournalSize: 4096}, "journal of 4096"},
		{"journal larger than all", rootfs.New(), Options{JournalSize: 16 << 20, Size: 16 << 20}, "does not fit"},
		{"lost+found", tree(file("lost+found", 1)), Options{}, "needs it to be a directory"},
		{"namespace", tree(rootfs.Entry{Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"os2.x": nil}}), Options{}, "x: extended attribute os2.x"},
		{"ACL", tree(rootfs.Entry{Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"system.posix_acl_access": []byte("rwx")}}), Options{}, "not a POSIX ACL"},
		{"ACL tag", tree(rootfs.Entry{Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"system.posix_acl_access": []byte("\x02\x00\x00\x00\x07\x00\x07\x00\xff\xff\xff\xff")}}), Options{}, "unknown tag"},
		{"large attribute", tree(rootfs.Entry{Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"user.x": make([]byte, 5000)}}), Options{}, "do not fit the 4096"},
		{"device", tree(rootfs.Entry{Path: "x", Mode: fs.ModeDevice, Major: 5000}), Options{}, "out of range"},
		{"large file", tree(rootfs.Entry{Path: "x", Mode: 0o644, Size: 1 << 45, Content: rootfs.File("x")}), Options{}, "more than the"},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Write(context.Background(), f, test.tree, test.o)
		if err == nil || !strings.Contains(err.Error(), test.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Contents that are not what the entry says are an error, not an image.
func TestChangedContents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	for _, size := range []int64{0, 1, 4095, 4096, 4097, 3 << 20} {
		if err := os.WriteFile(path, pattern(int(size)), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, claimed := range []int64{size - 1, size + 1, size + 5000} {
			if claimed < 0 {
				continue
			}
			tree := treeOf(t, rootfs.Entry{Path: "x", Mode: 0o644, Size: claimed, Content: rootfs.File(path)})
			f, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Write(context.Background(), f, tree, Options{}); err == nil || !strings.Contains(err.Error(), "x: contents are not the") {
				t.Errorf("%d bytes given as %d: %v", size, claimed, err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestWriteStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Write(ctx, f, build(t, sample(), "top-link"), Options{}); err == nil || ctx.Err() == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("got %v", err)
	}
}

func tool(t testing.TB, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// run runs a program that has to succeed and returns what it prints.
func runTool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
