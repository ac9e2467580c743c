// Package blocks moves file contents to the blocks of an image: contents come
// in as a stream of the host, runs of blocks that are not zeros go out, in
// pieces large enough for a disk. It holds at most two pieces in memory and
// knows no format.
package blocks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const (
	// Size of a block, bytes.
	Size = 4096
	// Chunk is how much is read and written at once, bytes.
	Chunk = 1 << 20
	// direct is what is not worth copying to save a write.
	direct = 128 << 10
)

// Reader reads contents. The zero value is ready; it is for one goroutine.
type Reader struct{ buf []byte }

// Read calls put for each run of blocks of a regular file that are not zeros,
// in ascending order, with the number of the first one in the file. The last
// block is filled with zeros; data is valid during the call and at most Chunk
// long. Holes that the contents know of are not read. Contents that are not
// exactly as long as the entry says are an error.
func (r *Reader) Read(ctx context.Context, e rootfs.Entry, put func(block uint64, data []byte) error) (err error) {
	if e.Size == 0 && e.Content == nil {
		return nil
	}
	if r.buf == nil {
		r.buf = make([]byte, Chunk+Size)
	}
	in, err := e.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	var holes holeFinder
	if h, ok := in.(rootfs.Holes); ok && e.Size > Chunk {
		if seek, ok := in.(io.Seeker); ok {
			holes = holeFinder{h: h, seek: seek}
		}
	}
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		next, end, err := holes.data(off, e.Size)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		off = next
		// One byte more than there should be shows a file that grew.
		want := min(Chunk, end-off)
		if off+want == e.Size {
			want++
		}
		n, err := io.ReadFull(in, r.buf[:want])
		if off+int64(n) > e.Size || (err != nil && off+int64(n) < min(e.Size, off+want)) {
			if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
				err = fmt.Errorf("contents are not the %d bytes the entry has; the file changed while it was read", e.Size)
			}
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		whole := (n + Size - 1) / Size * Size
		clear(r.buf[n:whole])
		if err := Runs(uint64(off/Size), r.buf[:whole], put); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if off += int64(n); off == e.Size {
			return nil
		}
	}
}

// Runs splits whole blocks into runs without zeros.
func Runs(block uint64, data []byte, put func(uint64, []byte) error) error {
	for len(data) > 0 {
		n := 0
		for n < len(data) && !isZero(data[n:n+Size]) {
			n += Size
		}
		if n > 0 {
			if err := put(block, data[:n]); err != nil {
				return err
			}
		} else {
			n = Size
		}
		block, data = block+uint64(n/Size), data[n:]
	}
	return nil
}

// isZero compares a block with itself shifted by one byte.
func isZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// holeFinder skips the holes of contents that know them. What it skips would
// read as zeros.
type holeFinder struct {
	h    rootfs.Holes
	seek io.Seeker
	upTo int64 // data known from the last offset asked for
}

// data returns where the next data is at or after off, rounded down to a
// block, and where it ends, rounded up; the contents' offset is then there.
// Both are size where there is none.
func (h *holeFinder) data(off, size int64) (start, end int64, err error) {
	if h.h == nil {
		return off, size, nil
	}
	if off < h.upTo {
		return off, h.upTo, nil
	}
	start, end, err = h.h.NextData(off)
	if err != nil {
		return 0, 0, err
	}
	start = max(off, min(start, size)/Size*Size)
	if h.upTo = min((end+Size-1)/Size*Size, size); h.upTo <= start {
		h.upTo = size // the contents are shorter than they were
	}
	_, err = h.seek.Seek(start, io.SeekStart)
	return start, h.upTo, err
}

// Writer collects blocks that follow each other in the image into one write.
type Writer struct {
	W     io.WriterAt
	buf   []byte
	start uint64 // block of buf's first byte
}

// Put writes whole blocks, at most Chunk bytes. They are in the image after
// the next Flush.
func (w *Writer) Put(block uint64, data []byte) error {
	if len(w.buf) > 0 && (len(data) >= direct || w.start+uint64(len(w.buf)/Size) != block || len(w.buf)+len(data) > Chunk) {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(w.buf) == 0 && len(data) >= direct {
		_, err := w.W.WriteAt(data, int64(block)*Size)
		return err
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, Chunk)
	}
	if len(w.buf) == 0 {
		w.start = block
	}
	w.buf = append(w.buf, data...)
	return nil
}

// Flush writes what has been collected.
func (w *Writer) Flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.W.WriteAt(w.buf, int64(w.start)*Size)
	w.buf = w.buf[:0]
	return err
}
