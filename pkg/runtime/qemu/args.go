package qemu

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// Sockets in the machine's directory. Each serves one client at a time. Two are
// of the machine protocol: one is the driver's, the other for people and their
// programs, who may keep it and have paused the machine by it.
const (
	controlSocket = "control.sock"
	qmpSocket     = "qmp.sock"
	agentSocket   = "agent.sock"
	networkSocket = "net.sock"     // the card's frames
	consoleSocket = "console.sock" // what goes to the console's log too, and input
)

// agentPort is the virtio-serial port's name, which the guest looks for.
const agentPort = "org.sovereign.agent"

// tbSizeMiB is the code cache of TCG, where QEMU's default is up to 1 GiB. It
// bounds QEMU's own memory; 64, 256 and the default booted in like CPU time
// (4.7 to 4.9 s, one run each). A long database load has not been measured.
const tbSizeMiB = 256

// bounceSlabs is the size of the pool of bounce buffers in slabs of 2 KiB, a
// little under the 64 MiB that crosvm gives a protected VM and that the kernel
// rounds it up to (seen on x86, Linux 6.12). One segment (128 slabs) less, for
// the kernel takes its own default as nothing said, and on arm64 then shrinks
// it to a thousandth of the memory, where large transfers hang.
const bounceSlabs = 64<<20/2048 - 128

// Descriptors of a machine's files in QEMU: kernel, initramfs and the disks, in
// this order. QEMU opens them anew by their names in /proc, with flags of its
// own, and so the very files that were handed over.
const (
	kernelFile = process.FirstFile + iota
	initramfsFile
	firstDisk
)

func files(m vm.Machine) []*os.File {
	open := []*os.File{m.Kernel, m.Initramfs}
	for _, d := range m.Disks {
		open = append(open, d.Image)
	}
	return open
}

func descriptor(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }

var descriptorForm = regexp.MustCompile(`/proc/self/fd/\d+`)

// named puts the files' own names into what QEMU says of them.
func named(text string, m vm.Machine) string {
	return descriptorForm.ReplaceAllStringFunc(text, func(name string) string {
		for n, f := range files(m) {
			if f != nil && name == descriptor(process.FirstFile+n) {
				return f.Name()
			}
		}
		return name
	})
}

// arguments is the command line of a machine, without the program. It is a
// function of its inputs alone, of the files their number. Sockets and logs are named relative to m.Dir,
// where QEMU runs: a socket's path may have 107 bytes, a state directory more.
// No secret ever stands here: anyone on the machine can read it.
func arguments(m vm.Machine, p plan) []string {
	args := []string{
		"-name", "guest=" + escape(m.Name),
		// Nothing that is not asked for: no default devices, no configuration
		// of the user's or the distribution's.
		"-nodefaults", "-no-user-config", "-display", "none",
	}
	if p.Sandbox {
		args = append(args, "-sandbox", sandbox)
	}
	virtio := modern
	if m.Bounce {
		virtio = bounced
	}
	args = append(args, machineType(m.Arch, p)...)
	args = append(args,
		"-smp", strconv.Itoa(m.CPUs),
		"-m", strconv.Itoa(m.MemoryMiB)+"M",
		// A guest that resets has ended; the runtime sees it by the process.
		"-no-reboot",
		"-kernel", descriptor(kernelFile),
		"-initrd", descriptor(initramfsFile),
		"-append", cmdline(m, p.Accel),

		"-chardev", "socket,id=console,path="+consoleSocket+",server=on,wait=off,logfile="+vm.ConsoleFile+",logappend=on",
		"-serial", "chardev:console",
		// The driver's comes first: where there is the other, there is this.
		"-chardev", "socket,id=control,path="+controlSocket+",server=on,wait=off",
		"-mon", "chardev=control,mode=control",
		"-chardev", "socket,id=qmp,path="+qmpSocket+",server=on,wait=off",
		"-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci,id=serial0,max_ports=4,"+virtio,
		"-chardev", "socket,id=agent,path="+agentSocket+",server=on,wait=off",
		"-device", "virtserialport,bus=serial0.0,nr=1,chardev=agent,name="+agentPort,

		"-object", "rng-builtin,id=rng0",
		"-device", "virtio-rng-pci,rng=rng0,"+virtio,
		// The guest hands back pages it has freed, and gets them again at
		// once when it runs short. The kernel's driver gives whole pages by
		// their address and knows no bounce buffers.
		"-device", "virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on,"+modern,
	)
	for i, d := range m.Disks {
		args = append(args, disk(i, d, virtio)...)
	}
	return append(args, network(m, virtio)...)
}

// modern keeps a device to virtio 1.0, which every guest kernel of ours has.
const modern = "disable-legacy=on"

// bounced also makes the guest's driver use the DMA interface, and by it the
// bounce buffers that swiotlb=force orders.
const bounced = modern + ",iommu_platform=on"

// sandbox forbids what a running machine has no use for: obsolete system
// calls, gaining rights, starting programs, changing its scheduling.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// tcgCPU is every feature that TCG has, without two that only make its guests
// slower: la57 is a fifth level in every page walk, and erms makes the kernel
// clear pages byte by byte. Features with instructions of their own stay: what
// has some of them may take others for granted, as OpenSSL's AES-GCM does
// SSSE3, and dies without.
const tcgCPU = "max,la57=off,erms=off"

// leftOut are parts of a kernel under TCG that do not run.
//
// sha256_ssse3_mod_init brings the SHA-256 that is written for vector
// instructions: TCG calls a function for each of those, and dm-verity hashes
// every page that is read. In plain C a second boot of recipes/sql was seen in
// it a third as often (samples of the program counter, QEMU 7.2).
//
// init_acpi_pm_clocksource holds ACPI's timer against the PIT for 10 ms, to use
// it as a clock if the time stamp counter and the HPET are no good.
const leftOut = "initcall_blacklist=sha256_ssse3_mod_init,init_acpi_pm_clocksource"

// quickBoot keeps a kernel under TCG from waiting for the clock. Without lpj=
// each CPU but the first measures how long a loop lasts, for 90 ms; the number
// is that of a 5 GHz time stamp counter at 250 Hz, as too large a one makes
// delays longer and too small a one shorter than asked. tsc=reliable leaves
// out the comparison of the CPUs' counters, which are one here, the host's, and
// the watchdog that takes a busy host for a counter that is wrong.
const quickBoot = "lpj=20000000 tsc=reliable"

// machineType is the board, the CPU and the firmware. Without ACPI (acpi=off)
// q35's kernel translates a seventh less, but finds one CPU only, no power
// switch, and on a busy host no clock but the timer's ticks. On x86 microvm
// reaches userspace no sooner than q35 under TCG (both 1.0 s, QEMU 7.2) and
// hangs there with ACPI, without which it cannot power off: so q35 under both.
func machineType(arch string, p plan) []string {
	board, cpu := "q35,usb=off,vmport=off,smbus=off,sata=off", tcgCPU
	if arch == "arm64" {
		// cortex-a76 rather than max, which has pointer authentication: TCG
		// computes that in software.
		board, cpu = "virt,gic-version=3", "cortex-a76"
		if p.Accel == "kvm" {
			board = "virt,gic-version=host"
		}
	}
	engine := fmt.Sprintf("tcg,thread=multi,tb-size=%d", tbSizeMiB)
	if p.Accel == "kvm" {
		engine, cpu = "kvm", "host"
	}
	args := []string{"-machine", board + ",dump-guest-core=off", "-accel", engine, "-cpu", cpu}
	if p.firmware != "" {
		args = append(args, "-bios", p.firmware)
	}
	return args
}

// cmdline adds what only the driver knows. panic=1 with -no-reboot makes a
// panic end the machine one second later, with its text on the console.
func cmdline(m vm.Machine, accel string) string {
	console := "console=ttyS0"
	if m.Arch == "arm64" {
		console = "console=ttyAMA0"
	}
	words := append([]string{m.Cmdline, console, "panic=1"}, m.Card.Cmdline()...)
	if m.Arch == "amd64" {
		// Linux counts the timer's ticks against a loop of its own to find
		// out whether the IO-APIC is wired; an emulated CPU on a busy host
		// gets none in time, and the kernel panics. QEMU's is.
		words = append(words, "no_timer_check")
		if accel == "tcg" {
			words = append(words, leftOut, quickBoot)
		}
	}
	if m.Bounce {
		words = append(words, fmt.Sprintf("swiotlb=%d,force", bounceSlabs))
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// disk is a raw image as a virtio disk.
//
// The host's page cache is used (cache.direct=off), and a guest's FLUSH
// becomes fdatasync on the image (cache.no-flush=off): what PostgreSQL was
// told is on the disk survives a crash of guest, QEMU and host. That is
// QEMU's "writeback"; its "unsafe" is faster and would drop the flushes.
func disk(i int, d vm.Disk, virtio string) []string {
	id := fmt.Sprintf("disk%d", i)
	file := "driver=file,node-name=" + id + "-file,filename=" + descriptor(firstDisk+i) +
		",aio=threads,cache.direct=off,cache.no-flush=off"
	raw := "driver=raw,node-name=" + id + ",file=" + id + "-file"
	device := "virtio-blk-pci,drive=" + id + ",serial=" + escape(d.Serial) + "," + virtio
	if d.ReadOnly {
		file += ",read-only=on"
		raw += ",read-only=on"
	} else {
		// What the guest trims is given back to the host's file system. A
		// full one pauses the machine rather than failing its writes.
		file += ",discard=unmap"
		raw += ",discard=unmap"
		device += ",write-cache=on,werror=enospc"
	}
	return []string{"-blockdev", file, "-blockdev", raw, "-device", device}
}

// network is the guest's card. Its frames go to whoever connects to
// networkSocket, and to the next one when that has gone: a network that ends
// with its program and comes again is found again. (QEMU as the one that
// connects has reconnect since 8.0, under another name since 9.2.)
//
// host_mtu tells the guest what the network takes. romfile=: no boot from the
// network, and no option ROM to install.
func network(m vm.Machine, virtio string) []string {
	if m.Card == nil {
		return nil
	}
	return []string{
		"-netdev", "stream,id=net0,server=on,addr.type=unix,addr.path=" + networkSocket,
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net0,mac=%s,host_mtu=%d,romfile=,%s", m.Card.MAC, m.Card.MTU, virtio),
	}
}

// escape writes a value into one of QEMU's option lists, where a comma ends it
// and two stand for one.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
