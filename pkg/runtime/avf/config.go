package avf

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/runtime/crosvm"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/machinekey"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// config is the file that vm run reads. It ignores names that it does not know, so
// that a wrong one would go unnoticed: these are those of libs/vmconfig/src/lib.rs
// of Android 16. The machine's name and its number of CPUs are flags: the file's
// are overwritten.
type config struct {
	Kernel    string `json:"kernel"`
	Initrd    string `json:"initrd"`
	Params    string `json:"params"`
	Disks     []disk `json:"disks"`
	Protected bool   `json:"protected"`
	MemoryMiB int    `json:"memory_mib"`
	// PlatformVersion is what version of the service this is for, as SemVer has it.
	PlatformVersion string `json:"platform_version"`
}

// disk is an image as it is, or a table of partitions around images.
type disk struct {
	Image      string      `json:"image,omitempty"`
	Partitions []partition `json:"partitions,omitempty"`
	Writable   bool        `json:"writable"`
}

type partition struct {
	Label    string `json:"label"`
	Path     string `json:"path"`
	Writable bool   `json:"writable"`
}

// Descriptors of a machine's files in vm, in the order of crosvm.Files.
const (
	kernelFile = process.FirstFile + iota
	initramfsFile
	firstDisk
)

// configure is the file for a machine: a function of its inputs alone. vm opens
// the very files that were handed over.
//
// The service gives a disk no serial. The root's image has partitions of its own,
// by which the guest finds it; every other disk gets one around it, with the serial
// as its label.
func configure(m vm.Machine) (config, error) {
	path := func(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }
	params, err := crosvm.Params(m)
	if err != nil {
		return config{}, err
	}
	c := config{
		Kernel: path(kernelFile), Initrd: path(initramfsFile),
		// The service declares no port as the console.
		Params:    "console=ttyS0 " + params,
		MemoryMiB: m.MemoryMiB, PlatformVersion: "~1.0",
	}
	disks := append(m.Disks[:len(m.Disks):len(m.Disks)], vm.Disk{Serial: machinekey.Serial, ReadOnly: true})
	for n, d := range disks {
		image := path(firstDisk + n)
		if n == 0 {
			c.Disks = append(c.Disks, disk{Image: image, Writable: !d.ReadOnly})
			continue
		}
		c.Disks = append(c.Disks, disk{
			Partitions: []partition{{Label: d.Serial, Path: image, Writable: !d.ReadOnly}}, Writable: !d.ReadOnly,
		})
	}
	return c, nil
}

func (c config) text() ([]byte, error) {
	text, err := json.MarshalIndent(c, "", "  ")
	return append(text, '\n'), err
}

// arguments are those of vm. topology is how many CPUs there are, in its words.
func arguments(m vm.Machine, topology string) []string {
	return []string{"run", "--name", m.Name, "--cpu-topology", topology, configFile}
}

// topologies are the ways to say a number of CPUs, the best first: services before
// March of 2025 know only one CPU, or as many as the phone has.
func topologies(cpus int) []string {
	if cpus <= 1 {
		return []string{"one_cpu"}
	}
	return []string{"cpu_count=" + strconv.Itoa(cpus), "match_host"}
}

// notKnown says whether vm did not understand a topology, by what clap prints.
func notKnown(said, topology string) bool {
	return strings.Contains(said, "invalid value '"+topology+"'")
}
