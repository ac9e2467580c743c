package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

func readBack(t *testing.T, tree *rootfs.Tree) {
	t.Helper()
	path, _ := write(t, tree, Options{Epoch: epoch})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	back, err := Read(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := rootfs.Diff(t.Context(), tree, back)
	if err != nil || len(changes) > 0 {
		t.Errorf("%.2000v, %v", changes, err)
	}
}

// Names are bytes: what Linux has comes through, and fsck.erofs agrees.
func TestNamesThatAreNotUTF8(t *testing.T) {
	tree := treetest.RawNames(t)
	readBack(t, tree)
	path, _ := write(t, tree, Options{Epoch: epoch})
	if out, err := exec.Command(tool(t, "fsck.erofs"), path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// An ordinary desktop has some 300,000 names, and these are a tenth of that
// within a tenth of the limits.
func TestManyNames(t *testing.T) {
	tree := treetest.Many(t, 30_000)
	limits := rootfs.DefaultLimits()
	limits.Entries, limits.Metadata = limits.Entries/10, limits.Metadata/10
	back, err := read(t.Context(), bytes.NewReader(image(t, tree)), limits)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := rootfs.Diff(t.Context(), tree, back)
	if err != nil || len(changes) > 0 {
		t.Errorf("%.2000v, %v", changes, err)
	}
}

func image(t *testing.T, tree *rootfs.Tree) []byte {
	t.Helper()
	path, _ := write(t, tree, Options{Epoch: epoch})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is not supported has its name, in the superblock and as mkfs.erofs
// writes it.
func TestNotSupported(t *testing.T) {
	for bits, want := range map[uint32]string{8: "other devices", 0x80: "48 bits", 0x100: "metabox", 0x40000000: "not supported"} {
		b := image(t, treetest.RawNames(t))
		binary.LittleEndian.PutUint32(b[superOffset+80:], bits)
		_, err := Read(t.Context(), bytes.NewReader(b))
		if err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Source || !strings.Contains(fault.HintOf(err), "mount") {
			t.Errorf("%#x: %v (class %d, hint %q)", bits, err, fault.ClassOf(err), fault.HintOf(err))
		}
	}
	b := image(t, treetest.RawNames(t))
	binary.LittleEndian.PutUint32(b[superOffset+superIncompat:], 3)
	binary.LittleEndian.PutUint16(b[superOffset+superAlgorithms:], 1<<1) // LZMA
	if _, err := Read(t.Context(), bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), "other than zstd, lz4 and deflate") {
		t.Errorf("%v", err)
	}
}

func TestDamage(t *testing.T) {
	b := image(t, treetest.RawNames(t))
	for name, in := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 8192), "cut": b[:len(b)-1], "cut in the superblock": b[:1100], "half": b[:len(b)/2]} {
		if _, err := Read(t.Context(), bytes.NewReader(in)); err == nil || fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An inode may claim any size.
func TestSizes(t *testing.T) {
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{
		{Path: "file", Mode: 0o644, UID: 0x12345678, Size: 5, Content: rootfs.Bytes([]byte("hello"))},
		{Path: "dir", Mode: rootfs.Dir("", 0o755).Mode, UID: 0x12345679},
		{Path: "link", Mode: rootfs.Symlink("", "x").Mode, UID: 0x1234567a, Link: "target"},
	} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	whole := image(t, tree)
	for id, kind := range map[uint32]string{0x12345678: "file", 0x12345679: "dir", 0x1234567a: "link"} {
		at := bytes.Index(whole, binary.LittleEndian.AppendUint32(nil, id)) - 24
		if at < 0 {
			t.Fatal("no such inode")
		}
		for _, size := range []uint64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - 4095, 1 << 63, math.MaxUint64, 1 << 44, 1 << 40} {
			b := bytes.Clone(whole)
			binary.LittleEndian.PutUint64(b[at+8:], size)
			tree, err := Read(t.Context(), bytes.NewReader(b))
			if err != nil {
				if fault.ClassOf(err) != fault.Source {
					t.Errorf("%s of %d bytes: class %d: %v", kind, size, fault.ClassOf(err), err)
				}
				continue
			}
			if kind != "file" {
				t.Errorf("%s of %d bytes was read", kind, size)
				continue
			}
			e, _ := tree.Lookup("file")
			if err := e.CopyTo(io.Discard); err == nil {
				t.Errorf("%d bytes were read", size)
			}
			if _, err := Write(t.Context(), &nowhere{}, tree, Options{}); err == nil {
				t.Errorf("%d bytes were written", size)
			}
		}
	}
}

type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Truncate(int64) error                   { return nil }

func TestReadLimits(t *testing.T) {
	b := image(t, treetest.Many(t, 3000))
	for name, limits := range map[string]rootfs.Limits{
		"entries": {Entries: 2000}, "memory": {Entries: 10_000, Metadata: 1 << 20},
	} {
		if _, err := read(t.Context(), bytes.NewReader(b), limits); !errors.Is(err, rootfs.ErrLimit) || fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := read(t.Context(), bytes.NewReader(b), rootfs.Limits{Entries: 4000, Metadata: 4 << 20}); err != nil {
		t.Error(err)
	}
}
