package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// tarOf makes a tar of headers; a regular file's contents are in Linkname's
// place, which it does not need.
func tarOf(t testing.TB, headers []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = map[byte]int64{tar.TypeReg: 0o644, tar.TypeDir: 0o755}[h.Typeflag]
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// entries reads "d a", "f a/b content", "l link target", "h link target",
// "w a/b" (whiteout) and "o a" (opaque).
func entries(lines ...string) []tar.Header {
	var out []tar.Header
	for _, line := range lines {
		w := strings.SplitN(line, " ", 3)
		w = append(w, "")
		h := tar.Header{Name: w[1], Linkname: w[2]}
		dir, base := "", w[1]
		if i := strings.LastIndexByte(w[1], '/'); i >= 0 {
			dir, base = w[1][:i+1], w[1][i+1:]
		}
		switch w[0] {
		case "d":
			h.Typeflag, h.Linkname = tar.TypeDir, ""
		case "f":
			h.Typeflag = tar.TypeReg
		case "l":
			h.Typeflag = tar.TypeSymlink
		case "h":
			h.Typeflag = tar.TypeLink
		case "w":
			h = tar.Header{Typeflag: tar.TypeReg, Name: dir + ".wh." + base}
		case "o":
			h = tar.Header{Typeflag: tar.TypeReg, Name: w[1] + "/.wh..wh..opq"}
		}
		out = append(out, h)
	}
	return out
}

func imageOf(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func newSpool(t testing.TB) *rootfs.Spool {
	t.Helper()
	s, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func treeOf(t testing.TB, img v1.Image, opts ...TreeOption) (*rootfs.Tree, error) {
	t.Helper()
	i, err := From(t.Context(), "test", img)
	if err != nil {
		return nil, err
	}
	return i.Tree(t.Context(), newSpool(t), opts...)
}

// dump shows a tree as lines like those of entries, "d" without attributes.
func dump(t testing.TB, tree *rootfs.Tree) []string {
	t.Helper()
	var out []string
	for e := range tree.All() {
		switch {
		case e.Hard != "":
			out = append(out, "h "+e.Path+" "+e.Hard)
		case e.IsDir():
			out = append(out, "d "+e.Path)
		case e.IsSymlink():
			out = append(out, "l "+e.Path+" "+e.Link)
		default:
			var b strings.Builder
			if err := e.CopyTo(&b); err != nil {
				t.Fatal(err)
			}
			out = append(out, strings.TrimSpace("f "+e.Path+" "+b.String()))
		}
	}
	return out
}

func TestApply(t *testing.T) {
	for name, tt := range map[string]struct {
		layers [][]string
		want   []string
		err    string
	}{
		"file replaced":                     {[][]string{{"f a 1"}, {"f a 2"}}, []string{"f a 2"}, ""},
		"whiteout of a file":                {[][]string{{"f a 1", "f b 1"}, {"w a"}}, []string{"f b 1"}, ""},
		"whiteout of a directory":           {[][]string{{"d d", "f d/a 1"}, {"w d"}}, nil, ""},
		"whiteout of nothing there":         {[][]string{{"f a 1"}, {"w b", "w x/y"}}, []string{"f a 1", "d x"}, ""},
		"whiteout, then the name anew":      {[][]string{{"d d", "f d/a 1"}, {"w d", "d d", "f d/b 2"}}, []string{"d d", "f d/b 2"}, ""},
		"the name anew, then its whiteout":  {[][]string{{"d d", "f d/a 1"}, {"d d", "f d/b 2", "w d"}}, []string{"d d", "f d/b 2"}, ""},
		"file anew, then its whiteout":      {[][]string{{"f a 1"}, {"f a 2", "w a"}}, []string{"f a 2"}, ""},
		"opaque first":                      {[][]string{{"d d", "f d/a 1", "f d/s/x 1"}, {"d d", "o d", "f d/b 2"}}, []string{"d d", "f d/b 2"}, ""},
		"opaque last":                       {[][]string{{"d d", "f d/a 1", "f d/s/x 1"}, {"d d", "f d/b 2", "f d/s/y 2", "o d"}}, []string{"d d", "f d/b 2", "d d/s", "f d/s/y 2"}, ""},
		"opaque twice and nested":           {[][]string{{"f d/s/x 1", "f d/y 1"}, {"o d/s", "f d/s/z 2", "o d", "o d/s", "o d"}}, []string{"d d", "d d/s", "f d/s/z 2"}, ""},
		"opaque keeps its own layer only":   {[][]string{{"f d/a 1"}, {"f d/b 2"}, {"o d"}}, []string{"d d"}, ""},
		"opaque does not reach up":          {[][]string{{"f d/a 1", "f d/s/a 1"}, {"o d/s"}}, []string{"d d", "f d/a 1", "d d/s"}, ""},
		"later layer adds below an opaque":  {[][]string{{"f d/a 1"}, {"o d"}, {"f d/c 3"}}, []string{"d d", "f d/c 3"}, ""},
		"directory becomes a file":          {[][]string{{"f d/a 1"}, {"f d 2"}}, []string{"f d 2"}, ""},
		"file becomes a directory":          {[][]string{{"f d 1"}, {"d d", "f d/a 2"}}, []string{"d d", "f d/a 2"}, ""},
		"directory, file, directory":        {[][]string{{"f d/x 1"}, {"f d 2"}, {"d d"}}, []string{"d d"}, ""},
		"link becomes a directory":          {[][]string{{"d usr/lib", "l lib usr/lib"}, {"d lib", "f lib/a 1"}}, []string{"d lib", "f lib/a 1", "d usr", "d usr/lib"}, ""},
		"parent is a link":                  {[][]string{{"d usr/lib", "l lib usr/lib"}, {"f lib/a 1"}}, []string{"l lib usr/lib", "d usr", "d usr/lib", "f usr/lib/a 1"}, ""},
		"parent is a link to the top":       {[][]string{{"l up ../../..", "l abs /"}, {"f up/a 1", "f abs/b 2"}}, []string{"f a 1", "l abs /", "f b 2", "l up ../../.."}, ""},
		"parent is a link to nothing yet":   {[][]string{{"l lib usr/lib64"}, {"f lib/a 1"}}, []string{"l lib usr/lib64", "d usr", "d usr/lib64", "f usr/lib64/a 1"}, ""},
		"whiteout through a link":           {[][]string{{"f usr/lib/a 1", "l lib usr/lib"}, {"w lib/a"}}, []string{"l lib usr/lib", "d usr", "d usr/lib"}, ""},
		"opaque through a link":             {[][]string{{"f usr/lib/a 1", "l lib usr/lib"}, {"o lib"}}, []string{"l lib usr/lib", "d usr", "d usr/lib"}, ""},
		"hard link across layers":           {[][]string{{"f a 1"}, {"h b a"}}, []string{"f a 1", "h b a"}, ""},
		"hard link, its target replaced":    {[][]string{{"f a 1"}, {"h b a"}, {"f a 2"}}, []string{"f a 2", "f b 1"}, ""},
		"hard link, its target hidden":      {[][]string{{"f a 1"}, {"h b a", "h c a"}, {"w a"}}, []string{"f b 1", "h c b"}, ""},
		"hard link through a link":          {[][]string{{"f usr/a 1", "l u usr"}, {"h b u/a"}}, []string{"f b 1", "l u usr", "d usr", "h usr/a b"}, ""},
		"hard link to a link":               {[][]string{{"l a nowhere"}, {"h b a"}}, []string{"l a nowhere", "h b a"}, ""},
		"hard link to itself":               {[][]string{{"f a 1"}, {"h a a"}}, nil, "hard link to a, which it replaces"},
		"a directory linked to itself":      {[][]string{{"d d", "h d d"}}, nil, "hard link to the directory d"},
		"aufs leftovers":                    {[][]string{{"f a 1", "f .wh..wh.aufs", "d .wh..wh.plnk", "f .wh..wh.plnk/12.34 x"}}, []string{"f a 1"}, ""},
		"whiteout of the whole root":        {[][]string{{"f a 1", "f d/b 2"}, {"o .", "f c 3"}}, []string{"f c 3"}, ""},
		"odd spellings":                     {[][]string{{"f ./a 1", "f /b 2", "f c//d 3", "d ./"}, {"w ./a"}}, []string{"f b 2", "d c", "f c/d 3"}, ""},
		"name with dots":                    {[][]string{{"f ../a 1"}}, nil, `name "../a" has a .. in it`},
		"parent is a file":                  {[][]string{{"f a 1"}, {"f a/b 2"}}, nil, "a/b: a/: its parent a is not a directory"},
		"links in a circle":                 {[][]string{{"l a b", "l b a", "f a/x 1"}}, nil, "more than 40 symbolic links"},
		"hard link to nothing":              {[][]string{{"h b a"}}, nil, "b: hard link to a, which is not there"},
		"hard link to what it replaces":     {[][]string{{"f d/a 1"}, {"h d d/a"}}, nil, "which it replaces"},
		"hard link to a directory":          {[][]string{{"d d", "h b d"}}, nil, "hard link to the directory d"},
		"whiteout without a name":           {[][]string{{"f .wh."}}, nil, "a whiteout of nothing"},
		"whiteout of the parent":            {[][]string{{"f d/.wh..."}}, nil, "a whiteout of nothing"},
		"below a whiteout":                  {[][]string{{"f .wh.a/b 1"}}, nil, "an entry below a whiteout"},
		"hard link outside":                 {[][]string{{"h b ../../etc/passwd"}}, nil, "has a .. in it"},
		"hard link target hidden too early": {[][]string{{"f a 1"}, {"w a", "h b a"}}, nil, "hard link to a, which is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, lines := range tt.layers {
				layers = append(layers, tarOf(t, entries(lines...)))
			}
			tree, err := treeOf(t, imageOf(t, layers...))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || fault.ClassOf(err) != fault.Source {
					t.Fatalf("got error %v (class %d), want %q", err, fault.ClassOf(err), tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, dump(t, tree)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Attributes of every kind come through, and a directory in a later layer
// replaces all of those it had.
func TestAttributes(t *testing.T) {
	layer := tarOf(t, []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o700, Uid: 3},
		{Typeflag: tar.TypeDir, Name: "d", Mode: 0o2770, Uid: 70000, Gid: 70001, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1"}},
		{Typeflag: tar.TypeReg, Name: "d/su", Mode: 0o4755, Linkname: "x", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\xff"}},
		{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeBlock, Name: "sd", Mode: 0o660, Gid: 6, Devmajor: 259, Devminor: 300},
		{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600},
		{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "abc"}},
	})
	over := tarOf(t, []tar.Header{{Typeflag: tar.TypeDir, Name: "d", Mode: 0o1777, Uid: 5}})
	tree, err := treeOf(t, imageOf(t, layer, over))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []rootfs.Entry{
		{Path: ".", Mode: fs.ModeDir | 0o700, UID: 3},
		{Path: "d", Mode: fs.ModeDir | fs.ModeSticky | 0o777, UID: 5},
		{Path: "d/su", Mode: fs.ModeSetuid | 0o755, Size: 1, Xattrs: map[string][]byte{"security.capability": {1, 0, 0xff}}, Content: rootfs.Bytes([]byte("x"))},
		{Path: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "sd", Mode: fs.ModeDevice | 0o660, GID: 6, Major: 259, Minor: 300},
		{Path: "pipe", Mode: fs.ModeNamedPipe | 0o600},
	} {
		got, ok := tree.Lookup(want.Path)
		if !ok {
			t.Errorf("%s is not there", want.Path)
			continue
		}
		if diff, err := rootfs.Difference(got, want); diff != "" || err != nil {
			t.Errorf("%s: %s %v", want.Path, diff, err)
		}
	}
	if tree.Len() != 5 {
		t.Errorf("%d entries: %v", tree.Len(), dump(t, tree))
	}
}

func TestLimits(t *testing.T) {
	small := tarOf(t, entries("f a 1", "f b 1"))
	bomb := tarOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "zeros", Linkname: strings.Repeat("\x00", 1<<20)}})
	deep := tarOf(t, entries("f "+strings.Repeat("d/", 1000)+"f 1"))
	sparse := sparseLayer(t, 4<<20)
	var flood []tar.Header
	for i := range 10 {
		flood = append(flood, tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprint("d", i), PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 60_000)}})
	}
	attributes := tarOf(t, flood)
	for name, tt := range map[string]struct {
		layer  []byte
		count  int
		limits Limits
		want   string
	}{
		"layers":              {small, 4, Limits{Layers: 3, Entries: 100, Bytes: 1 << 20}, "4 layers are more than 3"},
		"entries":             {small, 2, Limits{Layers: 3, Entries: 3, Bytes: 1 << 20}, "more than 3 entries"},
		"implied directories": {deep, 1, Limits{Layers: 3, Entries: 900, Bytes: 1 << 20}, "more than 900 entries"},
		"bytes":               {bomb, 2, Limits{Layers: 3, Entries: 100, Bytes: 2 << 20}, "more than 2097152 bytes"},
		"holes":               {sparse, 1, Limits{Layers: 3, Entries: 100, Bytes: 1 << 20}, ""},
		"too many holes":      {sparse, 1, Limits{Layers: 3, Entries: 100, Bytes: 12 << 10}, "holes included"},
		"attributes":          {attributes, 2, Limits{Layers: 3, Entries: 100, Bytes: 8 << 20, Metadata: 1 << 20}, "of memory"},
		"attributes, one":     {attributes, 1, Limits{Layers: 3, Entries: 100, Bytes: 8 << 20, Metadata: 1 << 20}, ""},
		"within":              {small, 3, Limits{Layers: 3, Entries: 6, Bytes: 1 << 20}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := treeOf(t, imageOf(t, slices.Repeat([][]byte{tt.layer}, tt.count)...), WithLimits(tt.limits))
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) || fault.ClassOf(err) != fault.Source {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// sparseLayer is a tar of one file that is a hole, as GNU tar makes it: some
// KiB, whatever the size.
func sparseLayer(t *testing.T, size int64) []byte {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "hole")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "--sparse", "--format=pax", "-C", dir, "-c", "hole").Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs GNU tar")
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A layer that hides the same directories again and again is applied in time
// that grows with its length only.
func TestManyMarkers(t *testing.T) {
	const n = 5_000
	var lower, upper []string
	for i := range n {
		name := "d/" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + "/" + strings.Repeat("y", i%97+1)
		lower = append(lower, "f "+name+" 1")
		upper = append(upper, "f "+name+"2 2", "o d", "w d")
	}
	tree, err := treeOf(t, imageOf(t, tarOf(t, entries(lower...)), tarOf(t, entries(upper...))))
	if err != nil {
		t.Fatal(err)
	}
	for e := range tree.All() {
		if e.IsRegular() && !strings.HasSuffix(e.Path, "2") {
			t.Fatalf("%s of the lower layer is still there", e.Path)
		}
	}
}

// corrupted is a layer that gives other bytes than its digest says.
type corrupted struct {
	v1.Layer
	b []byte
}

func (c corrupted) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c.b)), nil
}

func TestVerification(t *testing.T) {
	plain := tarOf(t, entries("f a 1"))
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	good := static.NewLayer(z.Bytes(), types.OCILayer)
	for name, tt := range map[string]struct {
		mangle func([]byte) []byte
		diffID string
		want   string
	}{
		"a bit flipped":   {func(b []byte) []byte { b[len(b)/2] ^= 4; return b }, "", "wrong digest"},
		"cut short":       {func(b []byte) []byte { return b[:len(b)-9] }, "", "ends after"},
		"something added": {func(b []byte) []byte { return append(b, 0) }, "", "longer than"},
		"other diff ID":   {func(b []byte) []byte { return b }, "sha256:" + strings.Repeat("0", 64), "wrong diff ID"},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: good})
			if err != nil {
				t.Fatal(err)
			}
			config, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			_, diffID := v1.Hash{}, hashOfBytes(t, plain)
			if tt.diffID != "" {
				if diffID, err = v1.NewHash(tt.diffID); err != nil {
					t.Fatal(err)
				}
			}
			config.RootFS.DiffIDs = []v1.Hash{diffID}
			if img, err = mutate.ConfigFile(img, config); err != nil {
				t.Fatal(err)
			}
			_, err = treeOf(t, badImage{img, corrupted{good, tt.mangle(bytes.Clone(z.Bytes()))}})
			if err == nil || !strings.Contains(err.Error(), tt.want) || fault.ClassOf(err) != fault.Verification {
				t.Errorf("got %v (class %d), want %q", err, fault.ClassOf(err), tt.want)
			}
		})
	}
}

type badImage struct {
	v1.Image
	layer v1.Layer
}

func (b badImage) LayerByDigest(v1.Hash) (v1.Layer, error) { return b.layer, nil }

func hashOfBytes(t testing.TB, b []byte) v1.Hash {
	t.Helper()
	h, _, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Layers are read whatever their compression, also where the media type is
// wrong about it.
func TestCompression(t *testing.T) {
	plain := tarOf(t, entries("f a 1"))
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		data []byte
		mt   types.MediaType
	}{
		"gzip":             {z.Bytes(), types.OCILayer},
		"zstd":             {enc.EncodeAll(plain, nil), types.OCILayerZStd},
		"none":             {plain, types.OCIUncompressedLayer},
		"zstd, as gzip":    {enc.EncodeAll(plain, nil), types.OCILayer},
		"two gzip members": {append(gz(t, plain[:512]), gz(t, plain[512:])...), types.DockerLayer},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: static.NewLayer(tt.data, tt.mt), MediaType: tt.mt})
			if err != nil {
				t.Fatal(err)
			}
			config, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			config.RootFS.DiffIDs = []v1.Hash{hashOfBytes(t, plain)}
			if img, err = mutate.ConfigFile(img, config); err != nil {
				t.Fatal(err)
			}
			tree, err := treeOf(t, img)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"f a 1"}, dump(t, tree)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

func TestCancelled(t *testing.T) {
	img := imageOf(t, tarOf(t, entries("f a 1")))
	i, err := From(t.Context(), "test", img)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := i.Tree(ctx, newSpool(t)); fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("got %v", err)
	}
}
