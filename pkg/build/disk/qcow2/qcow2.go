// Package qcow2 writes disk images in QEMU's format "qcow2", version 3.
//
// A raw image comes in; its clusters that hold data go out, the same bytes for
// the same image: clusters are in the order of the disk. Holes of a raw file
// are not read, and memory does not grow with the disk. The image has no
// backing file, no snapshots, no compression and no encryption. The package
// never reads the format.
//
// The format is that of docs/interop/qcow2.txt in QEMU's source.
package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sovereign-build/sovereign/pkg/build/disk/sparse"
)

const (
	clusterBits = 16 // QEMU's default: 64 KiB
	clusterSize = 1 << clusterBits
	// perTable is the number of clusters that one L2 table describes, and of
	// L2 tables in a cluster of the L1 table.
	perTable = clusterSize / 8
	// refcountBits are those of one reference count, 16; a cluster of counts
	// covers 32,768 clusters, 2 GiB.
	refcountOrder = 4
	perRefcounts  = clusterSize * 8 / (1 << refcountOrder)

	headerSize = 104
	// copied says that a cluster has one user, so that it may be written to.
	copied = 1 << 63

	// MaxSize is the largest disk, bytes: 64 TiB, of which the L1 table takes
	// 1 MiB.
	MaxSize = 64 << 40
	sector  = 512
)

// writer makes an image. Clusters are taken one after the other, and each has
// one user, so that the reference counts are known at the end.
type writer struct {
	w    io.WriterAt
	next int64 // cluster
	l1   []byte
	// l2 describes the clusters from table·perTable on; table is -1 before the
	// first.
	l2    []byte
	table int64
	dirty bool
}

// Write writes a disk of size bytes, a multiple of 512 up to MaxSize, to w,
// which is empty. It reads r from 0 to size.
func Write(ctx context.Context, w io.WriterAt, r io.ReaderAt, size int64) error {
	if size <= 0 || size%sector != 0 || size > MaxSize {
		return fmt.Errorf("qcow2: size %d is not a multiple of %d up to %d", size, sector, int64(MaxSize))
	}
	clusters := ceil(size, clusterSize)
	tables := ceil(clusters, perTable)
	q := &writer{w: w, table: -1, l1: make([]byte, ceil(tables*8, clusterSize)*clusterSize), l2: make([]byte, clusterSize)}
	q.next = 1 + int64(len(q.l1))/clusterSize // the header, the L1 table
	if err := q.data(ctx, r, size); err != nil {
		return fmt.Errorf("qcow2: %w", err)
	}
	if err := q.finish(size, tables); err != nil {
		return fmt.Errorf("qcow2: %w", err)
	}
	return nil
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }

// data writes the clusters that are not zero, with their tables.
func (q *writer) data(ctx context.Context, r io.ReaderAt, size int64) error {
	buf := make([]byte, clusterSize)
	done := int64(-1) // the last cluster read: two extents may share one
	for e, err := range sparse.Extents(r, size) {
		if err != nil {
			return err
		}
		for c := max(e.Offset/clusterSize, done+1); c < ceil(e.Offset+e.Size, clusterSize); c++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			done = c
			at := c * clusterSize
			n := min(clusterSize, size-at)
			clear(buf[n:])
			if _, err := io.ReadFull(io.NewSectionReader(r, at, n), buf[:n]); err != nil {
				return fmt.Errorf("at byte %d of the disk: %w", at, err)
			}
			if sparse.IsZero(buf) {
				continue
			}
			if err := q.cluster(c, buf); err != nil {
				return err
			}
		}
	}
	return q.flush()
}

// cluster writes one cluster of the disk.
func (q *writer) cluster(c int64, data []byte) error {
	if c/perTable != q.table {
		if err := q.flush(); err != nil {
			return err
		}
		q.table = c / perTable
	}
	at, err := q.put(data)
	binary.BigEndian.PutUint64(q.l2[c%perTable*8:], uint64(at)|copied)
	q.dirty = true
	return err
}

// flush writes the L2 table, if anything is in it.
func (q *writer) flush() error {
	if !q.dirty {
		return nil
	}
	at, err := q.put(q.l2)
	binary.BigEndian.PutUint64(q.l1[q.table*8:], uint64(at)|copied)
	clear(q.l2)
	q.dirty = false
	return err
}

// put writes a cluster to the next free place of the file.
func (q *writer) put(data []byte) (int64, error) {
	at := q.next * clusterSize
	q.next++
	_, err := q.w.WriteAt(data, at)
	return at, err
}

// finish writes the reference counts, their table, the L1 table, and the
// header last.
func (q *writer) finish(size, tables int64) error {
	be := binary.BigEndian
	// The counts and their table have to count themselves.
	blocks, tableClusters := int64(1), int64(1)
	for {
		total := q.next + blocks + tableClusters
		b := ceil(total, perRefcounts)
		t := ceil(b*8, clusterSize)
		if b == blocks && t == tableClusters {
			break
		}
		blocks, tableClusters = b, t
	}
	total := q.next + blocks + tableClusters
	table := make([]byte, tableClusters*clusterSize)
	tableAt := q.next * clusterSize
	q.next += tableClusters
	for i := range blocks {
		counts := make([]byte, clusterSize)
		for c := range min(perRefcounts, total-i*perRefcounts) {
			be.PutUint16(counts[c*2:], 1)
		}
		at, err := q.put(counts)
		if err != nil {
			return err
		}
		be.PutUint64(table[i*8:], uint64(at))
	}
	if _, err := q.w.WriteAt(table, tableAt); err != nil {
		return err
	}
	if _, err := q.w.WriteAt(q.l1, clusterSize); err != nil {
		return err
	}
	h := make([]byte, clusterSize)
	copy(h, "QFI\xfb")
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], clusterBits)
	be.PutUint64(h[24:], uint64(size))
	be.PutUint32(h[36:], uint32(tables))
	be.PutUint64(h[40:], clusterSize) // L1 table
	be.PutUint64(h[48:], uint64(tableAt))
	be.PutUint32(h[56:], uint32(tableClusters))
	be.PutUint32(h[96:], refcountOrder)
	be.PutUint32(h[100:], headerSize) // then the end of its extensions: zeros
	_, err := q.w.WriteAt(h, 0)
	return err
}
