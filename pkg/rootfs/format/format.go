// Package format writes trees in every format there is, by its name.
//
// A tree, the name of a format and what all formats share come in, and an image
// or archive goes out, the same bytes for the same tree and options. What only
// one format has is in Options under its name. Package anytree is the way back.
//
// Errors are those of the formats' own packages. An unknown name, and an option
// that a format has no place for, are of class fault.Usage.
package format

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/ext4"
	"github.com/sovereign-build/sovereign/pkg/rootfs/fat"
	"github.com/sovereign-build/sovereign/pkg/rootfs/initramfs"
)

// File is what is written to, an *os.File for example: new, or empty.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Options of what is written. The zero value will do for every format.
type Options struct {
	// Epoch is every time in it, Unix seconds.
	Epoch int64
	// UUID and Label of a file system, and its Size in bytes; a UUID of zeros
	// is made from the contents, and a Size of 0 is what they need.
	UUID  [16]byte
	Label string
	Size  int64

	// EXT4 and EROFS have what only they have; what is above is not taken from
	// there.
	EXT4  ext4.Options
	EROFS erofs.Options
}

// Info describes what was written.
type Info struct {
	Size int64 // bytes
	UUID [16]byte
	// FreeBytes and FreeInodes are of a file system that can be written to.
	FreeBytes  int64
	FreeInodes uint32
}

// A Format is one way to write a tree.
type Format struct {
	// Name is what people call it, and the end of a file's name for it.
	Name string
	// UUID, Label and Size say which options it has a place for.
	UUID, Label, Size bool

	write func(context.Context, File, *rootfs.Tree, Options) (Info, error)
}

var formats = []Format{
	{Name: "ext4", UUID: true, Label: true, Size: true, write: writeEXT4},
	{Name: "erofs", UUID: true, write: writeEROFS},
	{Name: "fat", Label: true, Size: true, write: writeFAT},
	{Name: "cpio", write: stream(initramfs.WriteCPIO)},
	{Name: "cpio.zst", write: stream(initramfs.Write)},
	{Name: "tar", write: stream(func(_ context.Context, w io.Writer, t *rootfs.Tree, epoch int64) error {
		return rootfs.WriteTar(w, t, epoch)
	})},
}

// All are the formats.
func All() []Format { return slices.Clone(formats) }

// Of finds a format by its name.
func Of(name string) (Format, error) {
	i := slices.IndexFunc(formats, func(f Format) bool { return f.Name == name })
	if i < 0 {
		var names []string
		for _, f := range formats {
			names = append(names, f.Name)
		}
		return Format{}, fault.Errorf(fault.Usage, "there is no format %q", name).Hintf("use one of %s", strings.Join(names, ", "))
	}
	return formats[i], nil
}

// Write writes the tree to f, which after an error holds a part and is to be
// thrown away.
func (f Format) Write(ctx context.Context, to File, t *rootfs.Tree, o Options) (Info, error) {
	for _, option := range []struct {
		name       string
		given, has bool
	}{{"UUID", o.UUID != [16]byte{}, f.UUID}, {"label", o.Label != "", f.Label}, {"size", o.Size != 0, f.Size}} {
		if option.given && !option.has {
			return Info{}, fault.Errorf(fault.Usage, "%s has no place for a %s", f.Name, option.name)
		}
	}
	return f.write(ctx, to, t, o)
}

func writeEXT4(ctx context.Context, f File, t *rootfs.Tree, o Options) (Info, error) {
	e := o.EXT4
	e.Epoch, e.UUID, e.Label, e.Size = o.Epoch, o.UUID, o.Label, o.Size
	info, err := ext4.Write(ctx, f, t, e)
	return Info{Size: info.Size, UUID: info.UUID, FreeBytes: int64(info.FreeBlocks) * ext4.BlockSize, FreeInodes: info.FreeInodes}, err
}

func writeEROFS(ctx context.Context, f File, t *rootfs.Tree, o Options) (Info, error) {
	e := o.EROFS
	e.Epoch, e.UUID = o.Epoch, o.UUID
	info, err := erofs.Write(ctx, f, t, e)
	return Info{Size: info.Size, UUID: info.UUID}, err
}

func writeFAT(ctx context.Context, f File, t *rootfs.Tree, o Options) (Info, error) {
	image, err := fat.New(t, fat.Options{Size: o.Size, Label: o.Label, Epoch: o.Epoch})
	if err != nil {
		return Info{}, err
	}
	if err := f.Truncate(image.Size()); err != nil {
		return Info{}, fault.Wrap(fault.Environment, err)
	}
	return Info{Size: image.Size()}, image.Write(ctx, f)
}

// stream is a format that is written from its beginning to its end.
func stream(write func(context.Context, io.Writer, *rootfs.Tree, int64) error) func(context.Context, File, *rootfs.Tree, Options) (Info, error) {
	return func(ctx context.Context, f File, t *rootfs.Tree, o Options) (Info, error) {
		w := io.NewOffsetWriter(f, 0)
		if err := write(ctx, w, t, o.Epoch); err != nil {
			return Info{}, err
		}
		size, err := w.Seek(0, io.SeekCurrent)
		return Info{Size: size}, err
	}
}
