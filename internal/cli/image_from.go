package cli

import (
	"bufio"
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

// readTree reads a directory, an archive or an image, compressed or not;
// temporary files go to tempDir, and limit is the most that an archive may
// have. The tree is usable until done is called.
func (s *session) readTree(ctx context.Context, from, tempDir string, limit int64) (_ *rootfs.Tree, done func(), err error) {
	in := treeInput{name: from, tempDir: tempDir, limit: limit}
	if from == "-" {
		in.name = "standard input"
		return in.stream(ctx, s.Stdin)
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Usage, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(fault.Wrap(fault.Environment, err), f.Close())
	}
	if info.IsDir() {
		if err := f.Close(); err != nil {
			return nil, nil, fault.Wrap(fault.Environment, err)
		}
		tree, err := rootfs.ReadDir(ctx, from)
		if err != nil {
			return nil, nil, fault.Wrap(fault.Usage, err)
		}
		return tree, func() {}, nil
	}
	if isDisk := info.Mode().Type() == fs.ModeDevice; isDisk || info.Mode().IsRegular() {
		head := make([]byte, magic.HeadSize)
		n, err := f.ReadAt(head, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, nil, errors.Join(fault.Wrap(fault.Environment, err), f.Close())
		}
		if read := imageReader(magic.Of(head[:n]).Kind); read != nil {
			tree, err := read(ctx, f)
			if err != nil {
				return nil, nil, errors.Join(in.error(err), f.Close())
			}
			return tree, func() { _ = f.Close() }, nil // only read
		}
	}
	defer f.Close()
	return in.stream(ctx, f)
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

// treeInput is a stream that a tree is read from.
type treeInput struct {
	name    string // for people
	tempDir string
	limit   int64 // bytes
}

// stream reads an archive or image that comes as a stream, compressed or not.
func (in treeInput) stream(ctx context.Context, r io.Reader) (*rootfs.Tree, func(), error) {
	plain := bufio.NewReaderSize(r, magic.HeadSize)
	var format magic.Format
	for layers := 0; ; layers++ {
		head, err := plain.Peek(magic.HeadSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, nil, in.error(err)
		}
		if len(head) == 0 {
			return nil, nil, fault.Errorf(fault.Source, "%s is empty", in.name).Hintf("if a program was to write it, look what became of that")
		}
		format = magic.Of(head)
		if format.Kind != magic.Gzip && format.Kind != magic.Zstd {
			break
		}
		if layers == maxLayers {
			return nil, nil, fault.Errorf(fault.Source, "%s is compressed more than %d times over", in.name, maxLayers)
		}
		z, err := decompress.New(plain)
		if err != nil {
			return nil, nil, in.error(err)
		}
		defer z.Close() // without state of its own
		plain = bufio.NewReaderSize(z, magic.HeadSize)
	}
	read := imageReader(format.Kind)
	if read == nil && format.Kind != magic.Tar {
		return nil, nil, in.notUnderstood(format)
	}
	spool, err := rootfs.NewSpool(in.tempDir)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Environment, err)
	}
	done := func() { _ = spool.Close() } // only read by then; it has no name
	var tree *rootfs.Tree
	if read != nil {
		tree, err = in.image(ctx, plain, spool, read)
	} else {
		tree, err = in.tar(ctx, plain, spool)
	}
	if err != nil {
		done()
		return nil, nil, in.error(err)
	}
	return tree, done, nil
}

// tar reads an archive, and the stream to its end: what compressed it has put
// a checksum there, and whoever writes into a pipe wants it read.
func (in treeInput) tar(ctx context.Context, r io.Reader, spool *rootfs.Spool) (*rootfs.Tree, error) {
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
func (in treeInput) image(ctx context.Context, r io.Reader, spool *rootfs.Spool, read func(context.Context, io.ReaderAt) (*rootfs.Tree, error)) (*rootfs.Tree, error) {
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
func (in treeInput) notUnderstood(f magic.Format) error {
	switch f.Kind {
	case magic.Compressed:
		return fault.Errorf(fault.Source, "%s is %s, which is not understood; gzip and zstd are", in.name, f.Name).
			Hintf("pipe it: %s %s | sovereign-build image … --from -", f.Unpack, in.operand())
	case magic.Other:
		return fault.Errorf(fault.Source, "%s is %s, which is not understood", in.name, f.Name).Hintf("%s", f.Advice)
	}
	return fault.Errorf(fault.Source, "%s is neither a tar archive nor an image of ext2, ext3, ext4 or EROFS, plain or compressed with gzip or zstd", in.name).
		Hintf("check what it is, with file %s", in.operand())
}

// operand is the input in a command.
func (in treeInput) operand() string {
	if in.name == "standard input" {
		return "FILE"
	}
	return in.name
}

// error names the input.
func (in treeInput) error(err error) error {
	return fault.Wrap(fault.Source, fmt.Errorf("%s: %w", in.name, err))
}
