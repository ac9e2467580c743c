package bootable

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// write opens a spec and writes the disk.
func write(t *testing.T, s Spec, format Format) (*Disk, []disk.Layout, []byte) {
	t.Helper()
	s.TempDir = t.TempDir()
	d, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	layout, err := d.Write(t.Context(), f, format)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(s.TempDir); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	return d, layout, data
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func esp(t *testing.T) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	if err := tree.Add(rootfs.Regular("EFI/BOOT/loader.conf", 0o644, []byte("timeout 0\n"))); err != nil {
		t.Fatal(err)
	}
	return tree
}

const hash = "000102030405060708090a0b0c0d0e0ff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"

func TestParts(t *testing.T) {
	var ids [2]disk.GUID
	for i, text := range []string{"11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"} {
		var err error
		if ids[i], err = disk.ParseGUID(text); err != nil {
			t.Fatal(err)
		}
	}
	spec := func() Spec {
		return Spec{Arch: "amd64", ESP: esp(t), Root: file(t, "a root"), Verity: file(t, "its hashes"), RootHash: hash, Data: 10 << 20, Epoch: 1,
			GUIDs: map[string]disk.GUID{DiskGUID: ids[0], LabelData: ids[1]}}
	}
	d, layout, raw := write(t, spec(), Raw)
	var labels []string
	for i, p := range d.Partitions {
		labels = append(labels, p.Label)
		if layout[i].Start%disk.Alignment != 0 {
			t.Errorf("%s starts at %d", p.Label, layout[i].Start)
		}
	}
	if got := strings.Join(labels, " "); got != "esp root root-verity data" || d.GUID != ids[0] || d.Partitions[3].GUID != ids[1] {
		t.Errorf("partitions %s, disk %s", got, d.GUID)
	}
	if got := d.Partitions[1].GUID.String(); got != "00010203-0405-0607-0809-0A0B0C0D0E0F" {
		t.Errorf("the root's GUID is %s, not the root hash's first half", got)
	}
	if !bytes.Contains(raw, []byte("a root")) || !bytes.Contains(raw, []byte("timeout 0")) {
		t.Error("the disk lacks contents")
	}
	if _, _, again := write(t, spec(), Raw); !bytes.Equal(raw, again) {
		t.Error("the same spec made another disk")
	}
	if _, qlayout, q := write(t, spec(), QCOW2); !bytes.HasPrefix(q, []byte("QFI\xfb")) || len(qlayout) != 4 || qlayout[3].Start != layout[3].Start {
		t.Errorf("qcow2: %v", qlayout)
	}
	if _, none, archive := write(t, spec(), Terminal); none != nil || !bytes.HasPrefix(archive, []byte("\x1f\x8b")) {
		t.Errorf("an archive: %v", none)
	}
}

// newBundle makes a bundle with a root disk.
func newBundle(t *testing.T) string {
	t.Helper()
	_, _, image := write(t, Spec{Arch: "amd64", Root: file(t, "a root"), Verity: file(t, "its hashes"), RootHash: hash, Epoch: 1}, Raw)
	dir := filepath.Join(t.TempDir(), "bundle")
	w, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]struct{ role, text string }{
		"bzImage": {bundle.RoleKernel, "kernel"}, "initramfs.cpio": {bundle.RoleInitramfs, "initramfs"}, "root.img": {bundle.RoleRoot, string(image)},
	} {
		if err := w.Add(t.Context(), name, a.role, strings.NewReader(a.text)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64", SourceDate: 1_700_000_000, Lock: bundle.Lock{Digest: string(store.FromBytes(nil))},
		Root: bundle.Root{Serial: "root", Hash: hash},
		VM:   bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "quiet", Data: bundle.Data{Serial: "data", Size: 8 << 30}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBundle(t *testing.T) {
	dir := newBundle(t)
	d, _, _ := write(t, Spec{Bundle: dir, ESP: esp(t), Cmdline: "console=ttyS0", Epoch: -1}, Raw)
	if len(d.Partitions) != 3 || d.Partitions[1].Label != LabelRoot || d.Partitions[2].Label != LabelVerity {
		t.Errorf("partitions %+v", d.Partitions)
	}
	if s := d.spec; s.Name != "sql" || s.Arch != "amd64" || s.Memory != 512<<20 || s.Epoch != 1_700_000_000 || s.Cmdline != "quiet console=ttyS0" || filepath.Base(s.Kernel) != "bzImage" {
		t.Errorf("of the bundle came %+v", s)
	}
	// Without an esp the archive has the kernel itself.
	d, _, _ = write(t, Spec{Bundle: dir, Name: "mine", Memory: 1 << 30, Epoch: 7}, Terminal)
	if i := d.terminalImage(); i.Name != "mine" || i.MemoryMiB != 1024 || i.Epoch != 7 || i.Kernel.Size != 6 || i.Params != "quiet" || len(i.Partitions) != 2 {
		t.Errorf("the archive is %+v", i)
	}

	if err := os.WriteFile(filepath.Join(dir, "root.img"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Spec{Bundle: dir, Data: 1 << 20}); fault.ClassOf(err) != fault.Verification {
		t.Errorf("a bundle that was changed: %v", err)
	}
}

func TestRefused(t *testing.T) {
	dir := newBundle(t)
	for want, s := range map[string]Spec{
		"the disk has no partition":        {},
		"a size of the esp, and no esp":    {ESPSize: 1, Data: 1 << 20},
		"a stub without a kernel":          {Stub: "stub"},
		"hashes without a root":            {Verity: "v"},
		"a root hash without":              {Root: "r", RootHash: hash},
		"a bundle brings its own":          {Bundle: dir, Root: "r"},
		"the name is not of":               {Name: "No", Data: 1 << 20},
		"the disk is to be for arm64, and": {Bundle: dir, Arch: "arm64"},
		"root hash: ":                      {Arch: "amd64", Root: file(t, "r"), Verity: file(t, "v"), RootHash: "12"},
		`the disk has no partition "home"`: {Data: 1 << 20, GUIDs: map[string]disk.GUID{"home": {1}}},
		"is not a regular file":            {Root: t.TempDir()},
	} {
		d, err := Open(t.Context(), s)
		if err == nil {
			t.Errorf("%s: it was taken: %v", want, d.Close())
			continue
		}
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	d, err := Open(t.Context(), Spec{Data: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Write(t.Context(), nil, "vdi"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("another format: %v", err)
	}
}
