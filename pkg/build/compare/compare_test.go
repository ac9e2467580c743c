package compare

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/initramfs"
)

// contents of a bundle that a test writes.
type contents struct {
	kernel, config string
	init           string
	root           []rootfs.Entry
	memory         int
	packages       []bundle.Package
}

func sample() contents {
	return contents{
		kernel: "a kernel", config: "# Networking\nCONFIG_NET=y\n", init: "an init", memory: 512,
		root:     []rootfs.Entry{rootfs.Regular("etc/motd", 0o644, []byte("welcome")), rootfs.Regular("etc/shadow", 0o600, nil)},
		packages: []bundle.Package{{Name: "musl", Version: "1.2.5-r0"}, {Name: "zlib", Version: "1.3.1-r0"}},
	}
}

func write(t *testing.T, c contents) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tree := func(entries ...rootfs.Entry) *rootfs.Tree {
		tree := rootfs.New()
		for _, e := range entries {
			must(tree.Add(e))
		}
		return tree
	}
	file := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		must(err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	image := file("root.erofs")
	info, err := erofs.Write(t.Context(), image, tree(c.root...), erofs.Options{})
	must(err)
	rootType, _, err := disk.RootTypes("amd64")
	must(err)
	_, err = image.Seek(0, 0)
	must(err)
	_, err = disk.Write(t.Context(), filepath.Join(dir, "root.img"), disk.Disk{GUID: disk.GUID{1}, Partitions: []disk.Partition{
		{Label: "root", Type: rootType, GUID: disk.GUID{2}, Content: image, Size: info.Size},
	}})
	must(err)
	early := file("initramfs")
	must(initramfs.WriteCPIO(t.Context(), early, tree(rootfs.Regular("init", 0o755, []byte(c.init))), 0))
	must(os.WriteFile(filepath.Join(dir, "kernel"), []byte(c.kernel), 0o644))
	must(os.WriteFile(filepath.Join(dir, "config"), []byte(c.config), 0o644))

	out := filepath.Join(t.TempDir(), "bundle")
	w, err := bundle.Create(out)
	must(err)
	for name, at := range map[string][2]string{
		"bzImage": {"kernel", bundle.RoleKernel}, "kernel.config": {"config", bundle.RoleKernelConfig},
		"initramfs.cpio": {"initramfs", bundle.RoleInitramfs}, "root.img": {"root.img", bundle.RoleRoot},
	} {
		f, err := os.Open(filepath.Join(dir, at[0]))
		must(err)
		must(errors.Join(w.Add(t.Context(), name, at[1], f), f.Close()))
	}
	_, err = w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64",
		Lock:     bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root:     bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:       bundle.VM{MemoryMiB: c.memory, CPUs: 2, Cmdline: "x=y", Data: bundle.Data{Serial: "data", Size: 1 << 30}},
		Packages: c.packages,
	})
	must(err)
	return out
}

func TestEqual(t *testing.T) {
	r, err := Bundles(t.Context(), write(t, sample()), write(t, sample()), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r, &Report{Equal: true, Before: r.Before, After: r.Before}) {
		t.Errorf("%+v", r)
	}
}

func TestEverythingDiffers(t *testing.T) {
	b := sample()
	b.kernel, b.config, b.init, b.memory = "a kernal", "# Networking\nCONFIG_INET=y\n", "an exit", 1024
	b.root = []rootfs.Entry{rootfs.Regular("etc/motd", 0o644, []byte("wellcome")), {Path: "etc/shadow", Mode: 0o644, UID: 1}, rootfs.Symlink("bin", "usr/bin")}
	b.packages = []bundle.Package{{Name: "busybox", Version: "1.37.0-r0"}, {Name: "musl", Version: "1.2.6-r0"}}
	r, err := Bundles(t.Context(), write(t, sample()), write(t, b), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if r.Equal || r.Before == r.After {
		t.Errorf("%+v", r)
	}
	if want := []Value{{"vm.memory_mib", "512", "1024"}}; !reflect.DeepEqual(r.Manifest, want) {
		t.Errorf("manifest %+v", r.Manifest)
	}
	if want := []Package{{"busybox", "", "1.37.0-r0"}, {"musl", "1.2.5-r0", "1.2.6-r0"}, {"zlib", "1.3.1-r0", ""}}; !reflect.DeepEqual(r.Packages, want) {
		t.Errorf("packages %+v", r.Packages)
	}
	if len(r.Kernel) != 1 || len(r.Kernel[0].Changes) != 2 || r.Kernel[0].Changes[0].Kind != kernel.Added {
		t.Errorf("kernel %+v", r.Kernel)
	}
	if len(r.Artifacts) != 4 || r.Artifacts[0].File != "bzImage" || r.Artifacts[0].Bytes.Offset != 6 {
		t.Errorf("artifacts %+v", r.Artifacts)
	}
	if len(r.Initramfs) != 1 || r.Initramfs[0].Path != "init" || r.Initramfs[0].Bytes.Offset != 3 {
		t.Errorf("initramfs %+v", r.Initramfs)
	}
	var got []string
	for _, c := range r.Root {
		got = append(got, c.Path+" "+string(c.Kind))
	}
	if want := []string{"bin added", "etc/motd changed", "etc/shadow changed"}; !reflect.DeepEqual(got, want) {
		t.Errorf("root %v", got)
	}
}

func TestErrors(t *testing.T) {
	good := write(t, sample())
	if _, err := Bundles(t.Context(), good, t.TempDir(), ""); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no bundle: %v", err)
	}
	bad := write(t, sample())
	if err := os.Truncate(filepath.Join(bad, "root.img"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := Bundles(t.Context(), good, bad, ""); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "root.img") {
		t.Errorf("a disk cut short: %v", err)
	}
	if err := os.Remove(filepath.Join(bad, "root.img")); err != nil {
		t.Fatal(err)
	}
	if _, err := Bundles(t.Context(), good, bad, ""); fault.ClassOf(err) != fault.Verification {
		t.Errorf("no disk: %v (%v)", err, fs.ErrNotExist)
	}
}
