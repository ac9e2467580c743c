package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// elfFile is an ELF file that asks for a stack of so many bytes and is linked
// with a library.
func elfFile(stack uint64, needed string) []byte {
	const (
		strings  = 64 + 56 // of the program header
		dynamic  = 512
		sections = dynamic + 2*16
		total    = sections + 3*64
	)
	b := make([]byte, total)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], uint16(elf.ET_EXEC))
	le.PutUint16(b[18:], uint16(elf.EM_X86_64))
	le.PutUint32(b[20:], uint32(elf.EV_CURRENT))
	le.PutUint64(b[32:], 64)
	le.PutUint64(b[40:], sections)
	for i, v := range []uint16{64, 56, 1, 64, 3, 1} { // sizes and numbers of headers, and where names are
		le.PutUint16(b[52+2*i:], v)
	}
	le.PutUint32(b[64:], uint32(elf.PT_GNU_STACK))
	le.PutUint64(b[64+40:], stack)
	copy(b[strings+1:], needed)
	le.PutUint64(b[dynamic:], uint64(elf.DT_NEEDED))
	le.PutUint64(b[dynamic+8:], 1)
	section := func(n int, kind elf.SectionType, off, size uint64, link uint32) {
		s := b[sections+n*64:]
		le.PutUint32(s[4:], uint32(kind))
		le.PutUint64(s[24:], off)
		le.PutUint64(s[32:], size)
		le.PutUint32(s[40:], link)
	}
	section(1, elf.SHT_STRTAB, strings, dynamic-strings, 0)
	section(2, elf.SHT_DYNAMIC, dynamic, sections-dynamic, 1)
	return b
}

const config = "CONFIG_PCI=y\nCONFIG_VIRTIO_PCI=y\n# CONFIG_ANDROID_BINDER_IPC is not set\n"

// goodTree is a root file system of which nothing is to be said.
func goodTree(t *testing.T) *rootfs.Tree {
	t.Helper()
	s := spec.Spec{Schema: 1, Name: "sql", Services: []spec.Service{
		{Name: "postgresql", Command: []string{"/usr/bin/postgres"}, Setup: [][]string{{"/usr/lib/setup", "/data"}}},
	}}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{
		rootfs.Regular("usr/bin/tool", 0o755, elfFile(2<<20, "libc.so")),
		rootfs.Regular("usr/bin/script", 0o755, []byte("#!/bin/sh\n")),
		rootfs.Regular("usr/lib/setup", 0o755, []byte("initdb --locale-provider=icu\n")),
		rootfs.Regular("etc/sovereign/postgresql.conf", 0o644, []byte("dynamic_shared_memory_type = mmap\n")),
		rootfs.Regular("etc/sovereign/guest.json", 0o644, text),
		rootfs.Regular("usr/share/icu/76.1/icudt76l.dat", 0o644, make([]byte, 21<<20)),
		rootfs.Hardlink("usr/bin/same", "usr/bin/tool"),
	} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestTree(t *testing.T) {
	tree := goodTree(t)
	i, err := Tree(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	if p := i.Programs; !p.Seen || len(p.Value) != 1 || !strings.HasPrefix(p.Value[0].Path, "/usr/bin/") || p.Value[0].Stack != 2<<20 || !p.Value[0].Executable {
		t.Errorf("%+v", p)
	}
	if d := i.ICUData; !d.Seen || len(d.Value) != 1 || d.Value[0].Size != 21<<20 {
		t.Errorf("%+v", d)
	}
	if !strings.Contains(i.Setup.Value, "icu") || !strings.Contains(i.Settings.Value, "mmap") || !i.Spec.Seen || i.Spec.Value.Name != "sql" {
		t.Errorf("%+v %+v %+v", i.Setup, i.Settings, i.Spec)
	}
	tree.Remove("etc")
	if i, err = Tree(t.Context(), tree); err != nil || i.Spec.Seen || i.Settings.Seen || !strings.Contains(i.Spec.Why, "guest.json is not in the image") {
		t.Errorf("%+v, %v", i, err)
	}
}

// pack makes a bundle of a tree and a .config.
func pack(t *testing.T, tree *rootfs.Tree, config string) string {
	t.Helper()
	work := t.TempDir()
	f, err := os.Create(filepath.Join(work, "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := erofs.Write(t.Context(), f, tree, erofs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rootType, _, err := disk.RootTypes("amd64")
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(work, "root.img")
	if _, err := disk.Write(t.Context(), image, disk.Disk{GUID: disk.GUID{1}, Partitions: []disk.Partition{
		{Label: "root", Type: rootType, GUID: disk.GUID{2}, Content: io.NewSectionReader(f, 0, info.Size), Size: info.Size},
	}}); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "sql")
	w, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []struct {
		name, role string
		data       []byte
	}{
		{"bzImage", bundle.RoleKernel, []byte("kernel")}, {"initramfs", bundle.RoleInitramfs, []byte("initramfs")},
		{"kernel.config", bundle.RoleKernelConfig, []byte(config)}, {"root.img", bundle.RoleRoot, root},
	} {
		if err := w.Add(t.Context(), a.name, a.role, bytes.NewReader(a.data)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64", Lock: bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root:     bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:       bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "x=y", Data: bundle.Data{Serial: "data", Size: 1 << 30}},
		Packages: []bundle.Package{{Name: "icu-data-full", Version: "1"}, {Name: "postgresql17", Version: "1"}},
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func verdict(t *testing.T, dir string, number int) audit.Row {
	t.Helper()
	f, err := Look(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return audit.Judge(f).Rows[number-1]
}

// A real image of a real tree, which is broken, packed anew, and looked at.
func TestLook(t *testing.T) {
	tree := goodTree(t)
	good := pack(t, tree, config)
	f, err := Look(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	r := audit.Judge(f)
	for _, n := range []int{3, 5, 6, 11} {
		if r.Rows[n-1].Verdict != audit.Proven {
			t.Errorf("%+v", r.Rows[n-1])
		}
	}
	if !strings.HasPrefix(r.Bundle, "sha256:") || r.Kind != audit.KindBundle || r.Name != "sql" {
		t.Errorf("%+v", r)
	}
	if err := tree.Set(rootfs.Regular("usr/bin/small", 0o755, elfFile(128<<10, "libc.so"))); err != nil {
		t.Fatal(err)
	}
	if err := tree.Set(rootfs.Regular("usr/bin/postgres", 0o755, elfFile(2<<20, "libicui18n.so.76"))); err != nil {
		t.Fatal(err)
	}
	broken := pack(t, tree, strings.Replace(config, "# CONFIG_ANDROID_BINDER_IPC is not set", "CONFIG_ANDROID_BINDER_IPC=y", 1))
	if row := verdict(t, broken, 3); row.Verdict != audit.Failed || !strings.Contains(row.Why, "/usr/bin/small (128 KiB)") {
		t.Errorf("%+v", row)
	}
	if row := verdict(t, broken, 11); row.Verdict != audit.Failed {
		t.Errorf("%+v", row)
	}
	if row := verdict(t, broken, 4); row.Verdict != audit.NotProven || !strings.Contains(row.Seen, "libicui18n.so.76") {
		t.Errorf("%+v", row)
	}
	if row := verdict(t, pack(t, tree, strings.Replace(config, "CONFIG_VIRTIO_PCI=y\n", "", 1)), 6); row.Verdict != audit.Failed {
		t.Errorf("%+v", row)
	}
}

// A bundle that is not what its manifest says is not judged.
func TestTamperedBundle(t *testing.T) {
	dir := pack(t, goodTree(t), config)
	path := filepath.Join(dir, "kernel.config")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = slices.Clone(b)
	b[0] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Look(t.Context(), dir); fault.ClassOf(err) != fault.Verification {
		t.Errorf("%v", err)
	}
	if _, err := Look(t.Context(), t.TempDir()); fault.ClassOf(err) != fault.Usage {
		t.Errorf("%v", err)
	}
}

func TestBundleOfSQL(t *testing.T) {
	dir := os.Getenv("SOVEREIGN_E2E")
	if dir == "" {
		t.Skip("SOVEREIGN_E2E names no bundle")
	}
	f, err := Look(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range audit.Judge(f).Rows {
		t.Logf("%+v", row)
		if row.Verdict == audit.Failed {
			t.Errorf("%+v", row)
		}
	}
}
