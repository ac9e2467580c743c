package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

// text is data that becomes some three times smaller: words of a small
// vocabulary.
func text(r *rand.Rand, n int) []byte {
	words := make([]string, 500)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", r.Uint64()>>(8+r.IntN(48)))
	}
	b := make([]byte, 0, n+20)
	for len(b) < n {
		b = append(b, words[min(r.IntN(len(words)), r.IntN(len(words)))]...)
	}
	return b[:n]
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// again is n bytes of text that comes again and again, with a break here and
// there: matches that are as long as a piece are compared at every step.
func again(r *rand.Rand, n int) []byte {
	words := text(r, 20<<10)
	b := make([]byte, 0, n+len(words))
	for len(b) < n {
		from := r.IntN(len(words) - 4096)
		b = append(append(b, words[from:from+4096]...), noise(r, 16)...)
	}
	return b[:n]
}

// borderFiles adds files to a tree.
type borderFiles struct {
	t    testing.TB
	r    *rand.Rand
	tree *rootfs.Tree
}

func (f borderFiles) add(name string, b []byte) {
	f.t.Helper()
	e := rootfs.Regular("borders/"+name, 0o644, b)
	if len(b)%3 == 0 { // moves the index within its 32 bytes
		e.Xattrs = map[string][]byte{"user.a": make([]byte, len(b)%29)}
	}
	if err := f.tree.Add(e); err != nil {
		f.t.Fatal(err)
	}
}

// borders has files of sizes around those of blocks and clusters, of text, of
// noise, of zeros, and of all of those: as little as shows each way in which a
// file is written, because the race detector makes compressing slow.
func borders(t testing.TB) borderFiles {
	t.Helper()
	r := rand.New(rand.NewPCG(5, 6))
	f := borderFiles{t, r, build(t, sample(), "top-link")}
	for _, unit := range []int{BlockSize, 2 * BlockSize} {
		for _, n := range []int{unit - 1, unit, unit + 1, unit + 7} {
			f.add(fmt.Sprintf("text-%d", n), text(r, n))
			f.add(fmt.Sprintf("noise-%d", n), noise(r, n))
		}
	}
	for _, n := range []int{16*BlockSize - 1, 16 * BlockSize, 17*BlockSize + 1} {
		f.add(fmt.Sprintf("text-%d", n), text(r, n))
	}
	f.add("noise", noise(r, 17*BlockSize+7))
	f.add("zeros", make([]byte, 50*BlockSize+5))
	var mixed []byte
	for i := range 10 {
		switch i % 3 {
		case 0:
			mixed = append(mixed, text(r, r.IntN(50<<10))...)
		case 1:
			mixed = append(mixed, noise(r, r.IntN(25<<10))...)
		default:
			mixed = append(mixed, make([]byte, r.IntN(75<<10))...)
		}
	}
	f.add("mixed", mixed)
	return f
}

// pieces are borders with files around the size of a piece, and of several.
func pieces(t testing.TB) *rootfs.Tree {
	t.Helper()
	f := borders(t)
	f.add("piece", again(f.r, pieceSize))
	f.add("piece-and-byte", again(f.r, pieceSize+1))
	f.add("noise-then-text", append(noise(f.r, pieceSize+100), text(f.r, 20<<10)...))
	return f.tree
}

// compressions are what the tests compress with.
func compressions() []Compression {
	var list []Compression
	for _, name := range Algorithms() {
		list = append(list, Compression{name, 1, BlockSize}, Compression{name, 2, 64 << 10},
			Compression{name, 3, MaxClusterSize}, Compression{name, 4, 5 * BlockSize})
	}
	return list
}

func (c Compression) String() string {
	return fmt.Sprintf("%s-%d-%d", c.Algorithm, c.Level, c.ClusterSize)
}

// Our reader, fsck.erofs and the kernel all give what was compressed. Pieces
// are cut alike whatever compresses them, so they are in one image of each
// algorithm.
func TestCompressed(t *testing.T) {
	small, large := borders(t).tree, pieces(t)
	for _, c := range compressions() {
		t.Run(c.String(), func(t *testing.T) {
			tree := small
			if c.Level == 2 {
				tree = large
			}
			path, _ := write(t, tree, Options{Epoch: epoch, Compression: c})
			sameAs(t, path, tree)
			t.Run("fsck", func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "extracted")
				out, err := exec.Command(tool(t, "fsck.erofs"), "--extract="+dir, path).CombinedOutput()
				if strings.Contains(string(out), "unknown compression format") {
					t.Skipf("this fsck.erofs has no %s", c.Algorithm)
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				for e := range tree.All() {
					if !e.IsRegular() {
						continue
					}
					var want bytes.Buffer
					if err := e.CopyTo(&want); err != nil {
						t.Fatal(err)
					}
					if got, err := os.ReadFile(filepath.Join(dir, e.Path)); err != nil || !bytes.Equal(got, want.Bytes()) {
						t.Errorf("%s: %d bytes, want %d: %v", e.Path, len(got), want.Len(), err)
					}
				}
			})
			t.Run("kernel", func(t *testing.T) { treetest.Compare(t, mount(t, path), tree, epoch) })
		})
	}
}

// sameAs reads an image back and compares all of it.
func sameAs(t *testing.T, path string, tree *rootfs.Tree) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	back, err := Read(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := rootfs.Diff(t.Context(), tree, back)
	if err != nil || len(changes) > 0 {
		t.Errorf("%.2000v, %v", changes, err)
	}
}

// The bytes depend on the tree and the options alone.
func TestCompressedIsDeterministic(t *testing.T) {
	golden := map[string]string{
		"zstd": "420cb71cb98e32a4af57d3bc3802d25e5c25b2025b36fc7f438dd1b197fa2b5c",
		"lz4":  "1911a199361b35bf810de95e9cdf0f4c034d07e43a6b2b4c6e1020ab44df7cc8",
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	// Several batches, and a file that has pieces in two.
	f := borders(t)
	f.add("piece", again(f.r, pieceSize+(30<<10)))
	tree := f.tree
	for _, name := range Algorithms() {
		for _, procs := range []int{1, 8} {
			runtime.GOMAXPROCS(procs)
			path, _ := write(t, tree, Options{Epoch: epoch, Compression: Compression{Algorithm: name}})
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != golden[name] {
				t.Errorf("%s with %d processors: digest %s, want %s", name, procs, got, golden[name])
			}
		}
	}
}

// What does not become smaller costs nothing, and what does is smaller.
func TestCompressedSizes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	size := func(c Compression, contents ...[]byte) int64 {
		tree := rootfs.New()
		for i, b := range contents {
			if err := tree.Add(rootfs.Regular(fmt.Sprint(i), 0o644, b)); err != nil {
				t.Fatal(err)
			}
		}
		_, info := write(t, tree, Options{Epoch: epoch, Compression: c})
		return info.Size
	}
	random := [][]byte{noise(r, pieceSize+4097), noise(r, 70<<10), noise(r, 4097), noise(r, 10)}
	words := text(r, 3<<18)
	for _, name := range Algorithms() {
		if got, want := size(Compression{Algorithm: name}, random...), size(Compression{}, random...); got != want {
			t.Errorf("%s: noise has %d bytes, %d without compression", name, got, want)
		}
		if got := size(Compression{Algorithm: name}, words); got > 1<<19 {
			t.Errorf("%s: text of %d bytes has %d", name, len(words), got)
		}
		sizes := []int64{}
		for _, cluster := range []int{BlockSize, 16 << 10, 64 << 10, 256 << 10} {
			sizes = append(sizes, size(Compression{name, 2, cluster}, words))
		}
		for i := range sizes[1:] {
			if sizes[i] < sizes[i+1] {
				t.Errorf("%s: larger clusters, larger images: %v", name, sizes)
			}
		}
	}
}

// A file too large to compress stays sparse.
func TestCompressedSparse(t *testing.T) {
	limit := maxCompressed
	maxCompressed = 12 << 20 // 4 GiB take minutes
	t.Cleanup(func() { maxCompressed = limit })
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, maxCompressed / 4 * 3, maxCompressed + 10} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(small, 6<<20); err != nil {
		t.Fatal(err)
	}
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{
		{Path: "huge", Mode: 0o600, Size: maxCompressed + 14, Content: rootfs.File(path)},
		{Path: "small", Mode: 0o600, Size: 6 << 20, Content: rootfs.File(small)},
		rootfs.Regular("text", 0o600, text(rand.New(rand.NewPCG(1, 1)), 100_000)),
	} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	image, info := write(t, tree, Options{Epoch: epoch, Compression: Compression{Algorithm: "lz4", Level: 1}})
	if used := onDisk(t, image); used > 1<<20 {
		t.Errorf("the image of %d bytes has %d on the disk", info.Size, used)
	}
	sameAs(t, image, tree)
}

func onDisk(t *testing.T, path string) int64 {
	t.Helper()
	out, err := exec.Command("du", "-B1", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	if _, err := fmt.Sscan(string(out), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCompressionOptions(t *testing.T) {
	for want, c := range map[string]Compression{
		`"gzip" is not known`:     {Algorithm: "gzip"},
		"no algorithm":            {Level: 1},
		"not from 1 to 4":         {Algorithm: "zstd", Level: 5},
		"not a multiple of 4096":  {Algorithm: "zstd", ClusterSize: 5000},
		"multiple of 4096 up to ": {Algorithm: "lz4", ClusterSize: 2 << 20},
	} {
		_, err := Write(t.Context(), nowhere{}, rootfs.New(), Options{Compression: c})
		if err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// A file that is not as long as its entry says, and a context that ends, end
// the pipeline too.
func TestCompressedErrors(t *testing.T) {
	tree := build(t, sample(), "top-link")
	path := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(path, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tree.Add(rootfs.Entry{Path: "short", Mode: 0o600, Size: 100_001, Content: rootfs.File(path)}); err != nil {
		t.Fatal(err)
	}
	o := Options{Compression: Compression{Algorithm: "lz4"}}
	if _, err := Write(t.Context(), nowhere{}, tree, o); err == nil || !strings.Contains(err.Error(), "short: contents are not the 100001 bytes") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, nowhere{}, borders(t).tree, o); err != context.Canceled && !strings.Contains(fmt.Sprint(err), "context canceled") {
		t.Error(err)
	}
	if _, err := Write(t.Context(), full{}, borders(t).tree, o); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Error(err)
	}
}

type full struct{ nowhere }

func (full) WriteAt([]byte, int64) (int, error) { return 0, fmt.Errorf("no room") }

// Images of mkfs.erofs, in each way that the one installed compresses.
func TestReadsMkfs(t *testing.T) {
	mkfs := tool(t, "mkfs.erofs")
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(9, 9))
	tree := rootfs.New()
	for i, n := range []int{0, 10, 4096, 5000, 70_000, 300_000, 3 << 20} {
		for kind, b := range map[string][]byte{"text": text(r, n), "noise": noise(r, n), "mixed": append(noise(r, n/3), text(r, n/2)...)} {
			name := fmt.Sprintf("%s%d", kind, i)
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := tree.Add(rootfs.Regular(name, 0o600, b)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, args := range []string{
		"-zlz4", "-zlz4hc -C65536", "-zlz4 -Elegacy-compress", "-zlz4hc -Eztailpacking", "-zlz4 -C16384 -Eztailpacking",
		"-zlz4 -Elegacy-compress -C65536", "-zlz4 -Ededupe -C65536", "-zzstd -C65536", "-zzstd -Eztailpacking", "-zdeflate -C131072",
	} {
		t.Run(args, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "image")
			cmd := exec.Command(mkfs, append(strings.Fields(args), "--all-root", out, dir)...)
			if msg, err := cmd.CombinedOutput(); err != nil {
				t.Skipf("this mkfs.erofs does not: %v\n%.300s", err, msg)
			}
			f, err := os.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			back, err := Read(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for e := range tree.All() {
				got, _ := back.Lookup(e.Path)
				var a, b bytes.Buffer
				if err := e.CopyTo(&a); err != nil {
					t.Fatal(err)
				}
				if err := got.CopyTo(&b); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
					t.Errorf("%s: %d bytes, want %d: %v", e.Path, b.Len(), a.Len(), err)
				}
			}
		})
	}
}

// Any byte of an image may be another: that is an error of its source or
// other contents, never a panic and never more than a file says it has.
func TestCompressedDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, name := range Algorithms() {
		tree := rootfs.New()
		for i, n := range []int{5000, 40_000} {
			if err := tree.Add(rootfs.Regular(fmt.Sprint(i), 0o644, text(r, n))); err != nil {
				t.Fatal(err)
			}
		}
		path, info := write(t, tree, Options{Epoch: epoch, Compression: Compression{name, 1, 2 * BlockSize}})
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		inodes := int64(binary.LittleEndian.Uint32(whole[superOffset+superInodes:])) * BlockSize
		for at := range info.Size {
			if at < inodes && at%31 != 0 { // of contents, and the superblock, some
				continue
			}
			b := bytes.Clone(whole)
			b[at] ^= byte(1 << r.IntN(8))
			back, err := Read(t.Context(), bytes.NewReader(b))
			if err != nil {
				if fault.ClassOf(err) != fault.Source {
					t.Fatalf("byte %d: class %d: %v", at, fault.ClassOf(err), err)
				}
				continue
			}
			for e := range back.All() {
				if !e.IsRegular() || e.Size > 1<<20 {
					continue
				}
				in, err := e.Open()
				if err == nil {
					var n int64
					if n, err = io.Copy(io.Discard, in); err == nil && n != e.Size {
						t.Fatalf("byte %d: %d bytes of %d", at, n, e.Size)
					}
					_ = in.Close()
				}
				if err != nil && fault.ClassOf(err) != fault.Source {
					t.Fatalf("byte %d: class %d: %v", at, fault.ClassOf(err), err)
				}
			}
		}
	}
}

func TestLZ4(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	inputs := [][]byte{{1}, []byte("abc"), noise(r, 5000)}
	for i := range 60 {
		inputs = append(inputs, text(r, 1+r.IntN(64+i*30)))
	}
	large := append(inputs, make([]byte, 100_000), text(r, 100_000), bytes.Repeat([]byte("ab"), 40_000))
	for _, level := range []int{1, 2, 4} {
		for _, limit := range []int{64, 300, BlockSize, 64 << 10} {
			c, inputs := newLZ4(level, limit), inputs
			if limit >= BlockSize {
				// Each block searches a whole window: in small blocks that is
				// the same hundreds of times.
				inputs = large
			}
			for _, in := range inputs {
				if err := c.begin(in); err != nil {
					t.Fatal(err)
				}
				for at := 0; at < len(in); {
					out, n, err := c.next(at, limit)
					if err != nil || n <= 0 || len(out) > limit {
						t.Fatalf("%d bytes in %d, limit %d: %v", n, len(out), limit, err)
					}
					got := make([]byte, n)
					if err := lz4Decompress(got, out); err != nil || !bytes.Equal(got, in[at:at+n]) {
						t.Fatalf("level %d, limit %d, %d bytes at %d of %d: %v", level, limit, n, at, len(in), err)
					}
					at += n
				}
			}
		}
	}
}

func FuzzLZ4Decompress(f *testing.F) {
	f.Add([]byte("\x10a\x01\x00\x50aaaaa"), 10)
	f.Add([]byte("\xf0\xff\xff"), 1<<20)
	f.Fuzz(func(_ *testing.T, in []byte, n int) {
		if n >= 0 && n <= 1<<20 {
			_ = lz4Decompress(make([]byte, n), in) // damage or not: no panic
		}
	})
}
