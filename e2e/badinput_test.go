package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// Bad input that only a whole build or a whole machine shows; what a file alone
// shows is in internal/cli/testdata, an engine that dies in pkg/build/engine.

// recipes copies the recipes, so that a test can spoil one.
func recipes(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "recipes")
	if err := os.CopyFS(dir, os.DirFS("../recipes")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// edit replaces text in a file of the copy.
func edit(t *testing.T, path, old, new string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(old)) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte(old), []byte(new), 1), 0o644); err != nil {
		t.Fatal(err)
	}
}

// refused runs a command that has to fail with this exit code and a message
// that holds every one of the words.
func refused(t *testing.T, env []string, code int, words []string, args ...string) {
	t.Helper()
	cmd := exec.Command("../bin/sovereign-build", args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("sovereign-build %s: exit code %d (%v), want %d\n%s", strings.Join(args, " "), got, err, code, tail(string(out), 4<<10))
	}
	for _, word := range words {
		if !strings.Contains(string(out), word) {
			t.Errorf("sovereign-build %s: the message has no %q:\n%s", strings.Join(args, " "), word, tail(string(out), 4<<10))
		}
	}
}

func archOf(t *testing.T) string {
	t.Helper()
	m, err := bundle.Load(needBundle(t))
	if err != nil {
		t.Fatal(err)
	}
	return m.Arch
}

func TestUnsatisfiablePackage(t *testing.T) {
	arch, dir, out := archOf(t), recipes(t), t.TempDir()
	edit(t, dir+"/sql/recipe.yaml", "  - tzdata\n", "  - tzdata>=9999\n")
	refused(t, nil, 2, []string{"tzdata>=9999", "tzdata-2"}, "build", dir+"/sql", "--arch", arch, "--output", out)
	if left, _ := filepath.Glob(out + "/sql-*"); len(left) > 0 {
		t.Errorf("a build that failed left %v", left)
	}
}

// TestLostSymbol asks for a symbol without what it depends on: the kernel's own
// tool drops it without a word.
func TestLostSymbol(t *testing.T) {
	arch, dir, out := archOf(t), recipes(t), t.TempDir()
	edit(t, dir+"/kernel/network.config", "CONFIG_NET=y\n", "CONFIG_NET=y\nCONFIG_MAC80211=y\n")
	refused(t, nil, 6, []string{"network.config:", "MAC80211=y lost", "hint: add to a fragment", "CONFIG_WIRELESS=y", "CONFIG_CFG80211=y"},
		"build", dir+"/sql", "--arch", arch, "--output", out, "--progress", "quiet")
}

func TestTamperedPackage(t *testing.T) {
	arch, dir := archOf(t), recipes(t)
	apkArch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]
	repository := t.TempDir()
	key, err := apk.GenerateKey("somebody")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Save(repository); err != nil {
		t.Fatal(err)
	}
	tree := rootfs.New()
	// New contents each time: of a package seen before, the cache has the root
	// image it leads to, and the file is not read again.
	content := fmt.Appendf(nil, "%d %s", time.Now().UnixNano(), strings.Repeat("honest ", 1000))
	if err := tree.Add(rootfs.Regular("usr/share/extra/file", 0o644, content)); err != nil {
		t.Fatal(err)
	}
	var file, index bytes.Buffer
	meta, err := apk.Write(&file, apk.Meta{Name: "extra", Version: "1.0-r0", Arch: apkArch}, tree, key, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := apk.WriteIndex(&index, []apk.Meta{meta}, key, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(repository, apkArch), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(repository, apkArch, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("APKINDEX.tar.gz", index.Bytes())
	honest := bytes.Clone(file.Bytes())
	tampered := bytes.Clone(honest)
	tampered[len(tampered)-20] ^= 1
	write(meta.FileName(), tampered)

	edit(t, dir+"/sql/recipe.yaml", "  - tzdata\n", "  - tzdata\n  - extra\n")
	args := []string{"build", dir + "/sql", "--arch", arch, "--output", t.TempDir(), "--repository", repository}
	refused(t, nil, 6, []string{"somebody"}, args...) // nobody trusts this key
	args = append(args, "--key", filepath.Join(repository, key.Name))
	refused(t, nil, 6, []string{"extra"}, args...)

	write(meta.FileName(), honest)
	if out, err := exec.Command("../bin/sovereign-build", args...).CombinedOutput(); err != nil {
		t.Errorf("the honest package: %v\n%s", err, tail(string(out), 4<<10))
	}
}

func TestWrongDigest(t *testing.T) {
	arch, dir := archOf(t), recipes(t)
	text, err := os.ReadFile(dir + "/sql/sovereign.lock")
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Sources []struct{ Name, Digest string }
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		t.Fatal(err)
	}
	const wrong = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	right := ""
	for _, s := range lock.Sources {
		if s.Name == "tzdata" {
			right = s.Digest
		}
	}
	if right == "" {
		t.Fatal("the lock has no tzdata")
	}
	edit(t, dir+"/sql/sovereign.lock", right, wrong)
	// With the steps of the ordinary cache at hand, only tzdata is fetched.
	refused(t, nil, 6, []string{"tzdata", wrong, right}, "build", dir+"/sql", "--arch", arch, "--output", t.TempDir())
}

func TestFullOutput(t *testing.T) {
	arch := archOf(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	out := t.TempDir()
	if err := syscall.Mount("tmpfs", out, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(out, 0); err != nil {
			t.Error(err)
		}
	})
	args := []string{"build", "../recipes/sql", "--arch", arch, "--output", out}
	refused(t, nil, 3, []string{"no space left"}, args...)
	left, err := filepath.Glob(out + "/sql-*")
	if err != nil || len(left) > 0 {
		t.Errorf("a full disk left %v (%v)", left, err)
	}
	if err := syscall.Mount("tmpfs", out, "tmpfs", syscall.MS_REMOUNT, "size=1g"); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("../bin/sovereign-build", args...).CombinedOutput(); err != nil {
		t.Errorf("with room again: %v\n%s", err, tail(string(text), 4<<10))
	}
	if err := bundle.Verify(t.Context(), filepath.Join(out, "sql-"+arch)); err != nil {
		t.Error(err)
	}
}

func TestNoQEMU(t *testing.T) {
	dir := needBundle(t)
	env := []string{"PATH=" + t.TempDir(), "XDG_STATE_HOME=" + t.TempDir()}
	refused(t, env, 3, []string{"qemu-system-"}, "run", dir, "--detach")
}

func TestPortInUse(t *testing.T) {
	dir := needBundle(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	env := []string{"XDG_STATE_HOME=" + t.TempDir()}
	refused(t, env, 3, []string{fmt.Sprint(port), "in use"}, "run", dir, "--detach", "--port", fmt.Sprintf("5432:%d", port))
}
