package nbd

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
)

const (
	// BlockSize is what is lost or kept as one, in bytes: the page of a host's
	// cache and the sector of flash storage. PostgreSQL's pages are two.
	BlockSize = 4096
	// maxVersions bounds how many contents of a block are remembered between
	// two flushes.
	maxVersions = 8
	// maxDirty bounds the cache, in contents of blocks: 128 MiB. A cache that
	// is full writes itself out, as a real one does.
	maxDirty = 128 << 20 / BlockSize
)

// ErrCut is the answer to everything after a cut.
var ErrCut = errors.New("the power of this disk was cut")

// Backing is where the bytes lie that have reached the disk: an os.File.
type Backing interface {
	io.ReaderAt
	io.WriterAt
}

// Disk is a raw image with a volatile write cache. Its methods may be called
// from several goroutines.
type Disk struct {
	// IgnoreFlush makes a disk that lies: it acknowledges flushes and does
	// nothing. It shows that an experiment can see a loss at all. Set it before
	// the first use.
	IgnoreFlush bool

	backing Backing
	size    int64

	mu    sync.Mutex
	dirty map[int64][][]byte // block number: its contents since the last flush, in order
	held  int                // contents in dirty
	stats Stats
	cut   bool
	loss  Loss // of the cut

	armed int // writes until it cuts itself, or 0
	rng   *rand.Rand
	fired chan struct{}
}

// Stats counts what a disk was asked for.
type Stats struct {
	Reads, Writes, Flushes int64
}

// Loss says what a cut did.
type Loss struct {
	Dirty int // blocks that had been written and not flushed
	Lost  int // of those, how many do not hold what was written last
}

// NewDisk returns a disk over an image of the size, in bytes, which must be a
// multiple of BlockSize.
func NewDisk(b Backing, size int64) (*Disk, error) {
	if size <= 0 || size%BlockSize != 0 {
		return nil, fmt.Errorf("nbd: a disk of %d bytes: want a multiple of %d", size, BlockSize)
	}
	return &Disk{backing: b, size: size, dirty: map[int64][][]byte{}}, nil
}

// Size is in bytes.
func (d *Disk) Size() int64 { return d.size }

// ReadOnly is false.
func (d *Disk) ReadOnly() bool { return false }

// Stats returns the counts so far.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

func (d *Disk) check(n int, off int64) error {
	if off < 0 || off > d.size || int64(n) > d.size-off {
		return fmt.Errorf("%d bytes at %d are outside a disk of %d", n, off, d.size)
	}
	return nil
}

// ReadAt reads what was written last, flushed or not.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return 0, ErrCut
	}
	if err := d.check(len(p), off); err != nil {
		return 0, err
	}
	d.stats.Reads++
	if err := d.readStable(p, off); err != nil {
		return 0, err
	}
	for _, s := range spans(len(p), off) {
		if v := d.dirty[s.block]; len(v) > 0 {
			copy(p[s.from:s.to], v[len(v)-1][s.at:])
		}
	}
	return len(p), nil
}

// readStable reads the image. What lies behind the end of a sparse file that
// is shorter than the disk is zero.
func (d *Disk) readStable(p []byte, off int64) error {
	n, err := d.backing.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

// WriteAt writes into the cache, and with fua to the image as well: the blocks
// it touches are then safe.
func (d *Disk) WriteAt(p []byte, off int64, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return ErrCut
	}
	if err := d.check(len(p), off); err != nil {
		return err
	}
	d.stats.Writes++
	for _, s := range spans(len(p), off) {
		if err := d.write(s, p[s.from:s.to]); err != nil {
			return err
		}
		if fua && !d.IgnoreFlush {
			if err := d.settle(s.block); err != nil {
				return err
			}
		}
	}
	if d.armed > 0 {
		if d.armed--; d.armed == 0 {
			return d.fire()
		}
	}
	if d.held > maxDirty {
		return d.flush()
	}
	return nil
}

// CutAfter makes the disk cut itself in the n-th write from now, n at least 1:
// the moments when something is not flushed are short, and seldom hit by a
// clock. The channel is closed when it has. Until then Cut comes before it.
// rng must not be used by others meanwhile.
func (d *Disk) CutAfter(n int, rng *rand.Rand) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed, d.rng, d.fired = n, rng, make(chan struct{})
	return d.fired
}

func (d *Disk) fire() error {
	defer close(d.fired)
	if err := d.lose(d.rng); err != nil {
		return err
	}
	return ErrCut
}

// write adds a content to a block.
func (d *Disk) write(s span, p []byte) error {
	block := make([]byte, BlockSize)
	versions := d.dirty[s.block]
	switch {
	case len(p) == BlockSize:
	case len(versions) > 0:
		copy(block, versions[len(versions)-1])
	default:
		if err := d.readStable(block, s.block*BlockSize); err != nil {
			return err
		}
	}
	copy(block[s.at:], p)
	if len(versions) == maxVersions {
		versions = slices.Delete(versions, 0, 1)
		d.held--
	}
	d.dirty[s.block] = append(versions, block)
	d.held++
	return nil
}

// settle brings a block's last content to the image.
func (d *Disk) settle(block int64) error {
	versions := d.dirty[block]
	if len(versions) == 0 {
		return nil
	}
	if _, err := d.backing.WriteAt(versions[len(versions)-1], block*BlockSize); err != nil {
		return err
	}
	d.held -= len(versions)
	delete(d.dirty, block)
	return nil
}

// Flush brings everything written so far to the image.
func (d *Disk) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return ErrCut
	}
	d.stats.Flushes++
	if d.IgnoreFlush {
		return nil
	}
	return d.flush()
}

func (d *Disk) flush() error {
	for block := range d.dirty {
		if err := d.settle(block); err != nil {
			return err
		}
	}
	return nil
}

// Cut takes the power away: from now on every request fails with ErrCut. Of
// each block that was not flushed the image keeps, by chance, what was flushed
// last or any content written since, whatever became of the others: a cache
// may have written itself out in any order. In a third of all cuts nothing
// that was not flushed survives, in another nearly everything does. A disk that
// was cut already says what that did.
func (d *Disk) Cut(rng *rand.Rand) (Loss, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return d.loss, nil
	}
	err := d.lose(rng)
	return d.loss, err
}

func (d *Disk) lose(rng *rand.Rand) error {
	d.cut = true
	keep := []float64{0, 0.5, 0.95}[rng.IntN(3)]
	blocks := make([]int64, 0, len(d.dirty))
	for b := range d.dirty {
		blocks = append(blocks, b)
	}
	slices.Sort(blocks) // so that a seed gives the same choice
	d.loss.Dirty = len(blocks)
	for _, b := range blocks {
		if rng.Float64() >= keep {
			d.loss.Lost++
			continue
		}
		versions := d.dirty[b]
		i := rng.IntN(len(versions))
		if i < len(versions)-1 {
			d.loss.Lost++
		}
		if _, err := d.backing.WriteAt(versions[i], b*BlockSize); err != nil {
			return err
		}
	}
	d.dirty, d.held = nil, 0
	return nil
}

// span is the part of a request that lies in one block.
type span struct {
	block    int64
	at       int // where it begins in the block
	from, to int // the part of the request
}

func spans(n int, off int64) []span {
	var out []span
	for from := 0; from < n; {
		at := int((off + int64(from)) % BlockSize)
		to := min(n, from+BlockSize-at)
		out = append(out, span{block: (off + int64(from)) / BlockSize, at: at, from: from, to: to})
		from = to
	}
	return out
}
