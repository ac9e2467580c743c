package adb

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Kinds of packets of the shell protocol, version 2 (shell_protocol.h).
const (
	kindStdin      = 0
	kindStdout     = 1
	kindStderr     = 2
	kindExit       = 3 // one byte: the exit code
	kindCloseStdin = 4
)

const (
	headerSize = 5
	// maxPacket bounds a packet, bytes. Both sides send at most what their
	// buffers hold: 4 KiB from a phone of old, 1 MiB at most from a newer one.
	maxPacket = 1 << 20
	// chunk is how much of standard input goes into a packet: adbd's buffer has
	// room for as much (MAX_PAYLOAD_V1, 4 KiB, in older ones; it reads a larger
	// packet in parts).
	chunk = 32 << 10
)

// readHeader reads a packet's kind and the length of what follows.
func readHeader(r io.Reader) (kind byte, length int, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, 0, err
	}
	n := binary.LittleEndian.Uint32(h[1:])
	if n > maxPacket {
		return 0, 0, fault.Errorf(fault.Device, "the phone's shell sends a packet of %d bytes, and at most %d are taken", n, maxPacket)
	}
	return h[0], int(n), nil
}

// writePacket sends a packet.
func writePacket(w io.Writer, kind byte, content []byte) error {
	b := make([]byte, headerSize, headerSize+len(content))
	b[0] = kind
	binary.LittleEndian.PutUint32(b[1:], uint32(len(content)))
	_, err := w.Write(append(b, content...))
	return err
}

// demux gives the packets of a command to its output and error streams until
// the one with its exit code.
func demux(r io.Reader, stdout, stderr io.Writer) (code int, err error) {
	for {
		kind, n, err := readHeader(r)
		if err != nil {
			return 0, err
		}
		content := io.LimitReader(r, int64(n))
		switch kind {
		case kindStdout, kindStderr:
			to := stdout
			if kind == kindStderr {
				to = stderr
			}
			got, err := io.Copy(to, content)
			if err == nil && got < int64(n) {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return 0, err
			}
		case kindExit:
			if n != 1 {
				return 0, fault.Errorf(fault.Device, "the phone's shell says an exit code of %d bytes", n)
			}
			var b [1]byte
			if _, err := io.ReadFull(content, b[:]); err != nil {
				return 0, err
			}
			return int(b[0]), nil
		default:
			return 0, fault.Errorf(fault.Device, "the phone's shell sends a packet of kind %d, which is not known", kind)
		}
	}
}

// An ExitError is a command that ended with another code than 0: what the
// command made of it, or 128 and a signal's number. 127 is the shell's for a
// program that is not there.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// ExitCode is the code, as an *exec.ExitError has it.
func (e *ExitError) ExitCode() int { return e.Code }
