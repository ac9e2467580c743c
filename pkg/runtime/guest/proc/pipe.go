package proc

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// A PipeReader reads the end of a pipe, or of a terminal, that processes write
// to. Its file's read deadline bounds only how long it waits: what is there is
// read also after it, so that nothing is lost to one who comes late, be it that
// he was held up by the one he passes it on to, or that the machine stood
// still. Then, once nothing is there and somebody still holds the other end,
// Read returns os.ErrDeadlineExceeded.
type PipeReader struct{ File *os.File }

func (r PipeReader) Read(b []byte) (int, error) {
	n, err := r.File.Read(b)
	if !errors.Is(err, os.ErrDeadlineExceeded) || len(b) == 0 {
		return n, err
	}
	return r.withoutWaiting(b)
}

// withoutWaiting reads what is there; Go has made the file non-blocking.
func (r PipeReader) withoutWaiting(b []byte) (n int, err error) {
	raw, err := r.File.SyscallConn()
	if err != nil {
		return 0, err
	}
	var readErr error
	err = raw.Control(func(fd uintptr) {
		for {
			if n, readErr = syscall.Read(int(fd), b); !errors.Is(readErr, syscall.EINTR) {
				return
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(readErr, syscall.EAGAIN):
		return 0, os.ErrDeadlineExceeded
	case readErr != nil:
		return 0, &os.PathError{Op: "read", Path: r.File.Name(), Err: readErr}
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
