// Package logs keeps what a service prints: its newest part in memory, for the
// agent, and all of it in a file that is rotated by size. Bytes come in by
// Write and go out by Reader and in the file; they are never changed, and where
// some are missing a line of this package's says so.
//
// The file follows the memory: a disk that is slow, full or frozen never holds
// up who writes. What it could not take is counted in the file.
package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const keep = 256 << 10 // bytes in memory at least, and twice that at most

// MaxFile is the usual size at which a file is rotated, in bytes; one older
// file is kept.
const MaxFile = 4 << 20

// Log is the log of one service. Its methods may be called from several
// goroutines.
type Log struct {
	mu     sync.Mutex
	ring   []byte        // at most 2*keep bytes after a write
	total  int64         // bytes ever written; ring holds the last ones
	more   chan struct{} // closed and replaced when there is more, or the end
	closed bool
	file   *file // nil without one
}

// New returns a log that is only in memory.
func New() *Log { return &Log{more: make(chan struct{})} }

// OpenFile makes the log go to a file as well, beginning with what is kept; at
// most bytes the file is renamed to PATH.1, in place of an older one.
func (l *Log) OpenFile(path string, most int64) error {
	f := &file{path: path, most: most, done: make(chan struct{})}
	if err := f.open(); err != nil {
		return err
	}
	l.mu.Lock()
	l.file = f
	l.mu.Unlock()
	go f.follow(l.reader(context.Background(), true))
	return nil
}

// Write implements io.Writer. It never fails and never waits for the file.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring = append(l.ring, b...)
	if len(l.ring) > 2*keep { // not at every line: it moves all that is kept
		l.ring = append(l.ring[:0], l.ring[len(l.ring)-keep:]...)
	}
	l.total += int64(len(b))
	close(l.more)
	l.more = make(chan struct{})
	return len(b), nil
}

// FileError is why the last write to the file failed, nil if it did not.
func (l *Log) FileError() error {
	l.mu.Lock()
	f := l.file
	l.mu.Unlock()
	if f == nil {
		return nil
	}
	return f.err()
}

// Close ends followers, and closes the file once it has everything, or after
// limit: a disk may hang. Later writes stay in memory. It returns why
// something is missing from the file.
func (l *Log) Close(limit time.Duration) error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.more)
		l.more = make(chan struct{})
	}
	f := l.file
	l.mu.Unlock()
	if f == nil {
		return nil
	}
	select {
	case <-f.done:
		return f.err()
	case <-time.After(limit):
		return fmt.Errorf("log %s: the disk does not take it", f.path)
	}
}

// file is the file of a log. One goroutine writes it.
type file struct {
	path string
	most int64
	out  *os.File // nil after a rotation that failed
	size int64
	done chan struct{} // closed when out is closed for good

	mu     sync.Mutex
	failed error // of the last write
}

func (f *file) open() error {
	out, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	info, err := out.Stat()
	if err != nil {
		out.Close()
		return fmt.Errorf("log: %w", err)
	}
	f.out, f.size = out, info.Size()
	return nil
}

// follow writes until the log is closed.
func (f *file) follow(r *reader) {
	defer close(f.done)
	buf := make([]byte, 32<<10)
	for at := r.next; ; {
		n, err := r.Read(buf)
		if err != nil { // io.EOF
			break
		}
		if lost := r.next - int64(n) - at; lost > 0 {
			f.note(f.write(fmt.Appendf(nil, "[%d bytes of the log are missing here: the disk was too slow]\n", lost)))
		}
		at = r.next
		f.note(f.write(buf[:n]))
	}
	if f.out != nil {
		f.note(errors.Join(f.err(), f.out.Close()))
	}
}

// write adds to the file and rotates it. A file that could not be written is
// tried again with the next bytes.
func (f *file) write(b []byte) error {
	if f.out == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	n, err := f.out.Write(b)
	f.size += int64(n)
	if err != nil || f.size < f.most {
		return err
	}
	err = f.out.Close()
	f.out = nil
	return errors.Join(err, os.Rename(f.path, f.path+".1"))
}

func (f *file) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = err
}

func (f *file) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// Reader returns what is kept and, with follow, what comes until ctx ends or
// the log is closed. To a reader that is too slow, and misses what was dropped
// from memory meanwhile, a line says how much that is.
func (l *Log) Reader(ctx context.Context, follow bool) io.ReadCloser {
	r := l.reader(ctx, follow)
	return &wholeReader{reader: r, at: r.next}
}

// wholeReader says where bytes are missing.
type wholeReader struct {
	*reader
	at      int64  // position up to which all was read, or said to be missing
	waiting []byte // what is read before anything else
	within  bool   // the last byte that was read does not end a line
}

func (r *wholeReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(r.waiting) == 0 {
		n, err := r.reader.Read(b)
		missing := r.next - int64(n) - r.at
		switch {
		case err == nil:
			r.at = r.next
		case r.at < r.end: // all that was still to come was dropped
			missing, r.at = r.end-r.at, r.end
		default:
			return n, err
		}
		if missing == 0 {
			r.within = b[n-1] != '\n'
			return n, nil
		}
		if r.within {
			r.waiting = append(r.waiting, '\n')
		}
		r.waiting = fmt.Appendf(r.waiting, "[%d bytes of the log are missing here: its reader was too slow]\n", missing)
		r.waiting = append(r.waiting, b[:n]...)
	}
	n := copy(b, r.waiting)
	r.waiting = r.waiting[n:]
	r.within = b[n-1] != '\n'
	return n, nil
}

func (l *Log) reader(ctx context.Context, follow bool) *reader {
	ctx, cancel := context.WithCancel(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	return &reader{log: l, ctx: ctx, cancel: cancel, follow: follow,
		next: l.total - int64(len(l.ring)), end: l.total}
}

type reader struct {
	log       *Log
	ctx       context.Context //nolint:containedctx // a reader lives as long as its request
	cancel    func()
	follow    bool
	next, end int64 // positions in the bytes ever written
}

func (r *reader) Read(b []byte) (int, error) {
	for {
		l := r.log
		l.mu.Lock()
		r.next = max(r.next, l.total-int64(len(l.ring)))
		if r.follow {
			r.end = l.total
		}
		if r.next < r.end {
			from := len(l.ring) - int(l.total-r.next)
			to := len(l.ring) - int(l.total-r.end)
			n := copy(b, l.ring[from:to])
			r.next += int64(n)
			l.mu.Unlock()
			return n, nil
		}
		more, closed := l.more, l.closed
		l.mu.Unlock()
		if !r.follow || closed {
			return 0, io.EOF
		}
		select {
		case <-more:
		case <-r.ctx.Done():
			return 0, io.EOF
		}
	}
}

func (r *reader) Close() error {
	r.cancel()
	return nil
}
