package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/ext4"
)

// imageReader returns what reads a file if it is a file system image, nil if
// it is something else.
func imageReader(f *os.File) (func(context.Context, io.ReaderAt) (*rootfs.Tree, error), error) {
	// Both have their superblock at byte 1024, and either may follow anything.
	const magicEnd = 1024 + 0x3a
	head := make([]byte, magicEnd)
	if n, err := f.ReadAt(head, 0); errors.Is(err, io.EOF) || err == nil && n < len(head) {
		return nil, nil
	} else if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	switch {
	case bytes.HasPrefix(head[257:], []byte("ustar")):
		return nil, nil
	case bytes.HasPrefix(head[1024:], []byte{0xe2, 0xe1, 0xf5, 0xe0}):
		return erofs.Read, nil
	case bytes.HasPrefix(head[1024+0x38:], []byte{0x53, 0xef}):
		return ext4.Read, nil
	}
	return nil, nil
}
