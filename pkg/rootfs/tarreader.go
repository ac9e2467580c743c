package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxHeader bounds the headers of one entry, bytes: archive/tar takes 1 MiB
// for each of PAX records, a long name and a long link target. Without it an
// archive of nothing but headers would be read as one entry without an end.
const maxHeader = 4 << 20

// TarReader reads the entries of a tar stream one after the other, within a
// budget. It is what ReadTar and the layers of images have in common.
type TarReader struct {
	src    *tarSource
	tr     *tar.Reader
	budget *Budget
	header *tar.Header // of the entry read last
	runs   []dataRun   // of that, if it is sparse
	sparse bool
	unread bool // its contents
	n      int
}

// NewTarReader reads r, which it ends to read when ctx ends. Readers of
// several streams of one input share the budget.
func NewTarReader(ctx context.Context, r io.Reader, b *Budget) *TarReader {
	src := &tarSource{ctx: ctx, r: r, budget: b}
	return &TarReader{src: src, tr: tar.NewReader(src), budget: b}
}

// Next returns the next entry, without contents, and the header it came from;
// io.EOF at the end. What is not an entry is left out: PAX records for all of
// an archive, as git writes them, and the label of a volume.
func (t *TarReader) Next() (*tar.Header, Entry, error) {
	for {
		if err := t.skip(); err != nil {
			return nil, Entry{}, readError("tar entry %d: %w", t.n, err)
		}
		t.src.begin()
		h, err := t.tr.Next()
		headers := t.src.end()
		if err == io.EOF {
			return nil, Entry{}, err
		}
		t.n++
		if err != nil {
			return nil, Entry{}, readError("tar entry %d: %w", t.n, err)
		}
		if err := t.budget.Count(1); err != nil {
			return nil, Entry{}, fmt.Errorf("tar: %w", err)
		}
		t.header, t.unread, t.sparse = h, true, false
		if isSparse(h) {
			if t.runs, t.sparse, err = sparseMap(h, headers); err != nil {
				return nil, Entry{}, readError("tar entry %d: %.255s: %w", t.n, h.Name, err)
			}
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			if key := meansSomething(h.PAXRecords); key != "" {
				return nil, Entry{}, fault.Errorf(fault.Source, "tar entry %d: %s for all entries that follow, which is not supported", t.n, key).
					Hintf("unpack the archive and pack it again, or give the directory")
			}
			continue
		case typeVolumeLabel:
			continue
		}
		e, err := EntryOf(h)
		if err == nil {
			err = t.budget.Entry(e)
		}
		if err != nil {
			return nil, Entry{}, readError("tar entry %d: %w", t.n, err)
		}
		return h, e, nil
	}
}

// skip reads past the contents of the entry read last.
func (t *TarReader) skip() error {
	if !t.unread {
		return nil
	}
	t.unread = false
	if t.sparse {
		return t.skipSparse(t.runs)
	}
	_, err := io.Copy(io.Discard, t.tr)
	return err
}

// Contents puts the contents of the entry read last into the spool. The holes
// of a sparse file cost nothing, unless sum, which may be nil, sums them.
func (t *TarReader) Contents(spool *Spool, sum hash.Hash) (Content, error) {
	size := t.header.Size
	if err := t.budget.file(size); err != nil {
		return nil, err
	}
	t.unread = false
	if t.sparse && sum == nil {
		return t.sparseContents(spool, t.runs)
	}
	if t.sparse { // summing zeros takes as long as summing anything
		if err := t.budget.Bytes(size); err != nil {
			return nil, err
		}
	}
	if sum != nil {
		return spool.AddN(io.TeeReader(t.tr, sum), size)
	}
	return spool.AddN(t.tr, size)
}

// Drain reads, after Next has returned io.EOF, what follows the archive's end:
// it belongs to digests of the whole, and a stream's checksum stands behind it.
func (t *TarReader) Drain() error {
	if _, err := io.Copy(io.Discard, t.src); err != nil {
		return readError("tar: behind the end: %w", err)
	}
	return nil
}

// Ended says, after Next has returned io.EOF, whether the archive has the
// blocks of zeros that mark its end. One without them may be cut short.
func (t *TarReader) Ended() bool { return t.src.zeros || !t.src.ended }

// tarSource counts what archive/tar reads, ends it where a limit does, and
// keeps the headers of the entry that is being read.
type tarSource struct {
	ctx    context.Context
	r      io.Reader
	budget *Budget
	read   int64 // bytes so far
	owed   int64 // bytes that were read past archive/tar, which waits for them
	ended  bool  // r has ended
	zeros  bool  // the block read last was zeros

	keep    bool // the headers, from byte start on
	start   int64
	headers []byte
}

// begin begins to keep headers: they start at the next whole block.
func (s *tarSource) begin() {
	s.keep, s.start, s.headers = true, (s.read+blockSize-1)/blockSize*blockSize, s.headers[:0]
}

// end returns the headers, valid until the next begin.
func (s *tarSource) end() []byte {
	s.keep = false
	return s.headers
}

// Read implements io.Reader.
func (s *tarSource) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.owed > 0 {
		n := min(int64(len(p)), s.owed)
		s.owed -= n
		return int(n), nil
	}
	if s.keep && len(s.headers) > maxHeader {
		return 0, overLimit("its headers have more than %d bytes", maxHeader)
	}
	at := s.read
	n, err := s.r.Read(p)
	s.read += int64(n)
	s.ended = s.ended || errors.Is(err, io.EOF)
	if n == blockSize {
		s.zeros = bytes.Equal(p[:n], zeroBlock[:])
	} else if n > 0 {
		s.zeros = false
	}
	if s.keep {
		s.headers = append(s.headers, p[min(max(s.start-at, 0), int64(n)):n]...)
	}
	if limit := s.budget.Bytes(int64(n)); limit != nil {
		return 0, limit
	}
	return n, err
}

const blockSize = 512 // of tar

var zeroBlock [blockSize]byte

// Types of entries that archive/tar has no name for.
const (
	typeVolumeLabel = 'V' // GNU tar --label
	typeDumpDir     = 'D' // GNU tar --incremental: a directory and its names
)
