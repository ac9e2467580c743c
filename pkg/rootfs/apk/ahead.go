package apk

import (
	"io"
	"sync"
)

// Pieces that are read ahead: a megabyte in all, enough that neither side
// waits for the other's scheduling.
const (
	aheadPiece  = 128 << 10
	aheadPieces = 8
)

// ahead reads from another goroutine, so that a package's data is inflated
// while what came before is hashed and written.
type ahead struct {
	full, free chan []byte
	done       chan struct{}
	wait       sync.WaitGroup
	err        error // set before full is closed
	piece, cur []byte
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan []byte, aheadPieces), free: make(chan []byte, aheadPieces), done: make(chan struct{})}
	for range aheadPieces {
		a.free <- make([]byte, aheadPiece)
	}
	a.wait.Go(func() {
		defer close(a.full)
		for {
			var b []byte
			select {
			case b = <-a.free:
			case <-a.done:
				return
			}
			n := 0
			var err error
			for b = b[:aheadPiece]; n < len(b) && err == nil; {
				var m int
				m, err = r.Read(b[n:])
				n += m
			}
			if n > 0 {
				a.full <- b[:n] // has room for every piece there is
			}
			if err != nil {
				a.err = err
				return
			}
		}
	})
	return a
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.cur) == 0 {
		if a.piece != nil {
			a.free <- a.piece
			a.piece = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.piece, a.cur = b, b
	}
	n := copy(p, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// Close ends the goroutine and waits for it.
func (a *ahead) Close() {
	close(a.done)
	a.wait.Wait()
}
