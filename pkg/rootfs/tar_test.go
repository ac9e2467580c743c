package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func newSpool(t testing.TB) *Spool {
	t.Helper()
	s, err := NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// sample holds every kind of entry a tar can.
func sample() []Entry {
	return []Entry{
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "bin/su", Mode: fs.ModeSetuid | 0o755, Size: 4, Content: Bytes([]byte("ELF!"))},
		{Path: "bin/ping", Mode: 0o755, Xattrs: map[string][]byte{"security.capability": {1, 0, 0, 2, 0, 0x20, 18: 0, 19: 0}, "user.b": []byte("v\n=")}, Size: 1, Content: Bytes([]byte("p"))},
		{Path: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "dev/big", Mode: fs.ModeDevice | 0o660, Major: 259, Minor: 300, GID: 6},
		{Path: "run/fifo", Mode: fs.ModeNamedPipe | 0o600},
		{Path: "home/ümläut", Mode: 0o640, UID: 70, GID: 70, Size: 3, Content: Bytes([]byte("abc"))},
		{Path: "home/huge-owner", Mode: 0o644, UID: 3_000_000, GID: 4_000_000_000},
		{Path: strings.Repeat("long/", 60) + "name", Mode: 0o600},
		Symlink("lib64", "lib"),
		Symlink("etc/far", strings.Repeat("../", 50)+"x"),
	}
}

func TestTarRoundTripAndOrder(t *testing.T) {
	var first []byte
	for try := range 3 {
		tree := New()
		entries := sample()
		switch try {
		case 1:
			slices.Reverse(entries)
		case 2:
			entries = append(entries[5:], entries[:5]...)
		}
		mustAdd(t, tree, entries...)
		if try == 1 {
			mustAdd(t, tree, Regular("zz", 0o644, []byte("linked")), Hardlink("aa", "zz"))
		} else {
			mustAdd(t, tree, Regular("aa", 0o644, []byte("linked")), Hardlink("zz", "aa"))
		}
		var b bytes.Buffer
		if err := WriteTar(&b, tree, 1700000000); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b.Bytes()
		}
		if !bytes.Equal(first, b.Bytes()) {
			t.Fatalf("try %d: other bytes for the same entries in another order", try)
		}
		back, err := ReadTar(context.Background(), &b, newSpool(t))
		if err != nil {
			t.Fatal(err)
		}
		if conflicts, err := tree.Merge(back); err != nil || len(conflicts) != 0 || tree.Len() != back.Len() {
			t.Fatalf("%v, %v, %d and %d entries", conflicts, err, tree.Len(), back.Len())
		}
	}
}

func TestTarAgreesWithBsdtar(t *testing.T) {
	bsdtar, err := exec.LookPath("bsdtar")
	if err != nil {
		t.Skip("bsdtar is not installed (Debian: libarchive-tools)")
	}
	if os.Getuid() != 0 {
		t.Skip("unpacking owners and device nodes needs root")
	}
	tree := New()
	mustAdd(t, tree, sample()...)
	mustAdd(t, tree, Regular("aa", 0o644, []byte("linked")), Hardlink("zz", "aa"))
	var b bytes.Buffer
	if err := WriteTar(&b, tree, 1700000000); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	unpack := exec.Command(bsdtar, "--numeric-owner", "-xpf", "-", "-C", dir)
	unpack.Stdin = &b
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("bsdtar -x: %v\n%s", err, out)
	}
	packed, err := exec.Command(bsdtar, "--numeric-owner", "--format=pax", "-cf", "-", "-C", dir, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ReadTar(context.Background(), bytes.NewReader(packed), newSpool(t))
	if err != nil {
		t.Fatal(err)
	}
	if conflicts, err := tree.Merge(back); err != nil || len(conflicts) != 0 {
		t.Fatalf("%v, %v", conflicts, err)
	}
}

func rawTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadTarRefuses(t *testing.T) {
	link := tar.Header{Typeflag: tar.TypeSymlink, Name: "lib", Linkname: "/etc"}
	for name, data := range map[string][]byte{
		"dot dot":         rawTar(t, tar.Header{Name: "../x", Typeflag: tar.TypeReg}),
		"inner dot dot":   rawTar(t, tar.Header{Name: "a/../../x", Typeflag: tar.TypeReg}),
		"through a link":  rawTar(t, link, tar.Header{Name: "lib/x", Typeflag: tar.TypeReg}),
		"hard out":        rawTar(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"}),
		"hard to nothing": rawTar(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "y"}),
		"big device":      rawTar(t, tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 5000}),
		"too many":        rawTar(t, tar.Header{Name: "a", Typeflag: tar.TypeReg}, tar.Header{Name: "b", Typeflag: tar.TypeReg}, tar.Header{Name: "c", Typeflag: tar.TypeReg}, tar.Header{Name: "d", Typeflag: tar.TypeReg}),
		"too big":         rawTar(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 5000}),
		"cut":             rawTar(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 600})[:700],
		"garbage":         bytes.Repeat([]byte("garbage "), 200),
	} {
		_, err := ReadTar(context.Background(), bytes.NewReader(data), newSpool(t), WithLimits(Limits{Entries: 3, Bytes: 4096}))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: class %d: %v", name, fault.ClassOf(err), err)
		}
	}
}

func TestReadTarLaterReplaces(t *testing.T) {
	data := rawTar(t, tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711}, tar.Header{Name: "./a/b", Typeflag: tar.TypeReg, Size: 3}, tar.Header{Name: "/a", Typeflag: tar.TypeSymlink, Linkname: "x"})
	tree, err := ReadTar(context.Background(), bytes.NewReader(data), newSpool(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := paths(tree); !slices.Equal(got, []string{"a"}) {
		t.Errorf("got %v", got)
	}
	if e, _ := tree.Lookup(Root); e.Mode.Perm() != 0o711 {
		t.Errorf("root has mode %v", e.Mode)
	}
}

func TestReadTarStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := ReadTar(ctx, bytes.NewReader(rawTar(t, tar.Header{Name: "a", Typeflag: tar.TypeReg})), newSpool(t))
	if err == nil || fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("got %v", err)
	}
}

func TestChangedContentIsFound(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("four"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{3, 5} {
		tree := New()
		mustAdd(t, tree, Entry{Path: "f", Mode: 0o644, Size: size, Content: File(name)})
		if err := WriteTar(io.Discard, tree, 0); err == nil {
			t.Errorf("size %d: not noticed", size)
		}
	}
}

func TestWithSum(t *testing.T) {
	tree := New()
	for name, text := range map[string]string{"a": "one", "b": "", "c": "three"} {
		mustAdd(t, tree, Regular(name, 0o644, []byte(text)))
	}
	mustAdd(t, tree, Dir("d", 0o755))
	var b bytes.Buffer
	if err := WriteTar(&b, tree, 0); err != nil {
		t.Fatal(err)
	}
	h, got := crc32.NewIEEE(), map[string]uint32{}
	if _, err := ReadTar(t.Context(), &b, newSpool(t), WithSum(h), WithVisitor(func(_ *tar.Header, e Entry) error {
		got[e.Path] = h.Sum32()
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint32{"a": crc32.ChecksumIEEE([]byte("one")), "b": 0, "c": crc32.ChecksumIEEE([]byte("three")), "d": 0}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzReadTar(f *testing.F) {
	tree := New()
	for _, e := range sample() {
		if err := tree.Add(e); err != nil {
			f.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := WriteTar(&b, tree, 1); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(rawTar(f, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 10}, tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}))
	f.Add(rawTar(f, tar.Header{Name: "d", Typeflag: tar.TypeDir}, tar.Header{Name: "d", Typeflag: tar.TypeLink, Linkname: "d/x"}))
	f.Add(rawTar(f, tar.Header{Name: "\xff", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.acl.access": "u::rw,u:5:r,g::r,m:r,o:-", "LIBARCHIVE.xattr.user.a": "AGI", "RHT.security.selinux": "x"}}))
	f.Add(sparseTar(f, 1<<20, 5000, []byte("data")))
	for _, format := range sparseFormats {
		dir := f.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "f"), append(make([]byte, 40<<10), "end"...), 0o600); err != nil {
			f.Fatal(err)
		}
		if err := exec.Command("cp", "--sparse=always", filepath.Join(dir, "f"), filepath.Join(dir, "g")).Run(); err != nil {
			f.Fatal(err)
		}
		if packed, err := exec.Command(format[0], append(format[1:], "-cf", "-", "-C", dir, "g", "f")...).Output(); err == nil {
			f.Add(packed)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		spool := newSpool(t)
		var entries []Entry
		tree, err := ReadTar(context.Background(), bytes.NewReader(data), spool, WithVisitor(func(_ *tar.Header, e Entry) error {
			entries = append(entries, e)
			return nil
		}))
		sameContents(t, data, entries)
		if err != nil || slices.ContainsFunc(entries, func(e Entry) bool { return e.Size > 1<<20 }) {
			return
		}
		var out bytes.Buffer
		if err := WriteTar(&out, tree, 0); err != nil {
			return
		}
		back, err := ReadTar(context.Background(), &out, spool)
		if err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
		if back.Len() != tree.Len() {
			t.Fatalf("%d entries came back as %d", tree.Len(), back.Len())
		}
	})
}

// sameContents compares what ReadTar has read, past archive/tar where a file is
// sparse, with what archive/tar reads.
func sameContents(t *testing.T, data []byte, entries []Entry) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(data))
	for _, e := range entries {
		h, err := tr.Next()
		for err == nil && (h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == typeVolumeLabel) {
			h, err = tr.Next()
		}
		if err != nil {
			t.Fatalf("%s: archive/tar does not read it: %v", e.Path, err)
		}
		if !e.IsRegular() || e.Hard != "" || e.Size > 1<<20 {
			continue
		}
		want, err := io.ReadAll(tr)
		if err != nil {
			t.Fatalf("%s: archive/tar does not read its contents: %v", e.Path, err)
		}
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes, archive/tar reads %d, %v", e.Path, len(got), len(want), err)
		}
		r.Close()
	}
}

// Contents of known length are added at the same time, and what is too short
// is an error.
func TestSpoolAddN(t *testing.T) {
	spool := newSpool(t)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			want := bytes.Repeat([]byte{byte(i)}, 300_000+i)
			c, err := spool.AddN(io.MultiReader(bytes.NewReader(want), strings.NewReader("more")), int64(len(want)))
			if err != nil {
				t.Error(err)
				return
			}
			r, err := c.Open()
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("contents %d: %d bytes, want %d, %v", i, len(got), len(want), err)
			}
		})
	}
	wait.Wait()
	if _, err := spool.AddN(strings.NewReader("short"), 6); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short: %v", err)
	}
}

// Zeros of an archive take no space in the spool, and come out again.
func TestSpoolHoles(t *testing.T) {
	spool, err := NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	var contents []Content
	var want [][]byte
	for _, size := range []int{0, 1, 5000, 1 << 20, 3<<20 + 1} {
		for _, at := range []int{0, size / 2, size - 1, -1} {
			b := make([]byte, size)
			if at >= 0 && at < size {
				b[at] = 1
			}
			c, n, err := spool.Add(bytes.NewReader(b))
			if err != nil || n != int64(size) {
				t.Fatalf("%d bytes, %v", n, err)
			}
			contents, want = append(contents, c), append(want, b)
		}
	}
	for i, c := range contents {
		r, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want[i]) {
			t.Errorf("contents %d: %d bytes, want %d, %v", i, len(got), len(want[i]), err)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(spool.f.Fd()), &st); err != nil || st.Size != spool.Size() || st.Blocks*512 > 3<<20 {
		t.Errorf("the file has %d bytes and takes %d, the spool %d, %v", st.Size, st.Blocks*512, spool.Size(), err)
	}
}
