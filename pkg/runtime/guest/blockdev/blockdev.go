// Package blockdev finds disks by their virtio serial and partitions by their
// label. In comes a sysfs tree, out go device nodes' paths. It never goes by
// letters (vda, vdb): they follow the order in which the kernel probes, which
// virtio-mmio on arm64 reverses. It writes nothing.
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

// Disk is a whole disk.
type Disk struct {
	Name  string // "vda"
	sysfs string // its directory under Sysfs
}

// Device is the path of the disk's node, "/dev/vda".
func (d Disk) Device() string { return "/dev/" + d.Name }

// Find waits until the disk with the serial is there, or ctx ends; the error
// names the serials that are.
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
		paths, err := filepath.Glob(filepath.Join(d.sysfs, d.Name+"*", "uevent"))
		if err != nil {
			return "", err
		}
		for _, p := range paths {
			event, err := os.ReadFile(p)
			if err != nil {
				return "", err
			}
			if v := property(event, "PARTNAME"); v == label {
				return "/dev/" + property(event, "DEVNAME"), nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("disk %s: no partition labelled %q: is this the bundle's root disk, and is EFI_PARTITION in the kernel?", d.Device(), label)
		case <-time.After(pollEvery):
		}
	}
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
		disks = append(disks, Disk{e.Name(), filepath.Join(dir, e.Name())})
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
