package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// fakeDriver answers for QEMU: not for the architecture "without", and for KVM
// as told.
type fakeDriver struct {
	without string
	kvm     error
	why     string
	tried   *vm.Machine
}

func (d fakeDriver) Prepare(_ context.Context, m vm.Machine, _ func(string)) (vm.Plan, error) {
	p := fakePlan{Program: "/usr/bin/qemu", Version: "7.2", Sandbox: true, Accel: m.Accel}
	switch {
	case m.Arch == d.without:
		return nil, fault.Errorf(fault.Environment, "qemu is not installed").Hintf("apt-get install qemu")
	case m.Accel == "kvm":
		return p, d.kvm
	case m.Accel == "auto":
		*d.tried = m
		if p.Accel, p.Why = "kvm", d.why; d.why != "" {
			p.Accel = "tcg"
		}
	}
	return p, nil
}

type fakePlan vm.PlanInfo

func (p fakePlan) Info() vm.PlanInfo { return vm.PlanInfo(p) }

// healthy is a machine that lacks nothing.
func healthy(t *testing.T) (*examiner, *fakeDriver) {
	t.Helper()
	dir := t.TempDir()
	meminfo := filepath.Join(dir, "meminfo")
	if err := os.WriteFile(meminfo, []byte("MemTotal:       24684432 kB\nMemAvailable:    2097152 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &fakeDriver{tried: new(vm.Machine)}
	return &examiner{
		Options: Options{StateDir: filepath.Join(dir, "state"), CacheDir: filepath.Join(dir, "cache", "not", "yet")},
		host: host{
			arch: "amd64", uid: os.Getuid(), meminfo: meminfo,
			look: func(p string) (string, error) { return "/usr/bin/" + p, nil },
			statfs: func(path string) (unix.Statfs_t, error) {
				_, err := os.Stat(path)
				return unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: 10 << 30 / 4096}, err
			},
			needs:  func(string) ([]engine.Need, error) { return []engine.Need{{Name: "runc", Path: "/usr/sbin/runc"}}, nil },
			daemon: func() (string, error) { return "/usr/bin/sovereignd", nil },
			driver: func(string) hypervisor { return d },
		},
	}, d
}

func find(t *testing.T, found []Finding, check string) Finding {
	t.Helper()
	for _, f := range found {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no finding on %q in %+v", check, found)
	return Finding{}
}

func TestHealthyMachine(t *testing.T) {
	e, d := healthy(t)
	e.Bundle = writeBundle(t)
	var err error
	if e.bundle, err = bundle.Load(e.Bundle); err != nil {
		t.Fatal(err)
	}
	found, err := e.examine(t.Context())
	if err != nil || len(found) < 10 {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, f := range found {
		if f.Level != OK || f.Text == "" || f.Mend != "" {
			t.Errorf("%+v", f)
		}
	}
	if d.tried.Kernel.Name() != filepath.Join(e.Bundle, "bzImage") || d.tried.KernelDigest == "" {
		t.Errorf("KVM was tried with %+v", d.tried)
	}
	if left, err := os.ReadDir(e.StateDir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFindings(t *testing.T) {
	tests := []struct {
		check, want, mend string
		level             Level
		alter             func(e *examiner, d *fakeDriver) error
	}{
		{"QEMU for amd64", "not installed", "apt-get", Missing, func(_ *examiner, d *fakeDriver) error { d.without = "amd64"; return nil }},
		{"QEMU for arm64", "not installed", "apt-get", Warning, func(_ *examiner, d *fakeDriver) error { d.without = "arm64"; return nil }},
		{"KVM", "/dev/kvm does not exist; guests are emulated", "lets guests use KVM", Warning, func(_ *examiner, d *fakeDriver) error { d.kvm = errors.New("/dev/kvm does not exist"); return nil }},
		{"KVM", "not known without a kernel", "doctor BUNDLE", Warning, func(*examiner, *fakeDriver) error { return nil }},
		{"sovereignd", "neither beside", "make", Missing, func(e *examiner, _ *fakeDriver) error {
			e.daemon = func() (string, error) {
				return "", fault.Errorf(fault.Environment, "sovereignd is neither beside this program nor in PATH").Hintf("build it with make")
			}
			return nil
		}},
		{"memory", "100 MiB", "--memory", Missing, func(e *examiner, _ *fakeDriver) error {
			return os.WriteFile(e.meminfo, []byte("MemAvailable: 102400 kB\n"), 0o600)
		}},
		{"memory", "300 MiB", "--memory", Warning, func(e *examiner, _ *fakeDriver) error {
			return os.WriteFile(e.meminfo, []byte("MemAvailable: 307200 kB\n"), 0o600)
		}},
		{"memory", "does not tell", "", Warning, func(e *examiner, _ *fakeDriver) error { return os.WriteFile(e.meminfo, nil, 0o600) }},
		{"memory", "invalid syntax", "", Warning, func(e *examiner, _ *fakeDriver) error {
			return os.WriteFile(e.meminfo, []byte("MemAvailable: much\n"), 0o600)
		}},
		{"state directory", "can be entered by others, mode 0755", "chmod 700", Warning, func(e *examiner, _ *fakeDriver) error { return os.Mkdir(e.StateDir, 0o755) }},
		{"state directory", "not a directory", "XDG_STATE_HOME", Missing, func(e *examiner, _ *fakeDriver) error { return os.WriteFile(e.StateDir, nil, 0o600) }},
		{"state directory", "belongs to the user", "XDG_STATE_HOME", Missing, func(e *examiner, _ *fakeDriver) error { e.uid++; return nil }},
		{"state directory", "tmpfs: it is lost", "XDG_STATE_HOME", Warning, func(e *examiner, _ *fakeDriver) error {
			e.statfs = func(string) (unix.Statfs_t, error) {
				return unix.Statfs_t{Type: unix.TMPFS_MAGIC, Bsize: 4096, Bavail: 1 << 30}, nil
			}
			return nil
		}},
		{"space for data disks", "0.0 GiB", "make room", Missing, full},
		{"space for the cache", "0.0 GiB", "make room", Missing, full},
		{"architecture", "x86-64", "--engine", Missing, func(e *examiner, _ *fakeDriver) error { e.arch = "arm64"; return nil }},
		{"runc", "no runc", "install it", Missing, func(e *examiner, _ *fakeDriver) error {
			e.needs = func(string) ([]engine.Need, error) {
				return []engine.Need{{Name: "runc", Err: fault.Errorf(fault.Environment, "no runc").Hintf("install it")}}, nil
			}
			return nil
		}},
		{"mmdebstrap", "not installed", "apt-get install mmdebstrap", Missing, func(e *examiner, _ *fakeDriver) error {
			e.look = func(string) (string, error) { return "", errors.New("no") }
			return nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.check+" "+string(tt.level), func(t *testing.T) {
			e, d := healthy(t)
			if err := tt.alter(e, d); err != nil {
				t.Fatal(err)
			}
			found, err := e.examine(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f := find(t, found, tt.check)
			if f.Level != tt.level || !strings.Contains(f.Text, tt.want) || !strings.Contains(f.Mend, tt.mend) {
				t.Errorf("%+v", f)
			}
		})
	}
}

func full(e *examiner, _ *fakeDriver) error {
	e.statfs = func(string) (unix.Statfs_t, error) {
		return unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: 1000}, nil
	}
	return nil
}

func TestKVMThatBootsNothing(t *testing.T) {
	e, d := healthy(t)
	d.why = "no sign of the guest within 10s"
	e.Bundle = writeBundle(t)
	var err error
	if e.bundle, err = bundle.Load(e.Bundle); err != nil {
		t.Fatal(err)
	}
	found, err := e.examine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f := find(t, found, "KVM"); f.Level != Warning || !strings.Contains(f.Text, "no guest boots with it: no sign") {
		t.Errorf("%+v", f)
	}
	// A damaged bundle is no kernel to try anything with.
	if err := os.WriteFile(filepath.Join(e.Bundle, "bzImage"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.found = nil
	if found, err = e.examine(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := find(t, found, "KVM"); f.Level != Warning || !strings.Contains(f.Text, "bzImage") {
		t.Errorf("%+v", f)
	}
}

// TestThisMachine runs all checks for real; what they find is the machine's.
func TestThisMachine(t *testing.T) {
	dir := t.TempDir()
	found, err := Examine(t.Context(), Options{StateDir: filepath.Join(dir, "s"), CacheDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Level != OK && f.Text == "" {
			t.Errorf("%+v", f)
		}
		t.Logf("%-6s%-22s%-8s %s", f.For, f.Check, f.Level, f.Text)
	}
	if _, err := Examine(t.Context(), Options{StateDir: dir, CacheDir: dir, Bundle: dir}); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no bundle: %v", err)
	}
}

func writeBundle(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sql")
	w, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"bzImage": bundle.RoleKernel, "initramfs": bundle.RoleInitramfs, "root.img": bundle.RoleRoot} {
		if err := w.Add(t.Context(), name, role, strings.NewReader(role)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(t.Context(), bundle.Manifest{
		Schema: bundle.Schema, Name: "sql", Arch: "amd64",
		Lock: bundle.Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root: bundle.Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:   bundle.VM{MemoryMiB: 512, CPUs: 2, Cmdline: "x=y", Data: bundle.Data{Serial: "data", Size: 1 << 30}},
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}
