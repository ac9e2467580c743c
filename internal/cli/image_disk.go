package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/disk/bootable"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// diskFlags are those of image disk.
type diskFlags struct {
	bundle, arch, format, output    string
	esp, stub, kernel, initrd       string
	cmdline, root, verity, rootHash string
	name                            string
	guids                           []string
	espSize, data, memory           sizeFlag
}

func (s *session) imageDiskCommand() *cobra.Command {
	var f diskFlags
	cmd := &cobra.Command{
		Use:   "disk -o FILE",
		Short: "Write a disk with partitions",
		Long: `Disk writes a GPT disk with up to four partitions, in this order: esp, the EFI
system partition (FAT); root and root-verity, images as they are; data, empty.
With --stub it makes a unified kernel image of the kernel, the initramfs and the
command line, and puts it where firmware looks for it. --bundle takes kernel,
initramfs, command line, root and root-verity from a bundle.

GUIDs that are not given are made of the contents: those of root and root-verity
of the root hash, as the Discoverable Partitions Specification has it.

The format raw is a sparse file, qcow2 is QEMU's. images.tar.gz is what Android's
Terminal app installs: it boots from the esp, or without one from the kernel.`,
		Example: `  sovereign-build image disk --bundle dist/sql-amd64 --stub linuxx64.efi.stub --cmdline console=ttyS0 --format qcow2 -o sql.qcow2
  sovereign-build image disk --esp esp/ --root root.erofs --data 8GiB -o disk.img
  sovereign-build image disk --bundle dist/sql-arm64 --format images.tar.gz -o images.tar.gz`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.runImageDisk(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.bundle, "bundle", "", "`directory` of a bundle to make the disk of")
	flags.StringVar(&f.esp, "esp", "", "`directory`, tar archive or image with the files of the EFI system partition")
	flags.Var(&f.espSize, "esp-size", "`size` of the EFI system partition (default: what its files need, 33MiB or more)")
	flags.StringVar(&f.stub, "stub", "", "EFI stub `file` to make a unified kernel image with, as linuxx64.efi.stub of systemd")
	flags.StringVar(&f.kernel, "kernel", "", "kernel `file`")
	flags.StringVar(&f.initrd, "initrd", "", "initramfs `file`")
	flags.StringVar(&f.cmdline, "cmdline", "", "kernel command line `text`; put after a bundle's own")
	flags.StringVar(&f.root, "root", "", "`image` of the root file system")
	flags.StringVar(&f.verity, "verity", "", "`image` of the root's dm-verity hashes")
	flags.StringVar(&f.rootHash, "root-hash", "", "dm-verity root hash, 64 `hex` digits, which gives root and root-verity their GUIDs")
	flags.Var(&f.data, "data", "`size` of an empty data partition")
	flags.StringArrayVar(&f.guids, "guid", nil, "GUID of a partition or of the disk, `NAME=GUID`; may be given more than once")
	flags.StringVar(&f.arch, "arch", "", "`architecture`, amd64 or arm64 (default: the bundle's, or this machine's)")
	flags.StringVar(&f.format, "format", string(bootable.Raw), "raw, qcow2 or images.tar.gz")
	flags.StringVar(&f.name, "name", "", "`name` of the machine in images.tar.gz (default: the bundle's)")
	flags.Var(&f.memory, "memory", "memory `size` of the machine in images.tar.gz (default: the bundle's, or 1GiB)")
	flags.StringVarP(&f.output, "output", "o", "", "`file` to write; one that is there is replaced")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification)
}

// diskResult is the disk that was written.
type diskResult struct {
	File       string                `json:"file"`
	Format     string                `json:"format"`
	Size       int64                 `json:"size"` // of the file, bytes
	GUID       string                `json:"guid"`
	Partitions []diskResultPartition `json:"partitions"`
}

type diskResultPartition struct {
	Label string `json:"label"`
	Type  string `json:"type"`
	GUID  string `json:"guid"`
	// Start in the disk, bytes; images.tar.gz leaves it to the phone.
	Start *int64 `json:"start,omitempty"`
	Size  int64  `json:"size"` // bytes
}

func (s *session) runImageDisk(ctx context.Context, f diskFlags) error {
	if f.output == "" {
		return fault.Errorf(fault.Usage, "sovereign-build image disk: --output is needed").Hintf("name the file to write with -o FILE")
	}
	if err := oneOf("--format", f.format, string(bootable.Raw), string(bootable.QCOW2), string(bootable.Terminal)); err != nil {
		return err
	}
	if err := oneOf("--arch", f.arch, append(arch.Names(), "")...); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	spec, err := f.spec(s)
	if err != nil {
		return err
	}
	if f.esp != "" {
		tree, err := s.readTree(ctx, f.esp, spec.TempDir, rootfs.DefaultLimits().Bytes)
		if err != nil {
			return err
		}
		defer tree.Close() // only read
		spec.ESP = tree.Tree
	}
	d, err := bootable.Open(ctx, spec)
	if err != nil {
		return err
	}
	defer d.Close() // only read
	var layout []disk.Layout
	var size int64
	err = replaceFile(f.output, func(out *os.File) error {
		var err error
		if layout, err = d.Write(ctx, out, bootable.Format(f.format)); err != nil {
			return err
		}
		size, err = out.Seek(0, io.SeekEnd)
		return err
	})
	if err != nil {
		return err
	}
	r := diskResult{File: f.output, Format: f.format, Size: size, GUID: d.GUID.String()}
	for i, part := range d.Partitions {
		out := diskResultPartition{Label: part.Label, Type: part.Type.String(), GUID: part.GUID.String(), Size: part.Size}
		if layout != nil {
			out.Start, out.Size = &layout[i].Start, layout[i].Size
		}
		r.Partitions = append(r.Partitions, out)
	}
	return s.printer().result(r, r.writeText)
}

// check refuses flags that would have no effect, and pairs that exclude each
// other.
func (f diskFlags) check() error {
	boots := f.stub != "" || bootable.Format(f.format) == bootable.Terminal && f.esp == ""
	for _, rule := range []struct {
		wrong bool
		text  string
	}{
		{f.espSize != 0 && f.esp == "" && f.stub == "", "--esp-size is for --esp or --stub"},
		{f.kernel+f.initrd+f.cmdline != "" && !boots, "--kernel, --initrd and --cmdline are for --stub, or for images.tar.gz without --esp"},
		{f.stub != "" && f.kernel == "" && f.bundle == "", "--stub needs --kernel or --bundle"},
		{f.memory != 0 && bootable.Format(f.format) != bootable.Terminal, "--memory is for images.tar.gz"},
		{f.verity != "" && f.root == "", "--verity needs --root"},
		{f.rootHash != "" && f.verity == "", "--root-hash needs --verity"},
		{f.bundle != "" && f.kernel+f.initrd+f.root+f.verity != "", "--bundle brings its own kernel, initramfs, root and verity"},
		{strings.Trim(f.name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "", "--name is lower case letters, digits and dashes"},
	} {
		if rule.wrong {
			return fault.Errorf(fault.Usage, "%s", rule.text).Hintf("run sovereign-build image disk --help for the flags")
		}
	}
	if f.bundle != "" && f.esp == "" && f.stub == "" && bootable.Format(f.format) != bootable.Terminal {
		return fault.Errorf(fault.Usage, "a disk of a bundle needs something to boot from").
			Hintf("give --stub FILE, an EFI stub such as linuxx64.efi.stub of systemd, or --esp")
	}
	return nil
}

func (r diskResult) writeText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "wrote %s, %s of %d bytes, GUID %s\n", r.File, r.Format, r.Size, r.GUID)
	for _, p := range r.Partitions {
		fmt.Fprintf(&b, "  %-12s %s  %d bytes", p.Label, p.GUID, p.Size)
		if p.Start != nil {
			fmt.Fprintf(&b, " at %d", *p.Start)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// spec is what the flags say, without the files of the esp.
func (f diskFlags) spec(s *session) (bootable.Spec, error) {
	spec := bootable.Spec{
		Bundle: f.bundle, Arch: f.arch, ESPSize: int64(f.espSize), Stub: f.stub, Kernel: f.kernel, Initrd: f.initrd, Cmdline: f.cmdline,
		Root: f.root, Verity: f.verity, RootHash: f.rootHash, Data: int64(f.data), Name: f.name, Memory: int64(f.memory),
		GUIDs: map[string]disk.GUID{}, TempDir: filepath.Dir(f.output), Epoch: -1,
	}
	for _, flag := range f.guids {
		name, text, _ := strings.Cut(flag, "=")
		id, err := disk.ParseGUID(text)
		if err != nil {
			return spec, fault.Errorf(fault.Usage, "--guid %s: %w", flag, err)
		}
		spec.GUIDs[name] = id
	}
	epoch, err := s.imageEpoch()
	if s.env("SOURCE_DATE_EPOCH") != "" {
		spec.Epoch = epoch
	}
	return spec, err
}
