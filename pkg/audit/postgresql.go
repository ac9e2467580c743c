package audit

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// accessPlatform is VIRTIO_F_ACCESS_PLATFORM: the device's transfers go by way
// of the kernel's DMA interface, and so through bounce buffers where those are
// forced. A device without it reads and writes the guest's memory directly.
const accessPlatform = 33

func (d Device) bounced() bool {
	return len(d.Features) > accessPlatform && d.Features[accessPlatform] == '1'
}

// poolLine is what kernel/dma/swiotlb.c prints of its pool.
var poolLine = regexp.MustCompile(`software IO TLB: mapped \[.*\] \((\d{1,6})MB\)`)

// Others of its lines: the pool that a device tree names, and a transfer that
// found no room.
var restrictedPool = regexp.MustCompile(`created restricted DMA pool at \S+, size (\d{1,6}) MiB`)

const poolIsFull = "swiotlb buffer is full"

// bounceBuffers: in a protected machine every transfer is copied through a pool
// that its host can read. That cannot be changed by software; how much of it
// there is, and what it costs, can be known.
func bounceBuffers(f *Facts) verdict {
	want := []string{"SWIOTLB"}
	if f.Arch == "arm64" {
		want = append(want, "DMA_RESTRICTED_POOL") // what pKVM's device tree names
	}
	seen, v, done := f.symbols(want...)
	switch {
	case done:
		return v
	case f.Machine == nil:
		return needsRun(seen)
	}
	m := f.Machine
	switch {
	case !m.Devices.Seen:
		return notSeen("the virtio devices", m.Devices)
	case !m.KernelLog.Seen:
		return notSeen("the kernel's log", m.KernelLog)
	case !m.Disk.Seen:
		return notSeen("reads of the root disk", m.Disk)
	}
	bounced, disks := 0, 0
	for _, d := range m.Devices.Value {
		if d.bounced() {
			bounced++
		}
		if d.ID == idBlock {
			disks++
		}
	}
	pool, full, restricted := int64(0), false, false
	for _, l := range m.KernelLog.Value {
		if p := poolLine.FindStringSubmatch(l.Text); p != nil && !restricted {
			pool = mebibytes(p[1])
		}
		if p := restrictedPool.FindStringSubmatch(l.Text); p != nil {
			pool, restricted = mebibytes(p[1]), true
		}
		full = full || strings.Contains(l.Text, poolIsFull)
	}
	seen = fmt.Sprintf("%d of %d devices use bounce buffers", bounced, len(m.Devices.Value))
	if pool > 0 {
		seen += fmt.Sprintf(", a pool of %d MiB", pool>>20)
	}
	if m.PoolPeak.Seen {
		seen += fmt.Sprintf(" of which %d KiB were used at most", m.PoolPeak.Value>>10)
	}
	seen += "; reads of the root disk:"
	for i, s := range m.Disk.Value {
		if s.Took <= 0 || s.Bytes <= 0 {
			return unproven(seen, "a read of %d bytes took no time, so that nothing was measured", s.Request)
		}
		if i > 0 {
			seen += ","
		}
		seen += fmt.Sprintf(" %.0f MB/s in %d KiB", float64(s.Bytes)/1e6/s.Took.Seconds(), s.Request>>10)
	}
	// What Android's own virtualization service gives a protected machine.
	least := int64(4+disks) * 2 << 20
	const mend = "give the machine a larger pool: swiotlb= of the hypervisor or of the kernel's command line"
	switch {
	case full:
		return failed(seen, "the pool was full: the kernel's log says so, and transfers failed or waited").by("", mend)
	case bounced > 0 && pool > 0 && pool < least:
		return failed(seen, "%d disks and what else there is want %d MiB", disks, least>>20).by("", mend)
	case len(m.Disk.Value) == 0:
		return unproven(seen, "no read was measured")
	}
	return proven("%s", seen)
}

// mebibytes is a number of them, of at most six digits, in bytes.
func mebibytes(digits string) int64 {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n << 20
}

// protected says whether the machine is one whose host cannot read its memory:
// its pool is named by the device tree, and its host gives no entropy.
func (f *Facts) protected() bool {
	m := f.Machine
	if m == nil || !m.KernelLog.Seen || !m.Devices.Seen {
		return false
	}
	for _, d := range m.Devices.Value {
		if d.ID == idRandom {
			return false
		}
	}
	for _, l := range m.KernelLog.Value {
		if restrictedPool.MatchString(l.Text) {
			return true
		}
	}
	return false
}

// icuAtInitdb: a database's collation is chosen when the cluster is made. It is
// kept with the version of ICU that ordered its indexes.
func icuAtInitdb(f *Facts) verdict {
	if v, none := f.withoutPostgreSQL(); none {
		return v
	}
	const want = "--locale-provider=icu"
	if f.Machine == nil {
		k := f.Image.Setup
		if !k.Seen {
			return notSeen("the setup program", k)
		}
		if !strings.Contains(k.Value, want) {
			return failed("no "+want, "initdb takes libc's collations, which are byte order under musl").by(Rebuild, "call initdb with "+want)
		}
		return needsRun("it calls initdb with " + want)
	}
	k := f.Machine.Database
	if !k.Seen {
		return notSeen("PostgreSQL", k)
	}
	if len(k.Value.Databases) == 0 {
		return unproven("", "pg_database is empty")
	}
	var names []string
	for _, d := range k.Value.Databases {
		switch {
		case d.Provider != "i":
			return failed(fmt.Sprintf("%s has the provider %q and the locale %q", d.Name, d.Provider, d.Locale),
				"its text is not sorted by ICU").
				by(Rebuild, "make the database anew with LOCALE_PROVIDER icu, from a dump")
		case d.Name == "template0" && d.Version == "":
			// initdb notes none there: nobody may connect to it, and it holds
			// nothing but ASCII.
			names = append(names, fmt.Sprintf("%s (%s)", d.Name, d.Locale))
			continue
		case d.Version == "" || d.Actual == "":
			return unproven(d.Name+" has ICU's "+d.Locale, "no version of its collation is known")
		case d.Version != d.Actual:
			return failed(fmt.Sprintf("%s was made with version %s of its collation, and ICU now has %s", d.Name, d.Version, d.Actual),
				"its indexes may be in another order than the server takes for granted").
				by(Reindex, "rebuild the indexes, and note the new version")
		}
		names = append(names, fmt.Sprintf("%s (%s, %s)", d.Name, d.Locale, d.Version))
	}
	return proven("%s", few(names))
}

const sharedMemoryKey = "dynamic_shared_memory_type"

// sharedMemory: POSIX shared memory depends on the size of /dev/shm, System V's
// on limits of the kernel; a mapped file works everywhere.
func sharedMemory(f *Facts) verdict {
	if v, none := f.withoutPostgreSQL(); none {
		return v
	}
	if f.Machine == nil {
		return f.conf(map[string]string{sharedMemoryKey: "mmap"}, sharedMemoryKey)
	}
	s, v, done := f.setting(sharedMemoryKey)
	if done {
		return v
	}
	if s.Value != "mmap" {
		return failed(s.String(sharedMemoryKey), "it must be mmap").by(ResetSetting, "take the setting back, and restart the service")
	}
	return proven("%s", s.String(sharedMemoryKey))
}

// conf holds the image's settings against what is wanted, by the first of the
// keys that is otherwise.
func (f *Facts) conf(want map[string]string, keys ...string) verdict {
	k := f.Image.Settings
	if !k.Seen {
		return notSeen("the settings", k)
	}
	var seen []string
	for _, key := range keys {
		got := confValue(k.Value, key)
		seen = append(seen, key+" = "+got)
		if got != want[key] {
			return failed(key+" = "+got, "it must be %s", want[key]).by(Rebuild, "write %s = %s into the image's settings", key, want[key])
		}
	}
	return needsRun(strings.Join(seen, ", "))
}

// confValue is the last value of a key in a postgresql.conf, "(not set)" where
// it has none.
func confValue(text, key string) string {
	value := "(not set)"
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, key)
		if !ok || rest == "" || !strings.ContainsRune(" \t=", rune(rest[0])) {
			continue
		}
		rest = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), "="))
		if quoted, ok := strings.CutPrefix(rest, "'"); ok {
			value, _, _ = strings.Cut(quoted, "'")
			continue
		}
		rest, _, _ = strings.Cut(rest, "#")
		value = strings.TrimSpace(rest)
	}
	return value
}

// setting is a setting in force; done where it is not known.
func (f *Facts) setting(key string) (s Setting, v verdict, done bool) {
	k := f.Machine.Database
	if !k.Seen {
		return s, notSeen("PostgreSQL", k), true
	}
	s, ok := k.Value.Settings[key]
	if !ok {
		return s, unproven("", "pg_settings has no %s", key), true
	}
	return s, v, false
}

// String is the setting with where it comes from.
func (s Setting) String(key string) string {
	text := key + " = " + s.Value
	if s.File != "" {
		return text + ", of " + s.File
	}
	return text + ", " + s.Source
}
