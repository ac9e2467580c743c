package initramfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/internal/decompress"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Read reads an archive, compressed with zstd or gzip or not. Contents go to
// the spool.
func Read(ctx context.Context, in io.Reader, spool *rootfs.Spool) (*rootfs.Tree, error) {
	plain, err := decompress.New(in)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	defer plain.Close() // a decoder without state of its own
	return ReadCPIO(ctx, plain, spool)
}

// ReadCPIO reads an archive of format newc to its trailer, within
// rootfs.DefaultLimits. Damage is an error of class fault.Source that names the
// entry it was found at; so is an archive without a trailer, which is cut
// short.
func ReadCPIO(ctx context.Context, r io.Reader, spool *rootfs.Spool) (*rootfs.Tree, error) {
	return readCPIO(ctx, r, spool, rootfs.DefaultLimits())
}

func readCPIO(ctx context.Context, r io.Reader, spool *rootfs.Spool, limits rootfs.Limits) (*rootfs.Tree, error) {
	in := cpioReader{ctx: ctx, r: bufio.NewReaderSize(r, 64<<10), budget: rootfs.NewBudget(limits)}
	var entries []member
	for {
		m, err := in.next(spool)
		if errors.Is(err, errTrailer) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("initramfs: %w", in.explain(err))
		}
		entries = append(entries, m)
	}
	t, err := collect(entries, in.budget)
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("initramfs: %w", err))
	}
	return t, nil
}

// member is an entry with what its other names share, zero for one without
// other names.
type member struct {
	rootfs.Entry
	inode fileID
}

// fileID is a file of the file system that was packed.
type fileID struct{ inode, major, minor uint32 }

// cpioReader reads members of an archive.
type cpioReader struct {
	ctx    context.Context
	r      *bufio.Reader
	budget *rootfs.Budget
	at     int64 // bytes read
}

// errTrailer is the archive's end.
var errTrailer = errors.New("trailer")

// explain gives an error its class: an archive that ends is damaged, and the
// spool's own file may be.
func (in *cpioReader) explain(err error) error {
	switch {
	case in.ctx.Err() != nil:
		return in.ctx.Err()
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		return fault.Errorf(fault.Source, "%w at byte %d, before the trailer", io.ErrUnexpectedEOF, in.at)
	}
	return fault.Wrap(fault.Source, err)
}

// Of a header of newc, the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst: a magic number
// and 13 numbers of eight hex digits.
const (
	headerSize  = 110
	magicPlain  = "070701"
	magicSummed = "070702"
)

// next reads a member, its contents into the spool.
func (in *cpioReader) next(spool *rootfs.Spool) (member, error) {
	if err := in.ctx.Err(); err != nil {
		return member{}, err
	}
	b, err := in.bytes(headerSize)
	if err != nil {
		return member{}, err
	}
	var n [13]uint32
	if magic := string(b[:6]); magic != magicPlain && magic != magicSummed {
		return member{}, fmt.Errorf("byte %d: no header of cpio's format newc", in.at-headerSize)
	}
	for i := range n {
		v, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return member{}, fmt.Errorf("byte %d: a header with %q in place of a number", in.at-headerSize, b[6+8*i:14+8*i])
		}
		n[i] = uint32(v)
	}
	size, nameSize := n[6], n[11]
	if nameSize < 2 || nameSize > rootfs.MaxPath+1 {
		return member{}, fmt.Errorf("byte %d: a name of %d bytes", in.at-headerSize, int64(nameSize)-1)
	}
	if b, err = in.padded(nameSize, headerSize); err != nil {
		return member{}, err
	}
	name, _, _ := strings.Cut(string(b), "\x00")
	if name == trailer {
		return member{}, errTrailer
	}
	m := member{Entry: rootfs.Entry{
		Path: path.Clean(strings.TrimPrefix(name, "/")),
		Mode: rootfs.ModeFromUnix(n[1]), UID: n[2], GID: n[3],
	}}
	if err := in.contents(&m, size, spool); err != nil {
		return member{}, fmt.Errorf("%.255s: %w", name, err)
	}
	if m.IsDevice() {
		m.Major, m.Minor = n[9], n[10]
	}
	if m.IsRegular() && n[4] > 1 {
		m.inode = fileID{n[0], n[7], n[8]}
	}
	if err := in.budget.Count(1); err != nil {
		return member{}, err
	}
	return m, in.budget.Entry(m.Entry)
}

// contents reads what follows a header.
func (in *cpioReader) contents(m *member, size uint32, spool *rootfs.Spool) error {
	switch {
	case m.IsSymlink():
		if size > rootfs.MaxPath {
			return fmt.Errorf("a symbolic link of %d bytes", size)
		}
		b, err := in.padded(size, 0)
		m.Link = string(b)
		return err
	case m.IsRegular() && size > 0:
		if err := in.budget.Bytes(int64(size)); err != nil {
			return err
		}
		c, err := spool.AddN(stream.WithContext(in.ctx, in.r), int64(size))
		if err != nil {
			return err
		}
		in.at += int64(size)
		m.Content, m.Size = c, int64(size)
		_, err = in.bytes(-size & 3)
		return err
	case size > 0:
		return fmt.Errorf("%v with contents", m.Mode.Type())
	}
	return nil
}

// padded reads n bytes and fills up to a multiple of four, counted from so many
// before them.
func (in *cpioReader) padded(n, before uint32) ([]byte, error) {
	b, err := in.bytes(n + -(before+n)&3)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// bytes reads n bytes, at most some thousand.
func (in *cpioReader) bytes(n uint32) ([]byte, error) {
	b := make([]byte, n)
	got, err := io.ReadFull(in.r, b)
	in.at += int64(got)
	if err == nil {
		err = in.budget.Bytes(int64(n))
	}
	return b, err
}

// collect makes a tree. Of the names of one inode only the last brings the
// contents.
func collect(entries []member, budget *rootfs.Budget) (*rootfs.Tree, error) {
	contents := map[fileID]rootfs.Entry{}
	for _, m := range entries {
		if m.inode != (fileID{}) && m.Size > 0 {
			contents[m.inode] = m.Entry
		}
	}
	t := rootfs.New()
	first := map[fileID]string{}
	for _, m := range entries {
		e := m.Entry
		if m.inode != (fileID{}) {
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
		before := t.Len()
		if err := add(e); err != nil {
			return nil, err
		}
		if implied := t.Len() - before - 1; implied > 0 {
			if err := budget.Implied(implied); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}
