package disk_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/disk/qcow2"
	"github.com/sovereign-build/sovereign/pkg/build/uki"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/fat"
	"github.com/sovereign-build/sovereign/pkg/rootfs/initramfs"
)

const (
	// bundleEnv names a bundle's directory, whose kernel is booted.
	bundleEnv = "SOVEREIGN_E2E"
	epoch     = 1793491200
	// bootLimit is far above what firmware and kernel take under emulation on
	// a busy machine.
	bootLimit = 5 * time.Minute
)

// firmware is what a machine of one architecture boots from.
type firmware struct {
	arch       string // Debian's and Go's name
	qemu       []string
	code, vars string // OVMF or AAVMF, in Debian's ovmf and qemu-efi-aarch64
	stub       string // in Debian's systemd-boot-efi
	console    string
}

var machines = []firmware{
	{
		"amd64", []string{"qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max,la57=off"},
		"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd",
		"/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "ttyS0",
	},
	{
		// Without ACPI the firmware hands on QEMU's device tree, which is all
		// that the kernels of recipes/kernel read on arm64.
		"arm64", []string{"qemu-system-aarch64", "-machine", "virt,accel=tcg,acpi=off", "-cpu", "cortex-a76"},
		"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd",
		"/usr/lib/systemd/boot/efi/linuxaa64.efi.stub", "ttyAMA0",
	},
}

// TestUEFI boots a disk by UEFI: the firmware finds the EFI system partition,
// starts the unified kernel image in it, and the kernel finds its initramfs and
// command line. The disk is read as qcow2.
func TestUEFI(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	for _, m := range machines {
		t.Run(m.arch, func(t *testing.T) {
			if _, err := os.Stat(m.code); err != nil {
				t.Skipf("%v (Debian: ovmf, qemu-efi-aarch64)", err)
			}
			if _, err := exec.LookPath(m.qemu[0]); err != nil {
				t.Skip(err)
			}
			if m.arch != runtime.GOARCH && os.Getenv(bundleEnv) == "" {
				t.Skipf("%s is not set, and the packages of %s take a minute to fetch", bundleEnv, m.arch)
			}
			dir := t.TempDir()
			image := filepath.Join(dir, "disk.qcow2")
			writeImage(t, m, image)
			boot(t, m, dir, image)
		})
	}
}

// writeImage writes a disk with an EFI system partition and a root.
func writeImage(t *testing.T, m firmware, path string) {
	ctx := t.Context()
	packages := newDebian(t, m.arch)
	stub := section(packages.file("systemd-boot-efi", "."+m.stub))
	linux := kernel(t, m, packages)
	var initrd bytes.Buffer
	if err := initramfs.Write(ctx, &initrd, probe(t, packages), epoch); err != nil {
		t.Fatal(err)
	}
	unified, err := uki.New(uki.Parts{
		Stub: stub, Linux: linux, Initrd: section(initrd.Bytes()),
		Cmdline: "console=" + m.console + " panic=-1 probe=0123456789abcdef", OSRelease: "ID=sovereign\n",
		Uname: uki.Release(linux), SBAT: "sovereign,1,Sovereign,sovereign-test,1,https://example.org\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	tree := rootfs.New()
	if err := tree.Add(rootfs.Entry{Path: unified.BootPath(), Mode: 0o644, Content: unified}); err != nil {
		t.Fatal(err)
	}
	system, err := fat.New(tree, fat.Options{Epoch: epoch, Label: "ESP"})
	if err != nil {
		t.Fatal(err)
	}
	esp := create(t, "esp.img", system.Size())
	if err := system.Write(ctx, esp); err != nil {
		t.Fatal(err)
	}
	rootType, _, err := disk.RootTypes(m.arch)
	if err != nil {
		t.Fatal(err)
	}
	raw := create(t, "disk.raw", 0)
	_, err = disk.WriteFile(ctx, raw, disk.Disk{GUID: guid(t, "11111111-2222-4333-8444-555555555555"), Partitions: []disk.Partition{
		{Label: "esp", Type: guid(t, disk.ESP), GUID: guid(t, "22222222-2222-4333-8444-555555555555"), Content: esp, Size: system.Size()},
		{Label: "root", Type: rootType, GUID: guid(t, "33333333-2222-4333-8444-555555555555"), Attributes: disk.ReadOnly, Size: 4 << 20},
		{Label: "data", Type: guid(t, disk.LinuxData), GUID: guid(t, "44444444-2222-4333-8444-555555555555"), Attributes: disk.GrowFS, Size: 8 << 30},
	}})
	if err != nil {
		t.Fatal(err)
	}
	info, err := raw.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Fill(path, 0o644, func(f *os.File) error { return qcow2.Write(ctx, f, raw, info.Size()) }); err != nil {
		t.Fatal(err)
	}
}

// boot starts the machine and reads its console until the initramfs has
// spoken.
func boot(t *testing.T, m firmware, dir, image string) {
	vars, err := os.ReadFile(m.vars)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vars.fd"), vars, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.qemu[0], append(m.qemu[1:],
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "512", "-serial", "stdio",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+m.code,
		"-drive", "if=pflash,unit=1,format=raw,file="+filepath.Join(dir, "vars.fd"),
		"-drive", "if=none,id=disk,format=qcow2,file="+image,
		"-device", "virtio-blk-pci,drive=disk,romfile=")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	console, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	var text bytes.Buffer
	found := map[string]string{"Linux version": "", "probe cmdline": "", "probe firmware": ""}
	lines := bufio.NewScanner(io.TeeReader(console, &text))
	for lines.Scan() && found["probe firmware"] == "" {
		line := lines.Text()
		for want, have := range found {
			if have == "" && strings.Contains(line, want) {
				found[want] = line
				t.Logf("after %.1f s: %.100s", time.Since(started).Seconds(), strings.TrimSpace(line))
			}
		}
	}
	cancel()
	_ = cmd.Wait() // killed, or ended by itself; the console says which
	if !strings.Contains(found["probe cmdline"], "probe=0123456789abcdef") || !strings.Contains(found["probe firmware"], "efi") || found["Linux version"] == "" {
		t.Errorf("the machine said:\n%s\n%s", tail(text.String(), 3000), stderr.String())
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// probe is an initramfs that says how it was started.
func probe(t *testing.T, packages debian) *rootfs.Tree {
	tree := rootfs.New()
	const script = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
echo "probe cmdline=$(/bin/busybox cat /proc/cmdline)"
echo "probe firmware=$(/bin/busybox ls /sys/firmware | /bin/busybox tr '\n' ' ')"
/bin/busybox poweroff -f
`
	busybox := packages.file("busybox-static", "./bin/busybox")
	for _, e := range []rootfs.Entry{
		rootfs.Regular("init", 0o755, []byte(script)), rootfs.Regular("bin/busybox", 0o755, busybox),
		rootfs.Dir("proc", 0o755), rootfs.Dir("sys", 0o755), rootfs.Dir("dev", 0o755),
		{Path: "dev/console", Mode: os.ModeDevice | os.ModeCharDevice | 0o600, Major: 5, Minor: 1},
	} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// kernel is that of the bundle, or Debian's where the bundle is for another
// architecture.
func kernel(t *testing.T, m firmware, packages debian) *io.SectionReader {
	name := map[string]string{"amd64": "bzImage", "arm64": "Image"}[m.arch]
	if dir := os.Getenv(bundleEnv); dir != "" {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			return section(data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return section(packages.file("linux-image-cloud-"+m.arch, "./boot/vmlinuz-*"))
}

func section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func create(t *testing.T, name string, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func guid(t *testing.T, s string) disk.GUID {
	t.Helper()
	g, err := disk.ParseGUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
