package agent

import (
	"crypto/rand"
	"encoding/hex"
)

// helloPrefix starts a hello; nonceLen lower-case hex digits and a line feed
// end it.
const (
	helloPrefix = "SOVEREIGN-AGENT 1 "
	nonceLen    = 32
	helloLen    = len(helloPrefix) + nonceLen + 1
)

// newNonce returns the nonce of a new session.
func newNonce() string {
	var b [nonceLen / 2]byte
	rand.Read(b[:]) //nolint:errcheck // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// helloLine is the line both sides send.
func helloLine(nonce string) string { return helloPrefix + nonce + "\n" }

// A helloScanner finds hello lines in a stream of any bytes, wherever they
// start: an earlier session may have ended in the middle of a frame. It holds
// at most one line.
type helloScanner struct {
	line [helloLen]byte
	n    int // bytes of line that match so far
}

// next takes one byte and returns the nonce of the hello that it completes.
func (s *helloScanner) next(b byte) (nonce string, ok bool) {
	if !fitsHello(s.n, b) {
		// No proper suffix of a partial hello is the start of another: the
		// prefix's first byte, 'S', comes again at no place that a hello may
		// continue from, so that only b itself can start one.
		s.n = 0
		if !fitsHello(0, b) {
			return "", false
		}
	}
	s.line[s.n] = b
	s.n++
	if s.n < helloLen {
		return "", false
	}
	s.n = 0
	return string(s.line[len(helloPrefix) : helloLen-1]), true
}

// fitsHello says whether b may be byte i of a hello.
func fitsHello(i int, b byte) bool {
	switch {
	case i < len(helloPrefix):
		return b == helloPrefix[i]
	case i < helloLen-1:
		return '0' <= b && b <= '9' || 'a' <= b && b <= 'f'
	default:
		return b == '\n'
	}
}
