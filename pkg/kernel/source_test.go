package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

// disks is a small kernel source tree.
func disks() kconfig.Files {
	return kconfig.Files{
		"Makefile": []byte("VERSION = 6\nPATCHLEVEL = 12\n"),
		"Kconfig":  []byte("mainmenu \"Linux/$(ARCH) $(KERNELVERSION) Kernel Configuration\"\nmenu \"General setup\"\nconfig BLOCK\n\tbool \"block\"\nconfig NR\n\tint \"number\"\n\trange 1 8\nendmenu\nsource \"drivers/Kconfig\"\n"),
		"drivers/Kconfig": []byte("menu \"Device Drivers\"\nmenuconfig BLK_DEV\n\tbool \"disks\"\n\tdepends on BLOCK\n" +
			"if BLK_DEV\nconfig VIRTIO_BLK\n\tbool \"virtio\"\nconfig LOOP\n\tbool \"loop\"\n\tdefault y\nendif\nendmenu\n"),
		"arch/arm64/Kconfig": []byte("config GIC\n\tbool\n"),
	}
}

func tarball(t *testing.T, files kconfig.Files) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSource(&b, files); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSource(t *testing.T) {
	plain := tarball(t, disks())
	if !bytes.Equal(plain, tarball(t, disks())) {
		t.Error("two tarballs of the same files differ")
	}
	for name, make := range map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	} {
		var b bytes.Buffer
		w, err := make(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSource(t.Context(), &b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(disks(), got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	// Everything else in a source tree is left out.
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"linux-6.12/Kconfig", "linux-6.12/kernel/fork.c", "linux-6.12/kernel/Makefile", "Kconfig", "linux-6.12/arch/x86/Kconfig.cpu"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSource(t.Context(), &b)
	if d := cmp.Diff(kconfig.Files{"Kconfig": []byte("\n"), "arch/x86/Kconfig.cpu": []byte("\n")}, got); err != nil || d != "" {
		t.Error(err, d)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "no tar": []byte(strings.Repeat("x", 2000)), "cut": plain[:1500],
		"no Kconfig": tarball(t, kconfig.Files{"Makefile": nil}), "bad xz": []byte("\xfd7zXZ\x00 no"),
	} {
		if _, err := ReadSource(t.Context(), bytes.NewReader(data)); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenSource(t.Context(), t.TempDir()); fault.ClassOf(err) != fault.Usage {
		t.Errorf("an empty directory: %v", err)
	}
}

func FuzzReadSource(f *testing.F) {
	var b bytes.Buffer
	if err := WriteSource(&b, disks()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\x00"))
	f.Add([]byte("\xfd7zXZ\x00\x00\x04"))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := ReadSource(t.Context(), bytes.NewReader(data))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteSource(&b, files); err != nil {
			return // a name that is too long, say
		}
		again, err := ReadSource(t.Context(), &b)
		if err != nil || len(again) != len(files) {
			t.Fatalf("%d files became %d: %v", len(files), len(again), err)
		}
	})
}
