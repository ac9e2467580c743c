// Package sparse reads and writes files with holes: runs of zeros that take no
// space.
//
// A reader comes in and its bytes go out, less those that are zero. Where the
// input is a file, its holes are not even read. The package never makes a file
// of its own.
package sparse

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// Block is the unit of holes that are written, bytes: a page, which is a block
// of most file systems.
const Block = 4096

// Extent is a run of bytes that may hold data.
type Extent struct {
	Offset, Size int64
}

// Extents gives the runs of the first size bytes of r that are not holes, in
// order. They begin and end at multiples of Block, or at size. It knows the
// holes of an *os.File, also below an *io.SectionReader; any other reader is
// one run.
func Extents(r io.ReaderAt, size int64) iter.Seq2[Extent, error] {
	f, base := fileOf(r)
	if f == nil {
		return func(yield func(Extent, error) bool) {
			if size > 0 {
				yield(Extent{0, size}, nil)
			}
		}
	}
	return func(yield func(Extent, error) bool) {
		more := true
		err := walk(int(f.Fd()), base, size, func(e Extent) bool {
			more = yield(e, nil)
			return more
		})
		if err != nil && more {
			yield(Extent{}, &os.PathError{Op: "seek", Path: f.Name(), Err: err})
		}
	}
}

// walk asks the kernel for the data in size bytes of a file from base on, and
// leaves the file's position where it was.
func walk(fd int, base, size int64, yield func(Extent) bool) (err error) {
	was, err := unix.Seek(fd, 0, io.SeekCurrent)
	if err != nil {
		return err
	}
	defer func() {
		_, back := unix.Seek(fd, was, io.SeekStart)
		err = errors.Join(err, back)
	}()
	end, done := base+size, int64(0)
	for at := base; at < end; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		hole := end
		switch {
		case errors.Is(err, unix.ENXIO):
			return nil // a hole up to the end
		case errors.Is(err, unix.EINVAL):
			data = at // the file system knows no holes
		case err != nil:
			return err
		default:
			if hole, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		if data >= end {
			return nil
		}
		at = min(hole, end)
		from := max(done, (data-base)/Block*Block)
		done = min(size, (at-base+Block-1)/Block*Block)
		if from < done && !yield(Extent{from, done - from}) {
			return nil
		}
	}
	return nil
}

// fileOf finds the file that r reads from, and where r begins in it.
func fileOf(r io.ReaderAt) (*os.File, int64) {
	var base int64
	for {
		switch v := r.(type) {
		case *os.File:
			return v, base
		case *io.SectionReader:
			outer, off, _ := v.Outer()
			base, r = base+off, outer
		default:
			return nil, 0
		}
	}
}

// Copy copies size bytes of r, from where it stands, to w from offset 0 on. It
// leaves out blocks of zeros, so w must read as zeros where nothing is written.
// The result is the number of bytes read or skipped: less than size when r ends
// before.
func Copy(ctx context.Context, w io.WriterAt, r io.Reader, size int64) (int64, error) {
	out := &writer{ctx: ctx, w: w}
	buf := make([]byte, 1<<20)
	at, ok := r.(interface {
		io.ReaderAt
		io.Seeker
	})
	if !ok {
		_, err := io.CopyBuffer(out, io.LimitReader(r, size), buf)
		return out.off, err
	}
	start, err := at.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	end, err := at.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	size = min(size, max(0, end-start))
	section := io.NewSectionReader(at, start, size)
	for e, err := range Extents(section, size) {
		if err != nil {
			return out.off, err
		}
		out.off = e.Offset
		// Without WriteTo, so that buf is used.
		if _, err := io.CopyBuffer(out, struct{ io.Reader }{io.NewSectionReader(section, e.Offset, e.Size)}, buf); err != nil {
			return out.off, err
		}
	}
	if _, err := at.Seek(start+size, io.SeekStart); err != nil {
		return out.off, err
	}
	return size, ctx.Err()
}

// writer leaves out blocks of zeros.
type writer struct {
	ctx context.Context
	w   io.WriterAt
	off int64
}

func (w *writer) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	done := 0
	for done < len(b) {
		// A run of blocks that are all zero, or all not.
		end, zero := done, false
		for end < len(b) {
			next := min(end+Block, len(b))
			z := IsZero(b[end:next])
			if end == done {
				zero = z
			} else if z != zero {
				break
			}
			end = next
		}
		if !zero {
			if _, err := w.w.WriteAt(b[done:end], w.off); err != nil {
				return done, err
			}
		}
		w.off += int64(end - done)
		done = end
	}
	return done, nil
}

// IsZero says whether all bytes are zero.
func IsZero(b []byte) bool {
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
