package apk

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // registers the hash for signatures
	"crypto/sha256"
	_ "crypto/sha512" // registers the hash for signatures
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Keyring holds the public keys that are trusted, by the names that
// signatures use: "alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub".
type Keyring map[string]Key

// LoadKeyring reads public keys in PEM, files or directories of *.rsa.pub. A
// key's name is its file's, and two different ones of a name are an error.
func LoadKeyring(paths ...string) (Keyring, error) {
	k := Keyring{}
	for _, p := range paths {
		files := []string{p}
		info, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Errorf(fault.Usage, "key %s: %w", p, err).Hintf("name the public key's file (….rsa.pub) or a directory of them")
		}
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", p, err)
		}
		if info.IsDir() {
			if files, err = filepath.Glob(filepath.Join(p, "*.rsa.pub")); err != nil {
				return nil, fmt.Errorf("keys %s: %w", p, err)
			}
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("key: %w", err)
			}
			pub, err := ParsePublicKey(data)
			if err != nil {
				return nil, fault.Errorf(fault.Usage, "key %s: %w", f, err)
			}
			if err := k.Add(Keyring{filepath.Base(f): {PublicKey: pub}}); err != nil {
				return nil, fault.Errorf(fault.Usage, "key %s: %w", f, err).Hintf("%s", fault.HintOf(err))
			}
		}
	}
	return k, nil
}

// ParsePublicKey reads an RSA public key in PEM.
func ParsePublicKey(data []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("no PEM block")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("not a public key: %w", err)
	}
	pub, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a %T, not an RSA key", key)
	}
	return pub, nil
}

// SigningKey signs packages and indexes. Its signatures are deterministic.
type SigningKey struct {
	// Name is that of the public key: it ends with ".rsa.pub".
	Name string
	key  *rsa.PrivateKey
}

const (
	keyBits    = 4096 // what abuild-keygen makes
	maxKeyBits = 4096 // signatures of 512 bytes, a block of tar
	maxTarName = 100  // of a header without extensions
)

// GenerateKey makes a key of 4096 bits. ".rsa.pub" is added to a name that
// lacks it.
func GenerateKey(name string) (*SigningKey, error) {
	name = strings.TrimSuffix(name, ".rsa.pub") + ".rsa.pub"
	if name == ".rsa.pub" {
		return nil, fault.Errorf(fault.Usage, "a key needs a name")
	}
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	return (&SigningKey{name, key}).usable(name)
}

// LoadKey reads a private key in PEM (PKCS #1 or #8), of at most 4096 bits,
// from NAME.rsa.
func LoadKey(path string) (*SigningKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "signing key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fault.Errorf(fault.Usage, "signing key %s: no PEM block", path)
	}
	name := strings.TrimSuffix(filepath.Base(path), ".rsa") + ".rsa.pub"
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return (&SigningKey{name, key}).usable(path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "signing key %s: %w", path, err)
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fault.Errorf(fault.Usage, "signing key %s: a %T, not an RSA key", path, key)
	}
	return (&SigningKey{name, private}).usable(path)
}

// Save writes the key to dir as NAME.rsa (0600) and NAME.rsa.pub, and returns
// the path of the private one.
func (k *SigningKey) Save(dir string) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return "", fmt.Errorf("key %s: %w", k.Name, err)
	}
	private := filepath.Join(dir, strings.TrimSuffix(k.Name, ".pub"))
	if err := atomicfile.Write(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return "", err
	}
	public, err := k.PublicPEM()
	if err != nil {
		return "", err
	}
	return private, atomicfile.Write(filepath.Join(dir, k.Name), public, 0o644)
}

// PublicPEM is the public key as apk wants it in etc/apk/keys.
func (k *SigningKey) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(&k.key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// Keyring trusts this key alone, which signs over SHA-256 and never over less.
func (k *SigningKey) Keyring() Keyring {
	return Keyring{k.Name: {PublicKey: &k.key.PublicKey, Counts: func(_ string, h crypto.Hash) bool { return h != crypto.SHA1 }}}
}

// sign returns the signature member for the bytes whose SHA-256 is sum. RSA256
// is understood by apk-tools since 2.10 and by apko.
func (k *SigningKey) sign(sum [sha256.Size]byte, epoch int64) ([]byte, error) {
	sig, err := rsa.SignPKCS1v15(nil, k.key, crypto.SHA256, sum[:])
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", k.Name, err)
	}
	return k.signatureMember(sig, epoch)
}

// signatureMember holds a signature. It is not compressed, for its length: the
// index and apk's database have the size of a package with its signature, and
// compressed signatures differ by some bytes. Tar's padding makes those of keys
// up to maxKeyBits equal, so that an image is the same whoever signed.
func (k *SigningKey) signatureMember(sig []byte, epoch int64) ([]byte, error) {
	var b bytes.Buffer
	if err := writeMemberLevel(&b, gzip.NoCompression, epoch, false, memberFile{".SIGN.RSA256." + k.Name, sig, 0o644}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// SignatureSize is how many bytes longer a package is with its signature: the
// same for every key.
func SignatureSize() (int64, error) {
	somebody := &SigningKey{Name: "somebody.rsa.pub"}
	b, err := somebody.signatureMember(make([]byte, maxKeyBits/8), 0)
	return int64(len(b)), err
}

// usable refuses keys whose signatures would make a package longer than those
// of other keys.
func (k *SigningKey) usable(what string) (*SigningKey, error) {
	if bits := k.key.N.BitLen(); bits > maxKeyBits {
		return nil, fault.Errorf(fault.Usage, "signing key %s: it has %d bits, more than %d", what, bits, maxKeyBits)
	}
	// A longer name, or another character, needs a second header of tar's.
	if len(".SIGN.RSA256.")+len(k.Name) > maxTarName || strings.ContainsFunc(k.Name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return nil, fault.Errorf(fault.Usage, "signing key %s: %q is no name of at most %d letters, digits and signs", what, k.Name, maxTarName-len(".SIGN.RSA256."))
	}
	return k, nil
}

// signature is one file of a signature member.
type signature struct {
	hash crypto.Hash
	key  string
	sig  []byte
}

// parseSignature reads the name and contents of a .SIGN file; false means a
// kind of signature that is not known.
func parseSignature(name string, sig []byte) (signature, bool) {
	kind, key, ok := strings.Cut(strings.TrimPrefix(name, ".SIGN."), ".")
	hash, known := map[string]crypto.Hash{"RSA": crypto.SHA1, "RSA256": crypto.SHA256, "RSA512": crypto.SHA512}[kind]
	return signature{hash, key, sig}, ok && known
}

// verify checks that one of the signatures is a trusted key's over the bytes
// that hash gives the sums of. what names the file in errors.
func (k Keyring) verify(what string, sigs []signature, sum func(crypto.Hash) ([]byte, error)) error {
	if len(sigs) == 0 {
		return fault.Errorf(fault.Verification, "%s is not signed", what).
			Hintf("sign it with a key of the keyring (%s)", k.names())
	}
	var unknown []string
	var wrong error
	for _, s := range sigs {
		pub, ok := k[s.key]
		if !ok {
			unknown = append(unknown, s.key)
			continue
		}
		if !pub.counts("", s.hash) {
			if wrong == nil {
				wrong = fault.Errorf(fault.Verification, "%s: the signature of key %s over %s does not count here", what, s.key, s.hash).
					Hintf("sign it over a stronger hash, or change what the recipe trusts")
			}
			continue
		}
		digest, err := sum(s.hash)
		if err != nil {
			return err
		}
		// One good signature of a trusted key is enough.
		err = rsa.VerifyPKCS1v15(pub.PublicKey, s.hash, digest, s.sig)
		if err == nil {
			return nil
		}
		if wrong == nil {
			wrong = fault.Errorf(fault.Verification, "%s: the signature is not that of key %s: %w", what, s.key, err).
				Hintf("fetch it again; if it stays so, it was changed after signing or the key was replaced")
		}
	}
	if wrong != nil {
		return wrong
	}
	return fault.Errorf(fault.Verification, "%s: signed by %s, trusted are %s", what, strings.Join(unknown, ", "), k.names()).
		Hintf("add the key to the recipe's keys if you trust it")
}
