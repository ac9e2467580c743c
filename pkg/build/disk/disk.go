// Package disk writes disk images with a GPT partition table.
//
// Partitions with their contents come in; one sparse file goes out, the same
// bytes for the same input: every GUID is the caller's. Nothing is mounted or
// formatted, and contents are streamed.
package disk

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A GUID is written as text the way sgdisk shows it: its bytes are in the
// order of that text, as in RFC 9562. The disk holds the first three fields
// with their bytes reversed.
type GUID [16]byte

// String is the GUID in upper case, 8-4-4-4-12.
func (g GUID) String() string {
	s := strings.ToUpper(hex.EncodeToString(g[:]))
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// ParseGUID reads 8-4-4-4-12 hex digits.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(g) || len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("%q is not a GUID", s)
	}
	return GUID(b), nil
}

// Types of the Discoverable Partitions Specification
// (uapi-group.org/specifications/specs/discoverable_partitions_specification)
// for a root file system and its dm-verity hashes.
const (
	RootAMD64       = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	RootAMD64Verity = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
	RootARM64       = "b921b045-1df0-41c3-af44-4c6f280d3fae"
	RootARM64Verity = "df3300ce-d69f-4c92-978c-9bfb0f38d820"
)

// RootTypes returns the types of the root and root-verity partitions for an
// architecture by Go's name, amd64 or arm64.
func RootTypes(goarch string) (root, verity GUID, err error) {
	types := map[string][2]string{"amd64": {RootAMD64, RootAMD64Verity}, "arm64": {RootARM64, RootARM64Verity}}[goarch]
	if root, err = ParseGUID(types[0]); err == nil {
		verity, err = ParseGUID(types[1])
	}
	if err != nil {
		return root, verity, fault.Errorf(fault.Usage, "no partition types for architecture %q", goarch).Hintf("use amd64 or arm64")
	}
	return root, verity, nil
}

const (
	// SectorSize is the logical sector, bytes.
	SectorSize = 512
	// Alignment of partitions, bytes.
	Alignment = 1 << 20
	// maxLabel is the longest label, UTF-16 units.
	maxLabel = 36
	// maxPartitions is the number of entries in the table.
	maxPartitions = 128
	// tableSectors are what the backup table and its header take at the end.
	tableSectors = 33
)

// Partition is one partition with its contents.
type Partition struct {
	Label string // up to 36 characters, ASCII
	Type  GUID
	GUID  GUID
	// Content gives Size bytes; what is left of the last MiB stays a hole.
	Content io.Reader
	Size    int64
}

// Disk is an image to write.
type Disk struct {
	GUID       GUID
	Partitions []Partition
}

// Layout says where a partition is in the image, bytes.
type Layout struct {
	Start, Size int64
}

// Write writes the image to path by a temporary file beside it, and returns
// where the partitions are. An error leaves nothing behind.
func Write(ctx context.Context, path string, d Disk) (_ []Layout, err error) {
	table, layout, size, err := d.plan()
	if err != nil {
		return nil, fault.Wrap(fault.Usage, fmt.Errorf("disk %s: %w", path, err))
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".disk-*")
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "disk: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := f.Truncate(size); err != nil {
		return nil, environment(path, err)
	}
	for i, p := range d.Partitions {
		out := &sparseWriter{ctx: ctx, f: f, off: layout[i].Start}
		n, err := io.CopyBuffer(out, io.LimitReader(p.Content, p.Size), make([]byte, 1<<20))
		if err != nil {
			return nil, environment(path, fmt.Errorf("partition %s: %w", p.Label, err))
		}
		if n != p.Size {
			return nil, fmt.Errorf("disk %s: partition %s: contents end after %d of %d bytes", path, p.Label, n, p.Size)
		}
	}
	if err := table.Write(f, size); err != nil {
		return nil, environment(path, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return nil, environment(path, err)
	}
	if err := f.Sync(); err != nil {
		return nil, environment(path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, environment(path, err)
	}
	return layout, f.Close()
}

// environment classes errors of the file system; cancellation stays itself.
func environment(path string, err error) error {
	err = fmt.Errorf("disk %s: %w", path, err)
	var file *os.PathError
	if errors.As(err, &file) {
		return fault.Errorf(fault.Environment, "%w", err).Hintf("check the space and rights in %s", filepath.Dir(path))
	}
	return err
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
		if p.Size <= 0 || p.Content == nil {
			return nil, nil, 0, fmt.Errorf("partition %s: no contents", p.Label)
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
			Type: gpt.Type(p.Type.String()), GUID: p.GUID.String(), Name: p.Label,
		})
		at = (at + size + Alignment - 1) / Alignment * Alignment
	}
	size := at + tableSectors*SectorSize
	return t, layout, (size + Alignment - 1) / Alignment * Alignment, nil
}

// sparseWriter leaves blocks of zeros as holes of the file.
type sparseWriter struct {
	ctx context.Context
	f   *os.File
	off int64
}

const hole = 4096

func (w *sparseWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	done := 0
	for done < len(b) {
		// A run of blocks that are all zero, or all not.
		end, zero := done, false
		for end < len(b) {
			next := min(end+hole, len(b))
			z := isZero(b[end:next])
			if end == done {
				zero = z
			} else if z != zero {
				break
			}
			end = next
		}
		if !zero {
			if _, err := w.f.WriteAt(b[done:end], w.off); err != nil {
				return done, err
			}
		}
		w.off += int64(end - done)
		done = end
	}
	return done, nil
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
