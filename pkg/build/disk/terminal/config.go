package terminal

import "strings"

// Config is vm_config.json, which the app reads with Gson into the fields of
// its class ConfigJson: unknown keys are ignored there, and "disks" with a
// disk without "partitions" ends the app.
type Config struct {
	Name string `json:"name"`
	// Kernel and Initrd are paths on the phone; without them the app's own
	// firmware boots from the EFI partition.
	Kernel string `json:"kernel,omitempty"`
	Initrd string `json:"initrd,omitempty"`
	Params string `json:"params,omitempty"`
	Disks  []Disk `json:"disks"`
	// Protected asks for a protected VM (pKVM).
	Protected bool `json:"protected"`
	// CPUTopology is "match_host" or "one_cpu"; anything else ends the app.
	CPUTopology string `json:"cpu_topology"`
	// PlatformVersion is required.
	PlatformVersion    string `json:"platform_version"`
	MemoryMiB          int    `json:"memory_mib"`
	Debuggable         bool   `json:"debuggable"`
	ConsoleOut         bool   `json:"console_out"`
	ConnectConsole     bool   `json:"connect_console"`
	ConsoleInputDevice string `json:"console_input_device"`
	Network            bool   `json:"network"`
	AutoMemoryBalloon  bool   `json:"auto_memory_balloon"`
}

// Disk is one disk of the VM, put together from partitions by the phone.
type Disk struct {
	Partitions []DiskPartition `json:"partitions"`
	Writable   bool            `json:"writable"`
}

// DiskPartition is a file on the phone as a partition.
type DiskPartition struct {
	Label    string `json:"label"`
	Path     string `json:"path"`
	Writable bool   `json:"writable"`
	GUID     string `json:"guid"`
}

// payload is the directory that the app unpacks into; it replaces the name.
const payload = "$PAYLOAD_DIR/"

// config describes the image.
func (i Image) config() Config {
	c := Config{
		Name:            i.Name,
		Params:          i.Params,
		Protected:       i.Protected,
		CPUTopology:     "match_host",
		PlatformVersion: "~1.0",
		MemoryMiB:       i.MemoryMiB,
		// Without debugging the app gets no console of the VM.
		Debuggable: true, ConsoleOut: true, ConnectConsole: true, ConsoleInputDevice: "ttyS0",
		Network:           true,
		AutoMemoryBalloon: true,
	}
	if i.OneCPU {
		c.CPUTopology = "one_cpu"
	}
	if i.Kernel.Content != nil {
		c.Kernel, c.Initrd = payload+KernelFile, payload+InitrdFile
	}
	var d Disk
	for _, p := range i.Partitions {
		d.Writable = d.Writable || p.Writable
		d.Partitions = append(d.Partitions, DiskPartition{Label: p.Label, Path: payload + p.File, Writable: p.Writable, GUID: strings.ToLower(p.GUID.String())})
	}
	c.Disks = []Disk{d}
	return c
}
