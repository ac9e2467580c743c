package cli

import (
	"strconv"

	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// What the commands about machines print as JSON. Scripts rely on it, so that it
// is not what package runtime happens to have.

// Machine is a started machine, as run and up print it.
type Machine struct {
	Name string `json:"name"`
	// Ports is from the guest's TCP ports, as text, to loopback ports of the
	// machine's device.
	Ports  map[string]int `json:"ports"`
	Accel  string         `json:"accel,omitempty"`
	BootMS int64          `json:"boot_ms,omitempty"`
}

func newMachine(s runtime.Status) *Machine {
	m := &Machine{Name: s.Name, Ports: hostPorts(s.Ports), Accel: s.Machine.Accel}
	if s.Guest != nil {
		m.BootMS = s.Guest.BootMS
	}
	return m
}

func hostPorts(ports []runtime.Port) map[string]int {
	m := make(map[string]int, len(ports))
	for _, p := range ports {
		m[strconv.Itoa(p.Guest)] = p.Host
	}
	return m
}

// StopResult says how a machine came to its end, as stop prints it.
type StopResult struct {
	Name string `json:"name"`
	runtime.StopResult
}

// RestartResult is what restart prints.
type RestartResult struct {
	StopResult
	Ports map[string]int `json:"ports"`
	// ReadySeconds is the time from the command's start until the services
	// were healthy again.
	ReadySeconds float64 `json:"ready_seconds"`
}

// UpdateResult is what update and rollback print.
type UpdateResult struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"` // "update" or "rollback"
	Result string `json:"result"`
	Why    string `json:"why,omitempty"` // it was reverted
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	// Disk is the data disk, on its device, whose place another has taken.
	Disk    string         `json:"disk,omitempty"`
	Ports   map[string]int `json:"ports,omitempty"`
	Seconds float64        `json:"seconds"`
}

// RemoveResult is what remove prints.
type RemoveResult struct {
	Name string `json:"name"`
	// Data is the data disk that was kept; empty where there is none any more.
	Data string `json:"data,omitempty"`
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
	// Machine is how it was started last; nil before that.
	Machine *runtime.MachineID `json:"machine,omitempty"`
	// Supervision is nil for a machine that was never installed.
	Supervision *runtime.Supervision `json:"supervision,omitempty"`
	// Isolated: it was restored, and has no network until it is activated.
	Isolated bool `json:"isolated,omitempty"`
	// Backup is nil where no backup of it was ever asked for.
	Backup *runtime.BackupStatus `json:"backup,omitempty"`
	// Witnesses are those elsewhere that are told of its data disk.
	Witnesses []runtime.WitnessStatus `json:"witnesses,omitempty"`
	// Load is what the guest does, with --watch.
	Load *Load `json:"load,omitempty"`
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
	// Load is what the service does, with --watch.
	Load *Load `json:"load,omitempty"`
}

func machineStatus(s runtime.Status) MachineStatus {
	m := MachineStatus{Name: s.Name, State: string(s.State), Message: s.Message, Ports: hostPorts(s.Ports), Supervision: s.Supervision,
		Isolated: s.Isolated, Backup: s.Backup, Witnesses: s.Witnesses}
	if !s.Machine.Started.IsZero() {
		m.Machine = &s.Machine
	}
	if s.Guest == nil {
		if m.Message == "" {
			m.Message = s.GuestError
		}
		return m
	}
	m.State = string(s.Guest.State)
	if m.Message == "" {
		m.Message = s.Guest.Message
	}
	return m.guest(s.Guest)
}

// guest adds what the guest says of itself.
func (m MachineStatus) guest(g *agent.Status) MachineStatus {
	m.Clock = string(g.Clock)
	if d := g.Data; d != nil {
		m.Data = &DataStatus{Size: d.Size, Free: d.Free, NearlyFull: nearlyFull(d.Size, d.Free)}
	}
	for _, v := range g.Services {
		m.Services = append(m.Services, ServiceStatus{
			Name: v.Name, State: string(v.State), Healthy: v.Healthy, Restarts: v.Restarts,
			Message: v.Message, Warning: v.Warning, Optional: v.Optional,
		})
	}
	return m
}

// nearlyFull says whether less than a tenth, or less than 256 MiB, of a data
// disk is free; of a disk below 1 GiB, less than a quarter. The guest itself
// warns at the same.
func nearlyFull(size, free int64) bool { return free < max(size/10, min(256<<20, size/4)) }
