package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const kvmDevice = "/dev/kvm"

// accelerate fills in the plan's accelerator.
//
// That /dev/kvm opens says little: on a nested host whose hypervisor only
// imitates KVM a guest is emulated instruction by instruction, or dies. So
// "auto" boots the bundle's own kernel under KVM with sovereign.probe, and
// uses KVM only when the guest's init answers in time. The verdict is kept per
// boot of the host, version of QEMU, firmware and kernel.
func (d *Driver) accelerate(ctx context.Context, m vm.Machine, p plan, report func(string)) (plan, error) {
	p.Accel = "tcg"
	switch m.Accel {
	case "tcg":
		p.Why = "it was asked for"
		return p, nil
	case "kvm":
		if why := d.noKVM(m.Arch); why != "" {
			return plan{}, fault.Errorf(fault.Environment, "KVM cannot be used: %s", why).
				Hintf("use --accel tcg, or auto")
		}
		p.Accel = "kvm"
		return p, nil
	case "auto", "":
	default:
		return plan{}, fault.Errorf(fault.Usage, "accelerator %q is none of auto, kvm and tcg", m.Accel).
			Hintf("leave it at auto")
	}
	if p.Why = d.noKVM(m.Arch); p.Why != "" {
		report("no KVM (" + p.Why + "): emulating the CPU, which is slower")
		return p, nil
	}
	boot, err := process.Boot()
	if err != nil {
		return plan{}, err
	}
	key := verdictKey{Boot: boot, Version: p.Version, Firmware: p.firmware, Kernel: m.KernelDigest}
	verdicts := loadVerdicts(d.cache)
	v, known := verdicts.find(key)
	if !known {
		report("probing KVM by booting the kernel under it")
		if v.Why, err = d.probe(ctx, m, p); err != nil {
			return plan{}, err
		}
		v.verdictKey = key
		if err := verdicts.add(v).save(d.cache); err != nil {
			return plan{}, err
		}
		if v.Why != "" {
			report("KVM does not work here (" + v.Why + "): emulating the CPU instead, which is slower")
		}
	}
	if p.Why = v.Why; p.Why == "" {
		p.Accel = "kvm"
	}
	return p, nil
}

// noKVM says why KVM is out of the question; "" when it is not.
func (d *Driver) noKVM(arch string) string {
	if host := runtime.GOARCH; host != arch {
		return fmt.Sprintf("the guest is %s and this machine is %s", arch, host)
	}
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return kvmDevice + " does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "this user may not open " + kvmDevice + " (on Debian: adduser USER kvm)"
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		return kvmDevice + " has no driver behind it"
	case err != nil:
		return err.Error()
	}
	if err := f.Close(); err != nil {
		return err.Error()
	}
	return ""
}

// A verdict is what a probe found: "" in Why means that KVM works.
type verdict struct {
	verdictKey
	Why string `json:"why"`
}

type verdictKey struct {
	Boot     string `json:"boot"`
	Version  string `json:"version"`
	Firmware string `json:"firmware,omitempty"`
	Kernel   string `json:"kernel"`
}

type verdicts []verdict

// maxVerdicts bounds the cache: one a kernel is enough for long.
const maxVerdicts = 16

// loadVerdicts reads the cache. It is only a cache: what cannot be read is as
// good as absent, and is written anew.
func loadVerdicts(path string) verdicts {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return parseVerdicts(b)
}

func parseVerdicts(b []byte) verdicts {
	var vs verdicts
	dec := json.NewDecoder(bytes.NewReader(b[:min(len(b), 1<<16)]))
	if err := dec.Decode(&vs); err != nil {
		return nil
	}
	return vs[max(len(vs)-maxVerdicts, 0):]
}

func (vs verdicts) find(k verdictKey) (verdict, bool) {
	for _, v := range vs {
		if v.verdictKey == k {
			return v, true
		}
	}
	return verdict{}, false
}

// add appends v and drops what belongs to former boots.
func (vs verdicts) add(v verdict) verdicts {
	kept := verdicts{}
	for _, old := range vs {
		if old.Boot == v.Boot && old.verdictKey != v.verdictKey {
			kept = append(kept, old)
		}
	}
	return append(kept, v)
}

func (vs verdicts) save(path string) error {
	b, err := json.MarshalIndent(vs, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}
