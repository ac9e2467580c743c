package initd

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// rootOffset is where the root partition of the test's disk starts, in bytes.
const rootOffset = 1 << 20

// image is what a machine boots from.
type image struct{ initramfs, disk, rootHash string }

// makeImage makes a root image by hand, with Debian's tools: what is tested
// here is the guest, not the build. Changes are made to the directory before.
func makeImage(t *testing.T, changes ...func(root string)) image {
	t.Helper()
	if _, err := os.Stat(kernelImage()); err != nil {
		t.Skip("SOVEREIGN_E2E does not name a bundle with a bzImage")
	}
	for _, tool := range []string{"qemu-system-x86_64", "mkfs.erofs", "veritysetup", "sgdisk", "busybox", "mke2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: install qemu-system-x86, erofs-utils, cryptsetup-bin, gdisk, busybox-static and e2fsprogs", err)
		}
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/sovereign-build/sovereign/cmd/sovereign-init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	root := makeRoot(t, program)
	for _, c := range changes {
		c(root)
	}
	erofs, hashes := filepath.Join(dir, "root.erofs"), filepath.Join(dir, "root.verity")
	output(t, "mkfs.erofs", "-T0", "--all-root", erofs, root)
	out := output(t, "veritysetup", "format", "--salt=0011", erofs, hashes)
	m := regexp.MustCompile(`Root hash:\s*([0-9a-f]{64})`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("veritysetup: %s", out)
	}
	return image{initramfs: makeInitramfs(t, dir, program), disk: makeDisk(t, dir, erofs, hashes), rootHash: m[1]}
}

func makeInitramfs(t *testing.T, dir, program string) string {
	t.Helper()
	cmd := exec.Command("busybox", "cpio", "-o", "-H", "newc")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(filepath.Base(program)+"\n")
	archive, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initramfs")
	write(t, path, archive, 0o644)
	return path
}

// makeDisk joins both partitions in a GPT disk.
func makeDisk(t *testing.T, dir, erofs, hashes string) string {
	t.Helper()
	mib := func(path string) int64 {
		i, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return i.Size()>>20 + 1
	}
	a, b := mib(erofs), mib(hashes)
	disk := filepath.Join(dir, "root.img")
	write(t, disk, nil, 0o644)
	if err := os.Truncate(disk, (a+b+2)<<20); err != nil {
		t.Fatal(err)
	}
	size := func(n int64) string { return strconv.FormatInt(n, 10) + "M" }
	output(t, "sgdisk", "-n", "1:2048:+"+size(a), "-c", "1:root", "-n", "2:0:+"+size(b), "-c", "2:root-verity", disk)
	output(t, "dd", "if="+erofs, "of="+disk, "bs=1M", "seek=1", "conv=notrunc")
	output(t, "dd", "if="+hashes, "of="+disk, "bs=1M", "seek="+strconv.FormatInt(1+a, 10), "conv=notrunc")
	return disk
}

// beat prints what a service sees, and dies once in each boot.
const beat = `
echo boots: $(wc -l < /data/beat/boots)
ifconfig -a; cat /etc/resolv.conf; id
echo files $(ulimit -n)
echo oom $(cat /proc/self/oom_score_adj)
echo machine $SOVEREIGN_MEMORY_MIB $SOVEREIGN_DATA_MIB $SOVEREIGN_ADDRESSES
echo secret $(wc -c < $SOVEREIGN_SECRETS/key)
if [ ! -e /run/beat/once ]; then touch /run/beat/once; (sleep 1; kill -9 $$) & fi
exec sleep 1000000
`

// eater takes more memory than it may have, when it is told to.
const eater = `
if [ -e /run/eater/hungry ]; then exec dd if=/dev/zero of=/dev/null bs=64M; fi
exec sleep 1000000
`

func makeRoot(t *testing.T, program string) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "data", "bin", "sbin", "etc/sovereign"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, program, root+InRoot)
	copyFile(t, busybox, root+"/bin/busybox")
	for _, n := range []string{"sh", "sleep", "wc", "cat", "id", "ifconfig", "touch", "true", "dd", "rm", "tty", "stty", "mountpoint", "date", "ls"} {
		symlink(t, "busybox", root+"/bin/"+n)
	}
	for _, p := range []string{"/sbin/mke2fs", "/sbin/e2fsck"} {
		copyFile(t, p, root+p)
		for _, lib := range regexp.MustCompile(`/\S+\.so\S*`).FindAllString(output(t, "ldd", p), -1) {
			if err := os.MkdirAll(filepath.Dir(root+lib), 0o755); err != nil {
				t.Fatal(err)
			}
			copyFile(t, lib, root+lib)
		}
	}
	symlink(t, resolvConf, root+"/etc/resolv.conf")
	write(t, root+"/etc/passwd", []byte("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/data/beat:/bin/sh\n"), 0o644)
	write(t, root+"/etc/group", []byte("root:x:0:\napp:x:1000:\n"), 0o644)
	text, err := json.Marshal(spec.Spec{Schema: 1, Name: "test", Data: spec.Data{Serial: "data", FileSystem: "ext4", Mount: "/data"},
		Services: []spec.Service{{
			Name: "beat", User: "app", Command: []string{"/bin/sh", "-c", beat},
			Directories: []spec.Directory{{Path: "/data/beat", Mode: "0700"}, {Path: "/run/beat", Mode: "0755"}},
			Secrets:     []spec.Secret{{Name: "key", Bytes: 32}},
			// It runs again where addresses come later, and counts a boot once.
			Setup:        [][]string{{"/bin/sh", "-c", "echo setup $SOVEREIGN_ADDRESSES; [ -e /run/beat/counted ] || { touch /run/beat/counted; echo x >> /data/beat/boots; }"}},
			Stop:         spec.Stop{Signal: "TERM", Seconds: 5},
			Health:       spec.Health{Command: []string{"/bin/true"}, IntervalSeconds: 5, TimeoutSeconds: 60, Failures: 3},
			Limits:       spec.Limits{OpenFiles: 4096, OOMScoreAdj: 7},
			Certificates: []spec.Certificate{{Name: "server", Hosts: []string{"localhost"}}},
		}, {
			Name: "eater", User: "app", Optional: true, Command: []string{"/bin/sh", "-c", eater},
			Directories: []spec.Directory{{Path: "/run/eater", Mode: "0755"}},
			Secrets:     []spec.Secret{{Name: "token", Given: true}},
			Stop:        spec.Stop{Signal: "TERM", Seconds: 5},
			Health:      spec.Health{Command: []string{"/bin/sh", "-c", "echo all is well"}, IntervalSeconds: 5, TimeoutSeconds: 60, Failures: 3},
			Limits:      spec.Limits{MemoryMiB: 32, PIDs: 64},
			// As tailscaled has them.
			Capabilities: []string{"NET_ADMIN", "NET_RAW"}, Devices: []string{"/dev/net/tun"},
		}}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, root+spec.Path, text, 0o644)
	return root
}

func blankDisk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data.img")
	write(t, path, nil, 0o644)
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t *testing.T, path string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, b, 0o755)
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, stderr.String())
	}
	return string(out)
}
