package bootable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/uki"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/fat"
	"github.com/sovereign-build/sovereign/pkg/rootfs/verity"
)

// Close closes the files.
func (d *Disk) Close() error {
	var err error
	for _, c := range d.closers {
		err = errors.Join(err, c())
	}
	d.closers = nil
	return err
}

// open opens a file until the disk is written.
func (d *Disk) open(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fault.Wrap(fault.Usage, err)
	}
	d.closers = append(d.closers, f.Close)
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fault.Wrap(fault.Environment, err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fault.Errorf(fault.Usage, "%s is not a regular file", path)
	}
	return f, info.Size(), nil
}

// section is open for what is read at random.
func (d *Disk) section(path string) (*io.SectionReader, error) {
	if path == "" {
		return nil, nil
	}
	f, size, err := d.open(path)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(f, 0, size), nil
}

// temporary is a file without a name.
func (d *Disk) temporary() (*os.File, error) {
	f, err := atomicfile.Scratch(cmp.Or(d.spec.TempDir, os.TempDir()))
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, f.Close)
	return f, nil
}

// gather collects the partitions in their order.
func (d *Disk) gather(ctx context.Context) error {
	if err := d.spec.check(); err != nil {
		return err
	}
	var found []disk.Partition
	var err error
	if d.spec.Bundle != "" {
		if found, err = d.readBundle(ctx); err != nil {
			return err
		}
	}
	d.spec.Arch = cmp.Or(d.spec.Arch, runtime.GOARCH)
	d.spec.Name = cmp.Or(d.spec.Name, "sovereign")
	d.spec.Memory = cmp.Or(d.spec.Memory, DefaultMemory)
	d.spec.Epoch = max(d.spec.Epoch, 0)
	if d.linux, err = d.section(d.spec.Kernel); err != nil {
		return err
	}
	if d.ramdisk, err = d.section(d.spec.Initrd); err != nil {
		return err
	}
	if d.spec.ESP != nil || d.spec.Stub != "" {
		part, err := d.systemPartition(ctx)
		if err != nil {
			return err
		}
		d.Partitions = append(d.Partitions, part)
	}
	d.Partitions = append(d.Partitions, found...)
	if err := d.images(); err != nil {
		return err
	}
	if d.spec.Data != 0 {
		kind, err := disk.ParseGUID(disk.LinuxData)
		if err != nil {
			return err
		}
		d.Partitions = append(d.Partitions, disk.Partition{Label: LabelData, Type: kind, Size: d.spec.Data})
	}
	if len(d.Partitions) == 0 {
		return fault.Errorf(fault.Usage, "the disk has no partition").Hintf("give it one: a bundle, the files of an esp, a root or a data partition")
	}
	if err := d.setGUIDs(); err != nil {
		return err
	}
	return d.DeriveGUIDs(ctx)
}

// readBundle takes what the spec leaves open from a bundle, after checking it,
// and returns its partitions.
func (d *Disk) readBundle(ctx context.Context) ([]disk.Partition, error) {
	p := &d.spec
	if err := bundle.Verify(ctx, p.Bundle); err != nil {
		return nil, err
	}
	m, err := bundle.Load(p.Bundle)
	if err != nil {
		return nil, err
	}
	if p.Arch != "" && p.Arch != m.Arch {
		return nil, fault.Errorf(fault.Usage, "the disk is to be for %s, and %s is for %s", p.Arch, p.Bundle, m.Arch)
	}
	p.Arch = m.Arch
	p.Name = cmp.Or(p.Name, m.Name)
	p.Memory = cmp.Or(p.Memory, int64(m.VM.MemoryMiB)<<20)
	if p.Epoch < 0 {
		p.Epoch = m.SourceDate
	}
	p.Cmdline = strings.TrimSpace(m.VM.Cmdline + " " + p.Cmdline)
	files := map[string]string{}
	for _, a := range m.Artifacts {
		files[a.Role] = filepath.Join(p.Bundle, a.File)
	}
	p.Kernel, p.Initrd = files[bundle.RoleKernel], files[bundle.RoleInitramfs]
	root, _, err := d.open(files[bundle.RoleRoot])
	if err != nil {
		return nil, err
	}
	read, err := disk.Read(root)
	return read.Partitions, err
}

// images opens the images of the root and its hashes.
func (d *Disk) images() error {
	rootType, verityType, err := disk.RootTypes(d.spec.Arch)
	if err != nil {
		return err
	}
	parts := []disk.Partition{{Label: LabelRoot, Type: rootType}, {Label: LabelVerity, Type: verityType}}
	if d.spec.RootHash != "" {
		hash, err := verity.ParseRootHash(d.spec.RootHash)
		if err != nil {
			return fault.Errorf(fault.Usage, "root hash: %w", err)
		}
		data, hashes := hash.PartitionGUIDs()
		parts[0].GUID, parts[1].GUID = data, hashes
	}
	for i, path := range []string{d.spec.Root, d.spec.Verity} {
		if path == "" {
			continue
		}
		f, size, err := d.open(path)
		if err != nil {
			return err
		}
		parts[i].Content, parts[i].Size = f, size
		if d.spec.Verity != "" {
			parts[i].Attributes = disk.ReadOnly
		}
		d.Partitions = append(d.Partitions, parts[i])
	}
	return nil
}

// systemPartition writes the EFI system partition to a temporary file.
func (d *Disk) systemPartition(ctx context.Context) (disk.Partition, error) {
	part := disk.Partition{Label: LabelESP}
	var err error
	if part.Type, err = disk.ParseGUID(disk.ESP); err != nil {
		return part, err
	}
	tree := d.spec.ESP
	if tree == nil {
		tree = rootfs.New()
	}
	if d.spec.Stub != "" {
		if err := d.addUKI(tree); err != nil {
			return part, err
		}
	}
	image, err := fat.New(tree, fat.Options{Size: d.spec.ESPSize, Epoch: d.spec.Epoch, Label: "ESP"})
	if err != nil {
		return part, fault.Wrap(fault.Usage, err)
	}
	f, err := d.temporary()
	if err == nil {
		err = f.Truncate(image.Size())
	}
	if err != nil {
		return part, fault.Wrap(fault.Environment, err)
	}
	part.Content, part.Size = f, image.Size()
	return part, image.Write(ctx, f)
}

// addUKI puts a unified kernel image where firmware looks first.
func (d *Disk) addUKI(tree *rootfs.Tree) error {
	stub, err := d.section(d.spec.Stub)
	if err != nil {
		return err
	}
	image, err := uki.New(uki.Parts{
		Stub: stub, Linux: d.linux, Initrd: d.ramdisk, Cmdline: d.spec.Cmdline, Uname: uki.Release(d.linux),
		OSRelease: fmt.Sprintf("ID=sovereign\nNAME=Sovereign\nPRETTY_NAME=\"Sovereign %s\"\n", d.spec.Name),
	})
	if err != nil {
		return err
	}
	if err := tree.Add(rootfs.Entry{Path: image.BootPath(), Mode: 0o644, Content: image}); err != nil {
		return fault.Errorf(fault.Usage, "%w; where a unified kernel image is made, the esp must not have a program there", err)
	}
	return nil
}

// setGUIDs gives the partitions the GUIDs of the spec.
func (d *Disk) setGUIDs() error {
	for _, name := range slices.Sorted(maps.Keys(d.spec.GUIDs)) {
		if name == DiskGUID {
			d.GUID = d.spec.GUIDs[name]
			continue
		}
		part := d.partition(name)
		if part == nil {
			return fault.Errorf(fault.Usage, "a GUID is given, and the disk has no partition %q", name).
				Hintf("name disk, esp, root, root-verity or data")
		}
		part.GUID = d.spec.GUIDs[name]
	}
	return nil
}

func (d *Disk) partition(label string) *disk.Partition {
	i := slices.IndexFunc(d.Partitions, func(p disk.Partition) bool { return p.Label == label })
	if i < 0 {
		return nil
	}
	return &d.Partitions[i]
}
