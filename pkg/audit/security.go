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
	seen := fmt.Sprintf("the disk is at epoch %d", h.Epoch)
	const mend = "put the newest disk back, or say that going back is on purpose"
	if h.Held {
		return failed(seen+"; the services are held", "%s", h.Why).by("", mend)
	}
	w := h.Witness
	if w == nil {
		return unproven(seen, "nobody beside the disk remembers its history")
	}
	seen += fmt.Sprintf(", and %s remembers epoch %d", w.Where, w.Epoch)
	switch {
	case w.Lineage != h.Lineage:
		return failed(seen+" of another disk", "the machine runs with a disk that is not the one which is remembered").by("", mend)
	case w.Epoch > h.Epoch:
		return failed(seen, "the disk is older than what is remembered, and its services run").by("", mend)
	case h.Start == "unwitnessed":
		return unproven(seen, "at its last start nobody told the guest what its disk had been")
	}
	return proven("%s; at the start the guest held its disk against what was remembered then: %s", seen, h.Start)
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
