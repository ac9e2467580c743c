// Package bootable makes the disk that a machine boots from: of a bundle, or of
// its parts by themselves.
//
// A [Spec] comes in, which names files and says sizes. A GPT disk goes out with
// up to four partitions in this order: esp, the EFI system partition, with a
// unified kernel image where there is a stub for it; root and root-verity, as
// they are; data, empty. The formats are a sparse file, QEMU's qcow2, and what
// Android's Terminal app installs. GUIDs that are not given are made of the
// contents, so the same spec is the same bytes.
//
// A bundle is verified first. Errors are of class fault.Usage for the spec and
// fault.Verification for a bundle that is not as its manifest says.
package bootable

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/disk/qcow2"
	"github.com/sovereign-build/sovereign/pkg/build/disk/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Format is a disk's format.
type Format string

const (
	// Raw is a sparse file.
	Raw Format = "raw"
	// QCOW2 is QEMU's.
	QCOW2 Format = "qcow2"
	// Terminal is the archive that Android's Terminal app installs: it boots
	// from the esp, or without one from the kernel.
	Terminal Format = "images.tar.gz"
)

// Labels of the partitions; the guest finds root and root-verity by them.
const (
	LabelESP    = "esp"
	LabelRoot   = "root"
	LabelVerity = "root-verity"
	LabelData   = "data"
)

// DiskGUID stands for the disk itself among the GUIDs of a Spec.
const DiskGUID = "disk"

// DefaultMemory is the memory of a machine in a Terminal archive that neither
// the spec nor a bundle says any of, in bytes.
const DefaultMemory = 1 << 30

// Spec says what a disk is made of. Files are of this machine.
type Spec struct {
	// Bundle is a bundle's directory, which brings Kernel, Initrd and the
	// images of root and root-verity, and what of Arch, Name, Memory and Epoch
	// is left open; Cmdline comes after its own.
	Bundle string
	// Arch is the architecture; the default is the bundle's, or this machine's.
	Arch string
	// ESP are the files of the EFI system partition, nil for none. With Stub
	// the tree gets the unified kernel image as well.
	ESP *rootfs.Tree
	// ESPSize is the partition's size in bytes; 0 is what its files need, and
	// 33 MiB at least.
	ESPSize int64
	// Stub is an EFI stub to make a unified kernel image with, as
	// linuxx64.efi.stub of systemd.
	Stub string
	// Kernel and Initrd are what boots, and Cmdline the kernel's command line.
	Kernel, Initrd, Cmdline string
	// Root and Verity are images of the root file system and its dm-verity
	// hashes. RootHash, 64 hex digits, gives the two partitions their GUIDs.
	Root, Verity, RootHash string
	// Data is the size of an empty data partition in bytes, 0 for none.
	Data int64
	// GUIDs are those of partitions by label, and the disk's as DiskGUID.
	GUIDs map[string]disk.GUID
	// Name is the machine's, lower case letters, digits and dashes; the default
	// is the bundle's, or "sovereign".
	Name string
	// Memory is that of the machine in a Terminal archive, in bytes; the
	// default is the bundle's, or DefaultMemory.
	Memory int64
	// Epoch is every time on the disk, Unix seconds. A negative one stands for
	// the bundle's, or 0.
	Epoch int64
	// TempDir gets temporary files as large as the disk; the default is
	// os.TempDir.
	TempDir string
}

// check refuses what would have no effect or cannot be.
func (s *Spec) check() error {
	for _, rule := range []struct {
		wrong bool
		text  string
	}{
		{s.ESPSize != 0 && s.ESP == nil && s.Stub == "", "a size of the esp, and no esp"},
		{s.Stub != "" && s.Kernel == "" && s.Bundle == "", "a stub without a kernel"},
		{s.Verity != "" && s.Root == "", "dm-verity hashes without a root"},
		{s.RootHash != "" && s.Verity == "", "a root hash without dm-verity hashes"},
		{s.Bundle != "" && s.Kernel+s.Initrd+s.Root+s.Verity != "", "a bundle brings its own kernel, initramfs, root and verity"},
		{strings.Trim(s.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "", "the name is not of lower case letters, digits and dashes"},
	} {
		if rule.wrong {
			return fault.Errorf(fault.Usage, "disk: %s", rule.text)
		}
	}
	return nil
}

// Disk is what a disk is made of, open until Close.
type Disk struct {
	// Disk has the partitions and all GUIDs.
	disk.Disk
	spec           Spec
	linux, ramdisk *io.SectionReader
	closers        []func() error
}

// Open gathers what the spec says, and verifies a bundle.
func Open(ctx context.Context, s Spec) (*Disk, error) {
	d := &Disk{spec: s}
	if err := d.gather(ctx); err != nil {
		_ = d.Close() // the first error says more
		return nil, err
	}
	return d, nil
}

// Write writes the disk to f. Only the formats that are one disk have a layout.
func (d *Disk) Write(ctx context.Context, f *os.File, format Format) ([]disk.Layout, error) {
	switch format {
	case Raw:
		return disk.WriteFile(ctx, f, d.Disk)
	case QCOW2:
		raw, err := d.temporary()
		if err != nil {
			return nil, err
		}
		layout, err := disk.WriteFile(ctx, raw, d.Disk)
		if err != nil {
			return nil, err
		}
		size, err := raw.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		return layout, qcow2.Write(ctx, f, raw, size)
	case Terminal:
		return nil, terminal.Write(ctx, f, d.terminalImage())
	}
	return nil, fault.Errorf(fault.Usage, "disk: unknown format %q", format).Hintf("formats are %s, %s and %s", Raw, QCOW2, Terminal)
}

// terminalImage is the disk's partitions as the Terminal app takes them.
func (d *Disk) terminalImage() terminal.Image {
	i := terminal.Image{
		Name: d.spec.Name, BuildID: d.GUID.String(), MemoryMiB: int(d.spec.Memory >> 20), Epoch: d.spec.Epoch,
	}
	if d.partition(LabelESP) == nil && d.linux != nil && d.ramdisk != nil {
		i.Kernel = terminal.File{Content: d.linux, Size: d.linux.Size()}
		i.Initrd = terminal.File{Content: d.ramdisk, Size: d.ramdisk.Size()}
		i.Params = d.spec.Cmdline
	}
	for _, part := range d.Partitions {
		i.Partitions = append(i.Partitions, terminal.Partition{
			File: terminalFile(part.Label), Label: part.Label, GUID: part.GUID, Writable: part.Label == LabelData,
			Contents: terminal.File{Content: part.Content, Size: part.Size},
		})
	}
	return i
}

// terminalFile is a partition's file in the archive.
func terminalFile(label string) string {
	switch label {
	case LabelESP:
		return terminal.EFIFile
	case LabelRoot:
		return terminal.RootFile
	}
	return strings.ReplaceAll(label, "-", "_") + "_part"
}
