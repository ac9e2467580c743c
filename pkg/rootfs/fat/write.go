package fat

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// Write writes the image to w, which reads as zeros where nothing has been
// written. Zeros at the end are not written: truncate a file to Size.
func (i *Image) Write(ctx context.Context, w io.WriterAt) error {
	sum := sha256.New()
	for _, n := range i.nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		fmt.Fprintf(sum, "%d %s %d\n", len(n.Path), n.Path, n.Size)
		if err := i.writeNode(w, n, sum); err != nil {
			return fmt.Errorf("fat: %w", err)
		}
	}
	serial := i.serial
	if serial == 0 {
		serial = binary.LittleEndian.Uint32(sum.Sum(nil))
	}
	table, boot := i.table(), i.boot(serial)
	writes := map[int64][]byte{0: boot, i.reserved: table, i.reserved + i.fat: table}
	if i.kind == FAT32 {
		writes[backupSector] = boot
	}
	for sector, b := range writes {
		if _, err := w.WriteAt(b, sector*SectorSize); err != nil {
			return fmt.Errorf("fat: %w", err)
		}
	}
	return nil
}

// writeNode writes the contents of a file or directory, and a file's to sum
// too.
func (i *Image) writeNode(w io.WriterAt, n *node, sum io.Writer) error {
	at := i.offset(n.first)
	if n == i.root && i.kind == FAT16 {
		at = (i.reserved + fats*i.fat) * SectorSize
	}
	switch {
	case n.IsDir():
		_, err := w.WriteAt(i.directory(n), at)
		return err
	case n.Size > 0:
		return n.CopyTo(io.MultiWriter(io.NewOffsetWriter(w, at), sum))
	}
	return nil
}

// table is one file allocation table, as far as it is used.
func (i *Image) table() []byte {
	width := int64(i.kind) / 8
	b := make([]byte, (i.used+2)*width)
	end := int64(0xffff)
	if i.kind == FAT32 {
		end = 0x0fffffff
	}
	put := func(cluster, value int64) {
		if i.kind == FAT32 {
			binary.LittleEndian.PutUint32(b[cluster*width:], uint32(value))
		} else {
			binary.LittleEndian.PutUint16(b[cluster*width:], uint16(value))
		}
	}
	put(0, end&^0xff|media)
	put(1, end) // its upper bits say: unmounted cleanly, no errors
	for _, n := range i.nodes {
		for c := range n.count {
			next := n.first + c + 1
			if c == n.count-1 {
				next = end
			}
			put(n.first+c, next)
		}
	}
	return b
}
