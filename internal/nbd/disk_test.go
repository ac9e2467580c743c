package nbd

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// image is a Backing in memory.
type image []byte

func (m image) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m image) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func newDisk(t testing.TB, blocks int) (*Disk, image) {
	t.Helper()
	m := make(image, blocks*BlockSize)
	d, err := NewDisk(m, int64(len(m)))
	if err != nil {
		t.Fatal(err)
	}
	return d, m
}

func write(t *testing.T, d *Disk, off int64, b byte, n int, fua bool) {
	t.Helper()
	if err := d.WriteAt(bytes.Repeat([]byte{b}, n), off, fua); err != nil {
		t.Fatal(err)
	}
}

func at(t *testing.T, d *Disk, off int64) byte {
	t.Helper()
	var b [1]byte
	if _, err := d.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

func TestReadsSeeTheCache(t *testing.T) {
	d, m := newDisk(t, 4)
	write(t, d, 100, 'a', 2*BlockSize, false) // unaligned, three blocks
	for off, want := range map[int64]byte{99: 0, 100: 'a', 2*BlockSize + 99: 'a', 2*BlockSize + 100: 0} {
		if got := at(t, d, off); got != want {
			t.Errorf("byte %d: %q, want %q", off, got, want)
		}
	}
	if !bytes.Equal(m, make([]byte, len(m))) {
		t.Error("a write without a flush reached the image")
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	if m[99] != 0 || m[100] != 'a' || m[2*BlockSize+99] != 'a' {
		t.Error("a flush did not bring the write to the image")
	}
	if s := d.Stats(); s.Writes != 1 || s.Flushes != 1 || d.held != 0 {
		t.Errorf("stats %+v, %d held", s, d.held)
	}
}

func TestForcedUnitAccess(t *testing.T) {
	d, m := newDisk(t, 2)
	write(t, d, 0, 'a', 10, false)
	write(t, d, 20, 'b', 10, true)
	// The block is kept or lost as one, so the earlier write of it is safe too.
	if m[0] != 'a' || m[20] != 'b' || d.held != 0 {
		t.Errorf("image %q %q, %d held", m[0], m[20], d.held)
	}
}

// What was flushed survives every cut; of the rest each block holds one of the
// contents it had, and over many cuts every one of them comes up.
func TestCut(t *testing.T) {
	seen := map[byte]int{}
	for seed := range uint64(200) {
		d, m := newDisk(t, 8)
		write(t, d, 0, 's', 8*BlockSize, false)
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		write(t, d, 0, '1', 4*BlockSize, false)
		write(t, d, 0, '2', 4*BlockSize, false)
		loss, err := d.Cut(rand.New(rand.NewPCG(seed, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if loss.Dirty != 4 || loss.Lost < 0 || loss.Lost > 4 {
			t.Fatalf("loss %+v", loss)
		}
		lost := 0
		for b := range 8 {
			block := m[b*BlockSize : (b+1)*BlockSize]
			if !bytes.Equal(block, bytes.Repeat(block[:1], BlockSize)) {
				t.Fatal("a block is torn")
			}
			switch {
			case b >= 4 && block[0] != 's':
				t.Fatalf("seed %d: a flushed block holds %q", seed, block[0])
			case b < 4 && block[0] != '2':
				lost++
			}
			if b < 4 {
				seen[block[0]]++
			}
		}
		if lost != loss.Lost {
			t.Errorf("seed %d: %d blocks lost, it said %d", seed, lost, loss.Lost)
		}
		if err := d.WriteAt([]byte{1}, 0, true); !errors.Is(err, ErrCut) {
			t.Errorf("a write after the cut: %v", err)
		}
		if err := d.Flush(); !errors.Is(err, ErrCut) {
			t.Errorf("a flush after the cut: %v", err)
		}
		if again, err := d.Cut(rand.New(rand.NewPCG(1, 1))); err != nil || again != loss {
			t.Errorf("a second cut: %+v, %v", again, err)
		}
	}
	for _, v := range []byte{'s', '1', '2'} {
		if seen[v] < 50 {
			t.Errorf("content %q came up %d times in 800", v, seen[v])
		}
	}
}

func TestCutAfter(t *testing.T) {
	d, m := newDisk(t, 8)
	fired := d.CutAfter(3, rand.New(rand.NewPCG(1, 1)))
	write(t, d, 0, 'a', BlockSize, false)
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	write(t, d, BlockSize, 'b', BlockSize, false)
	select {
	case <-fired:
		t.Fatal("it was cut too early")
	default:
	}
	if err := d.WriteAt([]byte{'c'}, 0, false); !errors.Is(err, ErrCut) {
		t.Errorf("the third write: %v", err)
	}
	<-fired
	if m[0] != 'a' && m[0] != 'c' || m[1] != 'a' {
		t.Errorf("a flushed block holds %q %q", m[0], m[1])
	}
	if loss, err := d.Cut(nil); err != nil || loss.Dirty != 2 {
		t.Errorf("loss %+v, %v", loss, err)
	}
}

func TestCutIsRepeatable(t *testing.T) {
	run := func() image {
		d, m := newDisk(t, 64)
		for b := range 64 {
			write(t, d, int64(b)*BlockSize, byte(b+1), BlockSize, false)
		}
		if _, err := d.Cut(rand.New(rand.NewPCG(5, 5))); err != nil {
			t.Fatal(err)
		}
		return m
	}
	if !bytes.Equal(run(), run()) {
		t.Error("the same seed gave two results")
	}
}

func TestLyingDisk(t *testing.T) {
	d, m := newDisk(t, 1)
	d.IgnoreFlush = true
	write(t, d, 0, 'a', BlockSize, true)
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	if m[0] != 0 || at(t, d, 0) != 'a' {
		t.Error("a disk that lies wrote, or forgot")
	}
}

// The cache is bounded by blocks and by contents of one block.
func TestBounds(t *testing.T) {
	d, _ := newDisk(t, 1)
	for i := range 100 {
		write(t, d, 0, byte(i), 1, false)
	}
	if d.held != maxVersions {
		t.Errorf("%d contents of one block", d.held)
	}
	if _, err := NewDisk(image{}, 100); err == nil {
		t.Error("a size that is no multiple of the block was taken")
	}
	for _, r := range []struct {
		n   int
		off int64
	}{{1, BlockSize}, {BlockSize + 1, 0}, {1, -1}, {1, 1 << 62}} {
		if err := d.WriteAt(make([]byte, r.n), r.off, false); err == nil {
			t.Errorf("%d bytes at %d were written", r.n, r.off)
		}
		if _, err := d.ReadAt(make([]byte, r.n), r.off); err == nil {
			t.Errorf("%d bytes at %d were read", r.n, r.off)
		}
	}
}
