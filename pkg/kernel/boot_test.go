package kernel

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/klauspost/compress/zstd"
)

// bundleEnv names a bundle's directory, with bzImage or Image beside its
// kernel.config. Building a kernel takes minutes, so this test boots what is
// there.
const bundleEnv = "SOVEREIGN_E2E"

type machine struct {
	name  string
	arch  string // Go's name
	qemu  string
	image string
	args  []string // machine and processor
	bus   string   // suffix of device names: "pci" or "device"
	con   string
}

var machines = []machine{
	{"q35", "amd64", "qemu-system-x86_64", "bzImage", []string{"-M", "q35,accel=tcg", "-cpu", "max"}, "pci", "console=ttyS0"},
	{"virt", "arm64", "qemu-system-aarch64", "Image", []string{"-M", "virt,accel=tcg", "-cpu", "cortex-a76"}, "pci", "console=ttyAMA0"},
	{"virt-mmio", "arm64", "qemu-system-aarch64", "Image", []string{"-M", "virt,accel=tcg", "-cpu", "cortex-a76"}, "device", "console=ttyAMA0"},
}

// The built kernels boot on every machine, and a program finds there what the
// requirement sets promise.
func TestBoot(t *testing.T) {
	dir := os.Getenv(bundleEnv)
	if dir == "" {
		t.Skipf("%s does not name a bundle whose kernel to boot", bundleEnv)
	}
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			image := filepath.Join(dir, m.image)
			if _, err := os.Stat(image); err != nil {
				t.Skipf("the bundle is for another machine: %v", err)
			}
			config, err := os.Stat(filepath.Join(dir, ConfigFile))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := exec.LookPath(m.qemu); err != nil {
				t.Skip(err)
			}
			console, channel := boot(t, m, image)
			got := map[string][]string{}
			for line := range strings.Lines(console) {
				if kv, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "probe "); ok {
					k, v, _ := strings.Cut(kv, "=")
					got[k] = append(got[k], v)
				}
			}
			t.Logf("guest time at the first line of userspace: %v s, at the end %v s; %v", got["userspace"], got["end"], got["version"])
			for key, want := range map[string]string{
				"error":      "",
				"disk":       "root",
				"partition":  "root root-verity",
				"sector":     "EFI PART",
				"mac":        "52:54:00:12:34:56",
				"port":       "org.sovereign.agent",
				"filesystem": "erofs ext4 tmpfs cgroup2",
				"node":       "/dev/net/tun /dev/mapper/control /dev/vsock /dev/rtc0",
			} {
				if g := strings.Join(got[key], " "); g != want {
					t.Errorf("%s: %q, want %q", key, g, want)
				}
			}
			if n := got["config"]; len(n) != 1 || n[0] != strconv.FormatInt(config.Size(), 10) {
				t.Errorf("/proc/config.gz has %v bytes, %s %d", n, ConfigFile, config.Size())
			}
			if r := got["rng"]; len(r) != 1 || !strings.HasPrefix(r[0], "virtio_rng") {
				t.Errorf("hardware random number generator: %v", r)
			}
			if d := got["date"]; len(d) != 1 || d[0] < "2025" {
				t.Errorf("date %v: the clock was not read", d)
			}
			if r := got["release"]; len(r) != 1 || !strings.HasSuffix(r[0], "-sovereign") {
				t.Errorf("release %v", r)
			}
			if channel != "hello from the guest\n" {
				t.Errorf("over the virtio-serial port came %q", channel)
			}
			if t.Failed() {
				t.Log(console)
			}
		})
	}
}

// boot runs a machine until it powers itself off; it returns what came over
// the console and over the agent's port.
func boot(t *testing.T, m machine, image string) (console, channel string) {
	t.Helper()
	dir := t.TempDir()
	disk, port := filepath.Join(dir, "disk"), filepath.Join(dir, "port")
	makeDisk(t, disk)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	args := append(slices.Clone(m.args), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-m", "256", "-smp", "2", "-serial", "stdio",
		"-kernel", image, "-initrd", makeInitramfs(t, dir, m.arch),
		"-append", m.con+" quiet rdinit=/init",
		"-drive", "if=none,id=d,format=raw,file="+disk,
		"-device", "virtio-blk-"+m.bus+",drive=d,serial=root",
		"-netdev", "user,id=n,restrict=on",
		"-device", "virtio-net-"+m.bus+",netdev=n,mac=52:54:00:12:34:56",
		"-device", "virtio-serial-"+m.bus,
		"-chardev", "file,id=c,path="+port,
		"-device", "virtserialport,chardev=c,name=org.sovereign.agent",
		"-device", "virtio-rng-"+m.bus,
		"-device", "virtio-balloon-"+m.bus)
	cmd := exec.CommandContext(ctx, m.qemu, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", m.qemu, err, out.String())
	}
	t.Logf("from the start of QEMU to its end: %.1f s", time.Since(start).Seconds())
	text, err := os.ReadFile(port)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), string(text)
}

// makeDisk writes a GPT disk with the partitions of a bundle's root disk.
func makeDisk(t *testing.T, path string) {
	t.Helper()
	d, err := diskfs.Create(path, 16<<20, diskfs.SectorSize512)
	if err != nil {
		t.Fatal(err)
	}
	// Without a protective MBR Linux takes no notice of a GPT.
	err = d.Partition(&gpt.Table{ProtectiveMBR: true, LogicalSectorSize: 512, PhysicalSectorSize: 512, Partitions: []*gpt.Partition{
		{Index: 1, Start: 2048, End: 16383, Type: gpt.LinuxFilesystem, Name: "root"},
		{Index: 2, Start: 16384, End: 20479, Type: gpt.LinuxFilesystem, Name: "root-verity"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// makeInitramfs builds testdata/init and packs it as cpio, zstd.
func makeInitramfs(t *testing.T, dir, goarch string) string {
	t.Helper()
	bin := filepath.Join(dir, "init")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./testdata/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initramfs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	w := cpio.NewWriter(z)
	if err := w.WriteHeader(&cpio.Header{Name: "init", Mode: cpio.TypeReg | 0o755, Size: int64(len(program)), Links: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	for _, c := range []io.Closer{w, z, f} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return path
}
