package fat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const epoch = 1793491201 // 2026-10-31 at an odd second

// sample has what an EFI system partition has, and names of every kind.
func sample(t testing.TB) *rootfs.Tree { return sampleOf(t, 3_000_001) }

// sampleOf has a largest file of size bytes.
func sampleOf(t testing.TB, size int) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	noise := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	add := func(e rootfs.Entry) {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	add(rootfs.Regular("EFI/BOOT/BOOTX64.EFI", 0o644, noise))
	add(rootfs.Regular("EFI/Linux/sovereign-0.1.efi", 0o600, noise[:70_000]))
	add(rootfs.Regular("loader/loader.conf", 0o644, []byte("timeout 0\n")))
	add(rootfs.Regular("empty", 0o644, nil))
	add(rootfs.Dir("empty directory", 0o755))
	add(rootfs.Regular("FOO~1.TXT", 0o644, []byte("exact")))
	add(rootfs.Regular("foo and more.txt", 0o644, []byte("long")))
	add(rootfs.Regular("Grüße, 世界.txt", 0o644, []byte("units")))
	add(rootfs.Regular("thirteen.chrs", 0o644, []byte("13")))
	add(rootfs.Regular(".hidden+x", 0o644, []byte("dot")))
	add(rootfs.Regular("a/b/c/d/e/f/g", 0o644, []byte("deep")))
	add(rootfs.Regular("a.b/c", 0o644, []byte("beside a")))
	add(rootfs.Regular(strings.Repeat("l", 255), 0o644, []byte("longest")))
	add(rootfs.Hardlink("hard", "loader/loader.conf"))
	for i := range 300 {
		add(rootfs.Regular(fmt.Sprintf("many/a file, number %d.conf", i), 0o644, []byte{byte(i), 1}))
	}
	return tree
}

func write(t testing.TB, tree *rootfs.Tree, o Options) (*Image, string) {
	t.Helper()
	i, err := New(tree, o)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "fat.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(i.Size()); err != nil {
		t.Fatal(err)
	}
	if err := i.Write(context.Background(), f); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != i.Size() {
		t.Fatalf("%v bytes, want %d; %v", info.Size(), i.Size(), err)
	}
	return i, name
}

// clean wants two lines of fsck.vfat: its version, and the summary.
func clean(t testing.TB, name string) {
	t.Helper()
	fsck, err := exec.LookPath("fsck.vfat")
	if err != nil {
		t.Skip("fsck.vfat is not installed (Debian: dosfstools)")
	}
	out, err := exec.Command(fsck, "-n", name).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 2 || !strings.HasPrefix(lines[1], name+": ") {
		t.Errorf("fsck.vfat: %v\n%s", err, out)
	}
}

// TestEverySize writes each size that an EFI system partition commonly has.
func TestEverySize(t *testing.T) {
	tree := sampleOf(t, 70_000) // small: it is written 224 times
	for size := int64(33); size <= 256; size++ {
		i, name := write(t, tree, Options{Size: size * mib, Epoch: epoch, Label: "ESP"})
		if i.Type() != FAT32 {
			t.Errorf("%d MiB: FAT%d", size, i.Type())
		}
		clean(t, name)
		if t.Failed() {
			t.Fatalf("at %d MiB", size)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOtherSizes(t *testing.T) {
	tree := sampleOf(t, 70_000)
	for _, test := range []struct {
		size int64
		kind Type
		want Type
	}{
		{4 * mib, Auto, FAT16}, {8 * mib, FAT16, FAT16}, {16*mib + 512, Auto, FAT16}, {31 * mib, Auto, FAT16},
		{32 * mib, Auto, FAT16}, {32*mib + 512, Auto, FAT16}, {64 * mib, FAT16, FAT16}, {128*mib + 3*512, FAT16, FAT16},
		{1 << 30, FAT16, FAT16}, {2046 * mib, FAT16, FAT16},
		{33*mib + 512, Auto, FAT32}, {257*mib + 512, Auto, FAT32}, {511 * mib, FAT32, FAT32},
		{4 << 30, Auto, FAT32}, {9<<30 + 512, Auto, FAT32}, {40 << 30, Auto, FAT32},
	} {
		i, name := write(t, tree, Options{Size: test.size, Type: test.kind, Epoch: epoch})
		if i.Type() != test.want {
			t.Errorf("%d bytes: FAT%d, want FAT%d", test.size, i.Type(), test.want)
		}
		if i.data()%i.cluster != 0 {
			t.Errorf("%d bytes: clusters begin at sector %d, not a multiple of %d", test.size, i.data(), i.cluster)
		}
		clean(t, name)
		if t.Failed() {
			t.Fatalf("at %d bytes, FAT%d", test.size, i.Type())
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMtools reads every file back with another implementation.
func TestMtools(t *testing.T) {
	if _, err := exec.LookPath("mcopy"); err != nil {
		t.Skip("mcopy is not installed (Debian: mtools)")
	}
	tree := sample(t)
	for _, o := range []Options{{Size: 64 * mib}, {Size: 256 * mib}, {Size: 20 * mib, Type: FAT16}, {}} {
		o.Epoch, o.Label, o.Serial = epoch, "ESP-1", 0x1234abcd
		_, name := write(t, tree, o)
		dir := t.TempDir()
		cmd := exec.Command("mcopy", "-s", "-n", "-m", "-i", name, "::/", dir)
		cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8", "MTOOLS_LOWER_CASE=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("mcopy: %v\n%s", err, out)
		}
		compare(t, tree, dir)
		out, err := exec.Command("minfo", "-i", name, "::").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "serial number: 1234ABCD") || !strings.Contains(string(out), `disk label="ESP-1      "`) {
			t.Errorf("minfo: %v\n%s", err, out)
		}
	}
}

// TestMount reads every file back through the kernel.
func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	tree := sample(t)
	if err := tree.Add(rootfs.Regular("two units 🙂", 0o644, []byte("x"))); err != nil { // too much for mtools
		t.Fatal(err)
	}
	for _, o := range []Options{{Size: 64 * mib}, {Size: 20 * mib}} {
		o.Epoch = epoch
		_, name := write(t, tree, o)
		dir := t.TempDir()
		if out, err := exec.Command("mount", "-t", "vfat", "-o", "loop,ro,utf8,tz=UTC", name, dir).CombinedOutput(); err != nil {
			t.Skipf("no loop mount of vfat here: %s", bytes.TrimSpace(out))
		}
		compare(t, tree, dir)
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}
}

// compare holds a directory against the tree: names, contents, times.
func compare(t *testing.T, tree *rootfs.Tree, dir string) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		found++
		rel := strings.TrimPrefix(name, dir+"/")
		e, ok := tree.Lookup(rel)
		if !ok {
			t.Errorf("%s is not in the tree", rel)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if got := info.ModTime().Unix(); !e.IsDir() && got != epoch-1 {
			t.Errorf("%s: time %v", rel, time.Unix(got, 0).UTC())
		}
		if e.IsDir() != d.IsDir() {
			t.Errorf("%s: mode %v", rel, info.Mode())
			return nil
		}
		if e.IsDir() {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		want := sha256.New()
		if err := e.CopyTo(want); err != nil {
			return err
		}
		if got := sha256.Sum256(data); !bytes.Equal(got[:], want.Sum(nil)) {
			t.Errorf("%s: %d bytes with other contents", rel, len(data))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if found != tree.Len() {
		t.Errorf("%d entries found, the tree has %d", found, tree.Len())
	}
}

// TestGolden has the digests of images of the sample. They change only when
// what is written does.
func TestGolden(t *testing.T) {
	for _, g := range []struct {
		o    Options
		want string
	}{
		{Options{Epoch: epoch, Label: "ESP"}, "5ff488791f49a311ea229331d1116c1756ae1e7dbb832ff0bdb4040c805b55a0"},
		{Options{Epoch: epoch, Size: 20 * mib, Serial: 1}, "72294d851e5ae15a9a24b21bca3fddaa46c33cacaf3151b859e6ec972caf9fda"},
	} {
		_, name := write(t, sample(t), g.o)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != g.want {
			t.Errorf("%+v: %s", g.o, got)
		}
	}
}

func TestReproducible(t *testing.T) {
	sums := map[[32]byte]bool{}
	for range 2 {
		_, name := write(t, sample(t), Options{Epoch: epoch})
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sums[sha256.Sum256(data)] = true
		var st syscall.Stat_t
		if err := syscall.Stat(name, &st); err != nil || st.Blocks*512 > 8*mib {
			t.Errorf("%d bytes on disk of %d: not sparse, %v", st.Blocks*512, st.Size, err)
		}
	}
	if len(sums) != 1 {
		t.Error("two images of one tree differ")
	}
	changed := sample(t)
	if err := changed.Set(rootfs.Regular("empty", 0o644, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	_, a := write(t, sample(t), Options{Epoch: epoch})
	_, b := write(t, changed, Options{Epoch: epoch})
	if bytes.Equal(serialOf(t, a), serialOf(t, b)) {
		t.Error("images with other contents have one serial number")
	}
}

func serialOf(t *testing.T, name string) []byte {
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data[67:71]
}

// TestFull: the last cluster can be used, and one more is an error. The size
// that is chosen is the smallest.
func TestFull(t *testing.T) {
	image, err := New(rootfs.New(), Options{Size: 40 * mib})
	if err != nil {
		t.Fatal(err)
	}
	room := (image.clusters - 1) * image.clusterBytes() // the root takes one
	for extra, fits := range []bool{true, false} {
		tree := rootfs.New()
		if err := tree.Add(rootfs.Regular("F", 0o644, make([]byte, room+int64(extra)))); err != nil {
			t.Fatal(err)
		}
		_, err := New(tree, Options{Size: 40 * mib})
		if (err == nil) != fits {
			t.Errorf("%d bytes in room for %d: %v", room+int64(extra), room, err)
		}
		if fits {
			_, name := write(t, tree, Options{Size: 40 * mib})
			clean(t, name)
		}
		i, err := New(tree, Options{})
		if want := int64(40+extra) * mib; err != nil || i.Size() != want {
			t.Errorf("size %d, want %d; %v", i.Size(), want, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	file := func(name string) *rootfs.Tree {
		tree := rootfs.New()
		if err := tree.Add(rootfs.Regular(name, 0o644, nil)); err != nil {
			t.Fatal(err)
		}
		return tree
	}
	link, two, large, wide := rootfs.New(), file("efi/boot"), rootfs.New(), rootfs.New()
	if err := link.Add(rootfs.Symlink("l", "x")); err != nil {
		t.Fatal(err)
	}
	if err := two.Add(rootfs.Regular("EFI", 0o644, nil)); err != nil {
		t.Fatal(err)
	}
	if err := large.Add(rootfs.Entry{Path: "large", Size: 1 << 32, Content: rootfs.File("/dev/zero")}); err != nil {
		t.Fatal(err)
	}
	for i := range 600 {
		if err := wide.Add(rootfs.Regular(path.Join(fmt.Sprint("F", i)), 0o644, nil)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		tree *rootfs.Tree
		o    Options
		want string
	}{
		{link, Options{}, "l is a symbolic link"},
		{two, Options{}, "EFI and efi are one name"},
		{large, Options{}, "large: 4294967296 bytes"},
		{wide, Options{Type: FAT16, Size: 16 * mib}, "600 entries"},
		{file("a:b"), Options{}, `holds ':'`},
		{file("a."), Options{}, "ends in a dot"},
		{file("umlaut-\xe4"), Options{}, `name "umlaut-\xe4" is not UTF-8`},
		{file("d\xff/x"), Options{}, `"d\xff" is not UTF-8`},
		{file("x"), Options{Size: 1000}, "multiple of 512"},
		{file("x"), Options{Size: -512}, "multiple of 512"},
		{file("x"), Options{Size: 1 * mib}, "FAT16"},
		{file("x"), Options{Size: 32 * mib, Type: FAT32}, "33 MiB or more"},
		{file("x"), Options{Size: 2048 * mib, Type: FAT16}, "2 GiB"},
		{file("x"), Options{Size: 40 * mib, Type: 12}, "type 12"},
		{file("x"), Options{Epoch: lastTime + 1}, "after 2107"},
		{file("x"), Options{Label: "lower"}, `'l' cannot`},
		{file("x"), Options{Label: "TWELVE CHARS"}, "1 to 11"},
		{file("x"), Options{Label: "NO NAME"}, "stands for none"},
	} {
		if _, err := New(test.tree, test.o); err == nil || !strings.Contains(err.Error(), test.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%+v: %v, want %q", test.o, err, test.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	i, err := New(file("x"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Write(ctx, nil); err != context.Canceled {
		t.Error(err)
	}
}

func TestShortNames(t *testing.T) {
	s := shortNames{used: map[short]bool{makeShort("LONGNA~1", "TXT"): true}, next: map[string]int{}}
	for _, test := range []struct{ name, want string }{
		{"long name here.txt", "LONGNA~2TXT"},
		{"long name there.txt", "LONGNA~3TXT"},
		{"lower.efi", "LOWER~1 EFI"},
		{".config", "CONFIG~1   "},
		{"a.tar.gz", "ATAR~1  GZ "},
		{"ü+[", "___~1      "},
		{"...", "~1         "},
	} {
		if got, err := s.generate(test.name); err != nil || string(got[:]) != test.want {
			t.Errorf("%s: %q, want %q; %v", test.name, got, test.want, err)
		}
	}
	for name, want := range map[string]bool{"BOOTX64.EFI": true, "A": true, "A.B.C": false, "A.": false, ".A": false, "NINECHARS": false, "a": false, "A B": false} {
		if _, got := exactShort(name); got != want {
			t.Errorf("%s is a short name: %v, want %v", name, got, want)
		}
	}
}

// BenchmarkManyFiles has 20,000 names that begin alike in one directory.
func BenchmarkManyFiles(b *testing.B) {
	tree := rootfs.New()
	for i := range 20_000 {
		if err := tree.Add(rootfs.Regular(fmt.Sprintf("directory/similar name %d", i), 0o644, []byte("x"))); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		write(b, tree, Options{})
	}
}
