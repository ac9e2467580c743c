package cli

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

func (s *session) imageCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "image",
		Short: "Make images of directories, tar archives and other images",
		Long: `Image writes file system images, archives and disks the way a build does: without
root, without mounts, without other programs, and the same bytes for the same
content whatever the machine, the copy or the time. Every time in an image is
SOURCE_DATE_EPOCH, or 1970 where that is not set.`,
		Example: `  sovereign-build image ext4 --from rootfs/ -o root.ext4 --size 2GiB`,
	})
	cmd.AddCommand(s.imageExt4Command(), s.imageErofsCommand(), s.imageCpioCommand(), s.imageTarCommand(), s.imageDiskCommand())
	return exits(cmd)
}

// imageResult is what a command of image has written.
type imageResult struct {
	File    string `json:"file"`
	Format  string `json:"format"`
	Size    int64  `json:"size"` // bytes
	Entries int    `json:"entries"`
	UUID    string `json:"uuid,omitempty"`
	// Of a writable file system.
	FreeBytes  int64  `json:"free_bytes,omitempty"`
	FreeInodes uint32 `json:"free_inodes,omitempty"`
}

// imageFrom completes cmd: it reads --from, calls write with a new file and
// puts that file at --output.
func (s *session) imageFrom(cmd *cobra.Command, write func(ctx context.Context, f *os.File, t *rootfs.Tree, epoch int64) (imageResult, error)) *cobra.Command {
	var from, output string
	cmd.Args = operands()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from == "" || output == "" {
			return fault.Errorf(fault.Usage, "%s: --from and --output are needed", cmd.CommandPath()).
				Hintf("run %s --from DIRECTORY -o FILE", cmd.CommandPath())
		}
		epoch, err := s.imageEpoch()
		if err != nil {
			return err
		}
		tree, done, err := s.readTree(cmd.Context(), from, filepath.Dir(output))
		if err != nil {
			return err
		}
		defer done()
		var result imageResult
		err = replaceFile(output, func(f *os.File) error {
			result, err = write(cmd.Context(), f, tree, epoch)
			return err
		})
		if err != nil {
			return err
		}
		result.File, result.Format, result.Entries = output, cmd.Name(), tree.Len()
		return s.printer().result(result, result.writeText)
	}
	cmd.Flags().StringVar(&from, "from", "", "`directory`, tar archive (plain, gzip or zstd; - is standard input) or image of ext2, ext3, ext4 or EROFS to make it of")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write; one that is there is replaced")
	return exits(cmd, fault.Environment, fault.Source)
}

func (r imageResult) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "wrote %s, %s of %d bytes with %d entries", r.File, r.Format, r.Size, r.Entries)
	if err == nil && r.FreeInodes > 0 {
		_, err = fmt.Fprintf(w, ", %d bytes and %d inodes free", r.FreeBytes, r.FreeInodes)
	}
	if err == nil && r.UUID != "" {
		_, err = fmt.Fprintf(w, ", UUID %s", r.UUID)
	}
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

// imageEpoch is SOURCE_DATE_EPOCH, 0 if it is not set.
func (s *session) imageEpoch() (int64, error) {
	text := s.env("SOURCE_DATE_EPOCH")
	if text == "" {
		return 0, nil
	}
	epoch, err := strconv.ParseInt(text, 10, 64)
	if err != nil || epoch < 0 {
		return 0, fault.Errorf(fault.Usage, "SOURCE_DATE_EPOCH=%q is not a number of seconds", text).
			Hintf("unset SOURCE_DATE_EPOCH, or set it to a time such as the one of git log -1 --format=%%ct")
	}
	return epoch, nil
}

// readTree reads a directory, an archive or an image; temporary files go to tempDir.
// The tree is usable until done is called.
func (s *session) readTree(ctx context.Context, from, tempDir string) (_ *rootfs.Tree, done func(), err error) {
	var in io.Reader = s.Stdin
	if from != "-" {
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
		if info.Mode().IsRegular() {
			read, err := imageReader(f)
			if err != nil {
				return nil, nil, errors.Join(err, f.Close())
			}
			if read != nil {
				tree, err := read(ctx, f)
				if err != nil {
					return nil, nil, errors.Join(fmt.Errorf("%s: %w", from, err), f.Close())
				}
				return tree, func() { _ = f.Close() }, nil // only read
			}
		}
		defer f.Close()
		in = f
	}
	plain, err := decompress(in)
	if err != nil {
		return nil, nil, fault.Errorf(fault.Source, "%s: %w", from, err)
	}
	defer plain.Close()
	spool, err := rootfs.NewSpool(tempDir)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Environment, err)
	}
	done = func() { _ = spool.Close() } // only read by then; it has no name
	tree, err := rootfs.ReadTar(ctx, plain, spool)
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("%s: %w", from, err)
	}
	return tree, done, nil
}

// decompress finds out by its first bytes how a stream is compressed.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(4)
	switch {
	case err != nil && err != io.EOF:
		return nil, err
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	default:
		return io.NopCloser(b), nil
	}
}

// replaceFile calls write with a new file and gives it the name path when it
// is complete and on the disk. An error leaves nothing behind.
func replaceFile(path string, write func(*os.File) error) error {
	return atomicfile.Fill(path, 0o644, write)
}
