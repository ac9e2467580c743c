package audit

import (
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// Known is what a probe saw, or why it saw nothing. The zero value is something
// that nobody looked at.
type Known[T any] struct {
	Value T
	Seen  bool
	Why   string // why not
}

// Saw is what was seen.
func Saw[T any](v T) Known[T] { return Known[T]{Value: v, Seen: true} }

// Unseen is why nothing was seen.
func Unseen[T any](format string, args ...any) Known[T] {
	return Known[T]{Why: fmt.Sprintf(format, args...)}
}

// Look is what a look returned: its error is why nothing was seen.
func Look[T any](v T, err error) Known[T] {
	if err != nil {
		return Known[T]{Why: err.Error()}
	}
	return Saw(v)
}

// why is never empty.
func (k Known[T]) why() string {
	if k.Why == "" {
		return "nobody looked"
	}
	return k.Why
}

// Facts are all that was seen. What a probe fills in is its own; the rules take
// each as it is.
type Facts struct {
	Name, Arch string
	Bundle     string // digest of the manifest
	Manifest   *bundle.Manifest
	Image      Image
	// Kernel is the .config that the kernel was made from: the bundle's, or what
	// the running kernel says of itself.
	Kernel Known[*kernel.Config]
	// Machine is nil for a bundle.
	Machine *Machine
}

// Kind is what was looked at.
func (f *Facts) Kind() Kind {
	if f.Machine == nil {
		return KindBundle
	}
	return KindMachine
}

// Image is the root file system, of the bundle or of the guest that runs it.
type Image struct {
	// Programs are all executables that are ELF files.
	Programs Known[[]Program]
	// ICUData are the files of ICU's data, icudt*.dat.
	ICUData Known[[]File]
	Spec    Known[*spec.Spec]
	// Settings is the image's postgresql.conf, and Setup the first setup program
	// of PostgreSQL's service; both are looked at in bundles only.
	Settings Known[string]
	Setup    Known[string]
}

// File is a file and its size in bytes.
type File struct {
	Path string
	Size int64
}

// Machine is a running machine.
type Machine struct {
	Host Known[Host]
	// Hypervisor is its name and version, and Accel "kvm" or "tcg".
	Hypervisor, Accel string
	// Restarts says whether sovereignd starts the machine again when it ended;
	// Supervised, whether a sovereignd is there to do so.
	Restarts, Supervised bool

	Devices Known[[]Device]
	// Nodes are the names of /dev, and Protocols those of /proc/net/protocols.
	Nodes, Protocols Known[[]string]
	// FileSystems are those that the kernel knows.
	FileSystems Known[[]string]
	KernelLog   Known[[]LogLine]
	Disk        Known[[]Speed] // measured reads of the root disk
	// PoolPeak is the most that the pool of bounce buffers has held, in bytes;
	// kernels without debugfs do not tell.
	PoolPeak  Known[int64]
	Entropy   Known[Entropy]
	Services  Known[[]Service]
	Listeners Known[[]Listener]
	// UnprivilegedFrom is the first port that needs no privilege.
	UnprivilegedFrom Known[int]
	Database         Known[Database]
	Tailnet          Known[Tailnet]
	History          Known[History]

	// Trials disturb the machine, and are nil where that was not asked for.
	Freeze   *FreezeTrial
	Heals    []HealTrial
	Daemon   *DaemonTrial
	Crash    *CrashTrial
	Fallback *FallbackTrial
}

// Host is the device that the machine runs on.
type Host struct {
	Android bool
	System  string // for people: "Linux 6.1.0"
	// Processes are sovereignd and the hypervisor.
	Processes []Process
	// Phantom are Android's switches of the phantom process killer.
	Phantom Phantom
}

// Process is one process of the host.
type Process struct {
	Role        string // "sovereignd", "hypervisor"
	PID         int
	OOMScoreAdj int
	Cgroup      string // its path of cgroup v2, "/": the root
}

// Phantom are the three switches, each as it is read back; "null" or empty is
// one that is not set.
type Phantom struct {
	Monitor  string // settings: settings_enable_monitor_phantom_procs
	Property string // persist.sys.fflag.override.settings_enable_monitor_phantom_procs
	Max      string // device_config: max_phantom_processes
}

// Device is a virtio device of the guest.
type Device struct {
	Name string // "virtio0"
	// ID is virtio's number of the type: 1 net, 2 block, 4 entropy, 19 vsock.
	ID     int
	Driver string // that has it, "virtio_blk"; empty: none
	// PCI says whether it is behind virtio-pci, and not in plain memory.
	PCI bool
	// Features are the negotiated ones, a bit a character from bit 0.
	Features string
}

// LogLine is a line of the kernel's log.
type LogLine struct {
	At   time.Duration // since the kernel's start
	Text string
}

// Speed is a measurement of reads past the guest's cache.
type Speed struct {
	Request int64 // bytes of one read
	Bytes   int64 // read in all
	Took    time.Duration
}

// Entropy is where random numbers come from.
type Entropy struct {
	// Source is the current hardware source: "virtio_rng.0".
	Source string
	// Ready: 32 bytes of /dev/random came at once.
	Ready bool
	// Fresh: two reads of the hardware source gave different bytes, none all
	// zero.
	Fresh bool
}

// Service is a service of the guest.
type Service struct {
	Name     string
	PID      int
	Command  []string // of the process that runs, empty when it does not
	Healthy  bool
	Optional bool
	Restarts int
}

// Listener is a TCP socket that listens in the guest.
type Listener struct {
	Port int
	UID  int
}

// Database is what PostgreSQL says of itself.
type Database struct {
	Version  string             `json:"version"`
	Settings map[string]Setting `json:"settings"`
	// Databases are all, templates too.
	Databases []Catalog `json:"databases"`
	// ICUCollations are those that the cluster knows.
	ICUCollations int `json:"icu_collations"`
	// Sorted: the order of the database's own collation is a language's: a before
	// B, and ä before z.
	Sorted bool `json:"sorted"`
	// Swedish: in the order of sv-SE, z comes before ö. ICU knows that from its
	// full data only; without them it takes the order of its root. Error is why
	// it could not be asked.
	Swedish Known[bool] `json:"-"`
}

// Setting is a setting of PostgreSQL in force.
type Setting struct {
	Value  string `json:"value"`
	Source string `json:"source"` // "configuration file", "default", …
	File   string `json:"file"`   // that it comes from
}

// Catalog is a database and its collation.
type Catalog struct {
	Name     string `json:"name"`
	Provider string `json:"provider"` // "i" ICU, "c" libc, "b" built in
	Locale   string `json:"locale"`
	// Version is ICU's when the database was made, and Actual now.
	Version string `json:"version"`
	Actual  string `json:"actual"`
}

// Tailnet is what tailscaled says.
type Tailnet struct {
	State string // "Running", "NeedsLogin", …
	// Served are from TCP ports of the node to where they lead.
	Served map[int]string
	// Kernel: the node has a network device; else its stack is its own.
	Kernel bool
}

// History is where the data disk is in its history, and what somebody beside the
// disk remembers of that (package continuity).
type History struct {
	Lineage string // of the disk
	Epoch   uint64
	// Start is what the disk was when the guest started, against what was
	// remembered: "first", "equal", "ahead", "unwitnessed", "behind", …
	Start string
	// Held: the services were not started, for what Start says. Why is that in
	// words.
	Held bool
	Why  string
	// Witness is what is remembered; nil where nobody does.
	Witness *Witness
}

// Witness is what is remembered of a disk.
type Witness struct {
	Lineage string
	Epoch   uint64
	Where   string // "sovereignd", for people
}

// FreezeTrial is a freeze of the data file system, and its end.
type FreezeTrial struct {
	Err string // why it could not be tried
	// Held: a write did not end while the file system was frozen, and After says
	// that it ended when it was thawed.
	Held, After bool
	Took        time.Duration // frozen
}

// HealTrial is the kill of a service's process.
type HealTrial struct {
	Service  string
	Old, New int // processes; New is 0 where none came
	Healthy  bool
	Took     time.Duration
	Err      string
}

// DaemonTrial is the kill of sovereignd on its host.
type DaemonTrial struct {
	Err      string // why it could not be tried, or what went wrong
	Tried    bool   // it was killed
	Old, New int
	// Kept: the machine's process is the same as before.
	Kept bool
	Took time.Duration
}

// CrashTrial is the kill of PostgreSQL's postmaster, after a commit.
type CrashTrial struct {
	Err      string
	Old, New int
	// Recovered is the line of the log that says so; empty: there is none.
	Recovered string
	// Kept: the row that was committed before the kill is there.
	Kept bool
	Took time.Duration
}

// FallbackTrial is a second tailscaled, without the device and the capabilities
// that the first one has.
type FallbackTrial struct {
	Err string
	// Said is the line in which it tells that it does without a device.
	Said string
}
