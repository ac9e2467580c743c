package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
)

// Version is the version of the protocol that this package speaks, and oldest
// the one before it: its peers are told that they are too old, in words that
// they understand.
const (
	Version = '2'
	oldest  = '1'
)

// helloPrefix starts a hello; a version's digit, a space and one or two nonces
// of nonceLen lower-case hex digits follow, and a line feed ends it.
const (
	helloPrefix = "SOVEREIGN-AGENT "
	nonceLen    = 32
	firstNonce  = len(helloPrefix) + 2
	secondNonce = firstNonce + nonceLen + 1
	maxHello    = secondNonce + nonceLen + 1
)

// A hello is a line that both sides send; see the package comment.
type hello struct {
	version byte   // a digit, 1 to 9
	host    string // the host's nonce
	guest   string // the guest's, "" in a host's greeting
}

func (h hello) String() string {
	line := helloPrefix + string(h.version) + " " + h.host
	if h.guest != "" {
		line += " " + h.guest
	}
	return line + "\n"
}

// newNonce returns a nonce that nobody has guessed.
func newNonce() string {
	var b [nonceLen / 2]byte
	rand.Read(b[:]) //nolint:errcheck // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// A helloScanner finds hellos in a stream of any bytes, wherever they start: an
// earlier session may have ended in the middle of a frame. It holds at most one
// line.
type helloScanner struct {
	line [maxHello]byte
	n    int // bytes of line that match so far
}

// find looks for the next hello in what the last call left of the stream and b.
// It returns how much of b ends with it, or all of b without one.
func (s *helloScanner) find(b []byte) (h hello, n int, ok bool) {
	for n < len(b) {
		if s.n == 0 { // most of a stream is no hello
			i := bytes.IndexByte(b[n:], helloPrefix[0])
			if i < 0 {
				return h, len(b), false
			}
			n += i
		}
		c := b[n]
		n++
		if !fitsHello(s.n, c) {
			// No proper suffix of a partial hello is the start of another: the
			// prefix's first byte, 'S', comes again at no place that a hello
			// may continue from, so that only c itself can start one.
			s.n = 0
			if !fitsHello(0, c) {
				continue
			}
		}
		s.line[s.n] = c
		s.n++
		if c == '\n' {
			h = parseHello(string(s.line[:s.n]))
			s.n = 0
			return h, n, true
		}
	}
	return h, n, false
}

// fitsHello says whether b may be byte i of a hello.
func fitsHello(i int, b byte) bool {
	switch {
	case i < len(helloPrefix):
		return b == helloPrefix[i]
	case i == len(helloPrefix):
		return '1' <= b && b <= '9'
	case i == firstNonce-1:
		return b == ' '
	case i == secondNonce-1:
		return b == ' ' || b == '\n'
	case i == maxHello-1:
		return b == '\n'
	default:
		return '0' <= b && b <= '9' || 'a' <= b && b <= 'f'
	}
}

// parseHello takes a line apart of which every byte fits.
func parseHello(line string) hello {
	h := hello{version: line[len(helloPrefix)], host: line[firstNonce : firstNonce+nonceLen]}
	if len(line) == maxHello {
		h.guest = line[secondNonce : secondNonce+nonceLen]
	}
	return h
}
