package initramfs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

func spool(t testing.TB) *rootfs.Spool {
	t.Helper()
	s, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Names are bytes, also to the program of that name.
func TestNamesThatAreNotUTF8(t *testing.T) {
	tree := treetest.RawNames(t)
	readBack(t, tree, WriteCPIO)
	bsdcpio, err := exec.LookPath("bsdcpio")
	if err != nil {
		t.Skip("bsdcpio is not installed (Debian: libarchive-tools)")
	}
	var b bytes.Buffer
	if err := WriteCPIO(t.Context(), &b, tree, epoch); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(bsdcpio, "-id", "--quiet")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	unpacked, err := rootfs.ReadDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for e := range tree.All() {
		if _, ok := unpacked.Lookup(e.Path); !ok {
			t.Errorf("%q is not there", e.Path)
		}
	}
	list := exec.Command(bsdcpio, "-o", "-H", "newc", "--quiet")
	list.Dir, list.Stdin = dir, strings.NewReader("ordinary\n\xff\nhard-\xe9\numlaut-\xe4\nlinks/\xff\n")
	packed, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ReadCPIO(t.Context(), bytes.NewReader(packed), spool(t))
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := back.Lookup("umlaut-\xe4"); !ok || e.Size != 8 || len(back.HardLinks()) != 1 {
		t.Errorf("%+v, %q", e, back.HardLinks())
	}
}

func cpioOf(t testing.TB, tree *rootfs.Tree) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteCPIO(t.Context(), &b, tree, epoch); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Whatever is cut off is noticed.
func TestReadCut(t *testing.T) {
	whole := cpioOf(t, build(t, sample(), "zz"))
	contents := spool(t)
	for n := range len(whole) - 4 {
		if _, err := ReadCPIO(t.Context(), bytes.NewReader(whole[:n]), contents); err == nil || fault.ClassOf(err) != fault.Source {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(whole); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), bytes.NewReader(z.Bytes()), spool(t)); err != nil {
		t.Error(err)
	}
	for _, in := range [][]byte{nil, make([]byte, 5000), z.Bytes()[:50], []byte("\xfd7zXZ\x00")} {
		if _, err := Read(t.Context(), bytes.NewReader(in), spool(t)); err == nil || fault.ClassOf(err) != fault.Source {
			t.Errorf("%.10q: %v", in, err)
		}
	}
}

// header is a member's, with any numbers.
func headerOf(mode, size, links, nameSize uint32, name string) string {
	h := magicPlain
	for _, v := range []uint32{1, mode, 0, 0, links, 0, size, 0, 0, 0, 0, nameSize, 0} {
		h += fmt.Sprintf("%08X", v)
	}
	h += name + "\x00"
	return h + strings.Repeat("\x00", -len(h)&3)
}

func TestReadRefuses(t *testing.T) {
	member := func(name string) string { return headerOf(0o100644, 0, 1, uint32(len(name)+1), name) }
	for name, tt := range map[string]struct{ in, want string }{
		"a huge name":      {headerOf(0o100644, 0, 1, 0xffffffff, "x"), "a name of 4294967294 bytes"},
		"no name":          {headerOf(0o100644, 0, 1, 1, ""), "a name of 0 bytes"},
		"a huge file":      {headerOf(0o100644, 0xffffffff, 1, 2, "x"), "x: spool: unexpected EOF"},
		"a huge link":      {headerOf(0o120777, 0xffffffff, 1, 2, "x"), "x: a symbolic link of 4294967295 bytes"},
		"an empty link":    {headerOf(0o120777, 0, 1, 2, "x") + member(trailer), "symbolic link target of 0 bytes"},
		"a full directory": {headerOf(0o040755, 4, 1, 2, "x") + "data", "x: d--------- with contents"},
		"no number":        {strings.Replace(member("x"), "00000000", "0000000g", 1), `"0000000g" in place of a number`},
		"a sign":           {strings.Replace(member("x"), "00000000", "+0000000", 1), "in place of a number"},
		"another format":   {"070707" + member("x")[6:], "no header of cpio's format newc"},
		"out of the tree":  {member("../x") + member(trailer), "not clean"},
		"below a file":     {member("x") + member("x/y") + member(trailer), "the parent x is not a directory"},
		"an unknown type":  {headerOf(0o150644, 0, 1, 2, "x") + member(trailer), "unknown file type"},
		"twice":            {member("x") + member("x") + member(trailer), "file already exists"},
	} {
		if _, err := ReadCPIO(t.Context(), strings.NewReader(tt.in), spool(t)); err == nil || !strings.Contains(err.Error(), tt.want) || fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: %v (class %d), want %q", name, err, fault.ClassOf(err), tt.want)
		}
	}
}

func TestReadLimits(t *testing.T) {
	many := cpioOf(t, treetest.Many(t, 3))
	flood := rootfs.New()
	for i := range 300 {
		if err := flood.Add(rootfs.Symlink(fmt.Sprint(i), strings.Repeat("x", 4000))); err != nil {
			t.Fatal(err)
		}
	}
	deep := headerOf(0o100644, 0, 1, 2000, strings.Repeat("d/", 999)+"f") + headerOf(0, 0, 1, uint32(len(trailer)+1), trailer)
	for name, tt := range map[string]struct {
		in     []byte
		limits rootfs.Limits
	}{
		"entries": {many, rootfs.Limits{Entries: 2, Bytes: 1 << 20}}, "bytes": {many, rootfs.Limits{Entries: 100, Bytes: 500}},
		"memory": {cpioOf(t, flood), rootfs.Limits{Entries: 1000, Bytes: 1 << 30, Metadata: 1 << 20}}, "implied directories": {[]byte(deep), rootfs.Limits{Entries: 100, Bytes: 1 << 20}},
	} {
		if _, err := readCPIO(t.Context(), bytes.NewReader(tt.in), spool(t), tt.limits); !errors.Is(err, rootfs.ErrLimit) || fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the format cannot hold is the input's fault, and is named once.
func TestWriteRefuses(t *testing.T) {
	for want, e := range map[string]rootfs.Entry{
		"initramfs: x has extended attributes":                    {Path: "x", Mode: 0o644, Xattrs: map[string][]byte{"user.x": nil}},
		"initramfs: x: 4294967296 bytes are more than 4294967295": {Path: "x", Mode: 0o644, Size: 1 << 32, Content: rootfs.File("x")},
	} {
		tree := rootfs.New()
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
		want = strings.Replace(want, "than 4", "than the 4", 1)
		if err := WriteCPIO(t.Context(), io.Discard, tree, 0); err == nil || !strings.HasPrefix(err.Error(), want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%v (class %d), want %q", err, fault.ClassOf(err), want)
		}
	}
	for _, epoch := range []int64{-1, 1 << 32} {
		if err := WriteCPIO(t.Context(), io.Discard, rootfs.New(), epoch); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%v", err)
		}
	}
	name := filepath.Join(t.TempDir(), "gone")
	tree := rootfs.New()
	if err := tree.Add(rootfs.Entry{Path: "x", Mode: 0o644, Size: 5, Content: rootfs.File(name)}); err != nil {
		t.Fatal(err)
	}
	err := WriteCPIO(t.Context(), io.Discard, tree, 0)
	if !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "x: ") != 1 {
		t.Errorf("%v", err)
	}
	var full *os.File
	if full, err = os.OpenFile("/dev/full", os.O_WRONLY, 0); err != nil {
		t.Skip(err)
	}
	defer full.Close()
	tree = rootfs.New()
	if err := tree.Add(rootfs.Regular("x", 0o644, make([]byte, 200<<10))); err != nil {
		t.Fatal(err)
	}
	if err := WriteCPIO(t.Context(), full, tree, 0); err == nil || strings.Count(err.Error(), "x: ") != 1 || strings.Count(err.Error(), "write") != 1 {
		t.Errorf("%v", err)
	}
}
