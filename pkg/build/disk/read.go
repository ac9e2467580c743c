package disk

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// Region is a partition of a disk that was read.
type Region struct {
	Label string
	Type  GUID
	GUID  GUID
	// Start and Size are in bytes; ReaderAt reads from Start on.
	Start, Size int64
	*io.SectionReader
}

// Read reads the partition table of a disk image. The partitions read from f
// as long as it is open.
func Read(f *os.File) ([]Region, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", f.Name(), err)
	}
	table, err := gpt.Read(f, SectorSize, SectorSize)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", f.Name(), err)
	}
	var regions []Region
	for _, p := range table.Partitions {
		if p.Start == 0 && p.End == 0 {
			continue // an unused entry
		}
		sectors := uint64(info.Size()) / SectorSize
		if p.End < p.Start || p.End >= sectors {
			return nil, fmt.Errorf("disk %s: partition %q has the sectors %d to %d of %d", f.Name(), p.Name, p.Start, p.End, sectors)
		}
		r := Region{Label: p.Name, Start: int64(p.Start) * SectorSize, Size: int64(p.End-p.Start+1) * SectorSize}
		if r.Type, err = ParseGUID(string(p.Type)); err != nil {
			return nil, fmt.Errorf("disk %s: partition %q: type: %w", f.Name(), p.Name, err)
		}
		if r.GUID, err = ParseGUID(p.GUID); err != nil {
			return nil, fmt.Errorf("disk %s: partition %q: %w", f.Name(), p.Name, err)
		}
		r.SectionReader = io.NewSectionReader(f, r.Start, r.Size)
		regions = append(regions, r)
	}
	return regions, nil
}

// Find returns the partition with a label; fs.ErrNotExist where none has it.
func Find(regions []Region, label string) (Region, error) {
	for _, r := range regions {
		if r.Label == label {
			return r, nil
		}
	}
	return Region{}, fmt.Errorf("partition %q: %w", label, fs.ErrNotExist)
}
