package signature

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// noteForm is the form of the word that says what kind of text is signed.
var noteForm = regexp.MustCompile(`^sovereign-[a-z]+-v[0-9]+$`)

// SignNote signs a text that is not a bundle's manifest. kind ("sovereign-step-v1")
// says what it is and is under the signature, so that what was signed as one
// kind never counts as another. The signature is minisign's, in four lines, and
// the same for the same text and key: no time is in it.
func SignNote(key SecretKey, kind string, text []byte) ([]byte, error) {
	if !noteForm.MatchString(kind) {
		return nil, fault.Errorf(fault.Internal, "signing: %q is no kind of text", kind)
	}
	return key.sign(text, noteComment(kind, key.Public()), "signature of a text of "+kind)
}

// VerifyNote checks a signature that SignNote made and returns its key, which is
// one of those that are trusted. Errors are of class fault.Verification; an
// [UntrustedError] is in that of a signature whose key is none of them.
func VerifyNote(signature []byte, kind string, text []byte, trusted ...Key) (Key, error) {
	b, key, err := note(signature, kind)
	switch {
	case err != nil:
		return "", err
	case !slices.Contains(trusted, key):
		return "", fault.Errorf(fault.Verification, "%w", &UntrustedError{key})
	case !b.by(key, text):
		return "", fault.Errorf(fault.Verification, "the signature was not made of this text by the key %s, which it names", key)
	}
	return key, nil
}

// NoteKey is the key that a signature of SignNote's says it is by. Whether that
// is so, VerifyNote finds out. Errors are of class fault.Verification.
func NoteKey(signature []byte, kind string) (Key, error) {
	_, key, err := note(signature, kind)
	return key, err
}

// note takes a signature of one text apart.
func note(signature []byte, kind string) (block, Key, error) {
	all, err := blocks(signature)
	switch {
	case err != nil:
		return block{}, "", fault.Errorf(fault.Verification, "the signature: %w", err)
	case len(all) == 0:
		return block{}, "", fault.Errorf(fault.Verification, "it is not signed")
	case len(all) > 1:
		return block{}, "", fault.Errorf(fault.Verification, "there are %d signatures where one is wanted", len(all))
	}
	word, rest, _ := strings.Cut(all[0].comment, " ")
	key := Key(strings.TrimPrefix(rest, "key="))
	switch {
	case word != kind:
		return block{}, "", fault.Errorf(fault.Verification, "the signature is of %q, and a text of %s is wanted", word, kind)
	case key.Check() != nil || all[0].comment != noteComment(kind, key):
		return block{}, "", fault.Errorf(fault.Verification, "the signature does not say by which key it is")
	}
	return all[0], key, nil
}

// UntrustedError is the error of a signature by a key that is not trusted: it may
// be a good one.
type UntrustedError struct{ Key Key }

// Error implements error.
func (e *UntrustedError) Error() string {
	return fmt.Sprintf("it is signed by the key %s, which is not trusted here", e.Key)
}

func noteComment(kind string, key Key) string { return kind + " key=" + string(key) }

// CutNote splits a text that stands behind its signature. What has none comes
// back as the text alone.
func CutNote(signed []byte) (signature, text []byte) {
	if !bytes.HasPrefix(signed, []byte("untrusted comment: ")) {
		return nil, signed
	}
	at := 0
	for range 4 {
		end := bytes.IndexByte(signed[at:], '\n')
		if end < 0 {
			return signed, nil
		}
		at += end + 1
	}
	return signed[:at], signed[at:]
}
