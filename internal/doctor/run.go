package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// qemu looks for the program that runs guests of an architecture. The other
// architecture's is needed for its bundles only.
func (e *examiner) qemu(ctx context.Context, arch string) {
	level := Warning
	if arch == e.arch || e.bundle != nil && e.bundle.Arch == arch {
		level = Missing
	}
	check := "QEMU for " + arch
	plan, err := e.driver("").Prepare(ctx, vm.Machine{Arch: arch, Accel: "tcg"}, e.Report)
	if err != nil {
		e.fail(ForRun, check, level, err)
		return
	}
	switch p := plan.Info(); {
	case !p.Sandbox:
		e.add(ForRun, check, Warning, fmt.Sprintf("%s, version %s, was built without -sandbox: it cannot confine itself", p.Program, p.Version),
			"install the distribution's own QEMU")
	default:
		e.add(ForRun, check, OK, fmt.Sprintf("%s, version %s", p.Program, p.Version), "")
	}
}

const (
	kvmSlow = "; guests are emulated, which is several times slower and otherwise the same"
	kvmMend = "use a machine, or a kind of virtual machine, that lets guests use KVM; nothing else depends on it"
)

// kvm tries it: that the device opens says little. The verdict is looked for
// anew each time.
func (e *examiner) kvm(ctx context.Context) {
	const check = "KVM"
	cache, err := os.MkdirTemp("", "sovereign-doctor-")
	if err != nil {
		e.fail(ForRun, check, Warning, err)
		return
	}
	defer func() {
		if err := os.RemoveAll(cache); err != nil {
			e.fail(ForRun, check, Warning, err)
		}
	}()
	driver := e.driver(cache)
	m := vm.Machine{Arch: e.arch, Accel: "kvm"}
	if _, err := driver.Prepare(ctx, m, e.Report); err != nil {
		e.add(ForRun, check, Warning, err.Error()+kvmSlow, kvmMend)
		return
	}
	if e.bundle == nil || e.bundle.Arch != e.arch {
		e.add(ForRun, check, Warning, "/dev/kvm opens; whether a guest boots with it is not known without a kernel",
			"name a bundle: sovereign-build doctor BUNDLE")
		return
	}
	if m, err = e.trial(ctx); err != nil {
		e.fail(ForRun, check, Warning, err)
		return
	}
	defer m.Kernel.Close()
	defer m.Initramfs.Close()
	plan, err := driver.Prepare(ctx, m, e.Report)
	if err != nil {
		e.fail(ForRun, check, Warning, err)
		return
	}
	switch p := plan.Info(); {
	case p.Accel != "kvm":
		e.add(ForRun, check, Warning, "no guest boots with it: "+p.Why+kvmSlow, kvmMend)
	default:
		e.add(ForRun, check, OK, "a guest boots with it", "")
	}
}

// trial is the machine whose kernel is booted.
func (e *examiner) trial(ctx context.Context) (vm.Machine, error) {
	kernel, _ := e.bundle.Artifact(bundle.RoleKernel)
	initramfs, _ := e.bundle.Artifact(bundle.RoleInitramfs)
	for _, a := range []bundle.Artifact{kernel, initramfs} {
		if err := bundle.VerifyArtifact(ctx, e.Bundle, a); err != nil {
			return vm.Machine{}, err
		}
	}
	m := vm.Machine{Arch: e.bundle.Arch, Accel: "auto", KernelDigest: kernel.Digest, Cmdline: e.bundle.VM.Cmdline}
	var err error
	if m.Kernel, err = os.Open(filepath.Join(e.Bundle, kernel.File)); err != nil {
		return m, fault.Wrap(fault.Environment, err)
	}
	if m.Initramfs, err = os.Open(filepath.Join(e.Bundle, initramfs.File)); err != nil {
		return m, errors.Join(fault.Wrap(fault.Environment, err), m.Kernel.Close())
	}
	return m, nil
}

// sovereignd keeps every machine.
func (e *examiner) sovereignd() {
	path, err := e.daemon()
	if err != nil {
		e.fail(ForRun, "sovereignd", Missing, err)
		return
	}
	e.add(ForRun, "sovereignd", OK, path, "")
}

const (
	leastMemory = 256 // MiB: a small guest and its hypervisor
	usualMemory = 512 // MiB that recipes/sql asks for
)

func (e *examiner) memory() {
	const check = "memory"
	free, err := available(e.meminfo)
	if err != nil {
		e.fail(ForRun, check, Warning, err)
		return
	}
	want := usualMemory
	if e.bundle != nil {
		want = e.bundle.VM.MemoryMiB
	}
	text := fmt.Sprintf("%d MiB are available, a guest of %d MiB is wanted", free, want)
	const mend = "end other programs, add memory or swap, or give the guest less with --memory"
	switch {
	case free < leastMemory:
		e.add(ForRun, check, Missing, text, mend)
	case free < want:
		e.add(ForRun, check, Warning, text, mend)
	default:
		e.add(ForRun, check, OK, text, "")
	}
}

// available reads MemAvailable of /proc/meminfo, in MiB.
func available(path string) (mib int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name != "MemAvailable" {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 62)
		if err != nil {
			return 0, fmt.Errorf("%s: MemAvailable: %w", path, err)
		}
		return int(kib >> 10), nil
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return 0, fmt.Errorf("%s does not tell MemAvailable", path)
}
