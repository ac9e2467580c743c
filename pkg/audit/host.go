package audit

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A control group of a process of Android's: uid_10123/pid_456, below apps/ or
// system/ since Android 15 (libprocessgroup/processgroup.cpp).
var androidGroup = regexp.MustCompile(`(?:^|/)uid_(\d{1,10})/pid_\d+`)

// firstApp is the first user of an app: FIRST_APPLICATION_UID of
// android.os.Process.
const firstApp = 10000

// phantomKiller is about Android 12 and later, which kill children of apps when
// there are more than 32 of them. A process that belongs to no app is not
// counted; one in the group of a service of init ends with that service.
func phantomKiller(f *Facts) verdict {
	h, v, done := f.host()
	if done {
		return v
	}
	if !h.Android {
		return inapplicable(h.System, "the host is no Android, and has no such killer")
	}
	seen := h.processes(func(p Process) string { return "in " + p.Cgroup })
	for _, p := range h.Processes {
		m := androidGroup.FindStringSubmatch(p.Cgroup)
		if m == nil {
			continue
		}
		uid, err := strconv.Atoi(m[1])
		if err != nil || uid < firstApp {
			return failed(seen, "%s is in the control group of one of Android's services, adbd's most likely, and is killed when that ends", p.Role).
				by("", "start sovereignd by its boot hook, as root, or have it leave the group")
		}
		if off, how := h.Phantom.off(); !off {
			return failed(seen+"; "+how, "%s runs below an app, and Android kills an app's children when there are too many", p.Role).
				by("", "start sovereignd as root, outside of any app, or switch the killer off: settings put global settings_enable_monitor_phantom_procs false")
		}
	}
	_, how := h.Phantom.off()
	return proven("%s; %s", seen, how)
}

// off says whether the killer is off, and how that was seen. The setting wins
// over the property. A limit of a million children is none.
func (p Phantom) off() (bool, string) {
	isSet := func(v string) bool { return v != "" && v != "null" }
	switch n, err := strconv.Atoi(p.Max); {
	case isSet(p.Monitor):
		return p.Monitor == "false", "settings_enable_monitor_phantom_procs is " + p.Monitor
	case isSet(p.Property):
		return p.Property == "false", "its property is " + p.Property
	case isSet(p.Max):
		return err == nil && n >= 1_000_000, "max_phantom_processes is " + p.Max
	}
	return false, "the killer's switches are as Android has them"
}

// hostOOM holds a phone to -1000 for sovereignd and the hypervisor: memory is
// short there all the time. Elsewhere nothing is to mark them as the first.
func hostOOM(f *Facts) verdict {
	h, v, done := f.host()
	if done {
		return v
	}
	seen := h.processes(func(p Process) string { return strconv.Itoa(p.OOMScoreAdj) })
	for _, p := range h.Processes {
		switch {
		case h.Android && p.OOMScoreAdj != -1000:
			return failed(seen, "%s has %d, and not -1000: a phone that is short of memory kills it", p.Role, p.OOMScoreAdj).
				by("", "run sovereignd as root: it sets -1000 for itself and the hypervisor")
		case !h.Android && p.OOMScoreAdj > 0:
			return failed(seen, "%s has %d: when memory is short here it is killed before others", p.Role, p.OOMScoreAdj).
				by("", "start sovereignd by a service with OOMScoreAdjust=0 or less")
		}
	}
	if !h.Android {
		return inapplicable(seen, "the host is no phone: nothing there kills in advance, and what is killed is started again (19)")
	}
	return proven("%s", seen)
}

// host is the host; done where that cannot be judged.
func (f *Facts) host() (h Host, v verdict, done bool) {
	if f.Machine == nil {
		return h, unproven("", "a bundle is on no host").by(RunIt, "run the bundle, and audit the machine"), true
	}
	k := f.Machine.Host
	if !k.Seen {
		return h, notSeen("the host", k), true
	}
	roles := map[string]bool{}
	for _, p := range k.Value.Processes {
		roles[p.Role] = true
	}
	for _, role := range []string{"sovereignd", "hypervisor"} {
		if !roles[role] {
			return h, unproven(k.Value.System, "the %s was not seen among the host's processes", role), true
		}
	}
	return k.Value, v, false
}

// processes lists them, with what say says of each.
func (h Host) processes(say func(Process) string) string {
	var all []string
	for _, p := range h.Processes {
		all = append(all, fmt.Sprintf("%s %s", p.Role, say(p)))
	}
	return strings.Join(all, ", ")
}
