package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/anytree"
	"github.com/sovereign-build/sovereign/pkg/rootfs/format"
)

func (s *session) imageCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use:   "image",
		Short: "Make images of directories, tar archives and other images",
		Long: `Image writes file system images, archives and disks the way a build does: without
root, without mounts, without other programs, and the same bytes for the same
content whatever the machine, the copy or the time. Every time in an image is
SOURCE_DATE_EPOCH, or 1970 where that is not set.`,
		Example: `  sovereign-build image ext4 --from rootfs/ -o root.ext4 --size 2GiB`,
	})
	cmd.AddCommand(s.imageExt4Command(), s.imageErofsCommand(), s.imageCpioCommand(), s.imageTarCommand(), s.imageOCICommand(), s.imageApkCommand(), s.imageDiskCommand())
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

// imageFrom completes cmd: it reads --from, writes a new file in a format, with
// options that the command's flags fill in, and puts that file at --output.
func (s *session) imageFrom(name func() string, o *format.Options, cmd *cobra.Command) *cobra.Command {
	var from, output string
	var limit sizeFlag
	cmd.Args = operands()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from == "" || output == "" {
			return fault.Errorf(fault.Usage, "%s: --from and --output are needed", cmd.CommandPath()).
				Hintf("run %s --from DIRECTORY -o FILE", cmd.CommandPath())
		}
		to, err := format.Of(name())
		if err != nil {
			return err
		}
		if o.Epoch, err = s.imageEpoch(); err != nil {
			return err
		}
		if limit == 0 {
			limit = sizeFlag(rootfs.DefaultLimits().Bytes)
		}
		tree, err := s.readTree(cmd.Context(), from, filepath.Dir(output), int64(limit))
		if errors.Is(err, rootfs.ErrBytes) {
			return fault.Errorf(fault.Source, "%w", err).Hintf("if it is to be so large, raise --limit")
		}
		if err != nil {
			return err
		}
		defer tree.Close() // only read
		o.TempDir = filepath.Dir(output)
		var info format.Info
		err = replaceFile(output, func(f *os.File) error {
			info, err = to.Write(cmd.Context(), f, tree.Tree, *o)
			return environment(err)
		})
		if err != nil {
			return err
		}
		result := imageResult{File: output, Format: cmd.Name(), Entries: tree.Len(), Size: info.Size, FreeBytes: info.FreeBytes, FreeInodes: info.FreeInodes}
		if to.UUID {
			result.UUID = uuidText(info.UUID)
		}
		return s.printer().result(result, result.writeText)
	}
	cmd.Flags().StringVar(&from, "from", "", "`directory`, tar archive or image of ext2, ext3, ext4 or EROFS to make it of, plain or compressed with gzip or zstd; - is standard input")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write; one that is there is replaced")
	cmd.Flags().Var(&limit, "limit", "most `bytes` that an archive or compressed image may have when it is uncompressed, holes apart (default: 64GiB)")
	return exits(cmd, fault.Environment, fault.Source)
}

// readTree reads a directory, an archive or an image, compressed or not;
// temporary files go to tempDir, and limit is the most that an archive may
// have. The tree is usable until it is closed.
func (s *session) readTree(ctx context.Context, from, tempDir string, limit int64) (t *anytree.Tree, err error) {
	o := anytree.Options{TempDir: tempDir, Limit: limit}
	operand := from
	if from == "-" {
		operand = "FILE"
		t, err = anytree.Read(ctx, s.Stdin, "standard input", o)
	} else {
		t, err = anytree.Open(ctx, from, o)
	}
	var packed *anytree.PackedError
	if errors.As(err, &packed) {
		return nil, fault.Errorf(fault.ClassOf(err), "%w", err).Hintf("pipe it: %s %s | sovereign-build image … --from -", packed.Unpack, operand)
	}
	return t, err
}

// environment gives the machine's own errors, of files, their class.
func environment(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return fault.Wrap(fault.Environment, err)
	}
	return err
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

// replaceFile calls write with a new file and gives it the name path when it
// is complete and on the disk. An error leaves nothing behind.
func replaceFile(path string, write func(*os.File) error) error {
	return atomicfile.Fill(path, 0o644, write)
}
