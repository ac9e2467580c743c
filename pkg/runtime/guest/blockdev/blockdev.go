// Package blockdev finds disks by their virtio serial and partitions by their
// label. In comes a sysfs tree, out go device nodes' paths. It never goes by
// letters (vda, vdb): they follow the order in which the kernel probes, which
// virtio-mmio on arm64 reverses. It writes nothing.
//
// Some hosts cannot give a disk a serial: Android's service for virtual machines
// gives one a table of partitions with labels instead. There a partition that has
// the serial as its label is the disk.
package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Sysfs is where the kernel shows its devices.
const Sysfs = "/sys"

// pollEvery is how often sysfs is read while a disk has not appeared. Disks of
// a virtual machine are there before init runs, or some milliseconds later.
const pollEvery = 5 * time.Millisecond

// Disk is a whole disk, or the partition that stands for one.
type Disk struct {
	Name  string // "vda", or "vda1"
	whole string // of the disk itself: "vda"
	sysfs string // the directory of that under Sysfs
}

// Queue is the directory of the settings of its requests, in sysfs.
func (d Disk) Queue() string { return filepath.Join(d.sysfs, "queue") }

// Device is the path of the disk's node, "/dev/vda".
func (d Disk) Device() string { return "/dev/" + d.Name }

// Find waits until the disk with the serial is there, or a partition that is
// labelled with it, or ctx ends; the error names the serials that are.
func Find(ctx context.Context, sysfs, serial string) (Disk, error) {
	var seen []string
	for {
		disks, err := list(sysfs)
		if err != nil {
			return Disk{}, err
		}
		seen = seen[:0]
		var found []Disk
		for _, d := range disks {
			s, err := d.serial()
			if err != nil {
				return Disk{}, err
			}
			if s == serial {
				found = append(found, d)
			}
			seen = append(seen, fmt.Sprintf("%s %q", d.Name, s))
		}
		if len(found) == 0 {
			if found, err = labelled(disks, serial); err != nil {
				return Disk{}, err
			}
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return Disk{}, fmt.Errorf("disk with serial %q: there are %d of them (%s): give each disk a serial of its own",
				serial, len(found), strings.Join(seen, ", "))
		}
		select {
		case <-ctx.Done():
			return Disk{}, fmt.Errorf("disk with serial %q: not there; disks seen: [%s]: attach it with that serial (id)",
				serial, strings.Join(seen, ", "))
		case <-time.After(pollEvery):
		}
	}
}

// Partition waits for the partition with the label (PARTNAME in its uevent)
// and returns its device node.
func (d Disk) Partition(ctx context.Context, label string) (string, error) {
	for {
		names, err := d.partitions(label)
		if err != nil {
			return "", err
		}
		if len(names) > 0 {
			return "/dev/" + names[0], nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("disk %s: no partition labelled %q: is this the bundle's root disk, and is EFI_PARTITION in the kernel?", d.Device(), label)
		case <-time.After(pollEvery):
		}
	}
}

// partitions are the disk's with the label, by their names.
func (d Disk) partitions(label string) (names []string, err error) {
	paths, err := filepath.Glob(filepath.Join(d.sysfs, d.whole+"*", "uevent"))
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		event, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		if property(event, "PARTNAME") == label {
			names = append(names, property(event, "DEVNAME"))
		}
	}
	return names, nil
}

// labelled are the partitions of all disks with the label.
func labelled(disks []Disk, label string) (found []Disk, err error) {
	for _, d := range disks {
		names, err := d.partitions(label)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			found = append(found, Disk{name, d.whole, d.sysfs})
		}
	}
	return found, nil
}

// list returns the disks, sorted by name.
func list(sysfs string) ([]Disk, error) {
	dir := filepath.Join(sysfs, "block")
	entries, err := os.ReadDir(dir) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var disks []Disk
	for _, e := range entries {
		disks = append(disks, Disk{e.Name(), e.Name(), filepath.Join(dir, e.Name())})
	}
	return disks, nil
}

// serial returns the disk's virtio serial, "" where it has none.
func (d Disk) serial() (string, error) {
	b, err := os.ReadFile(filepath.Join(d.sysfs, "serial"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.Trim(string(b), "\x00\n "), err
}

// property returns the value of a line KEY=VALUE of a uevent file.
func property(event []byte, key string) string {
	for line := range strings.SplitSeq(string(event), "\n") {
		if k, v, ok := strings.Cut(line, "="); ok && k == key {
			return v
		}
	}
	return ""
}
