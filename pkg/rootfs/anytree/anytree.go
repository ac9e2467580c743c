// Package anytree reads a tree of files from whatever holds one.
//
// A directory, a tar archive or an image of ext2, ext3, ext4 or EROFS comes in,
// archives and images plain or compressed with gzip or zstd, and a rootfs.Tree
// goes out. What it is shows in its first bytes, never in its name. Bounds hold
// for all that is uncompressed; the formats' own packages hold the rest.
//
// Errors are of class fault.Source and name the input, but Usage for a file
// that cannot be opened and Environment for this machine's own.
package anytree

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/sovereign-build/sovereign/internal/decompress"
	"github.com/sovereign-build/sovereign/internal/magic"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/ext4"
)

// maxLayers is how many times over an input may be compressed: people
// compress what a program has compressed already.
const maxLayers = 4

// Options of reading.
type Options struct {
	// TempDir gets a temporary file where contents cannot stay where they are;
	// the default is os.TempDir.
	TempDir string
	// Limit is the most that an archive or an image may have when it is
	// uncompressed, in bytes, holes apart; the default is that of
	// rootfs.DefaultLimits. What has more is an error that is rootfs.ErrBytes.
	Limit int64
}

// Tree is a tree that was read. Its contents are where they were found, and
// readable until Close.
type Tree struct {
	*rootfs.Tree
	close func() error
}

// Close frees the contents.
func (t *Tree) Close() error { return t.close() }

// PackedError is a compressed file that is not read, of which another program
// writes the contents.
type PackedError struct {
	// Name is the input's, and Format what it is: "an xz file".
	Name, Format string
	// Unpack is the command that writes its contents to standard output, given
	// the file's name.
	Unpack string
}

func (e *PackedError) Error() string {
	return fmt.Sprintf("%s is %s, which is not understood; gzip and zstd are", e.Name, e.Format)
}

// Open reads the directory, archive or image at path.
func Open(ctx context.Context, path string, o Options) (*Tree, error) {
	in := newInput(path, o)
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Environment, err), f.Close())
	}
	if info.IsDir() {
		if err := f.Close(); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		tree, err := rootfs.ReadDir(ctx, path)
		if err != nil {
			return nil, fault.Wrap(fault.Usage, err)
		}
		return &Tree{tree, func() error { return nil }}, nil
	}
	if isDisk := info.Mode().Type() == fs.ModeDevice; isDisk || info.Mode().IsRegular() {
		head := make([]byte, magic.HeadSize)
		n, err := f.ReadAt(head, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, errors.Join(fault.Wrap(fault.Environment, err), f.Close())
		}
		if read := imageReader(magic.Of(head[:n]).Kind); read != nil {
			tree, err := read(ctx, f)
			if err != nil {
				return nil, errors.Join(in.error(err), f.Close())
			}
			return &Tree{tree, f.Close}, nil
		}
	}
	defer f.Close()
	return in.stream(ctx, f)
}

// Read reads an archive or an image from a stream, to its end. Name is the
// stream's in errors.
func Read(ctx context.Context, r io.Reader, name string, o Options) (*Tree, error) {
	return newInput(name, o).stream(ctx, r)
}

func newInput(name string, o Options) input {
	return input{name: name, tempDir: o.TempDir, limit: cmp.Or(o.Limit, rootfs.DefaultLimits().Bytes)}
}

// imageReader is what reads a file system's image, nil for anything else.
func imageReader(kind magic.Kind) func(context.Context, io.ReaderAt) (*rootfs.Tree, error) {
	switch kind {
	case magic.Ext:
		return ext4.Read
	case magic.EROFS:
		return erofs.Read
	}
	return nil
}

// input is what a tree is read from.
type input struct {
	name    string // for people
	tempDir string
	limit   int64 // bytes
}

// stream reads an archive or image that comes as a stream, compressed or not.
func (in input) stream(ctx context.Context, r io.Reader) (*Tree, error) {
	plain := bufio.NewReaderSize(r, magic.HeadSize)
	var format magic.Format
	for layers := 0; ; layers++ {
		head, err := plain.Peek(magic.HeadSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, in.error(err)
		}
		if len(head) == 0 {
			return nil, fault.Errorf(fault.Source, "%s is empty", in.name).Hintf("if a program was to write it, look what became of that")
		}
		format = magic.Of(head)
		if format.Kind != magic.Gzip && format.Kind != magic.Zstd {
			break
		}
		if layers == maxLayers {
			return nil, fault.Errorf(fault.Source, "%s is compressed more than %d times over", in.name, maxLayers)
		}
		z, err := decompress.New(plain)
		if err != nil {
			return nil, in.error(err)
		}
		defer z.Close() // without state of its own
		plain = bufio.NewReaderSize(z, magic.HeadSize)
	}
	read := imageReader(format.Kind)
	if read == nil && format.Kind != magic.Tar {
		return nil, in.notUnderstood(format)
	}
	spool, err := rootfs.NewSpool(in.tempDir)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	var tree *rootfs.Tree
	if read != nil {
		tree, err = in.image(ctx, plain, spool, read)
	} else {
		tree, err = in.tar(ctx, plain, spool)
	}
	if err != nil {
		return nil, errors.Join(in.error(err), spool.Close())
	}
	return &Tree{tree, spool.Close}, nil
}

// tar reads an archive, and the stream to its end: what compressed it has put
// a checksum there, and whoever writes into a pipe wants it read.
func (in input) tar(ctx context.Context, r io.Reader, spool *rootfs.Spool) (*rootfs.Tree, error) {
	limits := rootfs.DefaultLimits()
	limits.Bytes = in.limit
	tree, err := rootfs.ReadTar(ctx, r, spool, rootfs.WithLimits(limits), rootfs.WithEnd())
	if err != nil {
		return nil, err
	}
	// As gzip itself, nothing is said of what follows the last member.
	if _, err := io.Copy(io.Discard, io.LimitReader(r, in.limit)); err != nil && !errors.Is(err, gzip.ErrHeader) {
		return nil, fmt.Errorf("behind the archive: %w", err)
	}
	return tree, nil
}

// image reads a file system, which has to be read at random.
func (in input) image(ctx context.Context, r io.Reader, spool *rootfs.Spool, read func(context.Context, io.ReaderAt) (*rootfs.Tree, error)) (*rootfs.Tree, error) {
	content, n, err := spool.Add(stream.WithContext(ctx, io.LimitReader(r, in.limit+1)))
	if err != nil {
		return nil, environment(err)
	}
	if n > in.limit {
		return nil, fault.Errorf(fault.Source, "the image has more than %d bytes: %w", in.limit, rootfs.ErrBytes)
	}
	opened, err := content.Open()
	if err != nil {
		return nil, err
	}
	at, ok := opened.(io.ReaderAt)
	if !ok {
		return nil, fault.Errorf(fault.Internal, "the spool gives %T", opened)
	}
	return read(ctx, at)
}

// notUnderstood is the error of a format that is not read.
func (in input) notUnderstood(f magic.Format) error {
	switch f.Kind {
	case magic.Compressed:
		return fault.Errorf(fault.Source, "%w", &PackedError{Name: in.name, Format: f.Name, Unpack: f.Unpack}).
			Hintf("unpack it with %s", f.Unpack)
	case magic.Other:
		return fault.Errorf(fault.Source, "%s is %s, which is not understood", in.name, f.Name).Hintf("%s", f.Advice)
	}
	return fault.Errorf(fault.Source, "%s is neither a tar archive nor an image of ext2, ext3, ext4 or EROFS, plain or compressed with gzip or zstd", in.name).
		Hintf("check what it is, with file(1)")
}

// error names the input.
func (in input) error(err error) error {
	return fault.Wrap(fault.Source, fmt.Errorf("%s: %w", in.name, err))
}

// environment gives the machine's own errors, of files, their class.
func environment(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return fault.Wrap(fault.Environment, err)
	}
	return err
}
