package audit

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

const goodConfig = `CONFIG_PCI=y
CONFIG_VIRTIO_PCI=y
CONFIG_VSOCKETS=y
CONFIG_VIRTIO_VSOCKETS=y
CONFIG_BLK_DEV=y
CONFIG_VIRTIO_BLK=y
CONFIG_NETDEVICES=y
CONFIG_VIRTIO_NET=y
CONFIG_HW_RANDOM=y
CONFIG_HW_RANDOM_VIRTIO=y
CONFIG_SWIOTLB=y
# CONFIG_ANDROID_BINDER_IPC is not set
`

func parsed(t *testing.T, text string) Known[*kernel.Config] {
	t.Helper()
	c, err := kernel.ParseConfig(".config", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return Saw(c)
}

// goodBundle is a bundle of which nothing is to be said.
func goodBundle(t *testing.T) *Facts {
	t.Helper()
	return &Facts{
		Name: "sql", Arch: "amd64", Bundle: "sha256:12",
		Manifest: &bundle.Manifest{
			Packages: []bundle.Package{{Name: "icu-data-full", Version: "76.1-r0"}, {Name: "postgresql17", Version: "17.12-r0"}, {Name: "tailscale", Version: "1.102.5-r0"}},
			Ports:    []bundle.Port{{Name: "postgresql", Service: "postgresql", Port: 5432, URL: "postgres://${address}/postgres"}},
		},
		Kernel: parsed(t, goodConfig),
		Image: Image{
			Programs: Saw([]Program{
				{Path: "/usr/bin/postgres", Executable: true, Header: true, Stack: 2 << 20, Needed: []string{"libicui18n.so.76", "libc.musl-x86_64.so.1"}},
				{Path: "/sbin/sovereign-init", Executable: true, Go: true},
				{Path: "/usr/lib/libicui18n.so.76", Header: true},
			}),
			ICUData: Saw([]File{{"/usr/share/icu/76.1/icudt76l.dat", 31 << 20}}),
			Spec: Saw(&spec.Spec{Services: []spec.Service{
				{Name: "postgresql", Command: []string{"/usr/bin/postgres"}},
				{Name: "tailscale", Command: []string{"/usr/sbin/tailscaled", "--tun=tailscale0,userspace-networking"}, Capabilities: []string{"NET_ADMIN"}},
			}}),
			Settings: Saw("fsync = on\nfull_page_writes = on # always\nsynchronous_commit = 'on'\ndynamic_shared_memory_type = mmap\n"),
			Setup:    Saw("initdb --locale-provider=icu --icu-locale=en-US\n"),
		},
	}
}

func features(bits ...int) string {
	b := []byte(strings.Repeat("0", 64))
	for _, n := range bits {
		b[n] = '1'
	}
	return string(b)
}

// goodMachine is one that was disturbed too, in a tailnet, and has a witness.
func goodMachine(t *testing.T) *Facts {
	t.Helper()
	f := goodBundle(t)
	device := func(name string, id int, driver string) Device {
		return Device{Name: name, ID: id, Driver: driver, PCI: true, Features: features(32)}
	}
	on := func(file string) Setting { return Setting{Value: "on", Source: "configuration file", File: file} }
	f.Machine = &Machine{
		Host: Saw(Host{Android: true, System: "Linux 6.6", Processes: []Process{
			{Role: "sovereignd", PID: 10, OOMScoreAdj: -1000, Cgroup: "/"}, {Role: "hypervisor", PID: 11, OOMScoreAdj: -1000, Cgroup: "/"},
		}}),
		Hypervisor: "QEMU 7.2", Accel: "tcg", Restarts: true, Supervised: true,
		Devices: Saw([]Device{
			device("virtio0", idNet, "virtio_net"), device("virtio1", idBlock, "virtio_blk"), device("virtio2", idBlock, "virtio_blk"), device("virtio3", idRandom, "virtio_rng"),
		}),
		Nodes: Saw([]string{"null", "vsock"}), Protocols: Saw([]string{"protocol", "AF_VSOCK", "TCP"}), FileSystems: Saw([]string{"nodev", "proc", "ext4"}),
		KernelLog:        Saw([]LogLine{{20 * time.Millisecond, "random: crng init done"}}),
		Disk:             Saw([]Speed{{4 << 10, 4 << 20, time.Second}, {1 << 20, 32 << 20, time.Second}}),
		Entropy:          Saw(Entropy{Source: "virtio_rng.0", Ready: true, Fresh: true}),
		Services:         Saw([]Service{{Name: "tailscale", PID: 7, Command: []string{"/usr/sbin/tailscaled", "--tun=tailscale0,userspace-networking"}}}),
		Listeners:        Saw([]Listener{{5432, 70}}),
		UnprivilegedFrom: Saw(1024),
		Database: Saw(Database{Version: "17.12", Sorted: true, ICUCollations: 871, Swedish: Saw(true),
			Settings: map[string]Setting{
				"dynamic_shared_memory_type": {Value: "mmap", Source: "configuration file", File: "/etc/sovereign/postgresql.conf"},
				"fsync":                      on(""), "full_page_writes": on(""), "synchronous_commit": on(""), "data_checksums": on(""),
			},
			Databases: []Catalog{{"postgres", "i", "en-US", "153.128", "153.128"}, {"template1", "i", "en-US", "153.128", "153.128"}},
		}),
		Tailnet:  Saw(Tailnet{State: "Running", Served: map[int]string{5432: "127.0.0.1:5432"}, Kernel: true}),
		History:  Saw(History{Lineage: "a", Epoch: 7, Start: "equal", Witness: &Witness{"a", 7, "sovereignd"}}),
		Freeze:   &FreezeTrial{Held: true, After: true, Took: time.Second},
		Heals:    []HealTrial{{Service: "postgresql", Old: 5, New: 6, Healthy: true, Took: time.Second}},
		Daemon:   &DaemonTrial{Tried: true, Old: 10, New: 12, Kept: true, Took: time.Second},
		Crash:    &CrashTrial{Old: 5, New: 6, Recovered: "automatic recovery in progress", Kept: true, Took: time.Second},
		Fallback: &FallbackTrial{Said: `"TUN": false`},
	}
	return f
}

// asked are the rows of a report by their verdict.
func asked(r *Report, v Verdict) (numbers []int) {
	for _, row := range r.Rows {
		if row.Verdict == v {
			numbers = append(numbers, row.Number)
		}
	}
	return numbers
}

func TestGoodBundle(t *testing.T) {
	r := Judge(goodBundle(t))
	if got, want := asked(r, Proven), []int{3, 5, 6, 7, 8, 9, 10, 11, 15}; !slices.Equal(got, want) || !r.OK() {
		t.Errorf("proven: %v, want %v", got, want)
	}
	// All else only a machine shows, and the row says so.
	for _, row := range r.Rows {
		if row.Verdict != Proven && (row.Verdict != NotProven || row.Why == "" || row.Remedy != RunIt) {
			t.Errorf("%+v", row)
		}
	}
	checkRows(t, r)
}

func TestGoodMachine(t *testing.T) {
	r := Judge(goodMachine(t))
	if r.Counts != (Counts{Proven: 22}) {
		t.Errorf("%+v", r.Counts)
	}
	for _, row := range r.Rows {
		if row.Verdict != Proven {
			t.Errorf("%+v", row)
		}
	}
	checkRows(t, r)
}

// checkRows holds what is true of every report.
func checkRows(t *testing.T, r *Report) {
	t.Helper()
	if len(r.Rows) != 22 || r.Counts.Proven+r.Counts.Failed+r.Counts.NotProven+r.Counts.NotApplicable != 22 {
		t.Fatalf("%d rows, %+v", len(r.Rows), r.Counts)
	}
	for i, row := range r.Rows {
		switch {
		case row.Number != i+1 || row.Item == "" || row.Part == "" || row.Looked == "":
			t.Errorf("%+v", row)
		case row.Verdict == Proven && (row.Seen == "" || row.Why != "" || row.Mend != ""):
			t.Errorf("proven without having been seen, or with a reason: %+v", row)
		case row.Verdict != Proven && row.Why == "":
			t.Errorf("no reason: %+v", row)
		case row.Verdict == Failed && row.Mend == "":
			t.Errorf("nothing to do about it: %+v", row)
		}
	}
}

// Of what nobody looked at nothing is proven, and nothing fails.
func TestNothingSeen(t *testing.T) {
	for name, f := range map[string]*Facts{
		"bundle":  {Manifest: goodBundle(t).Manifest},
		"machine": {Manifest: goodBundle(t).Manifest, Machine: &Machine{Supervised: true}},
		"nothing": {},
	} {
		r := Judge(f)
		if r.Counts.Proven != 0 || r.Counts.Failed != 0 {
			t.Errorf("%s: %+v", name, r.Counts)
		}
		checkRows(t, r)
	}
}

// Each row is broken on purpose, in a world where all else is as it should be.
func TestBroken(t *testing.T) {
	type alter func(*Facts)
	symbol := func(name, value string) alter {
		return func(f *Facts) {
			c, err := f.Kernel.Value.With(name, value)
			if err != nil {
				panic(err)
			}
			f.Kernel.Value = c
		}
	}
	database := func(change func(*Database)) alter { return func(f *Facts) { change(&f.Machine.Database.Value) } }
	set := func(name, value, file string) alter {
		return database(func(d *Database) { d.Settings[name] = Setting{Value: value, Source: "configuration file", File: file} })
	}
	host := func(change func(*Host)) alter { return func(f *Facts) { change(&f.Machine.Host.Value) } }
	program := func(p Program) alter {
		return func(f *Facts) { f.Image.Programs.Value = append(f.Image.Programs.Value, p) }
	}
	noDriver := func(id int) alter {
		return func(f *Facts) {
			for i, d := range f.Machine.Devices.Value {
				if d.ID == id {
					f.Machine.Devices.Value[i].Driver = ""
				}
			}
		}
	}
	without := func(id int) alter {
		return func(f *Facts) {
			f.Machine.Devices.Value = slices.DeleteFunc(f.Machine.Devices.Value, func(d Device) bool { return d.ID == id })
		}
	}
	log := func(lines ...string) alter {
		return func(f *Facts) {
			for _, l := range lines {
				f.Machine.KernelLog.Value = append(f.Machine.KernelLog.Value, LogLine{Text: l})
			}
		}
	}
	bounce := func(f *Facts) {
		for i := range f.Machine.Devices.Value {
			f.Machine.Devices.Value[i].Features = features(32, 33)
		}
	}
	image := func(change func(*Image)) alter {
		return func(f *Facts) { f.Machine = nil; change(&f.Image) }
	}
	trial := func(change func(*Machine)) alter { return func(f *Facts) { change(f.Machine) } }

	tests := []struct {
		name   string
		number int
		want   Verdict
		say    string // in the row
		alter  []alter
	}{
		{"below an app", 1, Failed, "kills an app's children", []alter{host(func(h *Host) { h.Processes[1].Cgroup = "/uid_10123/pid_99" })}},
		{"below an app of Android 15", 1, Failed, "kills an app's children", []alter{host(func(h *Host) { h.Processes[0].Cgroup = "/apps/uid_10123/pid_99" })}},
		{"below an app, killer off", 1, Proven, "is false", []alter{host(func(h *Host) { h.Processes[1].Cgroup, h.Phantom.Monitor = "/uid_10123/pid_99", "false" })}},
		{"the setting wins", 1, Failed, "is true", []alter{host(func(h *Host) {
			h.Processes[1].Cgroup, h.Phantom = "/uid_10123/pid_99", Phantom{Monitor: "true", Property: "false"}
		})}},
		{"no limit", 1, Proven, "2147483647", []alter{host(func(h *Host) {
			h.Processes[1].Cgroup, h.Phantom = "/uid_10123/pid_99", Phantom{Monitor: "null", Max: "2147483647"}
		})}},
		{"below adbd", 1, Failed, "adbd", []alter{host(func(h *Host) { h.Processes[0].Cgroup = "/uid_0/pid_812" })}},
		{"no phone", 1, NotApplicable, "no Android", []alter{host(func(h *Host) { h.Android = false })}},
		{"a hypervisor without its score", 2, Failed, "hypervisor has 0", []alter{host(func(h *Host) { h.Processes[1].OOMScoreAdj = 0 })}},
		{"first to go", 2, Failed, "sovereignd has 200", []alter{host(func(h *Host) { h.Android, h.Processes[0].OOMScoreAdj = false, 200 })}},
		{"a PC", 2, NotApplicable, "no phone", []alter{host(func(h *Host) { h.Android = false })}},
		{"a hypervisor that nobody saw", 2, NotProven, "hypervisor was not seen", []alter{host(func(h *Host) { h.Processes = h.Processes[:1] })}},
		{"a small stack", 3, Failed, "/usr/bin/small (128 KiB)", []alter{program(Program{Path: "/usr/bin/small", Executable: true, Header: true, Stack: 128 << 10})}},
		{"no header", 3, Failed, "no PT_GNU_STACK", []alter{program(Program{Path: "/usr/bin/none", Executable: true})}},
		{"an executable stack", 3, Failed, "executable stack", []alter{program(Program{Path: "/usr/bin/x", Executable: true, Header: true, Stack: 2 << 20, ExecStack: true})}},
		{"a library", 3, Proven, "", []alter{program(Program{Path: "/usr/lib/liba.so"})}},
		{"by bytes", 4, Failed, "sorts by bytes", []alter{database(func(d *Database) { d.Sorted = false })}},
		{"without ICU", 4, Failed, "without ICU", []alter{image(func(i *Image) { i.Programs.Value[0].Needed = []string{"libc.musl-x86_64.so.1"} })}},
		{"English only", 5, Failed, "not the data of all languages", []alter{image(func(i *Image) { i.ICUData.Value[0].Size = 2 << 20 })}},
		{"no data", 5, Failed, "not in the image", []alter{image(func(i *Image) { i.ICUData.Value = nil })}},
		{"no Swedish", 5, Failed, "ö comes before z", []alter{database(func(d *Database) { d.Swedish = Saw(false) })}},
		{"few collations", 5, Failed, "500", []alter{database(func(d *Database) { d.ICUCollations = 12 })}},
		{"PCI off", 6, Failed, "CONFIG_VIRTIO_PCI must be y", []alter{symbol("VIRTIO_PCI", "n")}},
		{"no PCI device", 6, NotProven, "has none there", []alter{func(f *Facts) {
			for i := range f.Machine.Devices.Value {
				f.Machine.Devices.Value[i].PCI = false
			}
		}}},
		{"vsock off", 7, Failed, "CONFIG_VSOCKETS", []alter{symbol("VSOCKETS", "n")}},
		{"another kernel runs", 7, Failed, "no vsock", []alter{trial(func(m *Machine) { m.Protocols.Value = []string{"TCP"} })}},
		{"crosvm without", 7, Failed, "--vsock", []alter{trial(func(m *Machine) { m.Hypervisor = "crosvm 1" })}},
		{"disks off", 8, Failed, "CONFIG_VIRTIO_BLK", []alter{symbol("VIRTIO_BLK", "m")}},
		{"a disk without its driver", 8, Failed, "virtio_blk", []alter{noDriver(idBlock)}},
		{"network off", 9, Failed, "CONFIG_VIRTIO_NET", []alter{symbol("VIRTIO_NET", "n")}},
		{"no card", 9, Failed, "no network card", []alter{without(idNet)}},
		{"entropy off", 10, Failed, "CONFIG_HW_RANDOM_VIRTIO", []alter{symbol("HW_RANDOM_VIRTIO", "n")}},
		{"no entropy device", 10, Failed, "no entropy device", []alter{without(idRandom)}},
		{"a protected machine", 10, NotApplicable, "protected", []alter{without(idRandom), log("Reserved memory: created restricted DMA pool at 0x00000000a0000000, size 64 MiB")}},
		{"a kernel with binder", 11, Failed, "ANDROID_BINDER_IPC=y", []alter{symbol("ANDROID_BINDER_IPC", "y")}},
		{"binder's file system", 11, Failed, "/proc/filesystems", []alter{trial(func(m *Machine) { m.FileSystems.Value = append(m.FileSystems.Value, "binder") })}},
		{"binder's device", 11, Failed, "binder device", []alter{trial(func(m *Machine) { m.Nodes.Value = append(m.Nodes.Value, "hwbinder") })}},
		{"no SWIOTLB", 12, Failed, "CONFIG_SWIOTLB", []alter{symbol("SWIOTLB", "n")}},
		{"bounced", 12, Proven, "4 of 4 devices use bounce buffers, a pool of 64 MiB", []alter{bounce, log("software IO TLB: mapped [mem 0x000000001b000000-0x000000001f000000] (64MB)")}},
		{"a pool that was full", 12, Failed, "was full", []alter{bounce, log("virtio_blk virtio1: swiotlb buffer is full (sz: 4096 bytes), total 32768 (slots), used 32768 (slots)")}},
		{"a small pool", 12, Failed, "want 12 MiB", []alter{bounce, log("software IO TLB: mapped [mem 0x1b000000-0x1b400000] (4MB)")}},
		{"not measured", 12, NotProven, "reads of the root disk", []alter{trial(func(m *Machine) { m.Disk = Unseen[[]Speed]("dd failed") })}},
		{"measured nothing", 12, NotProven, "nothing was measured", []alter{trial(func(m *Machine) { m.Disk.Value[0].Took = 0 })}},
		{"libc's collation", 13, Failed, `provider "c"`, []alter{database(func(d *Database) { d.Databases[1].Provider = "c" })}},
		{"another ICU", 13, Failed, "153.129", []alter{database(func(d *Database) { d.Databases[0].Actual = "153.129" })}},
		{"template0", 13, Proven, "template0 (en-US)", []alter{database(func(d *Database) {
			d.Databases = append(d.Databases, Catalog{Name: "template0", Provider: "i", Locale: "en-US"})
		})}},
		{"no version", 13, NotProven, "no version", []alter{database(func(d *Database) { d.Databases[0].Version = "" })}},
		{"initdb without ICU", 13, Failed, "libc's collations", []alter{image(func(i *Image) { i.Setup = Saw("initdb --locale=C") })}},
		{"posix", 14, Failed, "posix", []alter{set("dynamic_shared_memory_type", "posix", "/data/postgresql/17/postgresql.auto.conf")}},
		{"posix in the image", 14, Failed, "posix", []alter{image(func(i *Image) { i.Settings.Value += "dynamic_shared_memory_type = posix\n" })}},
		{"a privileged port", 15, Failed, "port 80", []alter{trial(func(m *Machine) { m.Listeners.Value = append(m.Listeners.Value, Listener{80, 0}) })}},
		{"nothing listens", 15, NotProven, "nobody listens", []alter{trial(func(m *Machine) { m.Listeners.Value = nil })}},
		{"a privilege", 15, Failed, "NET_BIND_SERVICE", []alter{func(f *Facts) { f.Image.Spec.Value.Services[0].Capabilities = []string{"NET_BIND_SERVICE"} }}},
		{"a privileged port in the recipe", 15, Failed, "port 443", []alter{func(f *Facts) { f.Manifest.Ports[0].Port = 443 }}},
		{"not served", 16, Failed, "serves nothing", []alter{trial(func(m *Machine) { m.Tailnet.Value.Served = nil })}},
		{"in no tailnet", 16, NotProven, "NeedsLogin", []alter{trial(func(m *Machine) { m.Tailnet.Value.State = "NeedsLogin" })}},
		{"no tailscale", 16, NotApplicable, "no tailscale", []alter{func(f *Facts) { f.Manifest.Packages = f.Manifest.Packages[:2] }}},
		{"no fallback", 17, Failed, "it ends", []alter{trial(func(m *Machine) { m.Services.Value[0].Command = []string{"tailscaled", "--tun=tailscale0"} })}},
		{"no fallback in the spec", 17, Failed, "it ends", []alter{image(func(i *Image) { i.Spec.Value.Services[1].Command = []string{"/usr/sbin/tailscaled"} })}},
		{"a fallback that fails", 17, Failed, "no socket", []alter{trial(func(m *Machine) { m.Fallback = &FallbackTrial{Err: "no socket"} })}},
		{"not tried", 17, NotProven, "network device now", []alter{trial(func(m *Machine) { m.Fallback = nil })}},
		{"at work", 17, Proven, "without a network device now", []alter{trial(func(m *Machine) { m.Fallback, m.Tailnet.Value.Kernel = nil, false })}},
		{"not frozen", 18, Failed, "ended all the same", []alter{trial(func(m *Machine) { m.Freeze.Held = false })}},
		{"not thawed", 18, Failed, "cannot go on", []alter{trial(func(m *Machine) { m.Freeze.After = false })}},
		{"no freeze", 18, NotProven, "would wait", []alter{trial(func(m *Machine) { m.Freeze = nil })}},
		{"a freeze that is refused", 18, Failed, "not supported", []alter{trial(func(m *Machine) { m.Freeze.Err = "not supported" })}},
		{"a service that stays away", 19, Failed, "not started again", []alter{trial(func(m *Machine) { m.Heals[0].New = 0 })}},
		{"a service that stays ill", 19, Failed, "did not become healthy", []alter{trial(func(m *Machine) { m.Heals[0].Healthy = false })}},
		{"a killed supervisor", 19, Failed, "no sovereignd", []alter{trial(func(m *Machine) { m.Supervised = false })}},
		{"a killed supervisor that stays away", 19, Failed, "no other took its place", []alter{trial(func(m *Machine) { m.Daemon.New = 0 })}},
		{"a machine that ends with it", 19, Failed, "ended with it", []alter{trial(func(m *Machine) { m.Daemon.Kept = false })}},
		{"no restarts", 19, NotProven, "asked for no restart", []alter{trial(func(m *Machine) { m.Restarts = false })}},
		{"no kills", 19, NotProven, "only a kill", []alter{trial(func(m *Machine) { m.Heals, m.Daemon = nil, nil })}},
		{"fsync off", 20, Failed, "fsync = off", []alter{set("fsync", "off", "/data/postgresql/17/postgresql.auto.conf")}},
		{"no checksums", 20, Failed, "data_checksums = off", []alter{set("data_checksums", "off", "")}},
		{"no recovery", 20, Failed, "no recovery", []alter{trial(func(m *Machine) { m.Crash.Recovered = "" })}},
		{"a lost row", 20, Failed, "is gone", []alter{trial(func(m *Machine) { m.Crash.Kept = false })}},
		{"no crash", 20, NotProven, "only a crash", []alter{trial(func(m *Machine) { m.Crash = nil })}},
		{"fsync off in the image", 20, Failed, "fsync = off", []alter{image(func(i *Image) { i.Settings.Value += "fsync off\n" })}},
		{"yesterday's disk", 21, Failed, "an older copy", []alter{trial(func(m *Machine) { m.History.Value.Held, m.History.Value.Why = true, "an older copy" })}},
		{"yesterday's disk at work", 21, Failed, "older than what is remembered", []alter{trial(func(m *Machine) { m.History.Value.Epoch = 4 })}},
		{"another disk", 21, Failed, "not the one", []alter{trial(func(m *Machine) { m.History.Value.Lineage = "b" })}},
		{"no witness", 21, NotProven, "nobody beside the disk", []alter{trial(func(m *Machine) { m.History.Value.Witness = nil })}},
		{"a start without a witness", 21, NotProven, "nobody told", []alter{trial(func(m *Machine) { m.History.Value.Start = "unwitnessed" })}},
		{"an image without a history", 21, NotProven, "too old", []alter{trial(func(m *Machine) { m.History = Unseen[History]("the image is too old") })}},
		{"a generator that waits", 22, Failed, "/dev/random waits", []alter{trial(func(m *Machine) { m.Entropy.Value.Ready = false })}},
		{"no source", 22, Failed, "no random numbers", []alter{trial(func(m *Machine) { m.Entropy.Value.Source = "none" })}},
		{"the same again", 22, Failed, "same bytes", []alter{trial(func(m *Machine) { m.Entropy.Value.Fresh = false })}},
	}
	broken := map[int]bool{}
	for _, tt := range tests {
		t.Run(strconv.Itoa(tt.number)+" "+tt.name, func(t *testing.T) {
			f := goodMachine(t)
			for _, a := range tt.alter {
				a(f)
			}
			r := Judge(f)
			checkRows(t, r)
			row := r.Rows[tt.number-1]
			if row.Verdict != tt.want || !strings.Contains(row.Seen+"\n"+row.Why+"\n"+row.Mend, tt.say) {
				t.Errorf("%+v", row)
			}
			if r.OK() == (row.Verdict == Failed) {
				t.Error("the report does not agree")
			}
		})
		broken[tt.number] = broken[tt.number] || tt.want == Failed
	}
	for n := 1; n <= len(items); n++ {
		if !broken[n] {
			t.Errorf("nothing makes row %d fail", n)
		}
	}
}

func TestConfValue(t *testing.T) {
	const text = "# fsync = off\n  fsync=on # yes\nfsync 'off'\nfsyncs = 1\nport\t5432\n"
	for key, want := range map[string]string{"fsync": "off", "port": "5432", "fsyncs": "1", "no": "(not set)"} {
		if got := confValue(text, key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

// head makes the first bytes of an ELF file with one segment.
func head(kind uint16, segment uint32, flags uint32, memory uint64) []byte {
	b := make([]byte, elfHeader+elfSegment)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], kind)
	le.PutUint64(b[32:], elfHeader)
	le.PutUint16(b[54:], elfSegment)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[elfHeader:], segment)
	le.PutUint32(b[elfHeader+4:], flags)
	le.PutUint64(b[elfHeader+40:], memory)
	return b
}

func TestParseProgram(t *testing.T) {
	const gnuStack = 0x6474e551
	p, ok := ParseProgram("/bin/a", head(2, gnuStack, 6, 2<<20))
	if !ok || !p.Executable || !p.Header || p.Stack != 2<<20 || p.ExecStack || p.Go {
		t.Errorf("%+v, %v", p, ok)
	}
	if p, ok = ParseProgram("/bin/a", head(2, gnuStack, 7, 0)); !ok || !p.ExecStack || p.Stack != 0 {
		t.Errorf("%+v, %v", p, ok)
	}
	if p, ok = ParseProgram("/lib/a.so", head(3, gnuStack, 6, 0)); !ok || p.Executable {
		t.Errorf("%+v, %v", p, ok)
	}
	if _, ok = ParseProgram("/bin/sh", []byte("#!/bin/sh\n")); ok {
		t.Error("a script is no ELF file")
	}
	cut := head(2, gnuStack, 6, 0)
	if _, ok = ParseProgram("/bin/a", cut[:len(cut)-1]); ok {
		t.Error("its headers are cut off")
	}
}

// The programs of this machine: one of Go's, and one that is not.
func TestParseProgramReal(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	for path, isGo := range map[string]bool{self: true, shell: false} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p, ok := ParseProgram(path, b[:min(len(b), HeadSize)])
		if !ok || !p.Executable || p.Go != isGo {
			t.Errorf("%s: %+v, %v", path, p, ok)
		}
	}
}

// A program of Go's without its note is known by its data.
func TestGoWithoutNote(t *testing.T) {
	b := head(2, 1, 6, 100) // a writable PT_LOAD
	binary.LittleEndian.PutUint64(b[elfHeader+8:], 0x2000)
	p, ok := ParseProgram("/bin/a", b)
	if !ok || p.Go || p.Data != 0x2000 || !p.WantsData() {
		t.Fatalf("%+v, %v", p, ok)
	}
	other := p
	other.LookAtData([]byte("no data of Go's"))
	p.LookAtData([]byte("\x00\x00\xff Go buildinf:\x08"))
	if !p.Go || other.Go || p.WantsData() {
		t.Errorf("%+v, %+v", p, other)
	}
}

func FuzzParseProgram(f *testing.F) {
	f.Add(head(2, 0x6474e551, 6, 2<<20))
	f.Add(head(3, 4, 4, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := ParseProgram("/bin/a", b); ok && len(b) < elfHeader {
			t.Errorf("%+v of %d bytes", p, len(b))
		}
	})
}

// The field guide has a section for each item, by its number, with the words of
// the report.
func TestFieldGuide(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "field-guide.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^### (\d+)\. `).FindAllStringSubmatch(string(text), -1)
	if len(found) != len(items) {
		t.Fatalf("%d sections, %d items", len(found), len(items))
	}
	for i, m := range found {
		if m[1] != strconv.Itoa(i+1) {
			t.Errorf("section %s is the %dth", m[1], i+1)
		}
	}
}
