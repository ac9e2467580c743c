package initramfs

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const epoch = 1700000000

func sample() []rootfs.Entry {
	return []rootfs.Entry{
		{Path: "init", Mode: 0o755, Size: 5, Content: rootfs.Bytes([]byte("\x7fELF!"))},
		{Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		{Path: "dev/vda", Mode: fs.ModeDevice | 0o660, Major: 259, Minor: 300, GID: 6},
		{Path: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "bin/su", Mode: fs.ModeSetuid | 0o755, UID: 70, GID: 71, Size: 3, Content: rootfs.Bytes([]byte("abc"))},
		{Path: "run/fifo", Mode: fs.ModeNamedPipe | 0o600},
		rootfs.Symlink("sbin", "bin"),
		rootfs.Regular("etc/empty", 0o600, nil),
	}
}

func build(t testing.TB, entries []rootfs.Entry, target string) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for _, e := range append(entries, rootfs.Regular(target, 0o640, []byte("linked"))) {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"bin/a", "zz"} {
		if n != target {
			if err := tree.Add(rootfs.Hardlink(n, target)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return tree
}

func TestDeterministic(t *testing.T) {
	var first, second bytes.Buffer
	entries := sample()
	if err := Write(context.Background(), &first, build(t, entries, "zz"), epoch); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(entries)
	if err := Write(context.Background(), &second, build(t, entries, "bin/a"), epoch); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the order of insertion changes the archive")
	}
	z, err := zstd.NewReader(&first)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var plain bytes.Buffer
	if err := WriteCPIO(context.Background(), &plain, build(t, entries, "zz"), epoch); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(z); err != nil || !bytes.Equal(got.Bytes(), plain.Bytes()) {
		t.Errorf("decompressed: %v, %d bytes, want %d", err, got.Len(), plain.Len())
	}
}

// Other programs unpack it to what the tree says, the way the kernel would.
func TestUnpacked(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("unpacking owners and device nodes needs root")
	}
	tree := build(t, sample(), "bin/a")
	var b bytes.Buffer
	if err := WriteCPIO(context.Background(), &b, tree, epoch); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"bsdtar", "--numeric-owner", "-xpf", "-"},
		{"cpio", "--extract", "--quiet", "--preserve-modification-time", "--make-directories", "--numeric-uid-gid"},
	} {
		t.Run(args[0], func(t *testing.T) {
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skipf("%s is not installed", args[0])
			}
			dir := t.TempDir()
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Dir, cmd.Stdin = dir, bytes.NewReader(b.Bytes())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for e := range tree.All() {
				full := filepath.Join(dir, e.Path)
				var st syscall.Stat_t
				if err := syscall.Lstat(full, &st); err != nil {
					t.Errorf("%s: %v", e.Path, err)
					continue
				}
				if st.Mode != rootfs.UnixMode(e.Mode) || st.Uid != e.UID || st.Gid != e.GID {
					t.Errorf("%s: %o %d:%d, want %o %d:%d", e.Path, st.Mode, st.Uid, st.Gid, rootfs.UnixMode(e.Mode), e.UID, e.GID)
				}
				switch {
				case e.IsDevice():
					major := uint32(st.Rdev >> 8 & 0xfff)
					minor := uint32(st.Rdev&0xff) | uint32(st.Rdev>>12)&^0xff
					if major != e.Major || minor != e.Minor {
						t.Errorf("%s: device %d:%d, want %d:%d", e.Path, major, minor, e.Major, e.Minor)
					}
				case e.IsRegular():
					var want strings.Builder
					if err := e.CopyTo(&want); err != nil {
						t.Fatal(err)
					}
					if got, err := os.ReadFile(full); err != nil || string(got) != want.String() {
						t.Errorf("%s: %v, %q", e.Path, err, got)
					}
					if len(tree.HardLinks()) == 1 && (e.Path == "zz" || e.Path == "bin/a") && st.Nlink != 2 {
						t.Errorf("%s has %d links", e.Path, st.Nlink)
					}
				case e.IsSymlink():
					if got, err := os.Readlink(full); err != nil || got != e.Link {
						t.Errorf("%s: %v, %q", e.Path, err, got)
					}
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	tree := rootfs.New()
	if err := tree.Add(rootfs.Entry{Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"user.x": nil}}); err != nil {
		t.Fatal(err)
	}
	if err := Write(context.Background(), &bytes.Buffer{}, tree, epoch); err == nil || !strings.Contains(err.Error(), "x has extended attributes") {
		t.Errorf("got %v", err)
	}
	if err := Write(context.Background(), &bytes.Buffer{}, rootfs.New(), -1); err == nil {
		t.Error("a negative time was accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Write(ctx, &bytes.Buffer{}, build(t, sample(), "zz"), epoch); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}
