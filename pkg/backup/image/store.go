package image

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The persistent store of drivers/md/dm-snap-persistent.c: chunk 0 has the
// header, then areas follow, each of one chunk of entries and as many chunks of
// old content as that has entries. An entry is the number of a chunk of the disk
// and that of the chunk of the store which has its old content, 8 bytes each; 0
// for the latter is the end of the table. All numbers are little endian.
const (
	magic      = 0x70416e53 // SNAP_MAGIC, "SnAp"
	version    = 1          // SNAPSHOT_DISK_VERSION
	sector     = 512
	entrySize  = 16
	minChunk   = 4 << 10 // the kernel's least is a page
	maxChunk   = 1 << 20
	headerSize = 16
)

// readHeader reads the head of a store: the size of its chunks in bytes.
func readHeader(store io.ReaderAt) (chunk int64, err error) {
	var h [headerSize]byte
	if err := readFull(store, h[:], 0); err != nil {
		return 0, fmt.Errorf("snapshot store: %w", err)
	}
	le := binary.LittleEndian
	switch {
	case le.Uint32(h[0:]) != magic:
		return 0, fmt.Errorf("snapshot store: it holds no snapshot")
	case le.Uint32(h[8:]) != version:
		return 0, fmt.Errorf("snapshot store: version %d, want %d", le.Uint32(h[8:]), version)
	case le.Uint32(h[4:]) != 1:
		return 0, fmt.Errorf("snapshot store: the snapshot has become invalid: its store was full, or failed")
	}
	chunk = int64(le.Uint32(h[12:])) * sector
	if chunk < minChunk || chunk > maxChunk || chunk&(chunk-1) != 0 {
		return 0, fmt.Errorf("snapshot store: chunks of %d bytes: want a power of two from %d to %d", chunk, minChunk, maxChunk)
	}
	return chunk, nil
}

// table is what the store says of where old content is.
type table struct {
	chunks   map[uint64]uint64 // of the disk, to those of the store
	chunk    int64             // bytes
	perArea  uint64            // entries
	diskEnd  uint64            // in chunks
	position uint64            // of the entry that is next
	buf      []byte            // of an area
}

func newTable(chunk, size int64) table {
	return table{chunks: map[uint64]uint64{}, chunk: chunk, perArea: uint64(chunk / entrySize),
		diskEnd: uint64((size + chunk - 1) / chunk), buf: make([]byte, chunk)}
}

// refresh reads the entries that have come since. Their number is bounded by the
// chunks of the disk, each of which has one at most.
func (t *table) refresh(store io.ReaderAt) error {
	for {
		area, skip := t.position/t.perArea, t.position%t.perArea
		b := t.buf[skip*entrySize:]
		at := int64(1+area*(t.perArea+1))*t.chunk + int64(skip)*entrySize
		if err := readFull(store, b, at); err != nil {
			return fmt.Errorf("snapshot store: the table at byte %d: %w", at, err)
		}
		for ; len(b) > 0; b = b[entrySize:] {
			le := binary.LittleEndian
			old, where := le.Uint64(b), le.Uint64(b[8:])
			if where == 0 {
				return nil
			}
			if err := t.add(old, where); err != nil {
				return err
			}
		}
	}
}

// add takes the next entry.
func (t *table) add(old, where uint64) error {
	switch other, there := t.chunks[old]; {
	case old >= t.diskEnd:
		return fmt.Errorf("snapshot store: an entry for chunk %d, and the disk has %d", old, t.diskEnd)
	case (where-1)%(t.perArea+1) == 0 || where > 1<<47/uint64(t.chunk):
		return fmt.Errorf("snapshot store: chunk %d of the disk leads to chunk %d of the store, which has no content", old, where)
	case there && other != where:
		return fmt.Errorf("snapshot store: two entries for chunk %d", old)
	}
	t.chunks[old] = where
	t.position++
	return nil
}
