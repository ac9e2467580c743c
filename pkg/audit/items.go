package audit

import (
	"fmt"
	"strings"
)

// item is one of the 22, in the order of their numbers.
type item struct {
	part, title string
	// bundle and machine are what is looked at in each.
	bundle, machine string
	rule            func(*Facts) verdict
}

func (i item) looked(f *Facts) string {
	if f.Kind() == KindBundle {
		return i.bundle
	}
	return i.machine
}

const (
	noPlace  = "nothing: a bundle is on no host"
	config   = "the kernel's .config"
	running  = "/proc/config.gz"
	pgConf   = "/etc/sovereign/postgresql.conf of the image"
	onlyRuns = "nothing: only a machine that runs shows it"
)

// The items are those of the project's first audit, in its order.
var items = []item{
	{"host", "the phantom process killer does not reach the machine", noPlace,
		"the control groups of sovereignd and the hypervisor, and Android's switches", phantomKiller},
	{"host", "the host's out-of-memory killer does not take the machine", noPlace,
		"oom_score_adj of sovereignd and the hypervisor", hostOOM},
	{"guest", "threads have a stack of 2 MiB under musl", "PT_GNU_STACK of every program in the root image",
		"PT_GNU_STACK of every program in the guest's root", threadStacks},
	{"guest", "text sorts by language, by ICU", "the ICU data in the root image, and PostgreSQL's own libraries",
		"what the running server sorts, with its default collation", collation},
	{"guest", "ICU has the data of all languages", "the package icu-data-full, and the size of icudt*.dat",
		"icudt*.dat, the collations of the cluster, and one that only the full data knows", icuData},
	{"kernel", "VIRTIO_PCI", config, running + ", and the buses of the virtio devices", virtioPCI},
	{"kernel", "VSOCKETS", config, running + ", /proc/net/protocols, /dev/vsock and the agent's device", vsockets},
	{"kernel", "VIRTIO_BLK", config, running + ", and the drivers of the disks", virtioBlock},
	{"kernel", "VIRTIO_NET", config, running + ", and the driver of the network card", virtioNet},
	{"kernel", "HW_RANDOM_VIRTIO", config, running + ", and the driver of the entropy device", virtioRandom},
	{"kernel", "ANDROID_BINDER_IPC is off", config, running + ", /proc/filesystems and /dev", noBinder},
	{"PostgreSQL", "bounce buffers (SWIOTLB) are known and measured", config,
		"the devices' features, the kernel's log, and reads of the root disk past the cache", bounceBuffers},
	{"PostgreSQL", "every database has an ICU collation of this ICU's version", "the setup program of PostgreSQL's service",
		"pg_database", icuAtInitdb},
	{"PostgreSQL", "dynamic_shared_memory_type is mmap", pgConf, "pg_settings", sharedMemory},
	{"network", "no service needs a privileged port", "the ports and capabilities of the services",
		"the sockets that listen in the guest, and the services' capabilities", unprivilegedPorts},
	{"network", "tailscale serve brings PostgreSQL into the tailnet", "the package tailscale",
		"tailscale status and tailscale serve status", tailscaleServe},
	{"network", "tailscaled does without a network device where it gets none", "tailscaled's command in the guest spec",
		"tailscaled's command line, and a second tailscaled without rights with disturbing trials", userspaceFallback},
	{"resilience", "a backup is of one moment: the file system freezes", onlyRuns,
		"a freeze of the data disk, with disturbing trials", freezes},
	{"resilience", "what ends is started again", onlyRuns,
		"the policy, and kills of services and of sovereignd with disturbing trials", supervision},
	{"resilience", "PostgreSQL recovers from a crash", pgConf,
		"the settings of durability, and a kill of the postmaster with disturbing trials", crashRecovery},
	{"security", "a data disk put back to an older state is detected", onlyRuns,
		"the witness of the disk's history", rollbackDetected},
	{"security", "keys are made of good random numbers from the first boot on", config,
		"the kernel's log, the hardware source, and /dev/random", entropy},
}

// verdict is what a rule says.
type verdict struct {
	verdict   Verdict
	seen, why string
	mend      string
	remedy    Remedy
}

func proven(seen string, args ...any) verdict {
	return verdict{verdict: Proven, seen: fmt.Sprintf(seen, args...)}
}

func failed(seen, why string, args ...any) verdict {
	return verdict{verdict: Failed, seen: seen, why: fmt.Sprintf(why, args...)}
}

func unproven(seen, why string, args ...any) verdict {
	return verdict{verdict: NotProven, seen: seen, why: fmt.Sprintf(why, args...)}
}

func inapplicable(seen, why string, args ...any) verdict {
	return verdict{verdict: NotApplicable, seen: seen, why: fmt.Sprintf(why, args...)}
}

// by says what mends it, or would prove it.
func (v verdict) by(r Remedy, mend string, args ...any) verdict {
	v.remedy, v.mend = r, fmt.Sprintf(mend, args...)
	return v
}

// needsRun is for what only a machine shows.
func needsRun(seen string) verdict {
	return unproven(seen, "only a running machine shows it").by(RunIt, "run the bundle, and audit the machine")
}

// needsTrial is for what only a disturbance shows.
func needsTrial(seen, why string, args ...any) verdict {
	return unproven(seen, why, args...).by(Disturb, "audit again with disturbing trials, at a time when a restart does no harm")
}

// notSeen is for a probe that saw nothing.
func notSeen[T any](what string, k Known[T]) verdict {
	return unproven("", "%s: %s", what, k.why())
}

// has says whether the image has a package: by its name, or by its name and a
// version's digits behind it (postgresql17).
func (f *Facts) has(name string) bool {
	if f.Manifest == nil {
		return false
	}
	for _, p := range f.Manifest.Packages {
		if rest, ok := strings.CutPrefix(p.Name, name); ok && strings.Trim(rest, "0123456789") == "" {
			return true
		}
	}
	return false
}

// withoutPostgreSQL is the verdict where the image has none of it.
func (f *Facts) withoutPostgreSQL() (verdict, bool) {
	return inapplicable("", "the image has no PostgreSQL"), !f.has("postgresql")
}

// few names a few of many.
func few(all []string) string {
	const most = 6
	if len(all) > most {
		return strings.Join(all[:most], ", ") + fmt.Sprintf(" and %d more", len(all)-most)
	}
	return strings.Join(all, ", ")
}
