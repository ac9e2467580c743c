// Package disk writes disk images with a GPT partition table.
//
// Partitions with their contents come in; one sparse file goes out, the same
// bytes for the same input: every GUID is the caller's. Nothing is mounted or
// formatted, and contents are streamed.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/build/disk/sparse"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// SectorSize is the logical sector, bytes.
	SectorSize = 512
	// Alignment of partitions, bytes.
	Alignment = 1 << 20
	// maxLabel is the longest label, UTF-16 units.
	maxLabel = 36
	// maxPartitions is the number of entries in the table.
	maxPartitions = 128
	// maxSize of a disk, bytes: far more than files can have.
	maxSize = 1 << 60
	// tableSectors are what the backup table and its header take at the end.
	tableSectors = 33
)

// Partition is one partition with its contents.
type Partition struct {
	Label string // up to 36 characters, ASCII
	Type  GUID
	GUID  GUID
	// Attributes are bits of the GPT: ReadOnly, GrowFS, NoAuto.
	Attributes uint64
	// Content gives Size bytes; what is left of the last MiB stays a hole. nil
	// is a partition of zeros, all of it a hole. The holes of a file are not
	// read.
	Content io.Reader
	Size    int64
}

// Attributes of the Discoverable Partitions Specification.
const (
	GrowFS   = 1 << 59 // grow the file system to the partition at the first mount
	ReadOnly = 1 << 60 // mount it read-only
	NoAuto   = 1 << 63 // do not mount it unless told
)

// Disk is an image to write.
type Disk struct {
	GUID       GUID
	Partitions []Partition
}

// Layout says where a partition is in the image, bytes.
type Layout struct {
	Start, Size int64
}

// Write writes the image to path, whole or not at all, and returns where the
// partitions are.
func Write(ctx context.Context, path string, d Disk) (layout []Layout, err error) {
	err = atomicfile.Fill(path, 0o644, func(f *os.File) error {
		layout, err = WriteFile(ctx, f, d)
		return err
	})
	return layout, err
}

// WriteFile writes the image to an empty file, and returns where the
// partitions are. A disk that cannot be is of class fault.Usage.
func WriteFile(ctx context.Context, f *os.File, d Disk) ([]Layout, error) {
	table, layout, size, err := d.plan()
	if err != nil {
		return nil, fault.Wrap(fault.Usage, fmt.Errorf("disk: %w", err))
	}
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	for i, p := range d.Partitions {
		if p.Content == nil {
			continue
		}
		n, err := sparse.Copy(ctx, io.NewOffsetWriter(f, layout[i].Start), p.Content, p.Size)
		if err != nil {
			return nil, fmt.Errorf("partition %s: %w", p.Label, err)
		}
		if n != p.Size {
			return nil, fmt.Errorf("partition %s: contents end after %d of %d bytes", p.Label, n, p.Size)
		}
	}
	return layout, table.Write(f, size)
}

// plan checks the disk and lays it out: partitions one after the other, each
// at a multiple of Alignment.
func (d Disk) plan() (*gpt.Table, []Layout, int64, error) {
	if len(d.Partitions) > maxPartitions {
		return nil, nil, 0, fmt.Errorf("%d partitions, more than %d", len(d.Partitions), maxPartitions)
	}
	if d.GUID == (GUID{}) {
		return nil, nil, 0, errors.New("no disk GUID")
	}
	t := &gpt.Table{LogicalSectorSize: SectorSize, PhysicalSectorSize: SectorSize, ProtectiveMBR: true, GUID: d.GUID.String()}
	seen := map[GUID]string{d.GUID: "the disk"}
	var layout []Layout
	at := int64(Alignment)
	for i, p := range d.Partitions {
		if p.Label == "" || len(p.Label) > maxLabel || strings.ContainsFunc(p.Label, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, nil, 0, fmt.Errorf("partition %d: label %q is not 1 to %d ASCII characters", i+1, p.Label, maxLabel)
		}
		if p.Size <= 0 || p.Size > maxSize-at {
			return nil, nil, 0, fmt.Errorf("partition %s: size %d is not 1 to %d bytes", p.Label, p.Size, maxSize-at)
		}
		if p.Type == (GUID{}) || p.GUID == (GUID{}) {
			return nil, nil, 0, fmt.Errorf("partition %s: a GUID is missing", p.Label)
		}
		if other, ok := seen[p.GUID]; ok {
			return nil, nil, 0, fmt.Errorf("partition %s has the GUID of %s, %v", p.Label, other, p.GUID)
		}
		seen[p.GUID] = "partition " + p.Label
		size := (p.Size + SectorSize - 1) / SectorSize * SectorSize
		layout = append(layout, Layout{at, size})
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: i + 1, Start: uint64(at / SectorSize), End: uint64((at+size)/SectorSize - 1), Size: uint64(size),
			Type: gpt.Type(p.Type.String()), GUID: p.GUID.String(), Name: p.Label, Attributes: p.Attributes,
		})
		at = (at + size + Alignment - 1) / Alignment * Alignment
	}
	size := at + tableSectors*SectorSize
	return t, layout, (size + Alignment - 1) / Alignment * Alignment, nil
}
