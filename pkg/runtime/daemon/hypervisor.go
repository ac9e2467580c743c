package daemon

import (
	"os"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/avf"
	"github.com/sovereign-build/sovereign/pkg/runtime/crosvm"
)

// hypervisorFlags say what runs the machines of a state directory.
type hypervisorFlags struct{ name, crosvm, vsockDir, vm string }

// flags are those that another sovereignd has to be started with for the same
// choice.
func (h hypervisorFlags) flags() []string {
	var flags []string
	if h.name != "auto" {
		flags = append(flags, "--hypervisor", h.name)
	}
	if h.crosvm != crosvm.AndroidProgram {
		flags = append(flags, "--crosvm", h.crosvm)
	}
	if h.vsockDir != "" {
		flags = append(flags, "--vsock-dir", h.vsockDir)
	}
	if h.vm != avf.AndroidProgram {
		flags = append(flags, "--vm", h.vm)
	}
	return flags
}

// option is the choice: a device runs all its machines under one hypervisor.
func (h hypervisorFlags) option() (machine.Option, error) {
	name := h.name
	if name == "auto" {
		name = "qemu"
		if _, err := os.Stat(h.crosvm); err == nil {
			name = "crosvm"
		}
	}
	switch name {
	case "qemu":
		return func(*machine.Runtime) {}, nil
	case "crosvm":
		o := crosvm.Options{Program: h.crosvm}
		if h.vsockDir != "" {
			o.Dial = crosvm.DialDirectory(h.vsockDir)
		}
		return machine.WithCrosvm(o), nil
	case "avf":
		return machine.WithAVF(h.vm), nil
	}
	return nil, fault.Errorf(fault.Usage, "%q is no hypervisor", name).Hintf("give qemu, crosvm, avf or auto")
}
