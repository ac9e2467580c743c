package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// chunk is how much is read and written at once, bytes.
const chunk = 1 << 20

// contents copies a file's contents to the disk, blocks of zeros left out.
func (w *writer) contents(x *extents, e rootfs.Entry) (err error) {
	if e.Size == 0 && e.Content == nil {
		return nil
	}
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	holes := holeFinder{}
	if f, ok := r.(*os.File); ok && e.Size > chunk {
		holes.f = f
	}
	for off := int64(0); ; {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		next, end, err := holes.data(off, e.Size)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		off = next
		// One byte more than there should be shows a file that grew.
		want := min(chunk, end-off)
		if off+want == e.Size {
			want++
		}
		n, err := io.ReadFull(r, w.scratch[:want])
		if off+int64(n) > e.Size || (err != nil && off+int64(n) < min(e.Size, off+want)) {
			if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
				err = fmt.Errorf("contents are not the %d bytes the entry has; the file changed while it was read", e.Size)
			}
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if n > 0 {
			whole := roundUp(n, BlockSize)
			clear(w.scratch[n:whole])
			if err := w.putData(x, uint64(off/BlockSize), w.scratch[:whole]); err != nil {
				return fmt.Errorf("%s: %w", e.Path, err)
			}
		}
		if off += int64(n); off == e.Size {
			return nil
		}
	}
}

// putData writes whole blocks of a file, each run of them that is not zeros at
// once.
func (w *writer) putData(x *extents, logical uint64, data []byte) error {
	for len(data) > 0 {
		n := 0
		for n < len(data) && !isZero(data[n:n+BlockSize]) {
			n += BlockSize
		}
		if n == 0 {
			logical, data = logical+1, data[BlockSize:]
			continue
		}
		for n > 0 {
			free := w.alloc.free()
			if free.n == 0 {
				return w.full()
			}
			part := min(n, int(min(free.n, chunk/BlockSize))*BlockSize)
			blocks := uint64(part / BlockSize)
			w.alloc.take(blocks)
			if err := w.out.put(free.start, data[:part]); err != nil {
				return err
			}
			if err := x.add(logical, free.start, blocks); err != nil {
				return err
			}
			logical, data, n = logical+blocks, data[part:], n-part
		}
	}
	return nil
}

// isZero compares a block with itself shifted by one byte.
func isZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// holeFinder skips the holes of a file of the host, so that they are not read.
// It changes nothing in the image: what it skips would read as zeros.
type holeFinder struct {
	f    *os.File
	upTo int64 // data known from the last offset asked for
}

// data returns where the next data is at or after off, rounded down to a
// block, and where it ends, rounded up; the file's offset is then there. Both
// are size where there is none.
func (h *holeFinder) data(off, size int64) (start, end int64, err error) {
	if h.f == nil {
		return off, size, nil
	}
	if off < h.upTo {
		return off, h.upTo, nil
	}
	fd := int(h.f.Fd())
	start, err = unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		start, end = size, size
	case err != nil:
		h.f = nil // this file system does not know
		return off, size, nil
	default:
		if end, err = unix.Seek(fd, start, unix.SEEK_HOLE); err != nil {
			return 0, 0, err
		}
	}
	start = min(start, size) / BlockSize * BlockSize
	h.upTo = min(roundUp(end, BlockSize), size)
	_, err = unix.Seek(fd, start, io.SeekStart)
	return start, h.upTo, err
}

// stream collects blocks that follow each other on the disk into one write.
type stream struct {
	w     io.WriterAt
	buf   []byte
	start uint64 // block of buf's first byte
}

func (s *stream) put(block uint64, data []byte) error {
	if len(s.buf) > 0 && (s.start+uint64(len(s.buf)/BlockSize) != block || len(s.buf)+len(data) > chunk) {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if len(data) == chunk {
		_, err := s.w.WriteAt(data, int64(block)*BlockSize)
		return err
	}
	if len(s.buf) == 0 {
		s.start = block
	}
	s.buf = append(s.buf, data...)
	return nil
}

func (s *stream) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	_, err := s.w.WriteAt(s.buf, int64(s.start)*BlockSize)
	s.buf = s.buf[:0]
	return err
}
