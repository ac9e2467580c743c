package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
)

// Content is the contents of a regular file. Open may be called any number of
// times, also concurrently, and gives the same bytes each time. What the
// contents of this package open is an io.ReaderAt too.
type Content interface {
	Open() (io.ReadCloser, error)
}

// sized is Content that knows its length; Add takes an entry's Size from it.
type sized interface{ Size() int64 }

// Bytes is content held in memory. The slice must not change afterwards.
func Bytes(b []byte) Content { return &bytesContent{b} }

type bytesContent struct{ b []byte }

func (c *bytesContent) Open() (io.ReadCloser, error) {
	return bytesReader{bytes.NewReader(c.b)}, nil
}
func (c *bytesContent) Size() int64 { return int64(len(c.b)) }

type bytesReader struct{ *bytes.Reader }

func (bytesReader) Close() error { return nil }

// File is the content of a file of the host, opened at each use. The entry's
// Size has to be given.
func File(path string) Content { return fileContent(path) }

type fileContent string

func (f fileContent) Open() (io.ReadCloser, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return nil, err
	}
	return hostFile{file}, nil
}

type hostFile struct{ *os.File }

// NextData implements Holes.
func (f hostFile) NextData(off int64) (start, end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	return fileData(f.File, off, info.Size())
}

// Section is n bytes at offset off of r, which stays open as long as the
// content is used.
func Section(r io.ReaderAt, off, n int64) Content { return section{r, off, n} }

type section struct {
	r      io.ReaderAt
	off, n int64
}

func (s section) Open() (io.ReadCloser, error) {
	return &sectionReader{SectionReader: io.NewSectionReader(s.r, s.off, s.n), s: s}, nil
}
func (s section) Size() int64 { return s.n }

type sectionReader struct {
	*io.SectionReader
	s section
}

func (*sectionReader) Close() error { return nil }

// Holes is implemented by opened contents that know where they are zeros
// without reading them.
type Holes interface {
	// NextData returns where the first data at or after off are, and where
	// they end: at off and the size where nothing is known, both the size
	// where there are none. What it leaves out reads as zeros.
	NextData(off int64) (start, end int64, err error)
}

// NextData implements Holes: a section of a file, as the spool's, or of what
// has holes itself.
func (r *sectionReader) NextData(off int64) (start, end int64, err error) {
	s := r.s
	start, end = s.off+off, s.off+s.n
	switch in := s.r.(type) {
	case *os.File:
		start, end, err = fileData(in, start, end)
	case Holes:
		start, end, err = in.NextData(start)
	}
	return min(start-s.off, s.n), min(end-s.off, s.n), err
}

// fileData finds data in a file of the host. It moves the file's offset.
func fileData(f *os.File, off, size int64) (start, end int64, err error) {
	fd := int(f.Fd())
	start, err = unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return size, size, nil
	case err != nil:
		return off, size, nil // this file system does not know
	}
	end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	return start, end, err
}

// Spool keeps contents that come from a stream in one temporary file, so that
// a tree of any size takes little memory and one file descriptor. It is safe
// for concurrent use; contents are valid until Close.
type Spool struct {
	mu  sync.Mutex
	f   *os.File
	off int64
}

// NewSpool makes a spool in the directory dir ("" is the system's temporary
// directory). The file has no name: it is gone when the process ends.
func NewSpool(dir string) (*Spool, error) {
	f, err := atomicfile.Scratch(dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return &Spool{f: f}, nil
}

// Add copies r to its end into the spool and returns it as content, with its
// length. Long runs of zeros take no space. Other calls wait meanwhile: where
// the length is known, AddN is the better way.
func (s *Spool) Add(r io.Reader) (Content, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.copy(s.off, r, copyPiece)
	if err != nil {
		return nil, 0, err
	}
	c := Section(s.f, s.off, n)
	s.off += n
	return c, n, nil
}

// AddN copies n bytes of r, which must have as many, and returns them as
// content. Long runs of zeros take no space.
func (s *Spool) AddN(r io.Reader, n int64) (Content, error) {
	off := s.reserve(n)
	if err := s.putN(off, r, n); err != nil {
		return nil, err
	}
	return Section(s.f, off, n), nil
}

// reserve takes n bytes of the spool and returns where they begin.
func (s *Spool) reserve(n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	off := s.off
	s.off += n
	return off
}

// putN copies n bytes of r to off.
func (s *Spool) putN(off int64, r io.Reader, n int64) error {
	got, err := s.copy(off, io.LimitReader(r, n), min(n, copyPiece))
	if err == nil && got < n {
		err = fmt.Errorf("spool: %w after %d of %d bytes", io.ErrUnexpectedEOF, got, n)
	}
	return err
}

// copyPiece is the most that is copied at a time, in bytes. Most files are far
// smaller.
const copyPiece = 64 << 10

// copy writes r at off. What is last is written even where it is zeros, so
// that the file reaches as far as its contents. At most piece bytes are held.
func (s *Spool) copy(off int64, r io.Reader, piece int64) (int64, error) {
	w := holeWriter{f: s.f, off: off}
	n, err := io.CopyBuffer(&w, struct{ io.Reader }{r}, make([]byte, max(piece, 1)))
	if err == nil && w.hole {
		_, err = s.f.WriteAt([]byte{0}, w.off-1)
	}
	if err != nil {
		return 0, fmt.Errorf("spool: %w", err)
	}
	return n, nil
}

// holeWriter leaves out pieces that are zeros.
type holeWriter struct {
	f    *os.File
	off  int64
	hole bool // the last piece was left out
}

func (w *holeWriter) Write(p []byte) (int, error) {
	w.hole = len(p) > 4096 && p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
	if !w.hole {
		if n, err := w.f.WriteAt(p, w.off); err != nil {
			return n, err
		}
	}
	w.off += int64(len(p))
	return len(p), nil
}

// Size is the number of bytes in the spool.
func (s *Spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.off
}

// Close frees the spool; its contents can no longer be read.
func (s *Spool) Close() error { return s.f.Close() }
