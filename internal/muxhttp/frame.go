package muxhttp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// MaxFrame bounds the content of a frame, bytes. A frame is one byte of kind,
// two of length (big endian) and that many bytes.
const MaxFrame = 32 << 10

const frameHeader = 3

// WriteFrame writes one frame, with one Write, so that frames of several
// writers do not mix where the writer is locked.
func WriteFrame(w io.Writer, kind byte, b []byte) error {
	if len(b) > MaxFrame {
		return fmt.Errorf("frame of %d bytes: want at most %d", len(b), MaxFrame)
	}
	f := make([]byte, 0, frameHeader+len(b))
	f = binary.BigEndian.AppendUint16(append(f, kind), uint16(len(b)))
	_, err := w.Write(append(f, b...))
	return err
}

// ReadFrame reads one frame into buf, which has room for MaxFrame bytes. The
// end of the stream between frames is io.EOF.
func ReadFrame(r io.Reader, buf []byte) (kind byte, b []byte, err error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(h[1:]))
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: want at most %d", n, MaxFrame)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, nil, fmt.Errorf("frame %q of %d bytes: %w", h[0], n, NoEOF(err))
	}
	return h[0], buf[:n], nil
}

// NoEOF makes an end in the middle of something an error.
func NoEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
