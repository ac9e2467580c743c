package runtime

import "time"

// DefaultTrialLimit is how long a guest has to become healthy after an update
// or a rollback. A first boot under emulation on a busy machine took a third
// of it.
const DefaultTrialLimit = 5 * time.Minute

// Wanted is what the owner wants of a machine.
type Wanted string

// What can be wanted.
const (
	Up   Wanted = "up"
	Down Wanted = "down"
)

// Restart says when a machine that ended by itself is started again.
type Restart string

// Restart policies.
const (
	RestartAlways Restart = "always"
	RestartNever  Restart = "never"
)

// Policy is what is done about ends that nobody asked for.
type Policy struct {
	Restart Restart `json:"restart"`
	// Limit is the number of such ends in a row, each before the guest had
	// been ready for a minute, after which the machine is given up. 0: never.
	Limit int `json:"limit"`
}

// DefaultPolicy is that of a machine whose owner asked for no other. Ten ends
// in a row are about four minutes of pauses and ten boots.
func DefaultPolicy() Policy { return Policy{Restart: RestartAlways, Limit: 10} }

// Options are what every start of a machine uses.
type Options struct {
	MemoryMiB int         `json:"memory_mib,omitempty"` // 0: the manifest's
	CPUs      int         `json:"cpus,omitempty"`       // 0: the manifest's
	Ports     map[int]int `json:"ports,omitempty"`      // guest to host, those asked for
	Accel     string      `json:"accel,omitempty"`
	Outbound  bool        `json:"outbound,omitempty"`
	Bounce    bool        `json:"bounce,omitempty"`
	// Isolated: the machine has no network at all, whatever else is asked for.
	// A restored copy is, until Up activates it: it has the keys and the
	// identity of a machine that may still be alive.
	Isolated  bool `json:"isolated,omitempty"`
	Protected bool `json:"protected,omitempty"`
	Thin      bool `json:"thin,omitempty"`
}

// UpdateOption changes an update or a rollback.
type UpdateOption string

// AllowRollback lets in a bundle whose signature has a lower index than the
// highest that the machine has seen; its record says so.
const AllowRollback UpdateOption = "allow-rollback"

// KeepData has an update keep a copy of the data disk first, to which the machine
// goes back with its former bundle if the update fails. WithData has a rollback
// put that copy in the place of the data disk, which is kept beside it. What was
// written since is not there then.
const (
	KeepData UpdateOption = "keep-data"
	WithData UpdateOption = "with-data"
)

// UpOptions are what wanting a machine up changes of it. What is zero stays as
// it was, or as a new machine has it.
type UpOptions struct {
	MemoryMiB int `json:"memory_mib,omitempty"` // from 64 to 1048576
	CPUs      int `json:"cpus,omitempty"`       // from 1 to 64
	// Ports are ports of the guest and the loopback ports that are to lead to
	// them. Each port of the manifest that is not here gets a free one, the
	// same as last time where that is possible.
	Ports map[int]int `json:"ports,omitempty"`
	Accel string      `json:"accel,omitempty"` // "auto", "kvm" or "tcg"
	// Outbound lets the guest open connections to the world.
	Outbound *bool `json:"outbound,omitempty"`
	// Bounce makes every transfer of the guest go by way of a small pool of
	// shared memory, as in a protected VM. It protects nothing: it is for
	// measuring.
	Bounce *bool `json:"bounce,omitempty"`
	// Protected keeps the guest's memory out of its host's reach, where the
	// host's hypervisor can (pKVM, Gunyah): under crosvm alone. Nothing vouches
	// for what was started.
	Protected *bool `json:"protected,omitempty"`
	// Thin leaves the data disk without room of its own under a hypervisor that
	// fails writes where the host is full (crosvm): it takes room as it is
	// written to, and the machine is shut down in order while less than 1 GiB is
	// left there. Elsewhere every disk is so, and a full host holds its machines.
	Thin    *bool   `json:"thin,omitempty"`
	Restart Restart `json:"restart,omitempty"`
	Limit   *int    `json:"limit,omitempty"` // of ends in a row; 0: none
	// NewData is the owner's word that the data disk may be another one than
	// the machine had: what is there is taken, or a blank one is made where
	// nothing is. The machine must not run.
	NewData bool `json:"new_data,omitempty"`
	// Activate gives a restored machine its network. It must not run.
	Activate bool `json:"activate,omitempty"`
	// Replace is for a machine that is to run this bundle, with these options,
	// now: memory, CPUs and ports that are not here are the manifest's, whatever
	// the machine was told before. Where the machine is down, Install puts the bundle in the place of
	// another one at once, without a trial; the other one stays as what Rollback
	// goes back to. A machine that runs at other ports is an error.
	Replace bool `json:"replace,omitempty"`
	// AllowRollback lets in a bundle that is older than the newest the machine
	// has seen; its record says so.
	AllowRollback bool `json:"allow_rollback,omitempty"`
}
