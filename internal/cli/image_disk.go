package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/disk/qcow2"
	"github.com/sovereign-build/sovereign/pkg/build/disk/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Formats of a disk.
const (
	formatRaw      = "raw"
	formatQCOW2    = "qcow2"
	formatTerminal = "images.tar.gz"
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
	flags.StringVar(&f.format, "format", formatRaw, "raw, qcow2 or images.tar.gz")
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
	if err := oneOf("--format", f.format, formatRaw, formatQCOW2, formatTerminal); err != nil {
		return err
	}
	if err := oneOf("--arch", f.arch, "", "amd64", "arm64"); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	p := &diskParts{diskFlags: f}
	defer p.close()
	if err := p.gather(ctx, s); err != nil {
		return err
	}
	var layout []disk.Layout
	var size int64
	err := replaceFile(f.output, func(out *os.File) error {
		var err error
		if layout, err = p.write(ctx, out); err != nil {
			return err
		}
		size, err = out.Seek(0, io.SeekEnd)
		return err
	})
	if err != nil {
		return err
	}
	r := diskResult{File: f.output, Format: f.format, Size: size, GUID: p.disk.GUID.String()}
	for i, part := range p.disk.Partitions {
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
	boots := f.stub != "" || f.format == formatTerminal && f.esp == ""
	for _, rule := range []struct {
		wrong bool
		text  string
	}{
		{f.espSize != 0 && f.esp == "" && f.stub == "", "--esp-size is for --esp or --stub"},
		{f.kernel+f.initrd+f.cmdline != "" && !boots, "--kernel, --initrd and --cmdline are for --stub, or for images.tar.gz without --esp"},
		{f.stub != "" && f.kernel == "" && f.bundle == "", "--stub needs --kernel or --bundle"},
		{f.memory != 0 && f.format != formatTerminal, "--memory is for images.tar.gz"},
		{f.verity != "" && f.root == "", "--verity needs --root"},
		{f.rootHash != "" && f.verity == "", "--root-hash needs --verity"},
		{f.bundle != "" && f.kernel+f.initrd+f.root+f.verity != "", "--bundle brings its own kernel, initramfs, root and verity"},
		{strings.Trim(f.name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "", "--name is lower case letters, digits and dashes"},
	} {
		if rule.wrong {
			return fault.Errorf(fault.Usage, "%s", rule.text).Hintf("run sovereign-build image disk --help for the flags")
		}
	}
	if f.bundle != "" && f.esp == "" && f.stub == "" && f.format != formatTerminal {
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

// write writes the disk in its format. Only the formats that are one disk have
// a layout.
func (p *diskParts) write(ctx context.Context, out *os.File) ([]disk.Layout, error) {
	switch p.format {
	case formatQCOW2:
		raw, err := p.temporary()
		if err != nil {
			return nil, err
		}
		layout, err := disk.WriteFile(ctx, raw, p.disk)
		if err != nil {
			return nil, err
		}
		size, err := raw.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, err
		}
		return layout, qcow2.Write(ctx, out, raw, size)
	case formatTerminal:
		return nil, terminal.Write(ctx, out, p.terminalImage())
	default:
		return disk.WriteFile(ctx, out, p.disk)
	}
}

// terminalImage is the disk's partitions as the Terminal app takes them.
func (p *diskParts) terminalImage() terminal.Image {
	i := terminal.Image{
		Name: p.name, BuildID: p.disk.GUID.String(), MemoryMiB: int(p.memory >> 20), Epoch: p.epoch,
	}
	if !p.has(labelESP) && p.linux != nil && p.ramdisk != nil {
		i.Kernel = terminal.File{Content: p.linux, Size: p.linux.Size()}
		i.Initrd = terminal.File{Content: p.ramdisk, Size: p.ramdisk.Size()}
		i.Params = p.cmdline
	}
	for _, part := range p.disk.Partitions {
		i.Partitions = append(i.Partitions, terminal.Partition{
			File: terminalFiles(part.Label), Label: part.Label, GUID: part.GUID, Writable: part.Label == labelData,
			Contents: terminal.File{Content: part.Content, Size: part.Size},
		})
	}
	return i
}

// terminalFiles is a partition's file in the archive.
func terminalFiles(label string) string {
	switch label {
	case labelESP:
		return terminal.EFIFile
	case labelRoot:
		return terminal.RootFile
	}
	return strings.ReplaceAll(label, "-", "_") + "_part"
}
