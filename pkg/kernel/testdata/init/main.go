// Command init is PID 1 of the kernel's boot test. It prints what it finds of
// the machine as "probe KEY=VALUE" lines and powers off.
package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	probe("userspace", uptime())
	for dir, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			probe("error", err.Error())
		}
		if err := syscall.Mount(kind, dir, kind, 0, ""); err != nil && err != syscall.EBUSY {
			probe("error", dir+": "+err.Error())
		}
	}
	probe("release", read("/proc/sys/kernel/osrelease"))
	probe("version", read("/proc/version"))
	probe("date", time.Now().UTC().Format("2006-01-02"))
	probe("config", configSize())
	serials, _ := filepath.Glob("/sys/block/vd*/serial")
	for _, s := range serials {
		disk := filepath.Base(filepath.Dir(s))
		probe("disk", read(s))
		parts, _ := filepath.Glob("/sys/block/" + disk + "/" + disk + "*/uevent")
		for _, p := range parts {
			for line := range strings.Lines(read(p)) {
				if name, ok := strings.CutPrefix(line, "PARTNAME="); ok {
					probe("partition", strings.TrimSpace(name))
				}
			}
		}
		probe("sector", sector("/dev/"+disk))
	}
	probe("mac", read("/sys/class/net/eth0/address"))
	ports, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, p := range ports {
		probe("port", read(p))
		if err := os.WriteFile("/dev/"+filepath.Base(filepath.Dir(p)), []byte("hello from the guest\n"), 0); err != nil {
			probe("error", err.Error())
		}
	}
	probe("rng", read("/sys/class/misc/hw_random/rng_current"))
	for _, path := range []string{"/dev/net/tun", "/dev/mapper/control", "/dev/vsock", "/dev/rtc0"} {
		if _, err := os.Stat(path); err == nil {
			probe("node", path)
		}
	}
	for _, fs := range []string{"erofs", "ext4", "tmpfs", "cgroup2", "binder"} {
		for line := range strings.Lines(read("/proc/filesystems")) {
			if strings.TrimSpace(strings.TrimPrefix(line, "nodev")) == fs {
				probe("filesystem", fs)
			}
		}
	}
	probe("end", uptime())
	syscall.Sync()
	probe("error", fmt.Sprint(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)))
}

func probe(key, value string) {
	fmt.Printf("probe %s=%s\n", key, strings.TrimSpace(value))
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimRight(string(b), "\n")
}

// uptime is the seconds since the kernel started.
func uptime() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d.%02d", t.Sec, t.Nsec/1e7)
}

func configSize() string {
	f, err := os.Open("/proc/config.gz")
	if err != nil {
		return err.Error()
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return err.Error()
	}
	n, err := io.Copy(io.Discard, z)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(n)
}

// sector reads the first bytes behind the partition table.
func sector(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, 512); err != nil {
		return err.Error()
	}
	return string(b)
}
