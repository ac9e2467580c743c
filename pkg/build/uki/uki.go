package uki

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Parts are what an image is made of. Stub and Linux are required; a part that
// is empty has no section in the image.
type Parts struct {
	// Stub is an EFI stub for unified kernel images, such as systemd-stub
	// (linuxx64.efi.stub, linuxaa64.efi.stub).
	Stub *io.SectionReader
	// Linux is a kernel with an EFI stub of its own (CONFIG_EFI_STUB): bzImage
	// on amd64, Image on arm64.
	Linux *io.SectionReader
	// Initrd is the initramfs, as the kernel takes it.
	Initrd *io.SectionReader
	// Cmdline is the kernel's command line, one line.
	Cmdline string
	// OSRelease is text in the format of os-release(5); boot menus show its
	// PRETTY_NAME.
	OSRelease string
	// Uname is the kernel's release as uname -r prints it; see Release.
	Uname string
	// SBAT are lines for shim's revocation list, CSV, which are put after the
	// stub's own.
	SBAT string
}

// Image is a unified kernel image. It reads its parts each time it is read, so
// they must stay open and must not change.
type Image struct {
	machine Machine
	pieces  []piece // in the order of their offsets
	size    int64
}

// piece is a run of bytes of the file; between pieces are zeros.
type piece struct {
	offset int64
	data   *io.SectionReader
}

// New makes an image of the parts. A stub or kernel that cannot be used is an
// error of class fault.Usage.
func New(parts Parts) (*Image, error) {
	if parts.Stub == nil || parts.Linux == nil {
		return nil, fault.Errorf(fault.Usage, "uki: a stub and a kernel are required")
	}
	stub, err := parse(parts.Stub)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "uki: stub: %w", err).
			Hintf("use an EFI stub for unified kernel images, as linuxx64.efi.stub of systemd")
	}
	kernel, err := parse(parts.Linux)
	if errors.Is(err, errNotPE) {
		return nil, fault.Errorf(fault.Usage, "uki: the kernel has no EFI stub").
			Hintf("build it with CONFIG_EFI=y and CONFIG_EFI_STUB=y (on amd64 they need CONFIG_ACPI=y)")
	}
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "uki: kernel: %w", err)
	}
	if stub.machine != kernel.machine {
		return nil, fault.Errorf(fault.Usage, "uki: the stub is for %v, the kernel for %v", stub.machine, kernel.machine)
	}
	image := &Image{machine: stub.machine}
	if err := image.build(parts, stub, kernel); err != nil {
		return nil, fault.Errorf(fault.Usage, "uki: %w", err)
	}
	return image, nil
}

// build adds a section for each part and puts the pieces in order.
func (i *Image) build(parts Parts, stub, kernel *program) error {
	if strings.ContainsFunc(parts.Cmdline, control) || strings.ContainsFunc(parts.Uname, control) {
		return errors.New("command line or release is not one line of text")
	}
	sbat, err := mergeSBAT(parts, stub)
	if err != nil {
		return err
	}
	for _, s := range stub.sections {
		if s.size > 0 {
			i.pieces = append(i.pieces, piece{s.offset, io.NewSectionReader(parts.Stub, s.offset, s.size)})
		}
	}
	kernelAddress, _ := kernel.end()
	// The kernel is last: stubs may start it where it is, and then it needs the
	// memory behind it.
	for _, s := range []struct {
		name  string
		data  *io.SectionReader
		space int64
		flags uint32
	}{
		{".osrel", text(parts.OSRelease), 0, dataFlags},
		{".cmdline", text(parts.Cmdline), 0, dataFlags},
		{".uname", text(parts.Uname), 0, dataFlags},
		{".sbat", text(sbat), 0, dataFlags},
		{".initrd", parts.Initrd, 0, dataFlags},
		{".linux", parts.Linux, alignUp(kernelAddress, kernel.memoryAlign), codeFlags},
	} {
		if s.data == nil || s.data.Size() == 0 {
			continue
		}
		if _, ok := stub.find(s.name); ok {
			return fmt.Errorf("the stub has a section %s already; use one without a kernel in it", s.name)
		}
		address, offset := stub.end()
		added := section{
			name: s.name, flags: s.flags,
			virtualSize: max(s.data.Size(), s.space),
			address:     alignUp(address, max(stub.memoryAlign, pageSize)),
			size:        alignUp(s.data.Size(), stub.fileAlign),
			offset:      alignUp(offset, stub.fileAlign),
		}
		if added.offset+added.size > maxFile || added.address+added.virtualSize > maxFile {
			return fmt.Errorf("section %s of %d bytes ends above 2 GiB", s.name, s.data.Size())
		}
		stub.sections = append(stub.sections, added)
		i.pieces = append(i.pieces, piece{added.offset, s.data})
	}
	if err := stub.encode(); err != nil {
		return err
	}
	i.pieces = append(i.pieces, piece{0, inMemory(stub.headers)})
	slices.SortStableFunc(i.pieces, func(a, b piece) int { return cmp.Compare(a.offset, b.offset) })
	var end int64
	for _, p := range i.pieces {
		if p.offset < end {
			return errors.New("sections of the stub lie over each other or over its headers")
		}
		end = p.offset + p.data.Size()
	}
	i.size = alignUp(end, stub.fileAlign)
	return nil
}

// pageSize is what section addresses are a multiple of, whatever the stub's
// own alignment, so that a part can be handed on in place.
const pageSize = 4096

func control(r rune) bool { return r < ' ' || r == 0x7f }

func text(s string) *io.SectionReader { return inMemory([]byte(s)) }

func inMemory(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

// Size of the image in bytes.
func (i *Image) Size() int64 { return i.size }

// Machine is what the image runs on.
func (i *Image) Machine() Machine { return i.machine }

// BootPath is where firmware looks for a program to start from a disk that it
// has no entry for, by the UEFI specification's "removable media" rule.
func (i *Image) BootPath() string {
	a, _ := arch.OfPE(uint16(i.machine)) // Build has refused what is none
	return "EFI/BOOT/BOOT" + a.EFI + ".EFI"
}

// Open gives the image's bytes from the first to the last.
func (i *Image) Open() (io.ReadCloser, error) {
	var readers []io.Reader
	var at int64
	for _, p := range i.pieces {
		readers = append(readers, io.LimitReader(stream.Zeros, p.offset-at), io.NewSectionReader(p.data, 0, p.data.Size()))
		at = p.offset + p.data.Size()
	}
	readers = append(readers, io.LimitReader(stream.Zeros, i.size-at))
	return io.NopCloser(io.MultiReader(readers...)), nil
}
