package audit

import (
	"fmt"
	"strings"
)

// rollbackDetected: nothing on the disk can tell that the whole disk is an older
// copy. Only somebody who remembers, off the disk, can.
func rollbackDetected(f *Facts) verdict {
	if f.Machine == nil {
		return needsRun("")
	}
	k := f.Machine.History
	if !k.Seen {
		return notSeen("the history of the data disk", k)
	}
	h := k.Value
	switch {
	case h.Behind != "":
		return failed("witness: "+h.Witness, "the data disk is older than the witness has seen: %s", h.Behind).
			by("", "put the newest copy back, or say that going back is on purpose")
	case h.Witness == "":
		return unproven("", "nobody off the disk remembers its history")
	case !h.Guarded:
		return failed("witness: "+h.Witness, "an older disk would be started all the same").by("", "have the witness asked before the machine starts")
	}
	return proven("%s has seen the disk as it is, and an older one is refused", h.Witness)
}

const crngReady = "crng init done" // drivers/char/random.c

// entropy: keys made in the first seconds of a machine that has nothing random
// yet can be guessed, and two clones of one image may have the same.
func entropy(f *Facts) verdict {
	seen, v, done := f.symbols("HW_RANDOM", "HW_RANDOM_VIRTIO")
	switch {
	case done:
		return v
	case f.Machine == nil:
		return needsRun(seen)
	}
	k := f.Machine.Entropy
	switch {
	case !k.Seen:
		return notSeen("the sources of random numbers", k)
	case !f.Machine.KernelLog.Seen:
		return notSeen("the kernel's log", f.Machine.KernelLog)
	}
	e := k.Value
	seen = fmt.Sprintf("the hardware source is %q", e.Source)
	for _, l := range f.Machine.KernelLog.Value {
		if strings.Contains(l.Text, crngReady) {
			seen += fmt.Sprintf("; the generator was ready %.2f s after the kernel's start", l.At.Seconds())
			break
		}
	}
	switch {
	case !e.Ready:
		return failed(seen, "/dev/random waits: the generator is not seeded").by("", "have the hypervisor give the machine a virtio entropy device")
	case !strings.HasPrefix(e.Source, "virtio_rng") && f.protected():
		return unproven(seen, "a protected machine has no entropy device, and what seeded the generator (the device tree, the processor) is not told")
	case !strings.HasPrefix(e.Source, "virtio_rng"):
		return failed(seen, "the host gives the guest no random numbers").by("", "have the hypervisor give the machine a virtio entropy device")
	case !e.Fresh:
		return failed(seen, "the hardware source gave the same bytes twice, or zeros").by("", "look at the host's end of the entropy device")
	}
	return proven("%s; it gives other bytes each time, and /dev/random does not wait", seen)
}
