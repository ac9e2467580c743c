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
	"errors"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/ext4"
	"github.com/sovereign-build/sovereign/pkg/rootfs/fat"
	"github.com/sovereign-build/sovereign/pkg/rootfs/initramfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/oci"
)

// File is what is written to, an *os.File for example: new, or empty.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Options of what is written. The zero value will do for every format but two,
// whose files say what they are: oci needs a platform, and apk a name, a version
// and an architecture.
type Options struct {
	// Epoch is every time in it, Unix seconds.
	Epoch int64
	// UUID and Label of a file system, and its Size in bytes; a UUID of zeros
	// is made from the contents, and a Size of 0 is what they need.
	UUID  [16]byte
	Label string
	Size  int64
	// TempDir gets a temporary file where the format needs one (oci, apk), as
	// large as what is written; the default is os.TempDir.
	TempDir string

	// What only one format has; what is above is not taken from there.
	EXT4  ext4.Options
	EROFS erofs.Options
	OCI   oci.Spec
	APK   APK
}

// APK are the options of a package.
type APK struct {
	// Meta needs a Name, a Version and an Arch; sizes and sums are filled in.
	Meta apk.Meta
	// Key signs it; nil is nobody, for apk.Sign to do later.
	Key *apk.SigningKey
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
	{Name: "oci", write: writeOCI},
	{Name: "apk", write: writeAPK},
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

// writeOCI writes an archive of an image with one layer.
func writeOCI(ctx context.Context, f File, t *rootfs.Tree, o Options) (_ Info, err error) {
	spool, err := rootfs.NewSpool(o.TempDir)
	if err != nil {
		return Info{}, fault.Wrap(fault.Environment, err)
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	return stream(func(ctx context.Context, w io.Writer, t *rootfs.Tree, epoch int64) error {
		spec := o.OCI
		spec.Epoch = epoch
		var image v1.Image
		if image, err = oci.New(ctx, spool, spec, t); err != nil {
			return err
		}
		return oci.WriteArchive(ctx, w, image, spec.Info.Title)
	})(ctx, f, t, o)
}

func writeAPK(ctx context.Context, f File, t *rootfs.Tree, o Options) (Info, error) {
	var temp []apk.WriteOption
	if o.TempDir != "" {
		temp = append(temp, apk.WithTempDir(o.TempDir))
	}
	return stream(func(_ context.Context, w io.Writer, t *rootfs.Tree, epoch int64) error {
		_, err := apk.Write(w, o.APK.Meta, t, o.APK.Key, epoch, temp...)
		return fault.Wrap(fault.Usage, err) // of what the package says of itself
	})(ctx, f, t, o)
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
