package agent

import (
	"io"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
)

// Kinds of frames of an exec's stream. The host sends the first three, the guest the others.
const (
	frameStdin  = 'i' // bytes for standard input; none: its end
	frameResize = 'w' // rows and columns, two bytes each, big endian
	frameSignal = 's' // a signal's name, as in signals
	frameStdout = 'o'
	frameStderr = 'e'
	frameTaken  = 't' // how much of standard input was taken, four bytes, big endian
	frameExit   = 'x' // the exit code, one byte; the last frame
	frameError  = '!' // why the program did not run; the last frame
)

// stdinWindow is how much of standard input the host may have sent that the
// program has not taken yet, in bytes.
const stdinWindow = 64 << 10

// ExecProtocol is the name in the Upgrade header.
const ExecProtocol = "sovereign-exec/1"

// A frameWriter is an output of the program: what is written goes out in
// frames of its kind.
type frameWriter struct {
	w    io.Writer
	kind byte
}

func (f frameWriter) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		part := b[:min(len(b), muxhttp.MaxFrame)]
		if err := muxhttp.WriteFrame(f.w, f.kind, part); err != nil {
			return n, err
		}
		n, b = n+len(part), b[len(part):]
	}
	return n, nil
}
