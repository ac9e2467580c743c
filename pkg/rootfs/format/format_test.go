package format

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/anytree"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
	"github.com/sovereign-build/sovereign/pkg/rootfs/oci"
)

func tree(t *testing.T) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{rootfs.Dir("etc", 0o755), rootfs.Regular("etc/motd", 0o644, []byte("hello\n"))} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// options will do for every format.
func options() Options {
	return Options{
		Epoch: 1700000000,
		OCI:   oci.Spec{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}},
		APK:   APK{Meta: apk.Meta{Name: "motd", Version: "1-r0", Arch: "x86_64"}},
	}
}

// An image and a package are what their own readers take.
func TestReadBack(t *testing.T) {
	var o Options
	write := func(name string) string {
		t.Helper()
		f, err := Of(name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "file")
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if _, err := f.Write(t.Context(), out, tree(t), o); err != nil {
			t.Fatal(err)
		}
		return path
	}
	o = options()
	o.TempDir = t.TempDir()
	image, err := oci.Open(t.Context(), nil, write("oci"), v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	spool, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	got, err := image.Tree(t.Context(), spool)
	if err != nil {
		t.Fatal(err)
	}
	// The package's own words, by which an unsigned one is opened.
	meta, err := apk.Write(io.Discard, o.APK.Meta, tree(t), nil, o.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	p, err := apk.Open(write("apk"), nil, apk.Pinned(meta))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for what, tree := range map[string]*rootfs.Tree{"oci": got, "apk": p.Tree} {
		if e, ok := tree.Lookup("etc/motd"); !ok || e.Size != 6 || e.Mode != 0o644 {
			t.Errorf("%s: etc/motd is %+v", what, e)
		}
	}
	if p.Meta.ID() != "motd-1-r0" {
		t.Errorf("the package is %s", p.Meta.ID())
	}
}

// What a file has to say of itself is asked for.
func TestNeeds(t *testing.T) {
	for _, name := range []string{"oci", "apk"} {
		f, err := Of(name)
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if _, err := f.Write(t.Context(), out, tree(t), Options{}); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s, without saying what it is: %v", name, err)
		}
	}
}

// Every format is written by its name, the same twice, and what anytree reads
// comes back as it was.
func TestFormats(t *testing.T) {
	for _, f := range All() {
		t.Run(f.Name, func(t *testing.T) {
			same, err := Of(f.Name)
			if err != nil || same.Name != f.Name {
				t.Fatal(err)
			}
			var images [][]byte
			path := ""
			for range 2 {
				path = filepath.Join(t.TempDir(), "image."+f.Name)
				out, err := os.Create(path)
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				info, err := f.Write(t.Context(), out, tree(t), options())
				if err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(path)
				if err != nil || int64(len(b)) != info.Size || info.Size == 0 {
					t.Errorf("%d bytes, and %+v, %v", len(b), info, err)
				}
				if f.UUID != (info.UUID != [16]byte{}) {
					t.Errorf("UUID %x", info.UUID)
				}
				images = append(images, b)
			}
			if !bytes.Equal(images[0], images[1]) {
				t.Error("not the same twice")
			}
			if !slices.Contains([]string{"ext4", "erofs", "tar"}, f.Name) {
				return
			}
			back, err := anytree.Open(t.Context(), path, anytree.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer back.Close()
			if e, ok := back.Lookup("etc/motd"); !ok || e.Size != 6 || e.Mode != 0o644 {
				t.Errorf("etc/motd is %+v", e)
			}
		})
	}
}

// An option without a place is refused, and not left out.
func TestRefusals(t *testing.T) {
	if _, err := Of("ntfs"); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "ext4, erofs, fat, cpio, cpio.zst, tar, oci, apk") {
		t.Errorf("%v, %s", err, fault.HintOf(err))
	}
	for _, f := range All() {
		for what, o := range map[string]Options{"UUID": {UUID: [16]byte{1}}, "label": {Label: "X"}, "size": {Size: 1 << 30}} {
			has := map[string]bool{"UUID": f.UUID, "label": f.Label, "size": f.Size}[what]
			if has {
				continue
			}
			out, err := os.Create(filepath.Join(t.TempDir(), "x"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if _, err := f.Write(t.Context(), out, tree(t), o); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), f.Name+" has no place for a "+what) {
				t.Errorf("%s with a %s: %v", f.Name, what, err)
			}
		}
	}
}
