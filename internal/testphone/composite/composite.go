// Package composite is crosvm's composite disk for the test phone: a disk whose
// bytes are those of several files, as Android's service makes one of the
// partitions that it is given (external/crosvm/disk/src/composite.rs, gpt.rs). It
// is written, read, and served to QEMU by NBD, which knows no such format.
package composite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Magic is what the file begins with.
const Magic = "composite_disk\x1d"

const (
	sector    = 512
	beginning = 40 * sector // the protective MBR, the header, 128 entries, and up to 4 KiB
	ending    = 33 * sector // the entries and the header once more
	align     = 4096
	entries   = 128
)

// A Component is a part of the disk: a file, at an offset of the disk.
type Component struct {
	Path     string
	Offset   uint64
	Writable bool
}

// A Disk is what the file says.
type Disk struct {
	Components []Component
	Length     uint64
}

// A Partition is one that a disk is made of.
type Partition struct {
	Label    string
	Path     string
	Writable bool
	Size     uint64 // bytes
}

// Make lays a disk out: its description, and the content of two files of its own,
// of which it names the paths.
func Make(parts []Partition, headerPath, footerPath string) (d Disk, header, footer []byte, err error) {
	table := make([]byte, entries*128)
	at := uint64(beginning)
	d.Components = []Component{{Path: headerPath}}
	for n, p := range parts {
		if p.Size == 0 || p.Writable && p.Size%align != 0 || p.Size%sector != 0 {
			return d, nil, nil, fmt.Errorf("partition %q: a size of %d bytes is not a multiple of 4096", p.Label, p.Size)
		}
		e := table[n*128:]
		// A Linux file system's (0FC63DAF-8483-4772-8E79-3D69D8477DE4).
		copy(e, []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4})
		copy(e[16:], fmt.Sprintf("testphone-part%02d", n))
		binary.LittleEndian.PutUint64(e[32:], at/sector)
		binary.LittleEndian.PutUint64(e[40:], (at+p.Size)/sector-1)
		name := utf16.Encode([]rune(p.Label))
		if len(name) > 36 {
			return d, nil, nil, fmt.Errorf("partition %q: its label is longer than 36", p.Label)
		}
		for i, c := range name {
			binary.LittleEndian.PutUint16(e[56+2*i:], c)
		}
		d.Components = append(d.Components, Component{p.Path, at, p.Writable})
		at = (at + p.Size + align - 1) / align * align
	}
	d.Components = append(d.Components, Component{Path: footerPath, Offset: at})
	d.Length = at + ending
	last := d.Length/sector - 1
	gpt := func(own, other, table0 uint64) []byte {
		h := make([]byte, sector)
		copy(h, "EFI PART\x00\x00\x01\x00")
		binary.LittleEndian.PutUint32(h[12:], 92)
		binary.LittleEndian.PutUint64(h[24:], own)
		binary.LittleEndian.PutUint64(h[32:], other)
		binary.LittleEndian.PutUint64(h[40:], beginning/sector)
		binary.LittleEndian.PutUint64(h[48:], at/sector-1)
		copy(h[56:], "testphone-disk01")
		binary.LittleEndian.PutUint64(h[72:], table0)
		binary.LittleEndian.PutUint32(h[80:], entries)
		binary.LittleEndian.PutUint32(h[84:], 128)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	header = make([]byte, beginning)
	mbr := header[446:]
	mbr[4] = 0xee
	binary.LittleEndian.PutUint32(mbr[8:], 1)
	binary.LittleEndian.PutUint32(mbr[12:], uint32(min(last, 0xffffffff)))
	header[510], header[511] = 0x55, 0xaa
	copy(header[sector:], gpt(1, last, 2))
	copy(header[2*sector:], table)
	footer = append(bytes.Clone(table), gpt(last, 1, at/sector)...)
	return d, header, footer, nil
}

// Marshal is the file (protos/cdisk_spec.proto).
func (d Disk) Marshal() []byte {
	b := binary.AppendUvarint([]byte(Magic), 1<<3)
	b = binary.AppendUvarint(b, 2) // the version
	for _, c := range d.Components {
		m := append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(c.Path))), c.Path...)
		m = binary.AppendUvarint(append(m, 2<<3), c.Offset)
		if c.Writable {
			m = append(m, 3<<3, 1)
		}
		b = append(binary.AppendUvarint(append(b, 2<<3|2), uint64(len(m))), m...)
	}
	return binary.AppendUvarint(append(b, 3<<3), d.Length)
}

// maxFile bounds a file, in bytes.
const maxFile = 64 << 10

// Read reads it.
func Read(r io.Reader) (d Disk, err error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return d, err
	}
	rest, ok := bytes.CutPrefix(text, []byte(Magic))
	if !ok {
		return d, errors.New("no composite disk")
	}
	err = fields(rest, func(field int, n uint64, value []byte) error {
		switch field {
		case 1:
			if n < 1 || n > 2 {
				return fmt.Errorf("version %d", n)
			}
		case 2:
			var c Component
			err := fields(value, func(field int, n uint64, value []byte) error {
				switch field {
				case 1:
					c.Path = string(value)
				case 2:
					c.Offset = n
				case 3:
					c.Writable = n == 1
				}
				return nil
			})
			d.Components = append(d.Components, c)
			return err
		case 3:
			d.Length = n
		}
		return nil
	})
	if err == nil && (d.Length == 0 || len(d.Components) == 0) {
		err = errors.New("a composite disk of nothing")
	}
	return d, err
}

// fields reads a message of protobuf, with the two kinds of values that there are.
func fields(b []byte, each func(field int, n uint64, value []byte) error) error {
	for len(b) > 0 {
		key, k := binary.Uvarint(b)
		if k <= 0 {
			return errors.New("a field without a number")
		}
		n, l := binary.Uvarint(b[k:])
		if l <= 0 {
			return errors.New("a field without a value")
		}
		b = b[k+l:]
		var value []byte
		switch key & 7 {
		case 0:
		case 2:
			if n > uint64(len(b)) {
				return errors.New("a field that is longer than the file")
			}
			value, b = b[:n], b[n:]
		default:
			return fmt.Errorf("a field of kind %d", key&7)
		}
		if err := each(int(key>>3), n, value); err != nil {
			return err
		}
	}
	return nil
}
