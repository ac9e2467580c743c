package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

func TestStartError(t *testing.T) {
	tests := []struct {
		log, want string
		class     fault.Class
	}{
		{`qemu: Failed to get "write" lock` + "\nIs another process using the image [/s/data.img]?", "/s/data.img", fault.Environment},
		{"qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", "too little memory", fault.Environment},
		{"qemu: dance", "dance", fault.Device},
		{"", "printed nothing", fault.Device},
	}
	for _, tt := range tests {
		if err := startError(tt.log); fault.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: class %d, %v", tt.log, fault.ClassOf(err), err)
		}
	}
}

func TestParseVersion(t *testing.T) {
	tests := []struct {
		out, version string
		major        int
	}{
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright", "7.2.22", 7},
		{"QEMU emulator version 10.0.2\n", "10.0.2", 10},
		{"zsh: command not found", "", 0},
	}
	for _, tt := range tests {
		v, major, err := parseVersion([]byte(tt.out))
		if v != tt.version || major != tt.major || (err == nil) != (tt.version != "") {
			t.Errorf("%q: %q %d %v", tt.out, v, major, err)
		}
	}
}

func TestMissingQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for arch, pkg := range map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"} {
		_, err := find(arch)
		if fault.ClassOf(err) != fault.Environment || !strings.HasSuffix(fault.HintOf(err), pkg) {
			t.Errorf("%s: %v, hint %q", arch, err, fault.HintOf(err))
		}
	}
	if _, err := find("vax"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("vax: %v", err)
	}
}

// machine is one that real QEMU accepts whole. What it is told to boot is no
// kernel for arm64, which does not look, and a too short one for x86.
func machine(t *testing.T, arch string) vm.Machine {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a,b")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m := sample(arch)
	m.MemoryMiB, m.CPUs = 128, 1
	m.Dir, m.Accel = dir, "tcg"
	for name, file := range map[string]**os.File{"Image": &m.Kernel, "initramfs": &m.Initramfs, "root.img": &m.Disks[0].Image, "data.img": &m.Disks[1].Image} {
		// wfi forever: a valid arm64 program, and for x86 not a kernel.
		path := filepath.Join(dir, name)
		err := os.WriteFile(path, []byte(strings.Repeat("\x7f\x20\x03\xd5\xff\xff\xff\x17", 1024)), 0o600)
		if err == nil {
			*file, err = os.OpenFile(path, os.O_RDWR, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*file).Close() })
	}
	return m
}

// TestRealMachine has QEMU itself judge the whole command line, and runs the
// driver's methods against it.
func TestRealMachine(t *testing.T) {
	m := machine(t, "arm64")
	d := New(t.TempDir())
	ctx := t.Context()
	p, err := d.Prepare(ctx, m, func(string) {})
	if err != nil {
		t.Skip(err)
	}
	if _, found, err := d.Find(ctx, m.Dir); found || err != nil {
		t.Errorf("found before its start: %v", err)
	}
	proc, err := d.Start(ctx, m, p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := proc.Signal(os.Kill); err != nil {
			t.Error(err)
		}
	}()
	agent(t, d, m.Dir)
	for range 2 { // whoever comes next is served too
		c, err := d.DialNetwork(ctx, m.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if got, found, err := d.Find(ctx, m.Dir); err != nil || !found || got != proc {
		t.Errorf("found %+v, %v, %v; want %+v", got, found, err, proc)
	}
	if s, err := d.State(ctx, m.Dir); err != nil || s != (vm.State{Word: "running"}) {
		t.Errorf("status: %+v, %v", s, err)
	}

	// The same disks a second time.
	second := m
	second.Dir = t.TempDir()
	if _, err := d.Start(ctx, second, p); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), m.Disks[1].Image.Name()) {
		t.Errorf("a second machine with the same disks: %v", err)
	}

	if err := d.Quit(ctx, m.Dir); err != nil {
		t.Error(err)
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := proc.Wait(limit); err != nil {
		t.Fatalf("QEMU goes on after quit: %v", err)
	}
	if _, err := d.State(ctx, m.Dir); err == nil {
		t.Error("a status of nothing")
	}
}

// A kernel that is none is QEMU's to refuse, in its words.
func TestNoKernel(t *testing.T) {
	m := machine(t, "amd64")
	d := New(t.TempDir())
	p, err := d.Prepare(t.Context(), m, func(string) {})
	if err != nil {
		t.Skip(err)
	}
	if err := m.Kernel.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), m, p); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), m.Kernel.Name()) {
		t.Errorf("got %v", err)
	}
}

// agent opens the agent's port, which serves one at a time: the next one waits.
func agent(t *testing.T, d *Driver, dir string) {
	t.Helper()
	first, err := d.DialAgent(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		second, err := d.DialAgent(t.Context(), dir)
		if err == nil {
			err = second.Close()
		}
		got <- err
	}()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Errorf("the agent's port after another had it: %v", err)
	}
}

type otherPlan struct{}

func (otherPlan) Info() vm.PlanInfo { return vm.PlanInfo{} }

func TestStartRefuses(t *testing.T) {
	m := machine(t, "amd64")
	if _, err := New(t.TempDir()).Start(t.Context(), m, otherPlan{}); fault.ClassOf(err) != fault.Internal {
		t.Errorf("a plan of another hypervisor: %v", err)
	}
	broken := errors.New("no such disk")
	var given []string
	d := New(t.TempDir(), WithArguments(func(got vm.Machine, args []string) ([]string, error) {
		if got.Dir != m.Dir {
			t.Errorf("the machine in %s, want %s", got.Dir, m.Dir)
		}
		given = args
		return nil, broken
	}))
	if _, err := d.Start(t.Context(), m, plan{}); !errors.Is(err, broken) {
		t.Errorf("arguments that cannot be changed: %v", err)
	}
	if !slices.Equal(given, arguments(m, plan{})) {
		t.Errorf("given %q", given)
	}
}

// What is changed is what QEMU is started with.
func TestWithArguments(t *testing.T) {
	m := machine(t, "amd64")
	d := New(t.TempDir(), WithArguments(func(_ vm.Machine, args []string) ([]string, error) {
		return append(args, "-no-such-option"), nil
	}))
	p, err := d.Prepare(t.Context(), m, func(string) {})
	if err != nil {
		t.Skip(err)
	}
	if _, err := d.Start(t.Context(), m, p); err == nil || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("got %v", err)
	}
}
