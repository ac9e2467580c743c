package agent

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A frame of an exec's stream is one byte of kind, two of length (big endian)
// and at most maxFrame bytes.
const (
	frameHeader = 3
	maxFrame    = 32 << 10
)

// Kinds of frames. The host sends the first three, the guest the others.
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

// writeFrame writes one frame, with one Write, so that frames of several
// writers do not mix where the writer is locked.
func writeFrame(w io.Writer, kind byte, b []byte) error {
	if len(b) > maxFrame {
		return fmt.Errorf("frame of %d bytes: want at most %d", len(b), maxFrame)
	}
	f := make([]byte, 0, frameHeader+len(b))
	f = binary.BigEndian.AppendUint16(append(f, kind), uint16(len(b)))
	_, err := w.Write(append(f, b...))
	return err
}

// readFrame reads one frame into buf, which has room for maxFrame bytes. The
// end of the stream between frames is io.EOF.
func readFrame(r io.Reader, buf []byte) (kind byte, b []byte, err error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(h[1:]))
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: want at most %d", n, maxFrame)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, nil, fmt.Errorf("frame %q of %d bytes: %w", h[0], n, noEOF(err))
	}
	return h[0], buf[:n], nil
}

// noEOF makes an end in the middle of something an error.
func noEOF(err error) error {
	if err == io.EOF { //nolint:errorlint // io.ReadFull returns it as it is
		return io.ErrUnexpectedEOF
	}
	return err
}

// A frameWriter is an output of the program: what is written goes out in
// frames of its kind.
type frameWriter struct {
	w    io.Writer
	kind byte
}

func (f frameWriter) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		part := b[:min(len(b), maxFrame)]
		if err := writeFrame(f.w, f.kind, part); err != nil {
			return n, err
		}
		n, b = n+len(part), b[len(part):]
	}
	return n, nil
}
