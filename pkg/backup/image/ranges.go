package image

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// A Range is a piece of a disk, in bytes.
type Range struct{ Offset, Length int64 }

// maxRanges bounds what a file's holes are asked for: beyond it the rest of the
// image is one range. A range has 16 bytes.
const maxRanges = 1 << 20

// Ranges are the pieces of the disk that may hold something, in order and
// apart; all else was zero at the instant. It asks the file system for the holes
// of the image (SEEK_DATA, SEEK_HOLE), where the image is an *os.File or has its
// Fd; of another, or where the file system does not know, all is one range.
//
// Whatever the machine writes afterwards into a hole was zero at the instant,
// and what it discards the store has: so Ranges is right for as long as the
// snapshot is.
func (i *Image) Ranges() ([]Range, error) {
	list, err := allocated(i.data, i.size)
	if err != nil || i.store == nil {
		return list, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.table.refresh(i.store); err != nil {
		return nil, err
	}
	for old := range i.table.chunks {
		at := int64(old) * i.chunk
		list = append(list, Range{at, min(i.chunk, i.size-at)})
	}
	return joined(list), nil
}

// joined sorts ranges and makes one of those that touch.
func joined(list []Range) []Range {
	slices.SortFunc(list, func(a, b Range) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		}
		return 0
	})
	var out []Range
	for _, r := range list {
		if n := len(out); n > 0 && r.Offset <= out[n-1].Offset+out[n-1].Length {
			out[n-1].Length = max(out[n-1].Length, r.Offset+r.Length-out[n-1].Offset)
			continue
		}
		out = append(out, r)
	}
	return out
}

// allocated asks where a file has no holes, up to size.
func allocated(data io.ReaderAt, size int64) ([]Range, error) {
	f, ok := data.(interface{ Fd() uintptr })
	if size == 0 {
		return nil, nil
	}
	if !ok {
		return []Range{{0, size}}, nil
	}
	var list []Range
	for at := int64(0); at < size; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return list, nil // nothing but holes from here
		case errors.Is(err, unix.EINVAL) && at == 0 || len(list) == maxRanges:
			return append(list, Range{at, size - at}), nil
		case err != nil:
			return nil, fmt.Errorf("disk image: the next data after byte %d: %w", at, err)
		case from >= size:
			return list, nil
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("disk image: the next hole after byte %d: %w", from, err)
		}
		to = min(to, size)
		list = append(list, Range{from, to - from})
		at = to
	}
	return list, nil
}
