package agent

import (
	"crypto/subtle"
	"encoding/hex"
	"io"
	"math/rand/v2"
)

// A mask hides what the host sends in a session under a keystream that nobody
// knew who chose those bytes, as WebSocket hides what its clients send, and for
// the same reason: nothing in it can be a hello, whatever somebody put into a
// table of a database years ago. It keeps no secret: both nonces are on the
// line before it. What the guest sends is not masked: nobody looks for hellos
// in it but a host that waits for the answer to its own nonce.
//
// The keystream is that of https://c2sp.org/chacha8rand, seeded with both
// nonces: 2 ns a byte or so on any processor, and what the guest pays for what
// it is sent. AES takes a tenth of that where the processor has instructions
// for it, and twenty times as much where not.
type mask struct {
	key *rand.ChaCha8
	buf [4 << 10]byte
}

// newMask returns the mask of the session that was agreed on. That of the
// protocol before this one has none: a nil mask changes nothing.
func newMask(answer hello) *mask {
	if answer.guest == "" {
		return nil
	}
	var seed [32]byte
	// A scanned nonce is hex digits.
	copy(seed[:], mustHex(answer.host))
	copy(seed[nonceLen/2:], mustHex(answer.guest))
	return &mask{key: rand.NewChaCha8(seed)}
}

func mustHex(nonce string) []byte {
	b, err := hex.DecodeString(nonce)
	if err != nil {
		panic("agent: nonce " + nonce + ": " + err.Error())
	}
	return b
}

// apply masks the next bytes of the stream in place, or takes the mask off.
func (m *mask) apply(b []byte) {
	if m == nil {
		return
	}
	for len(b) > 0 {
		key := m.buf[:min(len(b), len(m.buf))]
		m.key.Read(key) //nolint:errcheck // never fails
		subtle.XORBytes(b, b, key)
		b = b[len(key):]
	}
}

// maskedWriter masks what it writes. After an error the stream is of no use.
type maskedWriter struct {
	io.Writer
	mask *mask
	buf  []byte // as large as the largest write
}

func (w *maskedWriter) Write(b []byte) (int, error) {
	w.buf = append(w.buf[:0], b...) // the caller's own bytes stay as they are
	w.mask.apply(w.buf)
	return w.Writer.Write(w.buf)
}
