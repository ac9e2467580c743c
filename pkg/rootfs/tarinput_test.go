package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func readTar(t testing.TB, data []byte, opts ...TarOption) (*Tree, error) {
	t.Helper()
	return ReadTar(t.Context(), bytes.NewReader(data), newSpool(t), opts...)
}

// Attributes come in under every key that tar programs write them with.
func TestReadTarAttributes(t *testing.T) {
	const text = "user::rw-,user:1000:rw-,group::r--,mask::rw-,other::r--"
	parsed, err := parseACL(text, false)
	if err != nil {
		t.Fatal(err)
	}
	acl := string(parsed.encode())
	for name, tt := range map[string]struct {
		records map[string]string
		want    map[string]string
		mode    fs.FileMode // 0 is that of the header
		err     string
	}{
		"schily":          {map[string]string{"SCHILY.xattr.user.a": "\x00b\n"}, map[string]string{"user.a": "\x00b\n"}, 0, ""},
		"empty":           {map[string]string{"SCHILY.xattr.user.a": ""}, map[string]string{"user.a": ""}, 0, ""},
		"escaped name":    {map[string]string{"SCHILY.xattr.user.a%3Db%25": "v"}, map[string]string{"user.a=b%": "v"}, 0, ""},
		"libarchive":      {map[string]string{"LIBARCHIVE.xattr.user.a%3Db": "AGI"}, map[string]string{"user.a=b": "\x00b"}, 0, ""},
		"padded":          {map[string]string{"LIBARCHIVE.xattr.user.a": base64.StdEncoding.EncodeToString([]byte("v"))}, map[string]string{"user.a": "v"}, 0, ""},
		"both":            {map[string]string{"LIBARCHIVE.xattr.user.a": "AGI", "SCHILY.xattr.user.a": "\x00b"}, map[string]string{"user.a": "\x00b"}, 0, ""},
		"selinux":         {map[string]string{"RHT.security.selinux": "u:object_r:x:s0"}, map[string]string{"security.selinux": "u:object_r:x:s0\x00"}, 0, ""},
		"selinux twice":   {map[string]string{"RHT.security.selinux": "a", "SCHILY.xattr.security.selinux": "b\x00"}, map[string]string{"security.selinux": "b\x00"}, 0, ""},
		"acl":             {map[string]string{"SCHILY.acl.access": text}, map[string]string{"system.posix_acl_access": acl}, 0o664, ""},
		"acl and xattr":   {map[string]string{"SCHILY.acl.access": text, "SCHILY.xattr.user.a": "b"}, map[string]string{"system.posix_acl_access": acl, "user.a": "b"}, 0o664, ""},
		"acl of the mode": {map[string]string{"SCHILY.acl.access": "user::rwx\ngroup::---\nother::--x"}, nil, 0o701, ""},
		"no acl":          {map[string]string{"SCHILY.acl.access": "", "SCHILY.acl.default": ""}, nil, 0, ""},
		"others' remarks": {map[string]string{"comment": "x", "LIBARCHIVE.creationtime": "5", "VENDOR.thing": "y"}, nil, 0, ""},

		"bad base64":       {map[string]string{"LIBARCHIVE.xattr.user.a": "!"}, nil, 0, "dir/f: PAX record LIBARCHIVE.xattr.user.a: "},
		"bad URL":          {map[string]string{"LIBARCHIVE.xattr.user.a%zz": "AGI"}, nil, 0, "dir/f: PAX record LIBARCHIVE.xattr.user.a%zz: "},
		"bad acl":          {map[string]string{"SCHILY.acl.access": "user::rw-,user:lisa:r--"}, nil, 0, `dir/f: PAX record SCHILY.acl.access: ACL entry "user:lisa:r--"`},
		"default of files": {map[string]string{"SCHILY.acl.default": text}, nil, 0, "dir/f: PAX record SCHILY.acl.default: a default ACL is for a directory"},
		"nfs4":             {map[string]string{"SCHILY.acl.ace": "owner@:rw::allow"}, nil, 0, "dir/f: PAX record SCHILY.acl.ace: NFSv4"},
		"no namespace":     {map[string]string{"SCHILY.xattr.a": "b"}, nil, 0, `dir/f: extended attribute name "a"`},
		"too large":        {map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", MaxXattrs)}, nil, 0, "dir/f: extended attributes take"},
	} {
		h := tar.Header{Name: "dir/f", Typeflag: tar.TypeReg, Mode: 0o604, PAXRecords: tt.records}
		tree, err := readTar(t, rawTar(t, h))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || fault.ClassOf(err) != fault.Source {
				t.Errorf("%s: %v, want %q", name, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		e, _ := tree.Lookup("dir/f")
		got := map[string]string{}
		for k, v := range e.Xattrs {
			got[k] = string(v)
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", tt.want) && len(got)+len(tt.want) > 0 {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if want := max(tt.mode, 0o604); tt.mode != 0 && e.Mode != tt.mode || tt.mode == 0 && e.Mode != want {
			t.Errorf("%s: mode %v", name, e.Mode)
		}
	}
	tree, err := readTar(t, rawTar(t, tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: map[string]string{"SCHILY.acl.default": text}}))
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := tree.Lookup("dir"); string(e.Xattrs["system.posix_acl_default"]) != acl || e.Mode != fs.ModeDir|0o755 {
		t.Errorf("%v %q", e.Mode, e.Xattrs)
	}
}

// A name with = has an attribute too, which GNU tar reads as well.
func TestTarAttributeNames(t *testing.T) {
	tree := New()
	mustAdd(t, tree, Entry{Path: "f", Mode: 0o644, Xattrs: map[string][]byte{"user.a=b": []byte("1"), "user.50%": []byte("2"), "user.c%3Dd": []byte("3")}})
	var b bytes.Buffer
	if err := WriteTar(&b, tree, 0); err != nil {
		t.Fatal(err)
	}
	back, err := readTar(t, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := tree.Merge(back); err != nil || len(c) > 0 {
		t.Fatal(c, err)
	}
	if !bytes.Contains(b.Bytes(), []byte("SCHILY.xattr.user.50%=2")) {
		t.Error("a name without = is not written as it was before")
	}
}

// Entries that are not files: archive-wide records of git, a volume's label,
// directories of incremental archives, contiguous files.
func TestReadTarOtherTypes(t *testing.T) {
	global := tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "0123"}}
	tree, err := readTar(t, rawTar(t, global,
		tar.Header{Typeflag: 'V', Name: "label"},
		tar.Header{Typeflag: 'D', Name: "d/", Mode: 0o700, Size: 7},
		tar.Header{Typeflag: '7', Name: "d/f", Mode: 0o600, Size: 700}, global))
	if err != nil {
		t.Fatal(err)
	}
	if got := paths(tree); !slices.Equal(got, []string{"d", "d/f"}) {
		t.Errorf("%q", got)
	}
	if d, _ := tree.Lookup("d"); d.Mode != fs.ModeDir|0o700 {
		t.Errorf("%v", d.Mode)
	}
	if f, _ := tree.Lookup("d/f"); f.Size != 700 {
		t.Errorf("%d bytes", f.Size)
	}
	global.PAXRecords = map[string]string{"uid": "5", "comment": "x"}
	if _, err := readTar(t, rawTar(t, global)); err == nil || !strings.Contains(err.Error(), "uid for all entries") {
		t.Errorf("%v", err)
	}
	if _, err := readTar(t, rawTar(t, tar.Header{Typeflag: 'M', Name: "x"})); err == nil || !strings.Contains(err.Error(), `'M' is not known`) {
		t.Errorf("%v", err)
	}
	global.PAXRecords = map[string]string{"comment": "x"}
	if _, err := readTar(t, rawTar(t, global, global, global, global), WithLimits(Limits{Entries: 3, Bytes: 1 << 20})); !errors.Is(err, ErrLimit) {
		t.Errorf("%v", err)
	}
}

// tar writes a file its arguments name twice as a hard link to itself.
func TestReadTarLinkToItself(t *testing.T) {
	file := tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Size: 3, Mode: 0o644}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	tree, err := readTar(t, rawTar(t, file, link("d/f", "d/f"), link("./d/f", "/d//f"), link("d/g", "d/f"), link("d/g", "d/g"), link("d/f", "d/g"),
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "x"}, link("l", "l")))
	if err != nil {
		t.Fatal(err)
	}
	if got := paths(tree); !slices.Equal(got, []string{"d", "d/f", "d/g", "l"}) {
		t.Errorf("%q", got)
	}
	if got := tree.HardLinks(); len(got) != 1 || !slices.Equal(got["d/f"], []string{"d/f", "d/g"}) {
		t.Errorf("%q", got)
	}
	for name, data := range map[string][]byte{
		"nothing before": rawTar(t, link("d/f", "d/f")),
		"a directory":    rawTar(t, tar.Header{Name: "d", Typeflag: tar.TypeDir}, link("d", "d")),
		"the root":       rawTar(t, tar.Header{Name: "./", Typeflag: tar.TypeDir}, link(".", ".")),
	} {
		if _, err := readTar(t, data); err == nil || fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rawNames are names that Linux has and UTF-8 does not, in an order of bytes
// that is not that of characters.
var rawNames = []string{"umlaut-\xe4", "\xff", "\xc3(", "a\xed\xa0\x80b", "\xf4\x90\x80\x80", "ordinary", "ü", "\xfe/\x80\x81", "long-\xe4" + strings.Repeat("\xe4x", 120), strings.Repeat("\xe4/", 90) + "deep"}

func TestTarNamesThatAreNotUTF8(t *testing.T) {
	tree := New()
	for _, name := range rawNames {
		mustAdd(t, tree, Regular(name, 0o644, []byte(name)), Symlink("links/"+strings.ReplaceAll(name, "/", "_"), name))
	}
	mustAdd(t, tree, Hardlink("hard-\xe9", "ordinary"), Hardlink("zz", "\xff"))
	var b bytes.Buffer
	if err := WriteTar(&b, tree, 1); err != nil {
		t.Fatal(err)
	}
	same := func(what string, data []byte) {
		t.Helper()
		back, err := readTar(t, data)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if conflicts, err := tree.Merge(back); err != nil || len(conflicts) != 0 || tree.Len() != back.Len() {
			t.Fatalf("%s: %v, %v, %d and %d entries", what, conflicts, err, tree.Len(), back.Len())
		}
	}
	same("our own", b.Bytes())

	// From the archive into a directory by each tar, and back by each and by us.
	for _, unpack := range []string{"tar", "bsdtar"} {
		if _, err := exec.LookPath(unpack); err != nil {
			t.Logf("%s is not installed", unpack)
			continue
		}
		dir := t.TempDir()
		cmd := exec.Command(unpack, "-xf", "-", "-C", dir)
		cmd.Stdin, cmd.Env = bytes.NewReader(b.Bytes()), append(os.Environ(), "LC_ALL=C.UTF-8")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s -x: %v\n%s", unpack, err, out)
		}
		read, err := ReadDir(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(paths(read), paths(tree)) {
			t.Errorf("%s: %q, want %q", unpack, paths(read), paths(tree))
		}
		for _, pack := range [][]string{{"tar", "--format=gnu"}, {"tar", "--format=pax"}, {"bsdtar", "--format=pax"}, {"bsdtar", "--format=gnutar"}} {
			if _, err := exec.LookPath(pack[0]); err != nil {
				continue
			}
			packed, err := exec.Command(pack[0], append(pack[1:], "-cf", "-", "-C", dir, ".")...).Output()
			if err != nil {
				t.Fatalf("%v: %v", pack, err)
			}
			back, err := readTar(t, packed)
			if err != nil {
				t.Fatalf("%v: %v", pack, err)
			}
			if !slices.Equal(paths(back), paths(tree)) {
				t.Errorf("%v: %q, want %q", pack, paths(back), paths(tree))
			}
		}
	}
}

func TestPathsAreClean(t *testing.T) {
	for path, want := range map[string]bool{
		".": true, "a": true, "a/b": true, "\xff/\xfe": true, "a b": true, "...": true, ".a/b.": true, "\u2028": true,
		"": false, "/": false, "/a": false, "a/": false, "a//b": false, "a/./b": false, "a/..": false, "..": false, "./a": false, "a\x00": false,
	} {
		if err := checkPath(path); (err == nil) != want {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// What an archive would take of memory is bounded, whatever its size.
func TestReadTarMemory(t *testing.T) {
	const enough = 1 << 20 // entries
	big := strings.Repeat("x", MaxXattrs-100)
	attributes := func(i int) tar.Header {
		return tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.a": big}}
	}
	small := Limits{Entries: 20_000, Bytes: 64 << 30, Metadata: 8 << 20}
	for name, tt := range map[string]struct {
		header func(i int) tar.Header
		limits Limits
		want   string
	}{
		"attributes":                {attributes, small, "of memory"},
		"attributes, as by default": {attributes, DefaultLimits(), "more than 536870912 bytes of memory"},
		"attributes of one path":    {func(int) tar.Header { return attributes(0) }, small, "of memory"},
		"attributes, many": {func(i int) tar.Header {
			h := tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg, PAXRecords: map[string]string{}}
			for i := range 4000 {
				h.PAXRecords[fmt.Sprintf("SCHILY.xattr.user.%d", i)] = ""
			}
			return h
		}, small, "of memory"},
		"long names": {func(i int) tar.Header {
			return tar.Header{Name: strings.Repeat(strings.Repeat("d", 254)+"/", 15) + fmt.Sprint(i), Typeflag: tar.TypeReg, Format: tar.FormatGNU}
		}, small, "of memory"},
		"long links": {func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("l", 4000)}
		}, small, "of memory"},
		"implied directories": {func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint(i) + strings.Repeat("/d", 2000), Typeflag: tar.TypeReg}
		}, small, "more than 20000 entries"},
		"memory of implied directories": {func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint(i) + strings.Repeat("/d", 2000), Typeflag: tar.TypeReg}
		}, Limits{Entries: 1_000_000, Bytes: 64 << 30, Metadata: 8 << 20}, "of memory"},
		"entries": {func(i int) tar.Header { return tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg} }, Limits{Entries: 1000, Bytes: 64 << 30}, "more than 1000 entries"},
		"bytes":   {func(i int) tar.Header { return tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg} }, Limits{Entries: 1000, Bytes: 64 << 10}, "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && tt.limits.Metadata > small.Metadata {
				t.Skip("takes half a GiB")
			}
			before := heap()
			r, w := io.Pipe()
			go func() {
				out := bufio.NewWriterSize(w, 1<<20)
				tw := tar.NewWriter(out)
				var err error
				for i := 0; i < enough && err == nil; i++ {
					header := tt.header(i)
					err = tw.WriteHeader(&header)
				}
				w.CloseWithError(errors.Join(err, tw.Close(), out.Flush()))
			}()
			_, err := ReadTar(t.Context(), r, newSpool(t), WithLimits(tt.limits))
			r.CloseWithError(io.ErrClosedPipe)
			if err == nil || !errors.Is(err, ErrLimit) || fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if grown := heap() - before; grown > 64<<20 {
				t.Errorf("%d bytes are still held", grown)
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A name that came in a header of a MiB does not keep that MiB.
func TestReadTarKeepsNamesOnly(t *testing.T) {
	remark := strings.Repeat("x", 900<<10)
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for i := range 200 {
		h := tar.Header{Name: strings.Repeat("d/", 60) + fmt.Sprint(i), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("l", 120), PAXRecords: map[string]string{"comment": remark, "SCHILY.xattr.user.a": "b"}}
		if i%3 == 0 {
			h = tar.Header{Name: h.Name, Linkname: strings.Repeat("d/", 60) + "1", Typeflag: tar.TypeLink, PAXRecords: h.PAXRecords}
		}
		if i == 0 {
			h.Typeflag, h.Linkname = tar.TypeReg, ""
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	before := heap()
	tree, err := readTar(t, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("%d entries keep %d bytes", tree.Len(), grown)
	}
	runtime.KeepAlive(b.Bytes())
}

// Headers without an entry do not go on for ever.
func TestReadTarHeadersWithoutEnd(t *testing.T) {
	one := rawTar(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"comment": strings.Repeat("x", 100<<10)}})
	header := one[:len(one)-3*512] // the records, without the entry and the end
	_, err := ReadTar(t.Context(), &endless{b: header}, newSpool(t))
	if !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "headers") {
		t.Errorf("%v", err)
	}
}

// endless repeats b.
type endless struct {
	b  []byte
	at int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.b[e.at:])
	e.at = (e.at + n) % len(e.b)
	return n, nil
}

// sparseTar is a GNU sparse file with one piece of data at an offset, in a
// format that archive/tar reads and does not write: records of version 0.1.
func sparseTar(t testing.TB, size, at int64, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := tar.Header{Name: "PaxHeaders/f", Typeflag: tar.TypeReg, Size: int64(len(data)), Mode: 0o644}
	records := ""
	for _, kv := range [][2]string{{"GNU.sparse.major", "0"}, {"GNU.sparse.minor", "1"}, {"GNU.sparse.name", "f"}, {"GNU.sparse.size", fmt.Sprint(size)}, {"GNU.sparse.numblocks", "1"}, {"GNU.sparse.map", fmt.Sprintf("%d,%d", at, len(data))}} {
		line := " " + kv[0] + "=" + kv[1] + "\n"
		n := len(line) + 2
		for len(fmt.Sprint(n))+len(line) != n {
			n++
		}
		records += fmt.Sprint(n) + line
	}
	if err := w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: int64(len(records))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, records); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := b.Bytes()
	setType(out[:512], 'x')
	return out
}

// setType changes the type of a header, and its checksum.
func setType(h []byte, kind byte) {
	h[156] = kind
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// Holes are not counted as contents, and not read one by one; sizes near the
// end of the numbers are refused, not waited for.
func TestReadTarHoles(t *testing.T) {
	const size, at = 200 << 20, 100<<20 + 100
	data := bytes.Repeat([]byte("data"), 2048)
	tree, err := readTar(t, sparseTar(t, size, at, data), WithLimits(Limits{Entries: 10, Bytes: 1 << 20}))
	if err != nil {
		t.Fatal(err)
	}
	e, _ := tree.Lookup("f")
	if e.Size != size {
		t.Fatalf("%d bytes", e.Size)
	}
	rc, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got := make([]byte, len(data)+2)
	if _, err := rc.(io.ReaderAt).ReadAt(got, at-1); err != nil || got[0] != 0 || !bytes.Equal(got[1:len(got)-1], data) || got[len(got)-1] != 0 {
		t.Errorf("wrong data, %v", err)
	}
	if _, err := readTar(t, sparseTar(t, size, at, data), WithLimits(Limits{Entries: 10, Bytes: 1 << 20}), WithSum(crc32.NewIEEE())); !errors.Is(err, ErrLimit) {
		t.Errorf("summed: %v", err)
	}
	for _, size := range []int64{17 << 40, math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - 511} {
		for _, at := range []int64{0, size - 8192} {
			_, err := readTar(t, sparseTar(t, size, at, data))
			if !errors.Is(err, ErrLimit) || fault.ClassOf(err) != fault.Source {
				t.Errorf("size %d: %v", size, err)
			}
		}
	}
	for _, size := range []int64{-1, 1, math.MinInt64} {
		if _, err := readTar(t, sparseTar(t, size, 0, data)); err == nil {
			t.Errorf("size %d was read", size)
		}
	}
	for _, size := range []int64{math.MaxInt64, math.MaxInt64 - 511, 65 << 30} {
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: size}); err != nil {
			t.Fatal(err)
		}
		// A type without contents may claim a size too.
		for _, kind := range []byte{'0', '7', 'D', 'S', '5', 'V'} {
			data := slices.Clone(b.Bytes())
			setType(data[len(data)-512:], kind)
			if _, err := readTar(t, append(data, data...)); err == nil && kind != '5' {
				t.Errorf("%c of %d bytes was read", kind, size)
			}
		}
	}
}

// sparseFormats are commands that write sparse files.
var sparseFormats = [][]string{
	{"tar", "--format=gnu", "-S"}, {"tar", "--format=pax", "--sparse-version=0.0", "-S"},
	{"tar", "--format=pax", "--sparse-version=0.1", "-S"}, {"tar", "--format=pax", "--sparse-version=1.0", "-S"}, {"bsdtar", "--format=pax"},
}

// The programs' own sparse formats, against their own reading of them.
func TestReadTarSparseFormats(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range int64(40) {
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 5000), i*200_000); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(9_000_001); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range sparseFormats {
		if _, err := exec.LookPath(format[0]); err != nil {
			t.Logf("%s is not installed", format[0])
			continue
		}
		packed, err := exec.Command(format[0], append(format[1:], "-cf", "-", "-C", dir, "f")...).Output()
		if err != nil {
			t.Fatalf("%v: %v", format, err)
		}
		tree, err := readTar(t, packed)
		if err != nil {
			t.Fatalf("%v: %v", format, err)
		}
		if got := content(t, tree, "f"); got != string(want) {
			t.Errorf("%v: other contents", format)
		}
		// What follows is found again where the contents are not wanted.
		tr := NewTarReader(t.Context(), bytes.NewReader(packed), NewBudget(DefaultLimits()))
		if _, _, err := tr.Next(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := tr.Next(); err != io.EOF || !tr.Ended() {
			t.Errorf("%v: skipped: %v", format, err)
		}
	}
}

// An archive that was cut between two entries is told from a whole one.
func TestReadTarWithEnd(t *testing.T) {
	whole := rawTar(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 600}, tar.Header{Name: "b", Typeflag: tar.TypeReg})
	for n, want := range map[int]bool{len(whole): true, len(whole) - 512: true, len(whole) - 1024: false, len(whole) - 1536: false, 0: false} {
		_, err := readTar(t, whole[:n], WithEnd())
		if (err == nil) != want {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
		if _, err := readTar(t, whole[:n]); err != nil {
			t.Errorf("%d of %d bytes, end not asked for: %v", n, len(whole), err)
		}
	}
	if _, err := readTar(t, append(whole, "and more"...), WithEnd()); err != nil {
		t.Error(err)
	}
}

func TestTarRefusesSockets(t *testing.T) {
	tree := New()
	mustAdd(t, tree, Entry{Path: "s", Mode: fs.ModeSocket | 0o600})
	if err := WriteTar(io.Discard, tree, 0); fault.ClassOf(err) != fault.Usage {
		t.Errorf("%v", err)
	}
}

// Attributes and ACLs of a directory come the same through either tar.
func TestReadTarAgreesOnAttributes(t *testing.T) {
	dir := t.TempDir()
	for name, perm := range map[string]fs.FileMode{"f": 0o640, "g": 0o604} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), perm); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"setfacl", "-m", "u:61234:rw,g:62345:x,u:60004:r,u:0:r", "f"}, {"setfacl", "-m", "d:u:61000:rwx,d:g::x", "."}, {"setfacl", "-m", "g:60007:rwx", "."},
		{"setfattr", "-n", "user.plain", "-v", "v=\n\x01", "f"}, {"setfattr", "-n", "user.a=b%", "-v", "w", "g"}, {"setfattr", "-n", "user.empty", "f"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("%v: %v (Debian: acl, attr, and a file system with both)\n%s", args, err, out)
		}
	}
	want, err := ReadDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if f, _ := want.Lookup("f"); len(f.Xattrs) != 3 {
		t.Fatalf("%q", f.Xattrs)
	}
	for _, pack := range [][]string{
		{"tar", "--acls", "--xattrs", "--numeric-owner"}, {"bsdtar", "--acls", "--xattrs", "--format=pax"},
		{"bsdtar", "--acls", "--xattrs", "--format=pax", "--options=xattrheader=LIBARCHIVE"}, {"bsdtar", "--acls", "--xattrs", "--format=pax", "--options=xattrheader=SCHILY"},
	} {
		if _, err := exec.LookPath(pack[0]); err != nil {
			t.Logf("%s is not installed", pack[0])
			continue
		}
		packed, err := exec.Command(pack[0], append(pack[1:], "-cf", "-", "-C", dir, ".")...).Output()
		if err != nil {
			t.Fatalf("%v: %v", pack, err)
		}
		got, err := readTar(t, packed)
		if err != nil {
			t.Errorf("%v: %v", pack, err)
			continue
		}
		changes, err := Diff(t.Context(), want, got)
		if err != nil || len(changes) > 0 {
			t.Errorf("%v: %+v, %v", pack, changes, err)
		}
	}
}

// Contents that came with holes know them, also as a part of a part.
func TestHoles(t *testing.T) {
	spool := newSpool(t)
	if _, _, err := spool.Add(strings.NewReader(strings.Repeat("x", 5000))); err != nil {
		t.Fatal(err)
	}
	// The block that the contents before share is data.
	const size, at, from = 64 << 20, 32 << 20, 64 << 10
	tree, err := ReadTar(t.Context(), bytes.NewReader(sparseTar(t, size, at, bytes.Repeat([]byte("data"), 4096))), spool)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := spool.Add(strings.NewReader("y")); err != nil {
		t.Fatal(err)
	}
	e, _ := tree.Lookup("f")
	rc, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	part := Section(rc.(interface {
		io.ReaderAt
		Holes
	}), 1<<20, size-1<<20)
	for _, tt := range []struct {
		c       Content
		at, end int64
	}{{e.Content, at, size}, {part, at - 1<<20, size - 1<<20}} {
		rc, err := tt.c.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		start, end, err := rc.(Holes).NextData(from)
		if err != nil {
			t.Fatal(err)
		}
		if start == from && end == tt.end {
			t.Skip("this file system does not know holes")
		}
		if start > tt.at || start < tt.at-64<<10 || end < tt.at+16384 || end > tt.at+128<<10 {
			t.Errorf("data from %d to %d, want %d", start, end, tt.at)
		}
		// The end of the contents is written, to be there.
		if start, end, err = rc.(Holes).NextData(tt.end - 100); err != nil || start > tt.end || end != tt.end {
			t.Errorf("data from %d to %d, %v", start, end, err)
		}
	}
}

// An ordinary desktop has some 300,000 names.
func TestTarManyNames(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	tree := New()
	for i := range 300_000 {
		mustAdd(t, tree, Regular(fmt.Sprintf("usr/share/doc/some-package-%d/a-file-of-it-%d.html", i/1000, i), 0o644, nil))
	}
	var b bytes.Buffer
	if err := WriteTar(&b, tree, 0); err != nil {
		t.Fatal(err)
	}
	back, err := readTar(t, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := Diff(t.Context(), tree, back); err != nil || len(changes) > 0 {
		t.Errorf("%.1000v, %v", changes, err)
	}
}

// Replacing a directory looks at the whole tree, which an archive can make the
// reader do again and again.
func TestReadTarReplacing(t *testing.T) {
	var headers []tar.Header
	for i := range 5000 {
		headers = append(headers, tar.Header{Name: fmt.Sprint("f", i), Typeflag: tar.TypeReg})
	}
	calm := rawTar(t, append(headers, tar.Header{Name: "d/x", Typeflag: tar.TypeReg}, tar.Header{Name: "d", Typeflag: tar.TypeReg})...)
	for range 2300 {
		headers = append(headers, tar.Header{Name: "d", Typeflag: tar.TypeDir}, tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "x"})
	}
	limits := Limits{Entries: 10_000, Bytes: 1 << 30}
	if _, err := readTar(t, rawTar(t, headers...), WithLimits(limits)); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "replaced too often") {
		t.Errorf("%v", err)
	}
	if _, err := readTar(t, calm, WithLimits(limits)); err != nil {
		t.Error(err)
	}
}
