package disk

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Read reads the partition table of a disk image. The contents of the
// partitions are sections of f, which stays open as long as they are used. A
// file without a sound table is of class fault.Usage.
func Read(f *os.File) (Disk, error) {
	info, err := f.Stat()
	if err != nil {
		return Disk{}, fault.Wrap(fault.Environment, err)
	}
	d, err := read(f, info.Size())
	if err != nil {
		return Disk{}, fault.Errorf(fault.Usage, "%s is not a GPT disk image: %w", f.Name(), err)
	}
	return d, nil
}

// header is the beginning of the table's header in memory.
type header struct {
	Signature  [8]byte
	_          [64]byte
	ArrayAt    uint64 // sector
	Entries    uint32
	EntryBytes uint32
}

const entrySize = 128

// checkHeader bounds what gpt.Read takes from a header as it stands there.
func checkHeader(r io.ReaderAt, sector, sectors int64) error {
	var h header
	if err := binary.Read(io.NewSectionReader(r, sector*SectorSize, SectorSize), binary.LittleEndian, &h); err != nil {
		return err
	}
	if string(h.Signature[:]) != "EFI PART" {
		return nil // gpt.Read says so, or does without
	}
	if h.EntryBytes != entrySize || h.Entries > maxPartitions || h.ArrayAt >= uint64(sectors) {
		return fmt.Errorf("a table of %d entries of %d bytes at sector %d, not of up to %d entries of %d bytes within the image", h.Entries, h.EntryBytes, h.ArrayAt, maxPartitions, entrySize)
	}
	return nil
}

func read(f *os.File, size int64) (Disk, error) {
	sectors := size / SectorSize
	if sectors < 2*tableSectors {
		return Disk{}, fmt.Errorf("%d bytes are too few", size)
	}
	for _, sector := range []int64{1, sectors - 1} {
		if err := checkHeader(f, sector, sectors); err != nil {
			return Disk{}, err
		}
	}
	t, err := gpt.Read(f, SectorSize, SectorSize)
	if err != nil {
		return Disk{}, err
	}
	var d Disk
	if d.GUID, err = ParseGUID(t.GUID); err != nil {
		return Disk{}, err
	}
	for _, e := range t.Partitions {
		if e.Type == gpt.Unused {
			continue
		}
		if e.Start > e.End || e.End >= uint64(sectors) {
			return Disk{}, fmt.Errorf("partition %d, sectors %d to %d, is not within the image of %d", e.Index, e.Start, e.End, sectors)
		}
		p := Partition{Label: e.Name, Attributes: e.Attributes, Size: int64(e.End-e.Start+1) * SectorSize}
		if p.Type, err = ParseGUID(string(e.Type)); err != nil {
			return Disk{}, fmt.Errorf("partition %d: type: %w", e.Index, err)
		}
		if p.GUID, err = ParseGUID(e.GUID); err != nil {
			return Disk{}, fmt.Errorf("partition %d: %w", e.Index, err)
		}
		p.Content = io.NewSectionReader(f, int64(e.Start)*SectorSize, p.Size)
		d.Partitions = append(d.Partitions, p)
	}
	return d, nil
}
