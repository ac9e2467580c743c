// Package vm holds the words that the runtime and its drivers share: what a
// machine is (Machine), where it runs (Device) and what builds and starts it
// (Hypervisor).
//
// It is interfaces and plain values. It starts nothing, opens nothing, and
// knows neither bundles nor guests.
package vm

import (
	"context"
	"net"
	"os"
)

// Names of the files that a driver makes in Machine.Dir.
const (
	ConsoleFile   = "console.log"  // what the guest's kernel and init print, appended
	ConsoleSocket = "console.sock" // the same as it comes, and input; one client at a time
	LogFile       = "machine.log"  // what the hypervisor itself prints
	AgentSocket   = "agent.sock"   // a stream to the guest's agent port
	LockFile      = "machine.lock" // locked by the hypervisor as long as it lives
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

	Disks    []Disk
	Forwards []Forward
	// Outbound lets the guest open connections to the world, and through the
	// gateway's address to the host's loopback services. Without it only the
	// forwarded ports connect.
	Outbound bool

	// Bounce makes every disk and network transfer of the guest go by way of a
	// small pool of shared memory, as in a protected VM, whose other memory
	// the host cannot read. It protects nothing: it is for measuring.
	Bounce bool

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
}

// A Forward makes a TCP port of the guest reachable at a loopback port of the
// device.
type Forward struct {
	Guest int `json:"guest"`
	Host  int `json:"host"`
}

// A Process is one process of one boot of a device. A PID alone is not: it is
// used again.
type Process struct {
	PID int `json:"pid"`
	// Start is when it started, in clock ticks since boot (field 22 of
	// /proc/PID/stat).
	Start uint64 `json:"start"`
	Boot  string `json:"boot"` // the kernel's boot_id
}

// A Command is a program to start in the background.
type Command struct {
	Path string
	Args []string // without the program's name
	Dir  string
	// Log takes its output, appended.
	Log string
	// Lock is a file that is made if absent, and that the process keeps
	// locked from before its first instruction until its end: whoever is
	// killed before it could write down what it started leaves at least this
	// trace. Empty: none.
	Lock string
	// Files are open in the process too, from descriptor FirstFile on.
	Files []*os.File
}

// FirstFile is the descriptor of the first of a Command's Files.
const FirstFile = 3

// Status is what a hypervisor says of a running machine.
type Status struct {
	// State is the hypervisor's word: "running", "paused", "io-error", …
	State   string
	Running bool
	// Full: the machine is held still, as a write to a disk's image found the
	// file system full. Resume lets it try again.
	Full bool
}

// A Device is where machines run: this one (package local), a phone later.
type Device interface {
	// Name is for people: "this machine".
	Name() string
	// Arch is the architecture of its CPU: "amd64" or "arm64".
	Arch() string
	// Boot identifies the device's present boot.
	Boot(ctx context.Context) (string, error)
	// Start starts a program that goes on when the caller ends: in a session
	// of its own, with no terminal, none of the caller's files but those of c,
	// and of its environment what every program needs. Where another process
	// has c.Lock, it starts nothing (fault.Environment).
	Start(ctx context.Context, c Command) (Process, error)
	// Locked says whether a process has such a lock.
	Locked(ctx context.Context, path string) (bool, error)
	// Alive says whether exactly that process still runs.
	Alive(ctx context.Context, p Process) (bool, error)
	// Signal sends a signal to exactly that process. It is no error when the
	// process has ended.
	Signal(ctx context.Context, p Process, sig os.Signal) error
	// Dial connects to a socket file or TCP address of the device.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	// Listener returns the process that listens on a socket file; ok is false
	// when nobody does.
	Listener(ctx context.Context, path string) (p Process, ok bool, err error)
	// PortFree tries to take a loopback TCP port, 0 for any, and returns the
	// one it could take, having given it back.
	PortFree(ctx context.Context, port int) (int, error)
}

// A Hypervisor builds and starts machines: QEMU (package qemu) now.
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
	// how an instance is found again whose starter was killed. It waits for
	// one that is only starting.
	Find(ctx context.Context, dir string) (Process, bool, error)
	// Status asks the hypervisor about the machine of the directory.
	Status(ctx context.Context, dir string) (Status, error)
	// Quit ends the machine of the directory at once, as pulling the plug
	// does.
	Quit(ctx context.Context, dir string) error
	// Resume lets a machine that was held still go on. One that runs does.
	Resume(ctx context.Context, dir string) error
	// Balloon asks the guest of the machine of the directory to give memory
	// back until it has size bytes, or to take again what it gave. It does
	// that in its own time: Memory tells how far it is.
	Balloon(ctx context.Context, dir string, size int64) error
	// Memory returns how many bytes of memory the guest has now.
	Memory(ctx context.Context, dir string) (int64, error)
	// GrowDisk tells the machine of the directory that the image of the disk
	// with that serial has grown to size bytes. It never shrinks one.
	GrowDisk(ctx context.Context, dir, serial string, size int64) error
}

// A Plan is what Prepare found and Start uses.
type Plan struct {
	Accel    string // "kvm" or "tcg"
	Why      string // why not kvm, in a few words; empty for kvm
	Version  string // of the hypervisor
	Program  string // its path on the device
	Sandbox  bool   // it can confine itself
	Firmware string // file that the machine starts with; empty for the hypervisor's own choice
}
