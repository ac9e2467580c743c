// Package image reads a disk as it was at one instant while its machine goes
// on. In come the disk's image, which the machine writes to, and the store of a
// persistent dm-snapshot, into which the guest's kernel copies whatever it is
// about to overwrite; out comes an io.ReaderAt that never changes.
//
// It knows no machines: whoever had the snapshot taken, keeps it and releases
// it, has the two files. It writes nothing.
//
// # Why a read is right
//
// Before the kernel lets a write reach the disk, the chunk's old content is in
// the store, and the entry that says so is written too (dm-snap.c,
// dm-snap-persistent.c: commit_exception before the origin's bios go on). So
// ReadAt reads the disk first and the table second: what it read is either old,
// or the table already says where the old content is.
//
// A reader beside a writer may see half an entry. The entry is then of a write
// that has not begun, so that it is not needed, but it may lead to the wrong
// place. Check compares every entry that was used with the table as it is at the
// end, and so does it see a store that had become invalid. What was read is only
// right when Check has said so, and the guest that its snapshot was still good:
// a store that takes no writes cannot be marked either.
package image

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Image is a disk as it was. Its methods may be called from several goroutines.
type Image struct {
	data  io.ReaderAt
	store io.ReaderAt // nil: nothing changes the disk
	size  int64
	chunk int64 // bytes

	mu    sync.Mutex
	table table
	used  map[uint64]uint64 // the entries that reads went by
}

// Open reads the head of the store, which a snapshot that is held has. A nil
// scratch is for a disk that nothing writes to. size is the disk's at the
// instant, in bytes. An error is of the store's content, or of reading it.
func Open(data, scratch io.ReaderAt, size int64) (*Image, error) {
	if size < 0 {
		return nil, fmt.Errorf("disk image: a size of %d bytes", size)
	}
	i := &Image{data: data, size: size, used: map[uint64]uint64{}}
	if scratch == nil {
		return i, nil
	}
	chunk, err := readHeader(scratch)
	if err != nil {
		return nil, err
	}
	i.store, i.chunk, i.table = scratch, chunk, newTable(chunk, size)
	return i, nil
}

// Size is the disk's at the instant, in bytes.
func (i *Image) Size() int64 { return i.size }

// ReadAt reads the disk as it was at the instant. Past Size it is io.EOF.
func (i *Image) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("disk image: a negative offset")
	}
	if off >= i.size {
		return 0, io.EOF
	}
	whole := len(p)
	p = p[:min(int64(whole), i.size-off)]
	if err := readFull(i.data, p, off); err != nil {
		return 0, fmt.Errorf("disk image: %w", err)
	}
	if i.store != nil {
		if err := i.overlay(p, off); err != nil {
			return 0, err
		}
	}
	if len(p) < whole {
		return len(p), io.EOF
	}
	return len(p), nil
}

// overlay puts the old content over what was just read.
func (i *Image) overlay(p []byte, off int64) error {
	type piece struct {
		to   []byte
		from int64
	}
	var pieces []piece
	i.mu.Lock()
	err := i.table.refresh(i.store)
	if err == nil {
		for at := off; at < off+int64(len(p)); {
			old := uint64(at / i.chunk)
			end := min((at/i.chunk+1)*i.chunk, off+int64(len(p)))
			if where, ok := i.table.chunks[old]; ok {
				i.used[old] = where
				pieces = append(pieces, piece{p[at-off : end-off], int64(where)*i.chunk + at%i.chunk})
			}
			at = end
		}
	}
	i.mu.Unlock()
	if err != nil {
		return err
	}
	for _, v := range pieces {
		if err := readFull(i.store, v.to, v.from); err != nil {
			return fmt.Errorf("snapshot store: the old content at byte %d: %w", v.from, err)
		}
	}
	return nil
}

// Check reads the whole table anew. An error means that what was read is not
// the disk as it was: read it again, from another snapshot. Beside it ask the
// guest whether the snapshot is still good, before it is released.
func (i *Image) Check() error {
	if i.store == nil {
		return nil
	}
	chunk, err := readHeader(i.store)
	if err != nil {
		return err
	}
	if chunk != i.chunk {
		return fmt.Errorf("snapshot store: its chunks had %d bytes and have %d now: it is another snapshot's", i.chunk, chunk)
	}
	end := newTable(chunk, i.size)
	if err := end.refresh(i.store); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for old, where := range i.used {
		if end.chunks[old] != where {
			return fmt.Errorf("snapshot store: chunk %d was read from %d, and the table says %d now", old, where, end.chunks[old])
		}
	}
	return nil
}

// Changed is how many chunks of the disk were written since the instant, and
// the size of each in bytes; 0, 0 where nothing writes.
func (i *Image) Changed() (chunks int, size int64, err error) {
	if i.store == nil {
		return 0, 0, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	err = i.table.refresh(i.store)
	return len(i.table.chunks), i.chunk, err
}

// readFull reads all of p; a file that ends before is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}
