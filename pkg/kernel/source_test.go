package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"slices"
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
		"zstd after a skippable frame": func(w io.Writer) (io.WriteCloser, error) {
			if _, err := io.WriteString(w, "\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"); err != nil {
				return nil, err
			}
			return zstd.NewWriter(w)
		},
		"zstd after two of the last kind": func(w io.Writer) (io.WriteCloser, error) {
			if _, err := io.WriteString(w, "\x5f\x2a\x4d\x18\x00\x00\x00\x00\x5f\x2a\x4d\x18\x01\x00\x00\x00a"); err != nil {
				return nil, err
			}
			return zstd.NewWriter(w)
		},
		"zstd --long=27": func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithWindowSize(128<<20))
		},
		"xz": func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
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
	for _, name := range []string{"linux-6.12/Kconfig", "linux-6.12/kernel/fork.c", "linux-6.12/kernel/Makefile", "README", "linux-6.12/arch/x86/Kconfig.cpu"} {
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
		"only a skippable frame":        []byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"),
		"a skippable frame without end": []byte("\x50\x2a\x4d\x18\xff\xff\xff\xffabcd"),
	} {
		if _, err := ReadSource(t.Context(), bytes.NewReader(data)); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenSource(t.Context(), t.TempDir()); fault.ClassOf(err) != fault.Usage {
		t.Errorf("an empty directory: %v", err)
	}
}

// tarOf is a tarball of empty files, and of directories where a name ends in /.
func tarOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The top of a source tree is found wherever tarballs have it.
func TestSourceTop(t *testing.T) {
	for _, tt := range []struct{ in, want, err string }{
		{"linux-6.12/ linux-6.12/Kconfig linux-6.12/Makefile linux-6.12/mm/Kconfig linux-6.12/mm/Makefile", "Kconfig Makefile mm/Kconfig", ""},
		{"Kconfig Makefile mm/Kconfig mm/Makefile", "Kconfig Makefile mm/Kconfig", ""},
		{"./ ./Kconfig ./Makefile ./mm/Kconfig", "Kconfig Makefile mm/Kconfig", ""},
		{"./linux/Kconfig ./linux/mm/Kconfig.debug", "Kconfig mm/Kconfig.debug", ""},
		{"/linux/Kconfig /linux/Makefile", "Kconfig Makefile", ""},
		{"mm/Kconfig Kconfig", "Kconfig mm/Kconfig", ""},
		{"linux/Kconfig README other/file", "Kconfig", ""},
		{"linux/Kconfig linux/Makefile other/Makefile other/mm/Kconfig", "Kconfig Makefile", ""},
		{"a/Kconfig b/Kconfig", "", "no Kconfig file at its top, and both a/Kconfig and b/Kconfig have one"},
		{"a/b/Kconfig Makefile", "", "no Kconfig file, neither at its top nor in a directory there"},
		{"Kconfig/", "", "no Kconfig file"},
		{"README", "", "no Kconfig file"},
	} {
		files, err := ReadSource(t.Context(), bytes.NewReader(tarOf(t, strings.Fields(tt.in)...)))
		if tt.err != "" {
			if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want %q", tt.in, err, tt.err)
			}
			continue
		}
		if got := strings.Join(slices.Sorted(maps.Keys(files)), " "); err != nil || got != tt.want {
			t.Errorf("%s: got %s, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

// What claims to be larger than the limits is refused without being read.
func TestSourceLimits(t *testing.T) {
	var huge bytes.Buffer
	w := tar.NewWriter(&huge)
	if err := w.WriteHeader(&tar.Header{Name: "linux/Kconfig", Typeflag: tar.TypeReg, Size: 1 << 62, Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	// The dictionary of the largest size: 4 GiB.
	dictionary := []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x28\x00\x00\x00")
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"a size near the end of the integers", huge.Bytes(), "Kconfig files are larger than"},
		{"a dictionary of 4 GiB", dictionary, "a dictionary of 4294967295 bytes"},
		{"the same behind sizes", append(append([]byte(nil), dictionary[:13]...), "\xc0\x80\x01\x85\x02\x21\x01\x28\x00"...), "a dictionary of 4294967295 bytes"},
		{"bzip2", []byte("BZh91AY&SY"), "a bzip2 file, which is not read"},
		{"zip", []byte("PK\x03\x04\x14\x00"), "a zip file, which is not read"},
	} {
		_, err := ReadSource(t.Context(), bytes.NewReader(tt.data))
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
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
