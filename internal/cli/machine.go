package cli

import (
	"context"
	"time"
)

// Runtime runs bundles; pkg/runtime does it for the real program. Names are
// those of instances, which are those of the recipes they were built from.
type Runtime interface {
	// Start boots a bundle and returns when its services are healthy. report
	// takes lines about what is going on.
	Start(ctx context.Context, r RunRequest, report func(string)) (*Machine, error)
	// Watch reports what changes in a running machine until the machine ends,
	// which returns nil when it was stopped in order, or ctx does.
	Watch(ctx context.Context, name string, report func(string)) error
	// Stop shuts the guest down in order and returns when it is off. Its power
	// is cut when it does not end within grace.
	Stop(ctx context.Context, name string, grace time.Duration) (*StopResult, error)
	// Remove forgets a machine that does not run, with or without its data.
	Remove(ctx context.Context, name string, data bool) (*RemoveResult, error)
	// URL is how a client reaches the service on a guest port, with its
	// secret; port 0 is the first port that has a URL.
	URL(ctx context.Context, name string, port int) (string, error)
	// Names are those of all machines on this host.
	Names() ([]string, error)
	// Instance is the way into a machine.
	Instance(ctx context.Context, name string) (Instance, error)
	// Status returns the named machine, or all. Of all, one that nothing can be
	// said of is "unreadable", and its message says why.
	Status(ctx context.Context, name string) ([]MachineStatus, error)
	Supervised
}

// RunRequest is what the flags of run say.
type RunRequest struct {
	Bundle    string
	Ports     map[int]int // guest to host; others get a free one
	MemoryMiB int         // 0 is the manifest's
	CPUs      int         // 0 is the manifest's
	Accel     string      // "auto", "kvm" or "tcg"
	Outbound  bool        // the guest may connect to the world
	Bounce    bool        // its transfers go by way of bounce buffers
	NewData   bool        // whatever is there is its data disk, or a blank one
	Timeout   time.Duration
}

// StopResult says how a machine came to its end, as stop --json prints it.
type StopResult struct {
	Name       string  `json:"name"`
	WasRunning bool    `json:"was_running"`
	Forced     bool    `json:"forced"`        // its power was cut
	Why        string  `json:"why,omitempty"` // it was
	Seconds    float64 `json:"seconds"`
}

// Machine is a started machine, as run --json prints it.
type Machine struct {
	Name string `json:"name"`
	// Ports is from the guest's TCP ports, as text, to loopback ports of this
	// machine.
	Ports  map[string]int `json:"ports"`
	Accel  string         `json:"accel,omitempty"`
	BootMS int64          `json:"boot_ms,omitempty"`
}

// MachineStatus is one machine, as status prints it.
type MachineStatus struct {
	Name    string         `json:"name"`
	State   string         `json:"state"`
	Message string         `json:"message,omitempty"`
	Ports   map[string]int `json:"ports,omitempty"`
	// Data is the room on the data disk, in bytes; Clock where the guest's
	// time comes from: "rtc", "ntp" or "unset". Both are the guest's words.
	Data     *DataStatus     `json:"data,omitempty"`
	Clock    string          `json:"clock,omitempty"`
	Services []ServiceStatus `json:"services,omitempty"`
	// Supervision is nil for a machine that was only ever started by run.
	Supervision *Supervision `json:"supervision,omitempty"`
}

// DataStatus is the room on a data disk, in bytes.
type DataStatus struct {
	Size int64 `json:"size"`
	Free int64 `json:"free"`
	// NearlyFull: it is time to grow it, or to throw something away.
	NearlyFull bool `json:"nearly_full"`
}

// ServiceStatus is one service of a machine.
type ServiceStatus struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Healthy  bool   `json:"healthy"`
	Restarts int    `json:"restarts"`
	Message  string `json:"message,omitempty"`
	// Warning is what a healthy service has to say.
	Warning string `json:"warning,omitempty"`
	// Optional: the machine is ready without it.
	Optional bool `json:"optional,omitempty"`
}
