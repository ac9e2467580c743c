package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is the SHA-256 of some bytes as "sha256:" and 64 lower-case hex
// digits. The empty Digest means "not known".
type Digest string

const algorithm = "sha256:"

// ParseDigest checks the form of a digest. The empty string is not one.
func ParseDigest(s string) (Digest, error) {
	hexa, ok := strings.CutPrefix(s, algorithm)
	if !ok || !isHex(hexa) {
		return "", fmt.Errorf("%q is not a digest: want sha256: and 64 lower-case hex digits", s)
	}
	return Digest(s), nil
}

// FromBytes is the digest of b.
func FromBytes(b []byte) Digest {
	sum := sha256.Sum256(b)
	return fromSum(sum[:])
}

func fromSum(sum []byte) Digest {
	return Digest(algorithm + hex.EncodeToString(sum))
}

// Hex is the digest without "sha256:", or "" if the digest is malformed.
func (d Digest) Hex() string {
	hexa, ok := strings.CutPrefix(string(d), algorithm)
	if !ok || !isHex(hexa) {
		return ""
	}
	return hexa
}

// String is the digest as it is.
func (d Digest) String() string { return string(d) }

// UnmarshalText refuses a malformed digest; an empty one is let through for
// fields that may be unknown.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = ""
		return nil
	}
	v, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// isHex says whether s is 64 lower-case hex digits. It also keeps path
// separators out of every file name the store makes.
func isHex(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
