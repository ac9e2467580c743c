// Package terminal writes images.tar.gz, from which the Terminal app of
// Android 16 installs a virtual machine.
//
// Partitions, and a kernel or an EFI partition to boot from, come in; one
// archive goes out, the same bytes for the same input. Contents are streamed.
// The package puts nothing on a phone.
//
// The app unpacks the archive into one directory and reads vm_config.json
// there. It has no sparse files: what is zero in a partition is compressed in
// the archive and takes its full size on the phone. It runs e2fsck and
// resize2fs on root_part, which only warns in the log where that is no ext4;
// resizing the disk in the app's settings then fails.
package terminal

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Names in the archive that the app knows.
const (
	BuildIDFile = "build_id"
	ConfigFile  = "vm_config.json"
	RootFile    = "root_part" // the app needs it
	EFIFile     = "efi_part"
	KernelFile  = "vmlinuz"
	InitrdFile  = "initrd.img"
)

// granularity of partitions, bytes: crosvm's composite disks are made of pages.
const granularity = 4096

// File is contents of a known size.
type File struct {
	Content io.Reader // nil is Size zeros
	Size    int64     // bytes
}

// Partition is one partition of the VM's disk.
type Partition struct {
	// File is its name in the archive; RootFile and EFIFile have a meaning.
	File     string
	Label    string
	GUID     disk.GUID
	Writable bool
	Contents File
}

// Image is a virtual machine for the app. It boots from Kernel and Initrd, or
// without both from the partition EFIFile.
type Image struct {
	Name    string
	BuildID string // one line, shown by the app
	// Partitions in the order of the disk. One is RootFile.
	Partitions     []Partition
	Kernel, Initrd File
	Params         string // kernel command line, with Kernel
	MemoryMiB      int
	OneCPU         bool // otherwise as many as the phone has
	Protected      bool
	// Epoch is every time in the archive, Unix seconds.
	Epoch int64
}

// Write writes the archive to w. An image the app could not start is an error
// of class fault.Usage.
func Write(ctx context.Context, w io.Writer, i Image) error {
	if err := i.check(); err != nil {
		return fault.Errorf(fault.Usage, "terminal image: %w", err)
	}
	// One member, which is all that the app reads; no name, and 0 for "no time",
	// which this package's zero Time does not give.
	z := gzip.NewWriter(w)
	z.ModTime = time.Unix(0, 0)
	t := tar.NewWriter(z)
	if err := i.write(ctx, t); err != nil {
		return fmt.Errorf("terminal image: %w", err)
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return fmt.Errorf("terminal image: %w", err)
	}
	return nil
}

func (i Image) check() error {
	line := func(s string) bool {
		return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
	}
	seen := map[string]bool{BuildIDFile: true, ConfigFile: true, KernelFile: true, InitrdFile: true}
	for _, p := range i.Partitions {
		switch {
		case p.File == "" || strings.ContainsAny(p.File, "/\\\x00$") || strings.HasPrefix(p.File, "."):
			return fmt.Errorf("partition %q: file name %q is not a plain name", p.Label, p.File)
		case seen[p.File]:
			return fmt.Errorf("two files %s", p.File)
		case !line(p.Label) || p.GUID == (disk.GUID{}) || p.Contents.Size <= 0:
			return fmt.Errorf("partition %s: label, GUID or contents missing", p.File)
		}
		seen[p.File] = true
	}
	kernel, efi := i.Kernel.Content != nil, seen[EFIFile]
	switch {
	case !line(i.Name) || !line(i.BuildID):
		return errors.New("name or build ID is not one line of text")
	case !seen[RootFile]:
		return fmt.Errorf("no partition %s", RootFile)
	case kernel != (i.Initrd.Content != nil):
		return errors.New("a kernel and an initramfs go together")
	case kernel == efi:
		return fmt.Errorf("it boots either from a kernel or from a partition %s", EFIFile)
	case i.Params != "" && (!kernel || !line(i.Params)):
		return errors.New("parameters are one line, with a kernel: an EFI program brings its own")
	case i.MemoryMiB <= 0:
		return fmt.Errorf("memory of %d MiB", i.MemoryMiB)
	}
	return nil
}

func (i Image) write(ctx context.Context, t *tar.Writer) error {
	id := i.BuildID + "\n"
	config, err := json.MarshalIndent(i.config(), "", "  ")
	if err != nil {
		return err
	}
	config = append(config, '\n')
	if err := i.add(ctx, t, BuildIDFile, File{strings.NewReader(id), int64(len(id))}, 1); err != nil {
		return err
	}
	if err := i.add(ctx, t, ConfigFile, File{bytes.NewReader(config), int64(len(config))}, 1); err != nil {
		return err
	}
	if i.Kernel.Content != nil {
		if err := i.add(ctx, t, KernelFile, i.Kernel, 1); err != nil {
			return err
		}
		if err := i.add(ctx, t, InitrdFile, i.Initrd, 1); err != nil {
			return err
		}
	}
	for _, p := range i.Partitions {
		if err := i.add(ctx, t, p.File, p.Contents, granularity); err != nil {
			return err
		}
	}
	return nil
}

// add writes one file, padded with zeros to a multiple of unit.
func (i Image) add(ctx context.Context, t *tar.Writer, name string, f File, unit int64) error {
	padded := (f.Size + unit - 1) / unit * unit
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: padded, ModTime: time.Unix(i.Epoch, 0).UTC()}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	content := f.Content
	if content == nil {
		content = stream.Zeros
	}
	n, err := io.Copy(t, stream.WithContext(ctx, io.LimitReader(content, f.Size)))
	if err == nil && n != f.Size {
		err = fmt.Errorf("contents end after %d of %d bytes", n, f.Size)
	}
	if err == nil {
		_, err = io.CopyN(t, stream.Zeros, padded-n)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
