package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
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

// Labels of the partitions; the guest finds root and root-verity by them.
const (
	labelDisk   = "disk" // stands for the disk itself in --guid
	labelESP    = "esp"
	labelRoot   = "root"
	labelVerity = "root-verity"
	labelData   = "data"
)

// diskParts are what the disk is made of, open.
type diskParts struct {
	diskFlags
	disk           disk.Disk
	linux, ramdisk *io.SectionReader
	epoch          int64
	closers        []func()
}

func (p *diskParts) close() {
	for _, c := range p.closers {
		c()
	}
}

// open opens a file until the disk is written.
func (p *diskParts) open(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fault.Wrap(fault.Usage, err)
	}
	p.closers = append(p.closers, func() { _ = f.Close() }) // only read
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
func (p *diskParts) section(path string) (*io.SectionReader, error) {
	if path == "" {
		return nil, nil
	}
	f, size, err := p.open(path)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(f, 0, size), nil
}

// temporary is a file without a name beside the output.
func (p *diskParts) temporary() (*os.File, error) {
	f, err := atomicfile.Scratch(filepath.Dir(p.output))
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, func() { _ = f.Close() }) // thrown away
	return f, nil
}

// gather collects the partitions in their order.
func (p *diskParts) gather(ctx context.Context, s *session) error {
	var err error
	if p.epoch, err = s.imageEpoch(); err != nil {
		return err
	}
	var found []disk.Partition
	if p.bundle != "" {
		if found, err = p.readBundle(ctx, s); err != nil {
			return err
		}
	}
	p.defaults()
	if p.linux, err = p.section(p.kernel); err != nil {
		return err
	}
	if p.ramdisk, err = p.section(p.initrd); err != nil {
		return err
	}
	if p.esp != "" || p.stub != "" {
		part, err := p.systemPartition(ctx, s)
		if err != nil {
			return err
		}
		p.disk.Partitions = append(p.disk.Partitions, part)
	}
	p.disk.Partitions = append(p.disk.Partitions, found...)
	if err := p.images(); err != nil {
		return err
	}
	if p.data != 0 {
		kind, err := disk.ParseGUID(disk.LinuxData)
		if err != nil {
			return err
		}
		p.disk.Partitions = append(p.disk.Partitions, disk.Partition{Label: labelData, Type: kind, Size: int64(p.data)})
	}
	if len(p.disk.Partitions) == 0 {
		return fault.Errorf(fault.Usage, "the disk has no partition").Hintf("give it one with --bundle, --esp, --root or --data")
	}
	if err := p.setGUIDs(); err != nil {
		return err
	}
	return p.disk.DeriveGUIDs(ctx)
}

// defaults are for what neither a flag nor a bundle has said.
func (p *diskParts) defaults() {
	if p.arch == "" {
		p.arch = runtime.GOARCH
	}
	if p.name == "" {
		p.name = "sovereign"
	}
	if p.memory == 0 {
		p.memory = 1 << 30
	}
}

// readBundle takes what the flags leave open from a bundle, after checking it,
// and returns its partitions.
func (p *diskParts) readBundle(ctx context.Context, s *session) ([]disk.Partition, error) {
	if err := bundle.Verify(ctx, p.bundle); err != nil {
		return nil, err
	}
	m, err := bundle.Load(p.bundle)
	if err != nil {
		return nil, err
	}
	if p.arch != "" && p.arch != m.Arch {
		return nil, fault.Errorf(fault.Usage, "--arch %s: %s is for %s", p.arch, p.bundle, m.Arch)
	}
	p.arch = m.Arch
	if p.name == "" {
		p.name = m.Name
	}
	if p.memory == 0 {
		p.memory = sizeFlag(m.VM.MemoryMiB) << 20
	}
	if s.env("SOURCE_DATE_EPOCH") == "" {
		p.epoch = m.SourceDate
	}
	p.cmdline = strings.TrimSpace(m.VM.Cmdline + " " + p.cmdline)
	files := map[string]string{}
	for _, a := range m.Artifacts {
		files[a.Role] = filepath.Join(p.bundle, a.File)
	}
	p.kernel, p.initrd = files[bundle.RoleKernel], files[bundle.RoleInitramfs]
	root, _, err := p.open(files[bundle.RoleRoot])
	if err != nil {
		return nil, err
	}
	d, err := disk.Read(root)
	return d.Partitions, err
}

// images opens the images of --root and --verity.
func (p *diskParts) images() error {
	rootType, verityType, err := disk.RootTypes(p.arch)
	if err != nil {
		return err
	}
	parts := []disk.Partition{{Label: labelRoot, Type: rootType}, {Label: labelVerity, Type: verityType}}
	if p.rootHash != "" {
		hash, err := verity.ParseRootHash(p.rootHash)
		if err != nil {
			return fault.Errorf(fault.Usage, "--root-hash: %w", err)
		}
		data, hashes := hash.PartitionGUIDs()
		parts[0].GUID, parts[1].GUID = data, hashes
	}
	for i, path := range []string{p.root, p.verity} {
		if path == "" {
			continue
		}
		f, size, err := p.open(path)
		if err != nil {
			return err
		}
		parts[i].Content, parts[i].Size = f, size
		if p.verity != "" {
			parts[i].Attributes = disk.ReadOnly
		}
		p.disk.Partitions = append(p.disk.Partitions, parts[i])
	}
	return nil
}

// systemPartition writes the EFI system partition to a temporary file.
func (p *diskParts) systemPartition(ctx context.Context, s *session) (disk.Partition, error) {
	part := disk.Partition{Label: labelESP}
	var err error
	if part.Type, err = disk.ParseGUID(disk.ESP); err != nil {
		return part, err
	}
	tree := rootfs.New()
	if p.esp != "" {
		read, err := s.readTree(ctx, p.esp, filepath.Dir(p.output), rootfs.DefaultLimits().Bytes)
		if err != nil {
			return part, err
		}
		p.closers = append(p.closers, func() { _ = read.Close() }) // only read
		tree = read.Tree
	}
	if p.stub != "" {
		if err := p.addUKI(tree); err != nil {
			return part, err
		}
	}
	image, err := fat.New(tree, fat.Options{Size: int64(p.espSize), Epoch: p.epoch, Label: "ESP"})
	if err != nil {
		return part, fault.Wrap(fault.Usage, err)
	}
	f, err := p.temporary()
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
func (p *diskParts) addUKI(tree *rootfs.Tree) error {
	stub, err := p.section(p.stub)
	if err != nil {
		return err
	}
	image, err := uki.New(uki.Parts{
		Stub: stub, Linux: p.linux, Initrd: p.ramdisk, Cmdline: p.cmdline, Uname: uki.Release(p.linux),
		OSRelease: fmt.Sprintf("ID=sovereign\nNAME=Sovereign\nPRETTY_NAME=\"Sovereign %s\"\n", p.name),
	})
	if err != nil {
		return err
	}
	if err := tree.Add(rootfs.Entry{Path: image.BootPath(), Mode: 0o644, Content: image}); err != nil {
		return fault.Errorf(fault.Usage, "%w; with --stub, --esp must not have a program there", err)
	}
	return nil
}

// setGUIDs reads --guid.
func (p *diskParts) setGUIDs() error {
	for _, flag := range p.guids {
		name, text, _ := strings.Cut(flag, "=")
		id, err := disk.ParseGUID(text)
		if err != nil {
			return fault.Errorf(fault.Usage, "--guid %s: %w", flag, err)
		}
		if name == labelDisk {
			p.disk.GUID = id
			continue
		}
		part := p.partition(name)
		if part == nil {
			return fault.Errorf(fault.Usage, "--guid %s: the disk has no partition %q", flag, name).
				Hintf("use disk, esp, root, root-verity or data")
		}
		part.GUID = id
	}
	return nil
}

func (p *diskParts) partition(label string) *disk.Partition {
	for i := range p.disk.Partitions {
		if p.disk.Partitions[i].Label == label {
			return &p.disk.Partitions[i]
		}
	}
	return nil
}

func (p *diskParts) has(label string) bool { return p.partition(label) != nil }
