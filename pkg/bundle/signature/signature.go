package signature

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"aead.dev/minisign"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// FileName is the signature's name in a bundle's directory.
const FileName = "manifest.json.minisig"

// MaxSize is the largest signature that is read, with all rotations, in bytes.
const MaxSize = 32 << 10

// maxRotations is the most that one signature may have behind it.
const maxRotations = 32

// Signed is a signature whose parts belong together: the key that it names has
// signed the manifest and the statement, and each rotation is signed by the key
// that it is of. Whether anybody trusts one of these keys is another question:
// see Trust.
type Signed struct {
	Statement
	// Rotations lead to the statement's key, the oldest first.
	Rotations []Rotation `json:"rotations,omitempty"`
}

// Sign signs a manifest's bytes. The statement's key and digest are filled in.
// Rotations is what Rotate made, nil for none. The result is what Verify takes.
func Sign(key SecretKey, manifest []byte, s Statement, rotations []byte) ([]byte, error) {
	s.Key, s.Manifest = key.Public(), digestOf(manifest)
	if err := s.Check(); err != nil {
		return nil, fault.Errorf(fault.Usage, "signing: %w", err)
	}
	chain, err := ParseRotations(rotations)
	if err != nil {
		return nil, err
	}
	if n := len(chain); n > 0 && chain[n-1].To != s.Key {
		return nil, fault.Errorf(fault.Usage, "the rotations lead to the key %s, and this one is %s", chain[n-1].To, s.Key).
			Hintf("sign with the newest key, or leave the rotations out")
	}
	if err := begun(s, chain); err != nil {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	text, err := key.sign(manifest, s.String(), "signature of "+s.Name+"-"+s.Arch+" "+s.Version)
	return append(text, rotations...), err
}

// Rotate adds to rotations, which may be nil, that the key is followed by
// another from an index on.
func Rotate(key SecretKey, to Key, index int64, rotations []byte) ([]byte, error) {
	r := Rotation{From: key.Public(), To: to, Index: index}
	if err := r.check(); err != nil {
		return nil, fault.Errorf(fault.Usage, "rotation: %w", err)
	}
	chain, err := ParseRotations(rotations)
	if err != nil {
		return nil, err
	}
	if err := follows(append(chain, r)); err != nil {
		return nil, fault.Errorf(fault.Usage, "rotation: %w", err)
	}
	text, err := key.sign([]byte(to), r.String(), "rotation to another key")
	return append(bytes.Clone(rotations), text...), err
}

// ParseRotations reads what Rotate makes, and checks the signatures. Errors are
// of class fault.Verification.
func ParseRotations(text []byte) ([]Rotation, error) {
	all, err := blocks(text)
	if err != nil {
		return nil, fault.Errorf(fault.Verification, "rotations: %w", err)
	}
	return rotations(all)
}

func rotations(all []block) ([]Rotation, error) {
	if len(all) > maxRotations {
		return nil, fault.Errorf(fault.Verification, "%d rotations are more than %d", len(all), maxRotations)
	}
	var out []Rotation
	for n, b := range all {
		r, err := parseRotation(b.comment)
		if err == nil && !b.by(r.From, []byte(r.To)) {
			err = fmt.Errorf("it is not signed by %s, the key that it would end", r.From)
		}
		if err != nil {
			return nil, fault.Errorf(fault.Verification, "rotation %d: %w", n+1, err)
		}
		out = append(out, r)
	}
	if err := follows(out); err != nil {
		return nil, fault.Errorf(fault.Verification, "rotations: %w", err)
	}
	return out, nil
}

// follows says whether each rotation begins with the key that the one before
// ended with.
func follows(all []Rotation) error {
	seen := map[Key]bool{}
	for n, r := range all {
		switch {
		case n > 0 && r.From != all[n-1].To:
			return fmt.Errorf("rotation %d is of %s, and the one before leads to %s", n+1, r.From, all[n-1].To)
		case n > 0 && r.Index < all[n-1].Index:
			return fmt.Errorf("rotation %d begins at index %d, the one before at %d", n+1, r.Index, all[n-1].Index)
		case seen[r.To]:
			return fmt.Errorf("rotation %d goes back to %s", n+1, r.To)
		}
		seen[r.From] = true
	}
	return nil
}

// begun says whether the key signs already at the statement's index.
func begun(s Statement, chain []Rotation) error {
	if n := len(chain); n > 0 && s.Index < chain[n-1].Index {
		return fmt.Errorf("the key %s signs from index %d on, and this is %d", s.Key, chain[n-1].Index, s.Index)
	}
	return nil
}

// Verify reads the signature of a manifest and checks that its parts belong
// together. Errors are of class fault.Verification.
func Verify(text, manifest []byte) (*Signed, error) {
	s, err := verify(text, manifest)
	if err != nil {
		return nil, fault.Errorf(fault.Verification, "the bundle's signature: %w", err).
			Hintf("fetch bundle and signature again from where they came, or ask who signed them")
	}
	return s, nil
}

func verify(text, manifest []byte) (*Signed, error) {
	all, err := blocks(text)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("it is empty")
	}
	var s Signed
	if s.Statement, err = ParseStatement(all[0].comment); err != nil {
		return nil, fmt.Errorf("its statement: %w", err)
	}
	if got := digestOf(manifest); got != s.Manifest {
		return nil, fmt.Errorf("it is of the manifest %s, and this is %s", s.Manifest, got)
	}
	if !all[0].by(s.Key, manifest) {
		return nil, fmt.Errorf("it was not made by the key %s, which it names", s.Key)
	}
	if s.Rotations, err = rotations(all[1:]); err != nil {
		return nil, err
	}
	if n := len(s.Rotations); n > 0 && s.Rotations[n-1].To != s.Key {
		return nil, fmt.Errorf("the rotations lead to the key %s, and it was made by %s", s.Rotations[n-1].To, s.Key)
	}
	return &s, begun(s.Statement, s.Rotations)
}

// block is the four lines of one signature.
type block struct {
	text    []byte
	comment string
}

// blocks cuts a text into signatures.
func blocks(text []byte) ([]block, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%d bytes are more than %d", len(text), MaxSize)
	}
	lines := strings.Split(string(text), "\n")
	if last := len(lines) - 1; lines[last] != "" {
		return nil, fmt.Errorf("it is cut off: the last line has no end")
	}
	lines = lines[:len(lines)-1]
	if len(lines)%4 != 0 {
		return nil, fmt.Errorf("it is cut off: %d lines are not signatures of four", len(lines))
	}
	var out []block
	for ; len(lines) > 0; lines = lines[4:] {
		comment, ok := strings.CutPrefix(lines[2], "trusted comment: ")
		if !ok || !strings.HasPrefix(lines[0], "untrusted comment: ") {
			return nil, fmt.Errorf("it is not as minisign writes one")
		}
		out = append(out, block{[]byte(strings.Join(lines[:4], "\n") + "\n"), comment})
	}
	return out, nil
}

// by says whether the key made the signature, of the message and the comment.
func (b block) by(key Key, message []byte) bool {
	p, err := key.parse()
	if err != nil {
		return false
	}
	// One way of writing it: the library takes line ends anywhere, and others
	// need not.
	var s minisign.Signature
	if err := s.UnmarshalText(b.text); err != nil || s.TrustedComment != b.comment || s.Algorithm != minisign.HashEdDSA {
		return false
	}
	return minisign.Verify(p, message, b.text)
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
