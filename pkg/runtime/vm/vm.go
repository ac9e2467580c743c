// Package vm holds the words that the runtime and its drivers share: what a
// machine is (Machine) and what builds and starts it (Hypervisor).
//
// It is interfaces and plain values. It starts nothing, opens nothing, and
// knows neither bundles nor guests.
package vm

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/sovereign-build/sovereign/internal/process"
)

// Names of the files that every driver makes in Machine.Dir. It may make others.
const (
	ConsoleFile = "console.log"  // what the guest's kernel and init print, appended
	LogFile     = "machine.log"  // what the hypervisor itself prints
	LockFile    = "machine.lock" // locked by the hypervisor as long as it lives
)

// A Machine is what to start. Its files are open, by whoever has checked them:
// what the machine reads is what was checked, whatever becomes of their names.
// Their names are absolute and for messages. The one who opened them closes
// them, when the machine has been started.
type Machine struct {
	Name      string
	Arch      string // "amd64" or "arm64"
	MemoryMiB int
	CPUs      int

	Kernel       *os.File
	KernelDigest string // "sha256:…": names the kernel in the driver's caches
	Initramfs    *os.File
	// Cmdline is without console and network, which the driver adds.
	Cmdline string

	Disks []Disk
	Card  *Card // nil: no network

	// Bounce makes every disk and network transfer of the guest go by way of a
	// small pool of shared memory, as in a protected VM, whose other memory
	// the host cannot read. It protects nothing: it is for measuring.
	Bounce bool

	// Protected asks for a machine whose memory its host cannot read, where the
	// host's hypervisor has that: see Hypervisor.Prepare.
	Protected bool

	// Dir is the instance's directory: sockets and logs go here.
	Dir string
	// Accel is "auto", "kvm" or "tcg".
	Accel string
}

// A Disk is a raw image. The guest finds it by its serial.
type Disk struct {
	Image    *os.File // open for writing unless ReadOnly
	Serial   string   // at most 20 bytes
	ReadOnly bool
	// Thin: the image has holes, and what the guest trims becomes one again.
	Thin bool
}

// A Card is the guest's network card and what the guest is told of its network,
// static so that it needs no DHCP client before it can serve. Its frames go over
// NetworkDialer's stream.
type Card struct {
	MAC net.HardwareAddr // 6 bytes
	MTU int              // bytes
	// Address is the guest's with its network's prefix.
	Address      netip.Prefix
	Gateway, DNS netip.Addr
	// Address6 and Gateway6 are invalid where the network has no IPv6.
	Address6 netip.Prefix
	Gateway6 netip.Addr
}

// Cmdline is what the guest's kernel command line says of its network; nil has
// nothing to say.
func (c *Card) Cmdline() (words []string) {
	if c == nil {
		return nil
	}
	words = append(words, fmt.Sprintf("sovereign.net=eth0,%s,%s,%s", c.Address, c.Gateway, c.DNS))
	if c.Address6.IsValid() {
		words = append(words, fmt.Sprintf("sovereign.net6=eth0,%s,%s", c.Address6, c.Gateway6))
	}
	return words
}

// A Process runs a machine.
type Process = process.Process

// State is what a hypervisor knows of a machine whose process lives. The zero
// value is a machine that runs, or one of a hypervisor that cannot tell.
type State struct {
	// Held: its CPUs are held still.
	Held bool
	// Full: they are, as a write to a disk's image found the file system full.
	// Resume lets it try again.
	Full bool
	// Word is the hypervisor's own: "running", "paused", "io-error", …
	Word string
}

// A Hypervisor builds and starts machines: QEMU (package qemu) or crosvm (package
// crosvm). What not every one can do is in interfaces of their own: Resumer,
// Ballooner, DiskGrower, ConsoleOpener, NetworkDialer, EndTeller and RoomTaker.
//
// dir is the Dir of a Machine that was started, by this program or another.
type Hypervisor interface {
	// Name is for people: "QEMU".
	Name() string
	// Prepare looks for what is needed and settles how the machine will run,
	// which may boot it for a moment. report takes lines for people.
	Prepare(ctx context.Context, m Machine, report func(string)) (Plan, error)
	// Start starts the machine and returns when the hypervisor is up, or with
	// its error. The guest has hardly begun by then.
	Start(ctx context.Context, m Machine, p Plan) (Process, error)
	// Find returns the process that runs the machine of the directory, if any:
	// how one is found again whose starter was killed. It waits for one that is
	// only starting.
	Find(ctx context.Context, dir string) (Process, bool, error)
	// State asks the hypervisor about the machine of the directory.
	State(ctx context.Context, dir string) (State, error)
	// Quit ends the machine of the directory at once, as pulling the plug
	// does.
	Quit(ctx context.Context, dir string) error
	// DialAgent opens a byte stream to the port of the guest's agent. The guest
	// need not be there yet; where the port serves one at a time, it is waited
	// for until ctx ends.
	DialAgent(ctx context.Context, dir string) (net.Conn, error)
}

// A Plan is what Prepare found and Start uses: the driver's own.
type Plan interface{ Info() PlanInfo }

// PlanInfo is what there is to say of a plan.
type PlanInfo struct {
	Accel   string // "kvm" or "tcg"; under crosvm "kvm", "gunyah" or "geniezone"
	Why     string // why not kvm, in a few words; empty for kvm
	Version string // of the hypervisor
	Program string // its path
	Sandbox bool   // it can confine itself
	CPUs    int    // what the machine gets; 0: what was asked for
	// Protected: its host cannot read its memory.
	Protected bool
}

// A NetworkDialer carries the frames of a machine's card over a stream.
// Without it a machine has the network that its hypervisor gives it.
type NetworkDialer interface {
	// DialNetwork opens the stream of the machine of the directory, of
	// Ethernet frames with their length before each, 4 bytes, the highest
	// first. It serves one at a time, and what the guest sends while there
	// is none is lost.
	DialNetwork(ctx context.Context, dir string) (net.Conn, error)
}

// A Resumer lets a machine that was held still go on. One that runs does.
type Resumer interface {
	Resume(ctx context.Context, dir string) error
}

// A Ballooner takes memory from a guest and gives it back.
type Ballooner interface {
	// Balloon asks the guest of the machine of the directory to give memory
	// back until it has size bytes, or to take again what it gave. It does
	// that in its own time: Memory tells how far it is.
	Balloon(ctx context.Context, dir string, size int64) error
	// Memory returns how many bytes of memory the guest has now.
	Memory(ctx context.Context, dir string) (int64, error)
}

// A DiskGrower tells a running machine that a disk has grown.
type DiskGrower interface {
	// GrowDisk tells the machine of the directory that the image of the disk
	// with that serial has grown to size bytes. It never shrinks one.
	GrowDisk(ctx context.Context, dir, serial string, size int64) error
}

// A ConsoleOpener gives the console of a running machine: what the guest prints
// from now on is read, and what is written is typed. It serves one at a time.
type ConsoleOpener interface {
	OpenConsole(ctx context.Context, dir string) (io.ReadWriteCloser, error)
}

// An EndTeller knows more of a machine's end than that its process is gone.
type EndTeller interface {
	// End says in a line why the machine of the directory ended that the
	// process ran; "" where this program did not see it.
	End(ctx context.Context, dir string, p Process) string
}

// A RoomTaker fails a guest's write where the host's file system is full, rather
// than hold the machine until there is room. Its disks have to have their room
// before it starts, or somebody has to see to it that there is some.
type RoomTaker interface {
	TakesRoom() bool
}
