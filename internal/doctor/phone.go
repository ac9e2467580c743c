package doctor

import (
	"fmt"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// Room on a phone, in bytes: what sql's two slots and a small database take, and
// what a guest of the default size takes of the memory.
const (
	leastPhoneData   = 1 << 30
	goodPhoneData    = 8 << 30
	leastPhoneMemory = 1 << 30
)

// Phone makes the checks of a phone, of what it says itself (facts) and of what
// its sovereignd does; that is nil where none is installed.
func Phone(f device.Facts, s *runtime.PhoneStatus) []Finding {
	e := &examiner{}
	p := f.Phone
	if p == nil {
		return nil
	}
	add := func(check string, level Level, text, mend string) { e.add(ForRun, check, level, text, mend) }
	add("phone", OK, fmt.Sprintf("%s, Android %s, kernel %s", p.Model, p.Android, p.Kernel), "")
	e.phoneRoot(f)
	e.phoneHypervisor(f)
	e.phoneFaults(p)
	gib := func(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }
	room := fmt.Sprintf("%s of %s are free on /data (%s)", gib(p.DataFree), gib(p.DataSize), p.FileSystem)
	switch {
	case p.DataFree < leastPhoneData:
		add("room", Missing, room, "make room on the phone: a full /data gives machines write errors")
	case p.DataFree < goodPhoneData:
		add("room", Warning, room, "make room on the phone, or give machines small data disks")
	default:
		add("room", OK, room, "")
	}
	memory := fmt.Sprintf("%s of %s are available", gib(p.Available), gib(p.Memory))
	if p.Available < leastPhoneMemory {
		add("memory", Warning, memory, "give machines less memory, with --memory")
	} else {
		add("memory", OK, memory, "")
	}
	battery := fmt.Sprintf("%d %%, %s", p.Battery, p.Charging)
	if p.Charging == "Discharging" {
		add("battery", Warning, battery, "a server stays at its charger; a floor at which machines stop in order: sovereign-build device set --battery-floor 20")
	} else {
		add("battery", OK, battery, "")
	}
	e.phoneDaemon(f, s)
	return e.found
}

func (e *examiner) phoneRoot(f device.Facts) {
	p := f.Phone
	if p.Root == device.NoRoot {
		e.add(ForRun, "root", Missing, p.NoRoot, "allow the shell root in the app of Magisk, KernelSU or APatch; a phone without root cannot keep machines, see docs/phone.md")
		return
	}
	if p.Root == device.Shell {
		e.add(ForRun, "root", Warning, "the phone is not rooted: machines run by Android's own service ("+p.VM+"), end with adbd, and are reached only while a command of yours is connected", "root it for a server; docs/phone.md has what works without")
		return
	}
	e.add(ForRun, "root", OK, "by "+string(p.Root), "")
	switch {
	case p.SafeMode:
		e.add(ForRun, "start at boot", Warning, "the phone is in safe mode, in which nothing of the root manager's runs", "restart the phone")
	case p.Manager == "":
		e.add(ForRun, "start at boot", Warning, "there is no Magisk, KernelSU or APatch to start sovereignd with the phone; it runs when it is asked for", "install one of them, or ask for it after each start of the phone: sovereign-build device status")
	case f.Unit == "":
		e.add(ForRun, "start at boot", Warning, "nothing starts sovereignd with the phone yet", "sovereign-build device install")
	default:
		e.add(ForRun, "start at boot", OK, p.Manager+" runs "+f.Unit, "")
	}
}

func (e *examiner) phoneHypervisor(f device.Facts) {
	p := f.Phone
	switch {
	case p.Device == "":
		mend := "another phone: this one's kernel or bootloader has none"
		if strings.HasPrefix(p.Model, "Pixel 6") {
			mend = "fastboot oem pkvm enable, which a Pixel 6 needs once"
		}
		e.add(ForRun, "hypervisor", Missing, "there is neither /dev/kvm nor /dev/gunyah nor /dev/gzvm", mend)
	case !p.AVF:
		e.add(ForRun, "hypervisor", Warning, fmt.Sprintf("%s is there, and ro.boot.hypervisor.vm.supported is not 1: perhaps only protected machines run", p.Device), "sovereign-build up --protected")
	default:
		e.add(ForRun, "hypervisor", OK, strings.TrimSpace(p.Device+" "+p.HV), "")
	}
	switch {
	case p.CrosVM != "":
		e.add(ForRun, "crosvm", OK, p.CrosVM, "")
	case f.QEMU:
		e.add(ForRun, "crosvm", Warning, "there is no crosvm; QEMU runs the machines", "")
	default:
		e.add(ForRun, "crosvm", Missing, "there is no /apex/com.android.virt/bin/crosvm", "Android 15 or later, on a phone with the virtualization APEX")
	}
	// Without root nobody of ours opens it.
	if p.CrosVM != "" && !p.Vsock && p.Root != device.Shell {
		e.add(ForRun, "vsock", Missing, "there is no /dev/vhost-vsock, by which guests are reached", "a kernel with CONFIG_VHOST_VSOCK, as every GKI has it")
	}
	switch {
	case !p.Protected:
		e.add(ForRun, "protected machines", Warning, "this phone has none: its owner's root can read a guest's memory", "nothing else depends on it")
	case p.PVMFW != "":
		e.add(ForRun, "protected machines", OK, "memory is kept from the phone with --protected; the phone's firmware for them ("+p.PVMFW+") takes only kernels with its own key, so that ours runs without and nothing vouches for it", "")
	default:
		e.add(ForRun, "protected machines", OK, "memory is kept from the phone with --protected; nothing vouches for what was started", "")
	}
	if p.Verified == "green" {
		e.add(ForRun, "bootloader", Warning, "it is locked (verified boot is green): root will not outlive an update", "")
	}
}

// phoneFaults names what is known of makes and models, as others have reported
// it; docs/phone.md has where.
func (e *examiner) phoneFaults(p *device.PhoneFacts) {
	for _, k := range []struct {
		is         bool
		text, mend string
	}{
		{p.Device == "/dev/kvm" && (strings.HasPrefix(p.Model, "Pixel 8") || strings.HasPrefix(p.Model, "Pixel 9")),
			"on Tensor G3 and G4 a guest with several CPUs may reset early in its boot", "where that happens: sovereign-build up --cpus 1"},
		{p.Device == "/dev/gunyah",
			"under Gunyah a machine that failed to start may keep its memory until the phone restarts, and a balloon gives none back", "restart the phone where starts fail with out of memory"},
		{strings.HasPrefix(p.Model, "Pixel 6"),
			"a Pixel 6 may restart as a whole at the first start of a machine", "update its firmware first, and try it with nothing unsaved"},
		{p.SDK > 36,
			"an Android that is newer than 16 may have another crosvm: its options are asked for at each update of the phone", ""},
	} {
		if k.is {
			e.add(ForRun, "known faults", Warning, k.text, k.mend)
		}
	}
}

func (e *examiner) phoneDaemon(f device.Facts, s *runtime.PhoneStatus) {
	if f.Digest == "" && f.Phone.Root != device.NoRoot {
		e.add(ForRun, "sovereignd", Missing, "it is not installed", "sovereign-build device install")
		return
	}
	if s == nil {
		return
	}
	if !s.Durable {
		e.add(ForRun, "sovereignd", Warning, "it ends with adb: "+s.NotDurable, "sovereign-build device install again, and restart the phone")
	} else {
		e.add(ForRun, "sovereignd", OK, "it stays whatever becomes of adb", "")
	}
	if s.Held != "" {
		e.add(ForRun, "machines", Warning, "they are held: "+s.Held, "")
	}
	for _, c := range s.Concerns {
		e.add(ForRun, "sovereignd", Warning, c, "")
	}
	if h := s.Heat; h != nil && h.Celsius > 80 {
		e.add(ForRun, "heat", Warning, fmt.Sprintf("%.0f °C at %s", h.Celsius, h.Zone), "give it air; --heat-limit of device set stops machines in order")
	}
}
