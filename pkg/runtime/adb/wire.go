package adb

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// maxRequest bounds a request, bytes; the length has four hex digits, and
	// adb's own servers take no more than this (MAX_PAYLOAD_V1 there is less,
	// and only for phones from before 2016).
	maxRequest = 0xffff
	// maxAnswer bounds a text that the server answers with.
	maxAnswer = 0xffff
)

// writeRequest sends a request.
func writeRequest(w io.Writer, request string) error {
	if len(request) > maxRequest {
		return fault.Errorf(fault.Usage, "a request of %d bytes is longer than adb takes, %d", len(request), maxRequest)
	}
	_, err := io.WriteString(w, fmt.Sprintf("%04x%s", len(request), request))
	return err
}

// readStatus reads whether a request was taken. The reason of a server that
// refuses is a Refusal.
func readStatus(r io.Reader) error {
	var word [4]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		return lost(err)
	}
	switch string(word[:]) {
	case "OKAY":
		return nil
	case "FAIL":
		why, err := readText(r)
		if err != nil {
			return err
		}
		return refusal(why)
	}
	return fault.Errorf(fault.Environment, "what listens there is no adb server: it answers %q", word[:])
}

// readText reads a text with its length before it.
func readText(r io.Reader) (string, error) {
	var digits [4]byte
	if _, err := io.ReadFull(r, digits[:]); err != nil {
		return "", lost(err)
	}
	n, err := strconv.ParseUint(string(digits[:]), 16, 16)
	if err != nil || n > maxAnswer {
		return "", fault.Errorf(fault.Environment, "what listens there is no adb server: %q is no length", digits[:])
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return "", lost(err)
	}
	return string(text), nil
}

// ErrLost says that the connection to the server ended within a conversation:
// the server was ended, by an adb of another version for one.
var ErrLost = errors.New("the connection to the adb server was lost")

func lost(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Errorf(fault.Device, "%w", ErrLost).
			Hintf("do it again; where that happens often, two programs with different versions of adb end each other's server: have them use the same adb")
	}
	return err
}

// oneLine is another program's text in one line that no terminal obeys.
func oneLine(text string) string { return printable.Line(text) }
