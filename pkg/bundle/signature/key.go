package signature

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"

	"aead.dev/minisign"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Key is a public key as minisign writes it, without the line above it: 56
// characters that begin with RW.
type Key string

// maxKeyFile bounds a file with a key, in bytes; a real one has 300 at most.
const maxKeyFile = 4096

// ParseKey reads a public key: minisign's file of two lines, or its second line
// alone. Errors are of class fault.Usage.
func ParseKey(text []byte) (Key, error) {
	line := strings.TrimSpace(string(text))
	if first, rest, ok := strings.Cut(line, "\n"); ok && strings.HasPrefix(first, "untrusted comment:") {
		line = strings.TrimSpace(rest)
	}
	p, err := Key(line).parse()
	if err != nil || len(text) > maxKeyFile || p.String() != line {
		return "", fault.Errorf(fault.Usage, "not the public key of minisign, which is one line of 56 characters that begins with RW").
			Hintf("give the file NAME.pub that came with the secret key")
	}
	return Key(line), nil
}

func (k Key) parse() (p minisign.PublicKey, err error) {
	err = p.UnmarshalText([]byte(k))
	return p, err
}

// Check says whether it is a key at all.
func (k Key) Check() error {
	_, err := ParseKey([]byte(k))
	return err
}

// File is the text of minisign's file of the key.
func (k Key) File() ([]byte, error) {
	p, err := k.parse()
	if err != nil {
		return nil, err
	}
	text, err := p.MarshalText()
	return append(text, '\n'), err
}

// Ed25519 is the key for other formats.
func (k Key) Ed25519() (ed25519.PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(string(k))
	if err != nil || len(raw) != 42 {
		return nil, fault.Errorf(fault.Usage, "%q is not a key", k)
	}
	return ed25519.PublicKey(raw[10:]), nil
}

// SecretKey signs.
type SecretKey struct{ key minisign.PrivateKey }

// NewKey makes a key.
func NewKey() (SecretKey, error) {
	_, key, err := minisign.GenerateKey(rand.Reader)
	return SecretKey{key}, fault.Wrap(fault.Environment, err)
}

// Encrypted says whether the text of a secret key wants a password.
func Encrypted(text []byte) bool { return minisign.IsEncrypted(trimmed(text)) }

// ParseSecretKey reads minisign's file of a secret key. An empty password is
// that of one that is not encrypted. Errors are of class fault.Usage and hold
// nothing of the key.
func ParseSecretKey(text []byte, password string) (SecretKey, error) {
	text = trimmed(text)
	const hint = "give a file of minisign's"
	var k SecretKey
	var err error
	switch encrypted := minisign.IsEncrypted(text); {
	case len(text) > maxKeyFile:
		return k, fault.Errorf(fault.Usage, "a secret key of more than %d bytes is none", maxKeyFile).Hintf(hint)
	case encrypted && password == "":
		return k, fault.Errorf(fault.Usage, "the secret key is encrypted, and there is no password")
	case encrypted:
		if k.key, err = minisign.DecryptKey(password, text); err != nil {
			return k, fault.Errorf(fault.Usage, "the password is not that of the secret key")
		}
	default:
		if err = k.key.UnmarshalText(text); err != nil {
			return k, fault.Errorf(fault.Usage, "not a secret key of minisign").Hintf(hint)
		}
	}
	// Its public half stands in it, and need not be that.
	raw, err := k.Ed25519()
	if err != nil || !raw.Equal(ed25519.NewKeyFromSeed(raw.Seed())) {
		return SecretKey{}, fault.Errorf(fault.Usage, "the secret key is damaged: its two halves do not belong together")
	}
	return k, nil
}

func trimmed(text []byte) []byte { return []byte(strings.TrimSpace(string(text))) }

// Public is the key's public half.
func (k SecretKey) Public() Key { return Key(fmt.Sprint(k.key.Public())) }

// File is the text of minisign's file of the key, encrypted where the password
// is not empty. Encrypting takes about a second and 1 GiB of memory.
func (k SecretKey) File(password string) ([]byte, error) {
	text, err := k.key.MarshalText()
	if password != "" {
		text, err = minisign.EncryptKey(password, k.key)
	}
	return append(text, '\n'), fault.Wrap(fault.Environment, err)
}

// Ed25519 is the key for other formats.
func (k SecretKey) Ed25519() (ed25519.PrivateKey, error) {
	text, err := k.key.MarshalText()
	if err != nil {
		return nil, err
	}
	_, line, _ := strings.Cut(string(text), "\n")
	raw, err := base64.StdEncoding.DecodeString(line)
	// Algorithms, salt and limits; the number of the key; the key; a sum.
	if err != nil || len(raw) != 158 {
		return nil, fault.Errorf(fault.Internal, "minisign wrote a secret key of %d bytes", len(raw))
	}
	return ed25519.PrivateKey(raw[62:126]), nil
}

// sign makes a signature of four lines.
func (k SecretKey) sign(message []byte, trusted, untrusted string) ([]byte, error) {
	r := minisign.NewReader(strings.NewReader(string(message)))
	var sink [4096]byte
	for {
		if _, err := r.Read(sink[:]); err != nil {
			break // the end: it is memory
		}
	}
	text := r.SignWithComments(k.key, trusted, untrusted)
	return append([]byte(strings.TrimSuffix(string(text), "\n")), '\n'), nil
}
