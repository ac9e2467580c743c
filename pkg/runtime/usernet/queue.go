package usernet

import (
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
)

// queue holds frames for a stream, up to a number of bytes. Whoever sends never
// waits: one member that does not read must not hold up the others.
type queue struct {
	mu     sync.Mutex
	more   sync.Cond
	frames []*buffer.View
	bytes  int // of frames and of those that are being written
	max    int
	isOpen bool
}

func (q *queue) init(limit int) {
	q.max = limit
	q.more.L = &q.mu
}

// weight is the memory that a waiting frame holds: its buffer's size class and
// about what the rest takes.
func weight(v *buffer.View) int { return v.Capacity() + 128 }

// push takes over a frame. It reports false where it is dropped.
func (q *queue) push(v *buffer.View) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w := weight(v); q.isOpen && q.bytes+w <= q.max {
		q.bytes += w
		q.frames = append(q.frames, v)
		q.more.Signal()
		return true
	}
	v.Release()
	return false
}

func (q *queue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.isOpen = true
}

// close ends writeTo, which drops what waits.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.isOpen = false
	q.more.Broadcast()
}

// batch is how many frames one system call writes at most, and maxBatch how
// many bytes: beyond, a call costs little beside its copy.
const (
	batch    = 64
	maxBatch = 256 << 10
)

// writeTo writes frames until the queue is closed or the stream fails, and
// leaves the queue closed and empty.
func (q *queue) writeTo(conn net.Conn) (err error) {
	var spare []*buffer.View
	var vectors net.Buffers
	for {
		frames, isOpen := q.take(spare)
		for rest := frames; len(rest) > 0; {
			n, size, held := 0, 0, 0
			for n < len(rest) && n < batch && (n == 0 || size+rest[n].Size() <= maxBatch) {
				size += rest[n].Size()
				held += weight(rest[n])
				vectors = append(vectors, rest[n].AsSlice())
				n++
			}
			if err == nil && isOpen {
				all := vectors // WriteTo moves it
				if _, err = all.WriteTo(conn); err != nil {
					q.close()
				}
			}
			for _, v := range rest[:n] {
				v.Release()
			}
			vectors, rest = vectors[:0], rest[n:]
			q.done(held)
		}
		if !isOpen {
			return err
		}
		clear(frames)
		spare = frames[:0]
	}
}

// take waits until there are frames or the queue is closed, and swaps them for
// an empty slice. A closed queue gives its last ones.
func (q *queue) take(spare []*buffer.View) (frames []*buffer.View, isOpen bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 && q.isOpen {
		q.more.Wait()
	}
	frames, q.frames = q.frames, spare
	return frames, q.isOpen
}

func (q *queue) done(held int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= held
}
