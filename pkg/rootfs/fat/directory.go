package fat

import (
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf16"
)

// Of a directory entry.
const (
	entrySize = 32
	// maxEntries is the specification's limit of a directory's size, 2 MiB.
	maxEntries = 65536

	attrVolume    = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLongName  = 0x0f

	lastSlot = 0x40
)

// slots is the number of directory entries a file takes.
func (n *node) slots() int {
	if n.exact {
		return 1
	}
	return 1 + (len(utf16.Encode([]rune(n.name)))+slotUnits-1)/slotUnits
}

// entries is the number of directory entries in a directory.
func (i *Image) entries(dir *node) int {
	count := 2 // "." and ".."
	if dir == i.root {
		count = 0
		if i.label != noLabel {
			count = 1
		}
	}
	for _, c := range dir.children {
		count += c.slots()
	}
	return count
}

// directory is the contents of a directory.
func (i *Image) directory(dir *node) []byte {
	b := make([]byte, 0, i.entries(dir)*entrySize)
	if dir == i.root {
		if i.label != noLabel {
			b = append(b, i.entry(i.label, attrVolume, 0, 0)...)
		}
	} else {
		parent := dir.parent.first
		if dir.parent == i.root {
			parent = 0 // also where FAT32's root has a cluster
		}
		b = append(b, i.entry(makeShort(".", ""), attrDirectory, dir.first, 0)...)
		b = append(b, i.entry(makeShort("..", ""), attrDirectory, parent, 0)...)
	}
	for _, c := range dir.children {
		if !c.exact {
			b = append(b, longName(c.name, c.short)...)
		}
		if c.IsDir() {
			b = append(b, i.entry(c.short, attrDirectory, c.first, 0)...)
		} else {
			b = append(b, i.entry(c.short, attrArchive, c.first, c.Size)...)
		}
	}
	return b
}

func (i *Image) entry(name short, attr byte, cluster, size int64) []byte {
	b := make([]byte, entrySize)
	copy(b, name[:])
	b[11] = attr
	b[13] = i.time.tenths
	le := binary.LittleEndian
	for _, at := range []int{14, 22} { // creation, last write
		le.PutUint16(b[at:], i.time.time)
		le.PutUint16(b[at+2:], i.time.date)
	}
	le.PutUint16(b[18:], i.time.date) // last access
	le.PutUint16(b[20:], uint16(cluster>>16))
	le.PutUint16(b[26:], uint16(cluster))
	le.PutUint32(b[28:], uint32(size))
	return b
}

// longName is the entries that stand before a short one, the last part first.
func longName(name string, s short) []byte {
	units := utf16.Encode([]rune(name))
	n := (len(units) + slotUnits - 1) / slotUnits
	if len(units)%slotUnits != 0 {
		units = append(units, 0)
	}
	for len(units) < n*slotUnits {
		units = append(units, 0xffff)
	}
	out := make([]byte, 0, n*entrySize)
	for slot := n; slot >= 1; slot-- {
		b := make([]byte, entrySize)
		b[0] = byte(slot)
		if slot == n {
			b[0] |= lastSlot
		}
		b[11], b[13] = attrLongName, s.checksum()
		for j, u := range units[(slot-1)*slotUnits : slot*slotUnits] {
			at := 1 + 2*j // five, six and two units, with other fields between
			switch {
			case j >= 11:
				at += 5
			case j >= 5:
				at += 3
			}
			binary.LittleEndian.PutUint16(b[at:], u)
		}
		out = append(out, b...)
	}
	return out
}

// dosTime is a time as a directory entry has it: two-second steps from 1980,
// and tenths for what lies between, in units of 10 ms.
type dosTime struct {
	date, time uint16
	tenths     byte
}

// The first and the last second that FAT can write, UTC.
const (
	firstTime = 315532800  // 1980-01-01 00:00:00
	lastTime  = 4354819199 // 2107-12-31 23:59:59
)

func newDOSTime(epoch int64) (dosTime, error) {
	if epoch > lastTime {
		return dosTime{}, fmt.Errorf("time %d is after 2107, the last year of FAT", epoch)
	}
	t := time.Unix(max(epoch, firstTime), 0).UTC()
	return dosTime{
		date:   uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day()),
		time:   uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2),
		tenths: byte(t.Second() % 2 * 100),
	}, nil
}
