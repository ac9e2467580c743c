// Package logs keeps what a service prints: its newest part in memory, for the
// agent, and all of it in a file that is rotated by size. Bytes come in by
// Write and go out by Reader and in the file; they are never changed.
package logs

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

const (
	keep    = 256 << 10 // bytes in memory at least, and twice that at most
	maxFile = 4 << 20   // bytes of a file before it is rotated; one older is kept
)

// Log is the log of one service. Its methods may be called from several
// goroutines.
type Log struct {
	mu     sync.Mutex
	ring   []byte        // at most 2*keep bytes after a write
	total  int64         // bytes ever written; ring holds the last ones
	more   chan struct{} // closed and replaced when there is more, or the end
	closed bool

	file   sync.Mutex // held while the file is written: it may block in a freeze
	path   string
	out    *os.File
	size   int64
	failed error // why the file is not written any more
}

// New returns a log that is only in memory.
func New() *Log { return &Log{more: make(chan struct{})} }

// OpenFile makes the log go to a file as well, beginning with what is kept.
func (l *Log) OpenFile(path string) error {
	l.file.Lock()
	defer l.file.Unlock()
	l.path = path
	if err := l.open(); err != nil {
		return err
	}
	l.mu.Lock()
	kept := append([]byte(nil), l.ring...)
	l.mu.Unlock()
	l.write(kept)
	return l.failed
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("log: %w", err)
	}
	l.out, l.size = f, info.Size()
	return nil
}

// Write implements io.Writer. It never fails: a full disk must not stop a
// service that prints. FileError has the reason why a file is not written.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	l.ring = append(l.ring, b...)
	if len(l.ring) > 2*keep { // not at every line: it moves all that is kept
		l.ring = append(l.ring[:0], l.ring[len(l.ring)-keep:]...)
	}
	l.total += int64(len(b))
	close(l.more)
	l.more = make(chan struct{})
	l.mu.Unlock()

	l.file.Lock()
	defer l.file.Unlock()
	l.write(b)
	return len(b), nil
}

// write adds to the file and rotates it.
func (l *Log) write(b []byte) {
	if l.out == nil || len(b) == 0 {
		return
	}
	n, err := l.out.Write(b)
	l.size += int64(n)
	if err == nil && l.size > maxFile {
		err = l.rotate()
	}
	l.failed = err
}

func (l *Log) rotate() error {
	if err := l.out.Close(); err != nil {
		return err
	}
	l.out = nil
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return err
	}
	return l.open()
}

// FileError is why the last write to the file failed, nil if it did not.
func (l *Log) FileError() error {
	l.file.Lock()
	defer l.file.Unlock()
	return l.failed
}

// Close ends followers and closes the file. Later writes stay in memory.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.more)
		l.more = make(chan struct{})
	}
	l.mu.Unlock()
	l.file.Lock()
	defer l.file.Unlock()
	if l.out == nil {
		return nil
	}
	err := l.out.Close()
	l.out = nil
	return err
}

// Reader returns what is kept and, with follow, what comes until ctx ends or
// the log is closed. A reader that is too slow misses what was dropped from
// memory meanwhile.
func (l *Log) Reader(ctx context.Context, follow bool) io.ReadCloser {
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
