package ext4

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
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

// compare holds what is mounted at dir against the tree.
func compare(t testing.TB, dir string, tree *rootfs.Tree, epoch int64) {
	t.Helper()
	seen := 0
	for e := range tree.All() {
		seen++
		compareEntry(t, filepath.Join(dir, e.Path), e, epoch)
	}
	root, _ := tree.Lookup(rootfs.Root)
	compareEntry(t, dir, root, epoch)
	onDisk := -1 // the root
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if _, inTree := tree.Lookup(lostFound); p != filepath.Join(dir, lostFound) || inTree {
			onDisk++
		}
		return err
	})
	if err != nil || onDisk != seen {
		t.Errorf("%d entries in the image, %d in the tree, %v", onDisk, seen, err)
	}
	for _, names := range tree.HardLinks() {
		var first syscall.Stat_t
		for _, name := range names {
			var st syscall.Stat_t
			if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			if first.Ino == 0 {
				first = st
			}
			if st.Ino != first.Ino || int(st.Nlink) != len(names) {
				t.Errorf("%s: inode %d with %d links, want %d with %d", name, st.Ino, st.Nlink, first.Ino, len(names))
			}
		}
	}
}

func compareEntry(t testing.TB, full string, e rootfs.Entry, epoch int64) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(full, &st); err != nil {
		t.Errorf("%.80q: %v", e.Path, err)
		return
	}
	if st.Mode != rootfs.UnixMode(e.Mode) || st.Uid != e.UID || st.Gid != e.GID {
		t.Errorf("%.80q: mode %o owner %d:%d, want %o %d:%d", e.Path, st.Mode, st.Uid, st.Gid, rootfs.UnixMode(e.Mode), e.UID, e.GID)
	}
	if st.Mtim != (syscall.Timespec{Sec: epoch}) || st.Atim != st.Mtim || st.Ctim != st.Mtim {
		t.Errorf("%.80q: times %v %v %v, want %d", e.Path, st.Mtim, st.Atim, st.Ctim, epoch)
	}
	switch {
	case e.IsRegular():
		var want bytes.Buffer
		if err := e.CopyTo(&want); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(full); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%.80q: %v, %d bytes, want %d", e.Path, err, len(got), want.Len())
		}
	case e.IsSymlink():
		if got, err := os.Readlink(full); err != nil || got != e.Link {
			t.Errorf("%.80q: %v, %s", e.Path, err, got)
		}
	case e.IsDevice():
		if unix.Major(st.Rdev) != e.Major || unix.Minor(st.Rdev) != e.Minor {
			t.Errorf("%.80q: device %d:%d, want %d:%d", e.Path, unix.Major(st.Rdev), unix.Minor(st.Rdev), e.Major, e.Minor)
		}
	}
	list := make([]byte, rootfs.MaxXattrs)
	n, err := unix.Llistxattr(full, list)
	if err != nil || bytes.Count(list[:n], []byte{0}) != len(e.Xattrs) {
		t.Errorf("%.80q: attributes %q, %v, want %d", e.Path, list[:max(n, 0)], err, len(e.Xattrs))
	}
	for name, value := range e.Xattrs {
		buf := make([]byte, rootfs.MaxXattrs)
		n, err := unix.Lgetxattr(full, name, buf)
		if err != nil || !bytes.Equal(buf[:n], value) {
			t.Errorf("%.80q: %s: %v, %q, want %q", e.Path, name, err, buf[:max(n, 0)], value)
		}
	}
}

// The kernel's view, attribute by attribute.
func TestMounted(t *testing.T) {
	tree := build(t, sample(), "many/zz-link")
	image, _ := write(t, tree, Options{Epoch: epoch})
	dir, _, _ := mount(t, image, "ro,noload")
	compare(t, dir, tree, epoch)
}

func TestRandomTreesMounted(t *testing.T) {
	for seed := range uint64(6) {
		tree := randomTree(t, seed)
		image, _ := write(t, tree, Options{Epoch: MaxEpoch})
		dir, _, unmount := mount(t, image, "ro")
		compare(t, dir, tree, MaxEpoch)
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
	compare(t, dir, tree, epoch)
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
