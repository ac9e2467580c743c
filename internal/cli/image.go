package cli

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

func (s *session) imageCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "image",
		Short: "Make images of directories and tar archives",
		Long: `Image writes file system and disk images the way a build does: without root,
without mounts, without other programs, and the same bytes for the same content
whatever the machine, the copy or the time. Every time in an image is
SOURCE_DATE_EPOCH, or 1970 where that is not set.`,
		Example: `  sovereign-build image disk --esp esp/ --root root.erofs -o disk.img`,
	})
	cmd.AddCommand(s.imageDiskCommand())
	return exits(cmd)
}

// imageEpoch is SOURCE_DATE_EPOCH, 0 if it is not set.
func (s *session) imageEpoch() (int64, error) {
	text := s.env("SOURCE_DATE_EPOCH")
	if text == "" {
		return 0, nil
	}
	epoch, err := strconv.ParseInt(text, 10, 64)
	if err != nil || epoch < 0 {
		return 0, fault.Errorf(fault.Usage, "SOURCE_DATE_EPOCH=%q is not a number of seconds", text)
	}
	return epoch, nil
}

// readTree reads the files of a directory, or a tar archive; temporary files
// go to tempDir. The tree is usable until done is called.
func (s *session) readTree(ctx context.Context, from, tempDir string) (_ *rootfs.Tree, done func(), err error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Usage, err)
	}
	if !info.IsDir() {
		f, err := os.Open(from)
		if err != nil {
			return nil, nil, fault.Wrap(fault.Usage, err)
		}
		defer f.Close()
		spool, err := rootfs.NewSpool(tempDir)
		if err != nil {
			return nil, nil, fault.Wrap(fault.Environment, err)
		}
		done = func() { _ = spool.Close() } // only read by then; it has no name
		tree, err := rootfs.ReadTar(ctx, f, spool)
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("%s: %w", from, err)
		}
		return tree, done, nil
	}
	tree := rootfs.New()
	err = filepath.WalkDir(from, func(name string, d os.DirEntry, err error) error {
		if err != nil || name == from {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		e := rootfs.Entry{Path: path.Clean(filepath.ToSlash(rel)), Mode: info.Mode()}
		switch {
		case info.Mode().IsRegular():
			e.Size, e.Content = info.Size(), rootfs.File(name)
		case !d.IsDir():
			return fmt.Errorf("%s is neither a file nor a directory", name)
		}
		return tree.Add(e)
	})
	if err != nil {
		return nil, nil, fault.Wrap(fault.Usage, err)
	}
	return tree, func() {}, ctx.Err()
}

// sizeFlag is a number of bytes: plain, or with a unit of a recipe ("512MiB").
type sizeFlag int64

func (f *sizeFlag) Type() string { return "size" }

func (f *sizeFlag) String() string {
	if *f == 0 {
		return ""
	}
	return fmt.Sprint(int64(*f))
}

func (f *sizeFlag) Set(text string) error {
	if text != "" && strings.Trim(text, "0123456789") == "" {
		if _, err := fmt.Sscan(text, (*int64)(f)); err != nil {
			return fmt.Errorf("size %q is too large", text)
		}
		return nil
	}
	var size recipe.Size
	if err := size.UnmarshalText([]byte(text)); err != nil {
		return err
	}
	*f = sizeFlag(size)
	return nil
}
