package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/object"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/image"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// block is the unit in which a disk is kept, and splitter its name: the
	// smallest of kopia's fixed ones.
	block    = 128 << 10
	splitter = "FIXED-128K"
	// piece is where pieces end at the latest, and begin again.
	piece = 64 << 20
	// gap is the least hole that is left out: below, one piece is less work
	// than two.
	gap = 1 << 20
	// flushAfter is how much is sent before it is entered into the index, so
	// that the next backup finds it.
	flushAfter = 128 << 20
	// workers is how many pieces are read at a time.
	workers = 2

	compressor = "zstd-fastest"
)

// A disk is what is backed up.
type disk interface {
	io.ReaderAt
	Size() int64
	Ranges() ([]image.Range, error)
}

// pieces divides what a disk holds: from block to block, at least gap apart,
// and at most a piece long.
func pieces(ranges []image.Range, size int64) (list []backup.Piece) {
	var at, end int64 = 0, -1 // the piece that is being made
	cut := func() {
		for at < end {
			next := min((at/piece+1)*piece, end)
			list = append(list, backup.Piece{Offset: at, Length: next - at})
			at = next
		}
	}
	// What is behind the last whole block belongs to no hole.
	if tail := size % block; tail > 0 {
		ranges = append(ranges[:len(ranges):len(ranges)], image.Range{Offset: size - tail, Length: tail})
	}
	for _, r := range ranges {
		from, to := r.Offset/block*block, min((r.Offset+r.Length+block-1)/block*block, size)
		if end >= 0 && from-end < gap {
			end = max(end, to)
			continue
		}
		cut()
		at, end = from, to
	}
	cut()
	return list
}

// diskWriter keeps a disk.
type diskWriter struct {
	w        repo.RepositoryWriter
	splitter string
	sent     *atomic.Int64 // to the repository, counted by its session

	progress func(done, total int64)

	mu      sync.Mutex
	done    int64
	flushed int64 // of sent, when it was last entered into the index
	zeros   map[int64]object.ID
}

// write keeps a disk as one object, and fills in the sums of its pieces.
func (d *diskWriter) write(ctx context.Context, src disk, list []backup.Piece) (object.ID, error) {
	total := backup.Disk{Pieces: list}.Used()
	ids := make([]object.ID, len(list))
	g, working := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for n := range list {
		if working.Err() != nil {
			break
		}
		g.Go(func() error {
			var err error
			if ids[n], err = d.piece(working, src, &list[n], total); err != nil {
				return err
			}
			return d.enter(working)
		})
	}
	if err := g.Wait(); err != nil {
		return object.EmptyID, err
	}
	return d.join(ctx, ids, list, src.Size())
}

// piece keeps a piece.
func (d *diskWriter) piece(ctx context.Context, src io.ReaderAt, p *backup.Piece, total int64) (object.ID, error) {
	w := d.w.NewObjectWriter(ctx, object.WriterOptions{
		Description: "DISK", Splitter: d.splitter, Compressor: compressor, MetadataCompressor: compressor, AsyncWrites: 1,
	})
	defer w.Close() //nolint:errcheck // Result has its error
	sum := sha256.New()
	buffer := make([]byte, 1<<20)
	for at := p.Offset; at < p.Offset+p.Length; {
		if err := context.Cause(ctx); err != nil {
			return object.EmptyID, err
		}
		part := buffer[:min(int64(len(buffer)), p.Offset+p.Length-at)]
		if n, err := src.ReadAt(part, at); n < len(part) {
			if errors.Is(err, io.EOF) || err == nil {
				err = io.ErrUnexpectedEOF
			}
			return object.EmptyID, fault.Errorf(fault.Environment, "reading the disk at %d: %w", at, err)
		}
		sum.Write(part)
		if _, err := w.Write(part); err != nil {
			return object.EmptyID, writeError(err)
		}
		at += int64(len(part))
		d.tell(int64(len(part)), total)
	}
	p.SHA256 = hex.EncodeToString(sum.Sum(nil))
	id, err := w.Result()
	return id, writeError(err)
}

func (d *diskWriter) tell(n, total int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done += n
	d.progress(d.done, total)
}

// enter enters what was sent into the index, where it is enough.
func (d *diskWriter) enter(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sent.Load()-d.flushed < flushAfter {
		return nil
	}
	d.flushed = d.sent.Load()
	return writeError(d.w.Flush(ctx))
}

// join makes one object of the pieces and of the holes between them.
func (d *diskWriter) join(ctx context.Context, ids []object.ID, list []backup.Piece, size int64) (object.ID, error) {
	var all []object.ID
	at := int64(0)
	hole := func(to int64) error {
		more, err := d.hole(ctx, to-at)
		all = append(all, more...)
		return err
	}
	for n, p := range list {
		if err := hole(p.Offset); err != nil {
			return object.EmptyID, err
		}
		all = append(all, ids[n])
		at = p.Offset + p.Length
	}
	if err := hole(size); err != nil {
		return object.EmptyID, err
	}
	return d.concatenate(ctx, all)
}

func (d *diskWriter) concatenate(ctx context.Context, ids []object.ID) (object.ID, error) {
	// What is joined is looked up, and to kopia's server it is sent while its
	// client goes on. Where it was there before, as zeros are from the second
	// backup on, flushing costs a round trip.
	if _, direct := d.w.(repo.DirectRepositoryWriter); !direct {
		if err := d.w.Flush(ctx); err != nil {
			return object.EmptyID, writeError(err)
		}
	}
	id, err := d.w.ConcatenateObjects(ctx, ids, repo.ConcatenateOptions{Compressor: compressor})
	if err != nil {
		return object.EmptyID, writeError(fmt.Errorf("putting the disk together: %w", err))
	}
	return id, nil
}

// hole is a run of zeros, a multiple of block long, as a few objects.
func (d *diskWriter) hole(ctx context.Context, length int64) (ids []object.ID, err error) {
	if length%block != 0 {
		return nil, fault.Errorf(fault.Internal, "a hole of %d bytes", length)
	}
	for length > 0 {
		n := int64(1) << (bits.Len64(uint64(length)) - 1) // the largest power of two in it
		id, err := d.zero(ctx, n)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
		length -= n
	}
	return ids, nil
}

// zeroBlock is the largest block of zeros, and zeroSplitter that which keeps it
// in one piece. What is longer is made of it.
const (
	zeroBlock    = 8 << 20
	zeroSplitter = "FIXED-8M"
)

// zero is an object of n zeros, a power of two. It is made of two halves, so
// that a hole of a terabyte takes twenty of them.
func (d *diskWriter) zero(ctx context.Context, n int64) (object.ID, error) {
	if id, ok := d.zeros[n]; ok {
		return id, nil
	}
	if d.zeros == nil {
		d.zeros = map[int64]object.ID{}
	}
	var id object.ID
	if n > zeroBlock {
		half, err := d.zero(ctx, n/2)
		if err != nil {
			return object.EmptyID, err
		}
		if id, err = d.concatenate(ctx, []object.ID{half, half}); err != nil {
			return object.EmptyID, err
		}
	} else {
		w := d.w.NewObjectWriter(ctx, object.WriterOptions{Description: "ZEROS", Splitter: zeroSplitter, Compressor: compressor, MetadataCompressor: compressor})
		defer w.Close() //nolint:errcheck // Result has its error
		if _, err := w.Write(make([]byte, n)); err != nil {
			return object.EmptyID, writeError(err)
		}
		var err error
		if id, err = w.Result(); err != nil {
			return object.EmptyID, writeError(err)
		}
	}
	d.zeros[n] = id
	return id, nil
}

// readPieces reads pieces of a disk and holds each to its sum. into takes what
// is not zeros; nil takes nothing.
func readPieces(ctx context.Context, r repo.Repository, id object.ID, d backup.Disk, into io.WriterAt, progress func(done, total int64)) (read int64, err error) {
	total, done := d.Used(), int64(0)
	var mu sync.Mutex
	tell := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		progress(done, total)
	}
	g, ctx := errgroup.WithContext(ctx)
	next := make(chan backup.Piece)
	g.Go(func() error {
		defer close(next)
		for _, p := range d.Pieces {
			select {
			case next <- p:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			o, err := r.OpenObject(ctx, id)
			if err != nil {
				return readError(backup.DiskFile, err)
			}
			defer o.Close() //nolint:errcheck // it was read
			if o.Length() != d.Size {
				return fault.Errorf(fault.Verification, "the repository is damaged: %s has %d bytes, and %s says %d", backup.DiskFile, o.Length(), backup.ManifestFile, d.Size)
			}
			buffer := make([]byte, 1<<20)
			for p := range next {
				if err := readPiece(ctx, o, p, buffer, into, tell); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	return done, err
}

func readPiece(ctx context.Context, o object.Reader, p backup.Piece, buffer []byte, into io.WriterAt, tell func(int64)) error {
	what := fmt.Sprintf("%s at %d", backup.DiskFile, p.Offset)
	if _, err := o.Seek(p.Offset, io.SeekStart); err != nil {
		return readError(what, err)
	}
	sum := sha256.New()
	for at := p.Offset; at < p.Offset+p.Length; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		part := buffer[:min(int64(len(buffer)), p.Offset+p.Length-at)]
		if _, err := io.ReadFull(o, part); err != nil {
			return readError(what, err)
		}
		sum.Write(part)
		if into != nil {
			if err := writeSparse(into, part, at); err != nil {
				return diskError(err)
			}
		}
		at += int64(len(part))
		tell(int64(len(part)))
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 {
		return fault.Errorf(fault.Verification, "the repository is damaged: %s, %d bytes: they have the sum %s, and had %s when they were read from the disk", what, p.Length, got, p.SHA256).
			Hintf("restore an older backup, or from another repository")
	}
	return nil
}

// zeroes is what is not written to a file that is all zeros.
var zeroes [64 << 10]byte

func writeSparse(f io.WriterAt, b []byte, at int64) error {
	for len(b) > 0 {
		part := b[:min(len(b), len(zeroes))]
		if !bytes.Equal(part, zeroes[:len(part)]) {
			if _, err := f.WriteAt(part, at); err != nil {
				return err
			}
		}
		b, at = b[len(part):], at+int64(len(part))
	}
	return nil
}

// restoreDisk makes an image of a disk, which is on the host's disk when it
// returns.
func restoreDisk(ctx context.Context, r repo.Repository, id object.ID, d backup.Disk, path string, progress func(done, total int64)) (read int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fault.Wrap(fault.Environment, err)
	}
	defer func() { err = errors.Join(err, fault.Wrap(fault.Environment, f.Close())) }()
	if err := roomFor(path, d.Used()); err != nil {
		return 0, err
	}
	if err := f.Truncate(d.Size); err != nil {
		return 0, diskError(err)
	}
	if read, err = readPieces(ctx, r, id, d, f, progress); err != nil {
		return read, err
	}
	return read, diskError(f.Sync())
}
