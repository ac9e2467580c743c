package ext4

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

// mount mounts an image by the kernel's ext4 and returns where, the loop
// device and the function that unmounts it.
func mount(t testing.TB, image, options string) (dir, device string, unmount func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,"+options, image, dir).CombinedOutput(); err != nil {
		if probe, probeErr := exec.Command("losetup", "--find").CombinedOutput(); probeErr != nil {
			t.Skipf("there are no loop devices: %v: %s", probeErr, probe)
		}
		t.Fatalf("mount: %v: %s", err, out)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}
	t.Cleanup(unmount)
	return dir, strings.TrimSpace(runTool(t, "findmnt", "--noheadings", "--output", "SOURCE", dir)), unmount
}

// The kernel's view, attribute by attribute.
func TestMounted(t *testing.T) {
	tree := build(t, sample(), "many/zz-link")
	image, _ := write(t, tree, Options{Epoch: epoch})
	dir, _, _ := mount(t, image, "ro,noload")
	treetest.Compare(t, dir, tree, epoch, lostFound)
}

func TestRandomTreesMounted(t *testing.T) {
	for seed := range uint64(6) {
		tree := treetest.Random(t, seed)
		image, _ := write(t, tree, Options{Epoch: MaxEpoch})
		dir, _, unmount := mount(t, image, "ro")
		treetest.Compare(t, dir, tree, MaxEpoch, lostFound)
		unmount()
	}
}

// TestWritten mounts an image, changes it in every way, and has it checked.
func TestWritten(t *testing.T) {
	tree := build(t, sample(), "many/zz-link")
	image, _ := write(t, tree, Options{Epoch: epoch, Size: 96 << 20, BytesPerInode: 8192})
	dir, _, unmount := mount(t, image, "rw")
	change(t, dir)
	unmount()
	fsck(t, image)
	dir, _, _ = mount(t, image, "ro")
	if got, err := os.ReadFile(filepath.Join(dir, "new/3999")); err != nil || string(got) != "3999" {
		t.Errorf("a new file: %q, %v", got, err)
	}
}

// change writes into a mounted sample.
func change(t testing.TB, dir string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Mkdir(filepath.Join(dir, "new"), 0o755))
	for i := range 4000 { // blocks of the index split
		check(os.WriteFile(filepath.Join(dir, "new", fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o644))
		check(os.WriteFile(filepath.Join(dir, "many", fmt.Sprintf("yet another %d", i)), nil, 0o644))
	}
	for i := range 1000 {
		check(os.Remove(filepath.Join(dir, fmt.Sprintf("many/file-with-a-long-name-%04d", i))))
	}
	f, err := os.OpenFile(filepath.Join(dir, "usr/holes"), os.O_RDWR, 0)
	check(err)
	for i := range 40 { // fills the holes
		_, err := f.WriteAt([]byte("x"), int64(i*BlockSize+100))
		check(err)
	}
	check(f.Truncate(5 * BlockSize))
	check(f.Close())
	check(os.WriteFile(filepath.Join(dir, "usr/large"), pattern(20<<20), 0o644))
	check(unix.Setxattr(filepath.Join(dir, "bin/ping"), "user.more", pattern(1000), 0))
	check(unix.Removexattr(filepath.Join(dir, "xattr/both"), "user.large"))
	check(os.Remove(filepath.Join(dir, "xattr/node")))
	check(os.Link(filepath.Join(dir, "top-link"), filepath.Join(dir, "new/link")))
	check(os.Rename(filepath.Join(dir, "srv"), filepath.Join(dir, "new/srv")))
	check(os.RemoveAll(filepath.Join(dir, "home")))
}

// TestResizeOffline grows and shrinks an image by resize2fs.
func TestResizeOffline(t *testing.T) {
	tree := build(t, sample(), "top-link")
	image, info := write(t, tree, Options{Epoch: epoch, Size: 100 << 20})
	for _, size := range []int64{info.Size + 9<<20, 700 << 20, 5 << 30, 40 << 20} {
		if size > info.Size {
			if err := os.Truncate(image, size); err != nil {
				t.Fatal(err)
			}
		}
		runTool(t, "resize2fs", "-f", image, fmt.Sprintf("%dK", size>>10))
		fsck(t, image)
	}
}

// needResource skips where a sandbox took the right to resize away, root or
// not; TestBoot asks a kernel of its own.
func needResource(t testing.TB) {
	t.Helper()
	const capSysResource = 24
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	if data[0].Effective&(1<<capSysResource) == 0 {
		t.Skip("resizing a mounted file system needs CAP_SYS_RESOURCE")
	}
}

// TestResizeOnline grows a mounted image, past the group, the flexible group
// and the reserved descriptor blocks it began with.
func TestResizeOnline(t *testing.T) {
	needResource(t)
	tree := build(t, sample(), "top-link")
	image, _ := write(t, tree, Options{Epoch: epoch, Size: 100 << 20, BytesPerInode: 8192})
	dir, device, unmount := mount(t, image, "rw")
	for _, size := range []int64{120 << 20, 1 << 30, 20 << 30} {
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		runTool(t, "losetup", "--set-capacity", device)
		runTool(t, "resize2fs", device)
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || int64(st.Blocks)*BlockSize < size*9/10-20<<20 {
			t.Errorf("grown to %d bytes, statfs has %d, %v", size, int64(st.Blocks)*BlockSize, err)
		}
	}
	treetest.Compare(t, dir, tree, epoch, lostFound)
	change(t, dir)
	unmount()
	fsck(t, image)
}

// TestDirectoryMounted looks up every name of a directory whose index has two
// levels.
func TestDirectoryMounted(t *testing.T) {
	tree := rootfs.New()
	const count = 100000
	for i := range count {
		add(t, tree, rootfs.Regular(fmt.Sprintf("d/ä%022d", i), 0o644, nil))
	}
	image, _ := write(t, tree, Options{Epoch: epoch})
	dir, _, _ := mount(t, image, "ro")
	var st unix.Stat_t
	for i := range count {
		if err := unix.Lstat(filepath.Join(dir, fmt.Sprintf("d/ä%022d", i)), &st); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
}

// TestLargeSparse has files of over 4 GiB that are mostly holes, one of them
// with more extents than one level of the tree holds.
func TestLargeSparse(t *testing.T) {
	const size = 5<<30 + 12345
	full := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(full)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 4<<30 - 1, 4 << 30, size - 5} {
		if _, err := f.WriteAt([]byte("data!"), at); err != nil {
			t.Fatal(err)
		}
	}
	// 340 extents are a block, 4 blocks the most without a second level.
	const fragments = 5 * blockExtents
	holes := make([]byte, 2*fragments*BlockSize)
	for i := range fragments {
		holes[2*i*BlockSize] = 1
	}
	tree := treeOf(t,
		rootfs.Entry{Path: "a/sparse", Mode: 0o644, Size: size, Content: rootfs.File(full)},
		rootfs.Regular("b/holes", 0o644, holes),
		rootfs.Entry{Path: "c/contiguous", Mode: 0o644, Size: 700 << 20, Content: ones(700 << 20)},
	)
	image, info := write(t, tree, Options{Epoch: epoch})
	fsck(t, image)
	if used := info.Blocks - info.FreeBlocks; used*BlockSize > 1<<30 {
		t.Errorf("%d blocks in use: holes were written", used)
	}
	if out := runTool(t, "debugfs", "-R", "extents /b/holes", image); !strings.Contains(out, " 0/ 2 ") {
		t.Errorf("no second level of extents:\n%.500s", out)
	}
	dir, _, _ := mount(t, image, "ro")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "a/sparse"), &st); err != nil || st.Size != size || st.Blocks > 100 {
		t.Errorf("sparse file: %d bytes, %d sectors, %v", st.Size, st.Blocks, err)
	}
	got, err := os.Open(filepath.Join(dir, "a/sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	for _, at := range []int64{0, 1 << 20, 4<<30 - 4096, size - 100} {
		var a, b [8192]byte
		n, _ := f.ReadAt(a[:], at)
		m, _ := got.ReadAt(b[:], at)
		if n != m || a != b {
			t.Errorf("sparse file differs at %d", at)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "b/holes")); err != nil || !bytes.Equal(b, holes) {
		t.Errorf("the file with many holes differs, %v", err)
	}
	e, _ := tree.Lookup("c/contiguous")
	if want, got := contentDigest(t, e), digest(t, filepath.Join(dir, "c/contiguous")); got != want {
		t.Errorf("the file of many groups differs")
	}
}

// A journal that was not closed is replayed: the kernel and e2fsck agree on
// its form.
func TestJournalReplay(t *testing.T) {
	image, _ := write(t, build(t, sample(), "top-link"), Options{Epoch: epoch, Size: 96 << 20, BytesPerInode: 8192})
	dir, _, unmount := mount(t, image, "rw")
	change(t, dir)
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// The image as it is while mounted: as after a power cut.
	cut := filepath.Join(t.TempDir(), "cut")
	runTool(t, "cp", "--sparse=always", image, cut)
	unmount()
	if got := dumpe2fs(t, cut)["Filesystem features"]; !strings.Contains(got, "needs_recovery") {
		t.Fatalf("features %q: there is nothing to recover", got)
	}
	if out, err := exec.CommandContext(context.Background(), tool(t, "e2fsck"), "-fy", cut).CombinedOutput(); err != nil && !strings.Contains(string(out), "recovering journal") {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	fsck(t, cut)
}
