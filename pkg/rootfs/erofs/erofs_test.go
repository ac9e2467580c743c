package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	goerofs "github.com/erofs/go-erofs"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

const epoch = 1700000000

// acl is a POSIX ACL as getxattr gives it: owner rwx, user 1000 r, owning
// group r, mask rwx, others nothing.
var acl = []byte("\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" +
	"\x20\x00\x00\x00\xff\xff\xff\xff")

func sample() []rootfs.Entry {
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	entries := []rootfs.Entry{
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "srv", Mode: fs.ModeDir | fs.ModeSetgid | 0o750, UID: 70, GID: 71},
		{Path: "bin/su", Mode: fs.ModeSetuid | 0o755, Size: 4, Content: rootfs.Bytes([]byte("ELF!"))},
		{Path: "bin/ping", Mode: 0o755, Xattrs: map[string][]byte{"security.capability": {1, 0, 0, 2, 0, 0x20, 18: 0, 19: 0}, "trusted.x": []byte("v")}, Size: 1, Content: rootfs.Bytes([]byte("p"))},
		{Path: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "dev/big", Mode: fs.ModeDevice | 0o660, Major: 259, Minor: 300, GID: 6},
		{Path: "run/fifo", Mode: fs.ModeNamedPipe | 0o600},
		{Path: "run/socket", Mode: fs.ModeSocket | 0o600},
		{Path: "home/ümläut", Mode: 0o640, UID: 70, GID: 70, Size: 3, Content: rootfs.Bytes([]byte("abc"))},
		{Path: "home/huge-owner", Mode: 0o644, UID: 3_000_000, GID: 4_000_000_000},
		{Path: "usr/share/big", Mode: 0o444, Size: int64(len(big)), Content: rootfs.Bytes(big)},
		{Path: "usr/share/block", Mode: 0o444, Size: 4096, Content: rootfs.Bytes(big[:4096])},
		{Path: "usr/share/almost", Mode: 0o444, Size: 4095, Content: rootfs.Bytes(big[:4095])},
		{Path: "usr/share/more", Mode: 0o444, Size: 4097, Content: rootfs.Bytes(big[:4097])},
		{Path: "acl", Mode: fs.ModeDir | 0o770, Xattrs: map[string][]byte{"system.posix_acl_access": acl, "system.posix_acl_default": acl}},
		{Path: "usr/share/hole", Mode: 0o444, Size: 3*BlockSize + 5, Content: rootfs.Bytes(make([]byte, 3*BlockSize+5))},
		{Path: "xattrs", Mode: 0o644, Xattrs: map[string][]byte{"user.big": big[:3000]}, Size: 2, Content: rootfs.Bytes([]byte("xx"))},
		rootfs.Symlink("lib64", "lib"),
		rootfs.Symlink("etc/far", strings.Repeat("../", 400)+"x"),
		rootfs.Regular("etc/empty", 0o600, nil),
		rootfs.Dir("empty", 0o700),
	}
	for i := range 700 { // a directory of several blocks
		entries = append(entries, rootfs.Regular(fmt.Sprintf("many/file-with-a-long-name-%04d", i), 0o644, []byte(fmt.Sprint(i))))
	}
	return entries
}

// build makes the tree; hard links are given by the name target.
func build(t testing.TB, entries []rootfs.Entry, target string) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for _, e := range entries {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"many/aa-link", "many/zz-link", "top-link"}
	add := func(e rootfs.Entry) {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	e := rootfs.Regular(target, 0o751, []byte("linked contents"))
	e.UID, e.Xattrs = 7, map[string][]byte{"trusted.l": []byte("1")}
	add(e)
	for _, n := range names {
		if n != target {
			add(rootfs.Hardlink(n, target))
		}
	}
	add(rootfs.Symlink("sl-b", "x"))
	add(rootfs.Hardlink("sl-a", "sl-b"))
	return tree
}

func write(t testing.TB, tree *rootfs.Tree, o Options) (string, Info) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := Write(context.Background(), f, tree, o)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != info.Size || info.Size%BlockSize != 0 {
		t.Fatalf("size %d, file %v, %v", info.Size, st.Size(), err)
	}
	return path, info
}

// TestDeterministic holds the bytes of an image: they may change with the
// format, never with the machine, the run or the order of insertion.
func TestDeterministic(t *testing.T) {
	const golden = "d6caba781a3d0c8ab8d54eb4530f4b11ef819a20cb93e9906e26151c653e19f1"
	entries := sample()
	for _, target := range []string{"top-link", "many/zz-link", "many/aa-link"} {
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		path, _ := write(t, build(t, entries, target), Options{Epoch: epoch})
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != golden {
			t.Errorf("links given by %s: digest %s, want %s", target, got, golden)
		}
	}
	_, a := write(t, build(t, entries[:5], "top-link"), Options{Epoch: epoch})
	_, b := write(t, build(t, entries[:6], "top-link"), Options{Epoch: epoch})
	if a.UUID == b.UUID {
		t.Error("other contents, the same UUID")
	}
	_, c := write(t, build(t, entries[:5], "top-link"), Options{Epoch: epoch, UUID: [16]byte{1, 2, 3}})
	if c.UUID != [16]byte{1, 2, 3} {
		t.Errorf("the UUID given became %x", c.UUID)
	}
}

func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func TestFsckAccepts(t *testing.T) {
	fsck := tool(t, "fsck.erofs")
	path, _ := write(t, build(t, sample(), "top-link"), Options{Epoch: epoch, UUID: [16]byte{0xab, 0xcd}})
	if out, err := exec.Command(fsck, "--extract", path).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
	out, err := exec.Command(tool(t, "dump.erofs"), "-s", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "abcd0000-0000-0000-0000-000000000000") {
		t.Errorf("dump.erofs: %v\n%s", err, out)
	}
	empty, _ := write(t, rootfs.New(), Options{})
	if out, err := exec.Command(fsck, empty).CombinedOutput(); err != nil {
		t.Errorf("empty tree: fsck.erofs: %v\n%s", err, out)
	}
}

// mount mounts an image until the test ends.
func mount(t testing.TB, image string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
		t.Skipf("this kernel mounts no EROFS by loop here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// The kernel's view, attribute by attribute.
func TestMounted(t *testing.T) {
	tree := build(t, sample(), "many/zz-link")
	path, _ := write(t, tree, Options{Epoch: epoch})
	treetest.Compare(t, mount(t, path), tree, epoch)
}

// TestRandomTrees writes trees drawn by fixed seeds.
func TestRandomTrees(t *testing.T) {
	fsck := tool(t, "fsck.erofs")
	for seed := range uint64(12) {
		tree := treetest.Random(t, seed)
		image, _ := write(t, tree, Options{Epoch: epoch})
		if out, err := exec.Command(fsck, "--extract", image).CombinedOutput(); err != nil {
			t.Errorf("seed %d: fsck.erofs: %v\n%s", seed, err, out)
		}
		treetest.Compare(t, mount(t, image), tree, epoch)
	}
}

// Another reader of the format sees the same.
func TestReadByGoErofs(t *testing.T) {
	tree := build(t, sample(), "top-link")
	image, _ := write(t, tree, Options{Epoch: epoch})
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	for e := range tree.All() {
		if !e.IsRegular() {
			continue
		}
		var want bytes.Buffer
		if err := e.CopyTo(&want); err != nil {
			t.Fatal(err)
		}
		if got, err := fs.ReadFile(fsys, e.Path); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s: %v, %d bytes, want %d", e.Path, err, len(got), want.Len())
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		entry rootfs.Entry
		want  string
	}{
		{rootfs.Entry{Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"os2.x": nil}}, "x: extended attribute os2.x"},
		{rootfs.Entry{Path: "x", Mode: fs.ModeDevice, Minor: 1 << 20}, "out of range"},
		{rootfs.Entry{Path: "x", Mode: 0o644, Size: 1 << 44, Content: rootfs.File("x")}, "larger than an image"},
	} {
		tree := rootfs.New()
		if err := tree.Add(test.entry); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Write(context.Background(), f, tree, Options{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
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
	if _, err := Write(ctx, f, build(t, sample(), "top-link"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
