package runtime

import (
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// State is what an instance's machine does.
type State string

// States of an instance.
const (
	Running State = "running"
	// Paused: the hypervisor holds the CPUs still; Status.Message says why.
	Paused State = "paused"
	// Stopped: it was stopped in order, or never ran.
	Stopped State = "stopped"
	// Exited: it ended by itself, by a kernel panic or a power cut.
	Exited State = "exited"
	// Restarting: it is wanted up, and sovereignd starts it, at once or
	// after a pause. Status.Message says what it waits for, if it cannot start.
	Restarting State = "restarting"
	// GaveUp: it is wanted up and ended too often; Status.Message has the last
	// end.
	GaveUp State = "gave-up"
	// Unreadable: what is known of it cannot be read; Status.Message says why.
	Unreadable State = "unreadable"
)

// Status is an instance as seen now. Its JSON is part of what scripts rely on.
type Status struct {
	Name    string    `json:"name"`
	State   State     `json:"state"`
	Message string    `json:"message,omitempty"`
	Bundle  BundleRef `json:"bundle"`
	Ports   []Port    `json:"ports"`
	Machine MachineID `json:"machine"`
	PID     int       `json:"pid,omitempty"`
	// Isolated: it was restored, and has no network until it is activated.
	Isolated bool `json:"isolated,omitempty"`
	// Dir is the machine's directory on its host, where console.log is.
	Dir string `json:"dir,omitempty"`
	// Guest is what the agent says; nil when it was not asked or did not
	// answer, and then GuestError says why.
	Guest      *agent.Status `json:"guest,omitempty"`
	GuestError string        `json:"guest_error,omitempty"`
	// Continuity is what is remembered here of the data disk's history; nil
	// before the guest's first word of it.
	Continuity *Witnessed `json:"continuity,omitempty"`
	// Witnesses are those elsewhere that are told of it.
	Witnesses []WitnessStatus `json:"witnesses,omitempty"`
	// Supervision is nil where the instance was never installed.
	Supervision *Supervision `json:"supervision,omitempty"`
	// Backup is nil where no backup of it was ever asked for.
	Backup *BackupStatus `json:"backup,omitempty"`
}

// BundleRef is the bundle that an instance was last started from.
type BundleRef struct {
	Path   string `json:"path"`
	Digest string `json:"digest"`
}

// Port is a port of the guest and the loopback port that leads to it.
type Port struct {
	Name  string `json:"name"`
	Guest int    `json:"guest"`
	Host  int    `json:"host"`
}

// MachineID says how the machine was last started.
type MachineID struct {
	Arch       string    `json:"arch"`
	MemoryMiB  int       `json:"memory_mib"`
	CPUs       int       `json:"cpus"`
	Hypervisor string    `json:"hypervisor"`          // "QEMU 7.2.22"
	Accel      string    `json:"accel"`               // "kvm" or "tcg"; under crosvm "kvm", "gunyah" or "geniezone"
	Protected  bool      `json:"protected,omitempty"` // its host cannot read its memory
	Why        string    `json:"why,omitempty"`
	Started    time.Time `json:"started"`
}
