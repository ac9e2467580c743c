// Package erofs writes a tree as an EROFS image: read-only, uncompressed,
// blocks of 4096 bytes, the same bytes for the same tree.
//
// A rootfs.Tree comes in; an image that the kernel, fsck.erofs and dump.erofs
// accept goes out. Contents are streamed through one temporary file, never
// held in memory. The package mounts nothing and needs no rights.
//
// The format is written by go-erofs. Hard links, which it cannot write, and
// the UUID are put into the finished image (see link.go).
package erofs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	goerofs "github.com/erofs/go-erofs"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// BlockSize of the image, bytes. The kernel accepts no more than its page
// size; 4096 suits every architecture.
const BlockSize = 4096

// File is what an image is written to: an *os.File opened for reading and
// writing, empty.
type File interface {
	io.WriteSeeker
	io.ReaderAt
	io.WriterAt
}

// Options of an image.
type Options struct {
	// Epoch is every time in the image, Unix seconds, not negative.
	Epoch int64
	// UUID of the file system. All zero derives one from the contents, so
	// that two images have the same UUID exactly when they are the same.
	UUID [16]byte
	// TempDir holds the temporary file; "" is the system's.
	TempDir string
}

// Info describes an image written.
type Info struct {
	Size int64 // bytes, a multiple of BlockSize
	UUID [16]byte
}

// Write writes the tree to w. Errors name the path they are about; w then
// holds part of an image and is to be thrown away.
func Write(ctx context.Context, w File, t *rootfs.Tree, o Options) (Info, error) {
	if o.Epoch < 0 {
		return Info{}, fmt.Errorf("erofs: time %d is before 1970", o.Epoch)
	}
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	out := goerofs.Create(w, goerofs.WithBlockSize(BlockSize), goerofs.WithBuildTime(uint64(o.Epoch), 0), goerofs.WithTempDir(o.TempDir))
	groups := t.HardLinks()
	alias := map[string]bool{} // names that become links afterwards
	for _, names := range groups {
		for _, name := range names[1:] {
			alias[name] = true
		}
	}
	when := time.Unix(o.Epoch, 0)
	root, _ := t.Lookup(rootfs.Root)
	if err := writeEntry(out, root, when); err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	for e := range t.All() {
		if err := ctx.Err(); err != nil {
			return Info{}, err
		}
		if alias[e.Path] {
			e.Content, e.Size, e.Xattrs = nil, 0, nil
		}
		if err := writeEntry(out, e, when); err != nil {
			return Info{}, fmt.Errorf("erofs: %s: %w", e.Path, err)
		}
		if names := groups[e.Path]; names != nil {
			if err := out.SetNlink(e.Path, uint32(len(names))); err != nil {
				return Info{}, fmt.Errorf("erofs: %s: %w", e.Path, err)
			}
		}
	}
	if err := out.Close(); err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	size, err := w.Seek(0, io.SeekEnd)
	if err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	img, err := openImage(w, size)
	if err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	for _, names := range groups {
		if err := img.link(w, names); err != nil {
			return Info{}, fmt.Errorf("erofs: %s: %w", names[0], err)
		}
	}
	if err := img.setInodes(w, len(alias)); err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	// The last block may be short: pad it, for dm-verity and for loop devices.
	if rest := size % BlockSize; rest != 0 {
		if _, err := w.WriteAt(make([]byte, BlockSize-rest), size); err != nil {
			return Info{}, fmt.Errorf("erofs: %w", err)
		}
		size += BlockSize - rest
	}
	info := Info{Size: size, UUID: o.UUID}
	if info.UUID == ([16]byte{}) {
		if info.UUID, err = contentUUID(ctx, w, size); err != nil {
			return Info{}, fmt.Errorf("erofs: %w", err)
		}
	}
	if _, err := w.WriteAt(info.UUID[:], superblockOffset+uuidOffset); err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	return info, nil
}

func writeEntry(out *goerofs.Writer, e rootfs.Entry, when time.Time) error {
	var err error
	switch e.Mode.Type() {
	case 0:
		err = writeFile(out, e)
	case fs.ModeDir:
		err = out.Mkdir(e.Path, e.Mode.Perm())
	case fs.ModeSymlink:
		err = out.Symlink(e.Link, e.Path)
	default:
		// The kernel's new_encode_dev.
		rdev := e.Minor&0xff | e.Major<<8 | e.Minor&^0xff<<12
		if !e.IsDevice() {
			rdev = 0
		}
		err = out.Mknod(e.Path, uint16(rootfs.UnixMode(e.Mode)), rdev)
	}
	if err != nil {
		return err
	}
	if !e.IsSymlink() {
		if err := out.Chmod(e.Path, e.Mode); err != nil {
			return err
		}
	}
	if err := out.Chown(e.Path, int(e.UID), int(e.GID)); err != nil {
		return err
	}
	for name, value := range e.Xattrs {
		if err := out.Setxattr(e.Path, name, string(value)); err != nil {
			return err
		}
	}
	return out.Chtimes(e.Path, when, when)
}

func writeFile(out *goerofs.Writer, e rootfs.Entry) error {
	f, err := out.Create(e.Path)
	if err != nil {
		return err
	}
	if e.Size > 0 {
		if err := e.CopyTo(f); err != nil {
			return err
		}
	}
	return f.Close()
}

// contentUUID is a UUID of version 8 (RFC 9562) from the image's digest, taken
// while its own UUID is still zero.
func contentUUID(ctx context.Context, r io.ReaderAt, size int64) (id [16]byte, err error) {
	h := sha256.New()
	const piece = 16 << 20
	for off := int64(0); off < size; off += piece {
		if err := ctx.Err(); err != nil {
			return id, err
		}
		if _, err := io.Copy(h, io.NewSectionReader(r, off, min(piece, size-off))); err != nil {
			return id, err
		}
	}
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id, nil
}
