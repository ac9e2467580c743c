package anytree

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/ext4"
)

func sample(t testing.TB) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{
		rootfs.Dir("etc", 0o755), rootfs.Regular("etc/motd", 0o644, bytes.Repeat([]byte("hello\n"), 1000)), rootfs.Symlink("etc/link", "motd"),
	} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// forms are the sample in every form there is, but a directory.
func forms(t testing.TB) map[string][]byte {
	t.Helper()
	tree := sample(t)
	image := func(write func(*os.File) error) []byte {
		t.Helper()
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	ctx := context.Background()
	out := map[string][]byte{
		"tar": image(func(f *os.File) error { return rootfs.WriteTar(f, tree, 1) }),
		"ext4": image(func(f *os.File) error {
			_, err := ext4.Write(ctx, f, tree, ext4.Options{Epoch: 1})
			return err
		}),
		"erofs": image(func(f *os.File) error {
			_, err := erofs.Write(ctx, f, tree, erofs.Options{Epoch: 1})
			return err
		}),
	}
	for _, name := range []string{"tar", "ext4", "erofs"} {
		out[name+".gz"] = pack(t, out[name], 1)
		var z bytes.Buffer
		w, err := zstd.NewWriter(&z)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(out[name]); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		out[name+".zst"] = z.Bytes()
	}
	return out
}

// pack compresses so many times over.
func pack(t testing.TB, data []byte, times int) []byte {
	t.Helper()
	for range times {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		data = z.Bytes()
	}
	return data
}

func motd(t *testing.T, tree *Tree) string {
	t.Helper()
	e, ok := tree.Lookup("etc/motd")
	if !ok {
		t.Fatal("there is no etc/motd")
	}
	r, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The same files, whatever holds them, from a file and from a stream.
func TestForms(t *testing.T) {
	want := strings.Repeat("hello\n", 1000)
	temp := t.TempDir()
	check := func(what string, tree *Tree, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if got := motd(t, tree); got != want {
			t.Errorf("%s: etc/motd has %d bytes", what, len(got))
		}
		if link, ok := tree.Lookup("etc/link"); !ok || link.Link != "motd" {
			t.Errorf("%s: etc/link is %+v", what, link)
		}
		if err := tree.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for name, data := range forms(t) {
		path := filepath.Join(t.TempDir(), "no-name-that-says-it")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		tree, err := Open(t.Context(), path, Options{TempDir: temp})
		check(name, tree, err)
		tree, err = Read(t.Context(), bytes.NewReader(data), "a stream", Options{TempDir: temp})
		check(name+", as a stream", tree, err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "etc"), 0o755), os.WriteFile(filepath.Join(dir, "etc/motd"), []byte(want), 0o644),
		os.Symlink("motd", filepath.Join(dir, "etc/link"))); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(t.Context(), dir, Options{})
	check("a directory", tree, err)
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func TestRefused(t *testing.T) {
	all := forms(t)
	read := func(data []byte, o Options) error {
		tree, err := Read(t.Context(), bytes.NewReader(data), "in", o)
		if err == nil {
			err = errors.Join(errors.New("it was read"), tree.Close())
		}
		return err
	}
	for what, c := range map[string]struct {
		data []byte
		o    Options
		want string
	}{
		"nothing":               {nil, Options{}, "in is empty"},
		"text":                  {[]byte("hello"), Options{}, "in is neither a tar archive nor an image"},
		"compressed too often":  {pack(t, all["tar"], maxLayers+1), Options{}, "compressed more than 4 times over"},
		"an image over a limit": {all["ext4.gz"], Options{Limit: 1 << 20}, "more than 1048576 bytes"},
		"a tar over a limit":    {all["tar"], Options{Limit: 100}, "in: "},
		"an image cut short":    {pack(t, all["erofs"][:2000], 1), Options{}, "in: "},
		"gzip cut short":        {all["tar.gz"][:len(all["tar.gz"])-3], Options{}, "in: "},
		"xz":                    {[]byte("\xfd7zXZ\x00"), Options{}, "in is an xz file, which is not understood"},
	} {
		err := read(c.data, c.o)
		if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if limited := c.o.Limit > 0; errors.Is(err, rootfs.ErrBytes) != limited {
			t.Errorf("%s: about the limit it says %v", what, err)
		}
	}
	if err := read(pack(t, all["tar"], maxLayers), Options{}); !strings.Contains(err.Error(), "it was read") {
		t.Errorf("as often as may be: %v", err)
	}
	var packed *PackedError
	if err := read([]byte("BZh91AY&SY"), Options{}); !errors.As(err, &packed) || packed.Unpack != "bzip2 -dc" || packed.Name != "in" {
		t.Errorf("%v, %+v", err, packed)
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "none"), Options{}); fault.ClassOf(err) != fault.Usage {
		t.Errorf("nothing there: %v", err)
	}
}

// Whatever the bytes, a tree or an error with a class, within the limit.
func FuzzRead(f *testing.F) {
	for _, data := range forms(f) {
		f.Add(data[:min(len(data), 64<<10)])
	}
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, err := Read(context.Background(), bytes.NewReader(data), "in", Options{Limit: 1 << 20})
		if err != nil {
			if fault.ClassOf(err) == fault.Internal {
				t.Errorf("without a class: %v", err)
			}
			return
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
}
