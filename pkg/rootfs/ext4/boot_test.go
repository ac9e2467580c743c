package ext4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/initramfs"
)

// bundleEnv names a bundle's directory, with bzImage or Image: building a
// kernel takes minutes, so this test boots what is there.
const bundleEnv = "SOVEREIGN_E2E"

// TestBoot has the project's own kernel read an image, grow it while it is
// mounted and write to it. Unlike TestResizeOnline it needs no right of this
// machine.
func TestBoot(t *testing.T) {
	bundle := os.Getenv(bundleEnv)
	if bundle == "" {
		t.Skipf("%s does not name a bundle whose kernel to boot", bundleEnv)
	}
	for _, m := range []struct {
		arch, kernel string
		qemu         []string
		console      string
	}{
		{"amd64", "bzImage", []string{"qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max"}, "ttyS0"},
		{"arm64", "Image", []string{"qemu-system-aarch64", "-M", "virt,accel=tcg", "-cpu", "cortex-a76"}, "ttyAMA0"},
	} {
		t.Run(m.arch, func(t *testing.T) {
			kernel := filepath.Join(bundle, m.kernel)
			if _, err := os.Stat(kernel); err != nil {
				t.Skipf("the bundle is for another machine: %v", err)
			}
			tool(t, m.qemu[0])
			tree := build(t, sample(), "top-link")
			image, _ := write(t, tree, Options{Epoch: epoch, Size: 100 << 20, BytesPerInode: 8192})
			const grown = 20 << 30
			if err := os.Truncate(image, grown); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, m.qemu[0], slices.Concat(m.qemu[1:], []string{
				"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "512", "-serial", "stdio",
				"-kernel", kernel, "-initrd", guest(t, m.arch), "-append", "console=" + m.console + " quiet rdinit=/init",
				"-drive", "if=none,id=d,format=raw,discard=unmap,file=" + image, "-device", "virtio-blk-pci,drive=d",
			})...)
			console, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, console)
			}
			got := map[string][]string{}
			for line := range strings.Lines(string(console)) {
				if kv, ok := strings.CutPrefix(strings.TrimSpace(line), "probe "); ok {
					k, v, _ := strings.Cut(kv, "=")
					got[k] = append(got[k], v)
				}
			}
			if want := []string{fmt.Sprintf("%x", treeDigest(t, tree))}; !slices.Equal(got["digest"], want) {
				t.Errorf("digest of all files %v, want %v", got["digest"], want)
			}
			if len(got["grown"]) != 3 || got["error"] != nil || got["end"] == nil {
				t.Fatalf("the guest says %v\n%s", got, console)
			}
			fsck(t, image)
			blocks, err := strconv.ParseInt(dumpe2fs(t, image)["Block count"], 10, 64)
			if err != nil || blocks != grown/BlockSize {
				t.Errorf("%d blocks after growing, want %d, %v", blocks, grown/BlockSize, err)
			}
			if out := runTool(t, "debugfs", "-R", `cat "/many/written in the guest 2999"`, image); !strings.HasSuffix(out, "2999") {
				t.Errorf("what the guest wrote reads %q", out)
			}
		})
	}
}

// guest builds testdata/init and packs it.
func guest(t *testing.T, goarch string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "init")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./testdata/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	tree := treeOf(t, rootfs.Entry{Path: "init", Mode: 0o755, Size: info.Size(), Content: rootfs.File(bin)})
	if err := initramfs.Write(t.Context(), &b, tree, epoch); err != nil {
		t.Fatal(err)
	}
	path := bin + ".cpio"
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// treeDigest is over the paths and contents of all regular files, as
// testdata/init has it.
func treeDigest(t *testing.T, tree *rootfs.Tree) []byte {
	t.Helper()
	h := sha256.New()
	for e := range tree.All() {
		if !e.IsRegular() {
			continue
		}
		fmt.Fprintf(h, "%q\n", e.Path)
		if err := e.CopyTo(h); err != nil {
			t.Fatal(err)
		}
	}
	return h.Sum(nil)
}
