package initramfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const (
	// maxArchive bounds the archive without compression, bytes: an initramfs
	// is unpacked into memory.
	maxArchive = 4 << 30
	// maxEntries bounds the number of its entries.
	maxEntries = 1 << 20
)

// zstdMagic begins what zstd compressed (RFC 8878, 3.1.1).
const zstdMagic = "\x28\xb5\x2f\xfd"

// Read reads an archive, compressed with zstd or not. Contents go to the spool.
func Read(ctx context.Context, in io.Reader, spool *rootfs.Spool) (*rootfs.Tree, error) {
	r := bufio.NewReader(in)
	if magic, err := r.Peek(len(zstdMagic)); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	} else if string(magic) != zstdMagic {
		return ReadCPIO(ctx, r, spool)
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	defer z.Close()
	return ReadCPIO(ctx, z, spool)
}

// ReadCPIO reads an archive of format newc. Damage is an error that names the
// entry it was found at. Device numbers are not read: the cpio package drops
// them.
func ReadCPIO(ctx context.Context, r io.Reader, spool *rootfs.Spool) (*rootfs.Tree, error) {
	limited := &io.LimitedReader{R: r, N: maxArchive}
	in := cpio.NewReader(limited)
	var entries []member
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && (limited.N <= 0 || len(entries) >= maxEntries) {
			err = fmt.Errorf("more than %d bytes or %d entries", int64(maxArchive), maxEntries)
		}
		if err != nil {
			return nil, fmt.Errorf("initramfs: %w", err)
		}
		m, err := readMember(h, in, spool)
		if err != nil {
			return nil, fmt.Errorf("initramfs: %.255s: %w", h.Name, err)
		}
		entries = append(entries, m)
	}
	t, err := collect(entries)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	return t, nil
}

// member is an entry with the inode number that its other names share, 0 for
// one without other names.
type member struct {
	rootfs.Entry
	inode int64
}

func readMember(h *cpio.Header, contents io.Reader, spool *rootfs.Spool) (member, error) {
	m := member{Entry: rootfs.Entry{
		Path: path.Clean(strings.TrimPrefix(h.Name, "/")),
		Mode: rootfs.ModeFromUnix(uint32(h.Mode)),
		UID:  uint32(h.Uid), GID: uint32(h.Guid),
	}}
	switch {
	case m.IsRegular():
		if h.Links > 1 {
			m.inode = h.Inode
		}
		if h.Size > 0 {
			c, err := spool.AddN(contents, h.Size)
			if err != nil {
				return m, err
			}
			m.Content, m.Size = c, h.Size
		}
	case m.IsSymlink():
		m.Link = h.Linkname
	}
	return m, nil
}

// collect makes a tree. Of the names of one inode only the last brings the
// contents.
func collect(entries []member) (*rootfs.Tree, error) {
	contents := map[int64]rootfs.Entry{}
	for _, m := range entries {
		if m.inode != 0 && m.Size > 0 {
			contents[m.inode] = m.Entry
		}
	}
	t := rootfs.New()
	first := map[int64]string{}
	for _, m := range entries {
		e := m.Entry
		if m.inode != 0 {
			if target, ok := first[m.inode]; ok {
				e = rootfs.Hardlink(e.Path, target)
			} else {
				first[m.inode] = e.Path
				e.Content, e.Size = contents[m.inode].Content, contents[m.inode].Size
			}
		}
		add := t.Add
		if e.Path == rootfs.Root {
			add = t.Set
		}
		if err := add(e); err != nil {
			return nil, err
		}
	}
	return t, nil
}
