package audit

import (
	"fmt"
	"slices"
	"strings"
)

// Numbers of virtio's device types (virtio 1.2, section 5).
const (
	idNet    = 1
	idBlock  = 2
	idRandom = 4
	idVsock  = 19
)

// symbols holds the kernel against symbols that must be y; done where that is
// the end of it.
func (f *Facts) symbols(want ...string) (seen string, v verdict, done bool) {
	if !f.Kernel.Seen {
		return "", notSeen("the kernel's .config", f.Kernel), true
	}
	var have, off []string
	for _, s := range want {
		value := f.Kernel.Value.Value(s)
		have = append(have, "CONFIG_"+s+"="+value)
		if value != "y" {
			off = append(off, "CONFIG_"+s)
		}
	}
	seen = strings.Join(have, ", ")
	if len(off) > 0 {
		return seen, failed(seen, "%s must be y", strings.Join(off, ", ")).
			by(Rebuild, "add the symbol to a kernel fragment of the recipe, and what it depends on: Kconfig drops it without a word otherwise"), true
	}
	return seen, v, false
}

// driven holds the guest to a device of a type with its driver.
func (f *Facts) driven(seen string, id int, driver, what string) verdict {
	k := f.Machine.Devices
	if !k.Seen {
		return notSeen("the virtio devices", k)
	}
	var names []string
	for _, d := range k.Value {
		if d.ID != id {
			continue
		}
		if d.Driver != driver {
			return failed(seen+"; "+d.Name+" has the driver \""+d.Driver+"\"", "the %s is not driven by %s", what, driver).
				by(ReadLog, "read the kernel's log for why it was refused")
		}
		names = append(names, d.Name)
	}
	if len(names) == 0 {
		return failed(seen+"; no such device", "the machine has no %s", what).
			by("", "have the hypervisor give the machine one")
	}
	return proven("%s; %s driven by %s", seen, strings.Join(names, ", "), driver)
}

func virtioPCI(f *Facts) verdict {
	seen, v, done := f.symbols("PCI", "VIRTIO_PCI")
	switch {
	case done:
		return v
	case f.Machine == nil:
		return proven("%s", seen)
	case !f.Machine.Devices.Seen:
		return notSeen("the virtio devices", f.Machine.Devices)
	}
	n := 0
	for _, d := range f.Machine.Devices.Value {
		if d.PCI {
			n++
		}
	}
	all := len(f.Machine.Devices.Value)
	seen += fmt.Sprintf("; %d of %d virtio devices on PCI", n, all)
	if n == 0 {
		return unproven(seen, "this machine has none there, so that nothing shows the driver at work")
	}
	return proven("%s", seen)
}

// vsockets is the way to the agent under crosvm. QEMU has a virtio-serial port
// in its place, and then only the protocol can be seen.
func vsockets(f *Facts) verdict {
	seen, v, done := f.symbols("VSOCKETS", "VIRTIO_VSOCKETS")
	switch {
	case done:
		return v
	case f.Machine == nil:
		return proven("%s", seen)
	}
	m := f.Machine
	switch {
	case !m.Protocols.Seen:
		return notSeen("/proc/net/protocols", m.Protocols)
	case !m.Nodes.Seen:
		return notSeen("/dev", m.Nodes)
	case !m.Devices.Seen:
		return notSeen("the virtio devices", m.Devices)
	case !slices.Contains(m.Protocols.Value, "AF_VSOCK"):
		return failed(seen+"; no AF_VSOCK in /proc/net/protocols", "the running kernel has no vsock").by(Rebuild, "run the kernel of this bundle")
	case !slices.Contains(m.Nodes.Value, "vsock"):
		return failed(seen+"; no /dev/vsock", "the running kernel has no vsock device").by(Rebuild, "run the kernel of this bundle")
	}
	seen += "; AF_VSOCK and /dev/vsock are there"
	if slices.ContainsFunc(m.Devices.Value, func(d Device) bool { return d.ID == idVsock }) {
		return f.driven(seen, idVsock, "vmw_vsock_virtio_transport", "vsock device")
	}
	if strings.HasPrefix(m.Hypervisor, "crosvm") {
		return failed(seen+"; no vsock device", "under crosvm the agent is reached by it").by("", "start crosvm with --vsock")
	}
	return proven("%s; %s gives no vsock device, and the agent has a virtio-serial port", seen, m.Hypervisor)
}

func virtioBlock(f *Facts) verdict {
	seen, v, done := f.symbols("BLK_DEV", "VIRTIO_BLK")
	switch {
	case done:
		return v
	case f.Machine == nil:
		return proven("%s", seen)
	}
	return f.driven(seen, idBlock, "virtio_blk", "disk")
}

func virtioNet(f *Facts) verdict {
	seen, v, done := f.symbols("NETDEVICES", "VIRTIO_NET")
	switch {
	case done:
		return v
	case f.Machine == nil:
		return proven("%s", seen)
	}
	return f.driven(seen, idNet, "virtio_net", "network card")
}

// virtioRandom asks for HW_RANDOM_VIRTIO; there is no CONFIG_VIRTIO_RNG.
func virtioRandom(f *Facts) verdict {
	seen, v, done := f.symbols("HW_RANDOM", "HW_RANDOM_VIRTIO")
	switch {
	case done:
		return v
	case f.Machine == nil:
		return proven("%s", seen)
	case f.protected():
		return inapplicable(seen, "a protected machine has no entropy device: its host is not trusted with keys (see 22)")
	}
	return f.driven(seen, idRandom, "virtio_rng", "entropy device")
}

// noBinder: a kernel of Android's configuration has binder, which every process
// can reach and nothing in the image speaks.
func noBinder(f *Facts) verdict {
	if !f.Kernel.Seen {
		return notSeen("the kernel's .config", f.Kernel)
	}
	var on []string
	for _, s := range []string{"ANDROID_BINDER_IPC", "ANDROID_BINDERFS"} {
		if v := f.Kernel.Value.Value(s); v != "n" {
			on = append(on, "CONFIG_"+s+"="+v)
		}
	}
	const mend = "write # CONFIG_ANDROID_BINDER_IPC is not set into a kernel fragment, and look what selects it"
	if len(on) > 0 {
		return failed(strings.Join(on, ", "), "the kernel has binder").by(Rebuild, mend)
	}
	const seen = "CONFIG_ANDROID_BINDER_IPC and CONFIG_ANDROID_BINDERFS are off"
	if f.Machine == nil {
		return proven(seen)
	}
	m := f.Machine
	switch {
	case !m.FileSystems.Seen:
		return notSeen("/proc/filesystems", m.FileSystems)
	case !m.Nodes.Seen:
		return notSeen("/dev", m.Nodes)
	case slices.Contains(m.FileSystems.Value, "binder"):
		return failed("binder in /proc/filesystems", "the running kernel has binder").by(Rebuild, mend)
	case slices.ContainsFunc(m.Nodes.Value, func(n string) bool { return strings.Contains(n, "binder") }):
		return failed("/dev has a binder device", "the running kernel has binder").by(Rebuild, mend)
	}
	return proven(seen + ", and the running kernel knows no file system binder and no such device")
}
