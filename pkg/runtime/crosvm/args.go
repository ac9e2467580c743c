package crosvm

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/machinekey"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// Files in the machine's directory, where crosvm runs.
const (
	controlSocket = "control.sock"
	keyFile       = "key.img"
)

const (
	// swiotlbMiB is the pool that a protected machine shares with its host for
	// every transfer: crosvm's default, given by name as it comes out of the
	// guest's memory, and is added to that.
	swiotlbMiB = 64
	// maxCmdline is the most that the kernel takes of a command line, in bytes
	// (COMMAND_LINE_SIZE less its end); crosvm refuses to start beyond.
	maxCmdline = 2047
	// ownWords is room for what crosvm puts before ours: "panic=-1",
	// "console=ttyS0", on x86 a few more of the like.
	ownWords = 128
)

// Descriptors of a machine's files in crosvm: kernel, initramfs, the disks and
// the one with its key, in this order. crosvm takes those that it is given by
// /proc/self/fd, and so the very files that were handed over.
const (
	kernelFile = process.FirstFile + iota
	initramfsFile
	firstDisk
)

// Files are a machine's files and the one with its key, in that order.
func Files(m vm.Machine, key *os.File) []*os.File {
	open := []*os.File{m.Kernel, m.Initramfs}
	for _, d := range m.Disks {
		open = append(open, d.Image)
	}
	return append(open, key)
}

func descriptor(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }

// arguments is the command line of a machine, without the program. It is a
// function of its inputs alone, of the files their number; sockets and logs are
// named relative to m.Dir, where crosvm runs. What an option's name is, and
// whether there is one, differs by version: p.options says.
//
// No secret ever stands here: anyone on the host can read it.
func arguments(m vm.Machine, p plan, cid uint32) ([]string, error) {
	params, err := Params(m)
	if err != nil {
		return nil, err
	}
	// Global options first: crosvm knows them only there. Its exit codes are
	// told apart, and what it logs goes to its standard error alone.
	args := []string{"--extended-status", "--log-level", "info,disk=warn", "--no-syslog", "run"}
	add := func(words ...string) { args = append(args, words...) }
	missing := ""
	need := func(option string, value ...string) {
		if !p.options[option] && missing == "" {
			missing = option
		}
		add(append([]string{"--" + option}, value...)...)
	}
	able := func(option string, value ...string) {
		if p.options[option] {
			add(append([]string{"--" + option}, value...)...)
		}
	}
	need("name", m.Name)
	// Android's kernels have no process namespaces, without which crosvm's
	// sandbox cannot work; AVF runs it so too.
	need("disable-sandbox")
	if p.hypervisor != "" {
		need("hypervisor", p.hypervisor)
	}
	memory := m.MemoryMiB
	if p.Protected {
		need("protected-vm-without-firmware")
		need("swiotlb", strconv.Itoa(swiotlbMiB))
		memory += swiotlbMiB
	}
	need("mem", strconv.Itoa(memory))
	// A plain number: with the host's topology some processors reset the guest.
	need("cpus", strconv.Itoa(p.CPUs))
	if p.options["vsock"] {
		add("--vsock", "cid="+strconv.FormatUint(uint64(cid), 10))
	} else {
		need("cid", strconv.FormatUint(uint64(cid), 10))
	}
	need("socket", controlSocket)
	// Opened to be appended to, so that it can be cut off while the machine
	// runs; a console at a socket would be lost for good with its reader. The
	// first serial port is always declared: else crosvm makes it one of its own
	// standard input and output.
	serial, err := keyValues([2]string{"type", "file"}, [2]string{"hardware", "serial"}, [2]string{"num", "1"},
		[2]string{"console", "true"}, [2]string{"path", vm.ConsoleFile})
	if err != nil {
		return nil, err
	}
	need("serial", serial)
	able("no-usb")
	if p.reporting {
		able("balloon-page-reporting")
	}
	for n, d := range append(m.Disks, vm.Disk{Serial: machinekey.Serial, ReadOnly: true}) {
		block, err := block(d, descriptor(firstDisk+n))
		if err != nil {
			return nil, err
		}
		need("block", block)
	}
	need("initrd", descriptor(initramfsFile))
	need("params", params)
	if missing != "" {
		return nil, fault.Errorf(fault.Device, "%s knows no --%s, without which no machine of ours can run", p.Program, missing).
			Hintf("its options: %s run --help", p.Program)
	}
	return append(args, descriptor(kernelFile)), nil
}

// block is a disk's value. The lock, crosvm's default, is a second guard against
// two machines on one disk. With sparse the guest may trim: holes where the disk
// is to have none would take its room away.
func block(d vm.Disk, path string) (string, error) {
	pairs := [][2]string{{"path", path}, {"ro", strconv.FormatBool(d.ReadOnly)}, {"id", d.Serial}}
	if !d.ReadOnly {
		pairs = append(pairs, [2]string{"sparse", strconv.FormatBool(d.Thin)})
	}
	return keyValues(pairs...)
}

// Params is the kernel command line but for crosvm's own words: that of the
// machine, its network, and where its key is.
func Params(m vm.Machine) (string, error) {
	words := append([]string{m.Cmdline}, m.Card.Cmdline()...)
	words = append(words, "sovereign.key="+machinekey.Serial)
	if c := m.Card; c != nil {
		words = append(words, fmt.Sprintf("sovereign.tap=eth0,%s,%d", c.MAC, c.MTU))
	}
	text := strings.TrimSpace(strings.Join(words, " "))
	if n := len(text) + ownWords; n > maxCmdline {
		return "", fault.Errorf(fault.Device, "the kernel's command line would have %d bytes, and can have %d", n, maxCmdline).
			Hintf("make the recipe's kernel arguments shorter")
	}
	return text, nil
}
