package fat

import "encoding/binary"

const (
	// FAT32 has three boot sectors, and a copy of them from backupSector on.
	infoSector   = 1
	backupSector = 6
	bootSectors  = 3

	// media is a fixed disk.
	media = 0xf8
)

// boot is the boot sector, and on FAT32 the two that follow it.
func (i *Image) boot(serial uint32) []byte {
	le := binary.LittleEndian
	b := make([]byte, SectorSize)
	copy(b[3:], "MSWIN4.1") // what the specification recommends
	le.PutUint16(b[11:], SectorSize)
	b[13] = byte(i.cluster)
	le.PutUint16(b[14:], uint16(i.reserved))
	b[16] = fats
	b[21] = media
	// Heads and sectors of a disk that BIOS addresses by number.
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	if i.kind == FAT16 && i.total < 1<<16 {
		le.PutUint16(b[19:], uint16(i.total))
	} else {
		le.PutUint32(b[32:], uint32(i.total))
	}
	rest, name := 36, "FAT16   "
	if i.kind == FAT16 {
		le.PutUint16(b[17:], rootEntries)
		le.PutUint16(b[22:], uint16(i.fat))
	} else {
		rest, name = 64, "FAT32   "
		le.PutUint32(b[36:], uint32(i.fat))
		le.PutUint32(b[44:], uint32(i.root.first))
		le.PutUint16(b[48:], infoSector)
		le.PutUint16(b[50:], backupSector)
	}
	b[rest] = 0x80   // BIOS's number of the first fixed disk
	b[rest+2] = 0x29 // the three fields that follow are there
	le.PutUint32(b[rest+3:], serial)
	copy(b[rest+7:], i.label[:])
	copy(b[rest+18:], name)
	// A jump over the fields, to an endless loop: there is nothing to boot.
	code := rest + 26
	copy(b, []byte{0xeb, byte(code - 2), 0x90})
	copy(b[code:], []byte{0xf4, 0xeb, 0xfd})
	b[510], b[511] = 0x55, 0xaa
	if i.kind == FAT16 {
		return b
	}

	b = append(b, make([]byte, (bootSectors-1)*SectorSize)...)
	info := b[infoSector*SectorSize:]
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], uint32(i.clusters-i.used))
	le.PutUint32(info[492:], uint32(min(2+i.used, 1+i.clusters))) // where to look for a free one
	info[510], info[511] = 0x55, 0xaa
	third := b[2*SectorSize:]
	third[510], third[511] = 0x55, 0xaa
	return b
}
