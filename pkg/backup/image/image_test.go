package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// disk is a disk under a dm-snapshot, as the kernel's store has it.
type disk struct {
	data, store []byte
	chunk       int64
	done        map[int64]bool
	next        int64 // chunk of the store
	entries     int64
}

func newDisk(size, chunk int64) *disk {
	d := &disk{data: make([]byte, size), chunk: chunk, done: map[int64]bool{}, next: 2}
	d.store = make([]byte, (size/chunk+size/chunk/(chunk/entrySize)+8)*chunk)
	le := binary.LittleEndian
	le.PutUint32(d.store[0:], magic)
	le.PutUint32(d.store[4:], 1)
	le.PutUint32(d.store[8:], version)
	le.PutUint32(d.store[12:], uint32(chunk/sector))
	return d
}

// write copies what is not in the store yet, then writes.
func (d *disk) write(b []byte, off int64) {
	for c := off / d.chunk; c <= (off+int64(len(b))-1)/d.chunk; c++ {
		if d.done[c] {
			continue
		}
		d.done[c] = true
		end := min((c+1)*d.chunk, int64(len(d.data)))
		copy(d.store[d.next*d.chunk:], d.data[c*d.chunk:end])
		perArea := d.chunk / entrySize
		at := (1+d.entries/perArea*(perArea+1))*d.chunk + d.entries%perArea*entrySize
		binary.LittleEndian.PutUint64(d.store[at:], uint64(c))
		binary.LittleEndian.PutUint64(d.store[at+8:], uint64(d.next))
		d.entries++
		d.next++
		if (d.next-1)%(perArea+1) == 0 {
			d.next++ // the next area's table
		}
	}
	copy(d.data[off:], b)
}

func (d *disk) open(t *testing.T) *Image {
	t.Helper()
	i, err := Open(bytes.NewReader(d.data), bytes.NewReader(d.store), int64(len(d.data)))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestReadWhileWritten reads a disk in pieces while it is overwritten, over
// several areas of the table.
func TestReadWhileWritten(t *testing.T) {
	const chunk = minChunk
	size := int64(700*chunk + 1000) // the last chunk is not whole
	d := newDisk(size, chunk)
	random := rand.New(rand.NewPCG(1, 2))
	for n := range d.data {
		d.data[n] = byte(random.Uint32())
	}
	want := bytes.Clone(d.data)
	i := d.open(t)
	scribble := func() {
		b := make([]byte, 1+random.IntN(3*chunk))
		for n := range b {
			b[n] = byte(random.Uint32())
		}
		off := random.Int64N(size)
		d.write(b[:min(int64(len(b)), size-off)], off)
	}
	got := make([]byte, 0, size)
	for int64(len(got)) < size {
		for range 3 {
			scribble()
		}
		b := make([]byte, 1+random.IntN(2*chunk))
		n, err := i.ReadAt(b, int64(len(got)))
		if err != nil && !(errors.Is(err, io.EOF) && int64(len(got)+n) == size) {
			t.Fatal(err)
		}
		got = append(got, b[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the image is not the disk as it was")
	}
	if d.entries <= chunk/entrySize {
		t.Fatalf("%d entries are not more than one area", d.entries)
	}
	if err := i.Check(); err != nil {
		t.Fatal(err)
	}
	if n, of, err := i.Changed(); err != nil || int64(n) != d.entries || of != chunk {
		t.Fatalf("changed: %d of %d, %v; want %d", n, of, err, d.entries)
	}
	if n, err := i.ReadAt(make([]byte, 10), size); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("behind the end: %d, %v", n, err)
	}
	// The control: without the store it is another disk.
	plain, err := Open(bytes.NewReader(d.data), nil, size)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := plain.ReadAt(b, 0); err != nil || bytes.Equal(b, want) {
		t.Fatalf("the disk has not changed: %v", err)
	}
}

func TestCheckFindsAnInvalidStore(t *testing.T) {
	d := newDisk(64*minChunk, minChunk)
	d.write([]byte("x"), 5*minChunk)
	i := d.open(t)
	if _, err := i.ReadAt(make([]byte, minChunk), 5*minChunk); err != nil {
		t.Fatal(err)
	}
	if err := i.Check(); err != nil {
		t.Fatal(err)
	}
	entry := bytes.Clone(d.store[minChunk:][:entrySize])
	binary.LittleEndian.PutUint64(d.store[minChunk+8:], 9) // as if half of it had been seen
	if err := i.Check(); err == nil || !strings.Contains(err.Error(), "was read from") {
		t.Fatalf("another entry: %v", err)
	}
	copy(d.store[minChunk:], entry)
	d.store[4] = 0
	if err := i.Check(); err == nil || !strings.Contains(err.Error(), "invalid") {
		t.Fatalf("an invalid store: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	good := newDisk(16*minChunk, minChunk).store
	for name, change := range map[string]func(b []byte) []byte{
		"no snapshot": func(b []byte) []byte { b[0] = 0; return b },
		"version":     func(b []byte) []byte { b[8] = 2; return b },
		"power of":    func(b []byte) []byte { b[12] = 9; return b },
		"invalid":     func(b []byte) []byte { b[4] = 0; return b },
		"EOF":         func(b []byte) []byte { return b[:10] },
	} {
		if _, err := Open(bytes.NewReader(nil), bytes.NewReader(change(bytes.Clone(good))), 16*minChunk); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, entry := range map[string][2]uint64{
		"the disk has":   {16, 2},
		"has no content": {3, 1 + minChunk/entrySize + 1},
	} {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint64(b[minChunk:], entry[0])
		binary.LittleEndian.PutUint64(b[minChunk+8:], entry[1])
		i, err := Open(bytes.NewReader(make([]byte, 16*minChunk)), bytes.NewReader(b), 16*minChunk)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.ReadAt(make([]byte, 1), 0); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRanges(t *testing.T) {
	const size = 8 << 20
	f, err := os.Create(filepath.Join(t.TempDir(), "data.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 1<<20), 2<<20); err != nil {
		t.Fatal(err)
	}
	plain, err := Open(f, nil, size)
	if err != nil {
		t.Fatal(err)
	}
	got, err := plain.Ranges()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, []Range{{2 << 20, 1 << 20}}) && !reflect.DeepEqual(got, []Range{{0, size}}) {
		t.Fatalf("ranges: %v", got)
	}
	// A chunk that the machine has written since, in what was a hole, or has
	// made a hole of.
	d := newDisk(size, minChunk)
	d.write([]byte("x"), 7<<20)
	over, err := Open(f, bytes.NewReader(d.store), size)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = over.Ranges(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, []Range{{2 << 20, 1 << 20}, {7 << 20, minChunk}}) && !reflect.DeepEqual(got, []Range{{0, size}}) {
		t.Fatalf("ranges over the store: %v", got)
	}
	whole, err := Open(bytes.NewReader(make([]byte, 100)), nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := whole.Ranges(); err != nil || !reflect.DeepEqual(got, []Range{{0, 100}}) {
		t.Fatalf("ranges of what is no file: %v, %v", got, err)
	}
}

func FuzzStore(f *testing.F) {
	d := newDisk(64*minChunk, minChunk)
	for n := range int64(20) {
		d.write([]byte{1}, n*3*minChunk)
	}
	f.Add(d.store[:minChunk+512])
	f.Fuzz(func(t *testing.T, store []byte) {
		store = append(store, make([]byte, max(0, 4*minChunk-len(store)))...)
		i, err := Open(bytes.NewReader(make([]byte, 64*minChunk)), bytes.NewReader(store), 64*minChunk)
		if err != nil {
			return
		}
		b := make([]byte, 64*minChunk)
		if _, err := i.ReadAt(b, 0); err != nil {
			return
		}
		if _, err := i.Ranges(); err != nil {
			t.Fatalf("ranges of what can be read: %v", err)
		}
		if err := i.Check(); err != nil {
			t.Fatalf("nothing has changed: %v", err)
		}
	})
}
