package apk

import (
	"crypto"
	"crypto/rsa"
	"maps"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Key is a public key with what its signatures count for.
type Key struct {
	*rsa.PublicKey
	// Counts says whether a signature over a hash counts in a repository, given
	// by its location without a tag; "" stands for a package or an index of
	// no repository. Nil counts everywhere.
	Counts func(repository string, hash crypto.Hash) bool
}

func (k Key) counts(repository string, hash crypto.Hash) bool {
	return k.Counts == nil || k.Counts(repository, hash)
}

// signatureHashes are those that signatures may be over.
var signatureHashes = [...]crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA512}

// For is the keyring of one repository: the keys that count there, which then
// count for what is opened with it. OpenRepository takes it by itself.
func (k Keyring) For(repository string) Keyring {
	out := Keyring{}
	for name, key := range k {
		if slices.ContainsFunc(signatureHashes[:], func(h crypto.Hash) bool { return key.counts(repository, h) }) {
			out[name] = Key{key.PublicKey, func(_ string, h crypto.Hash) bool { return key.counts(repository, h) }}
		}
	}
	return out
}

// Add joins other keys to the keyring; one that is there already then counts
// where either does. Two keys of one name are an error of class fault.Usage,
// since a signature names its key.
func (k Keyring) Add(others Keyring) error {
	for _, name := range slices.Sorted(maps.Keys(others)) {
		other, have := others[name], k[name]
		if have.PublicKey == nil {
			k[name] = other
			continue
		}
		if !have.PublicKey.Equal(other.PublicKey) {
			return fault.Errorf(fault.Usage, "two keys have the name %s", name).
				Hintf("a signature names its key by the file: see which of them signs what, and leave the other out")
		}
		k[name] = Key{have.PublicKey, func(repository string, h crypto.Hash) bool {
			return have.counts(repository, h) || other.counts(repository, h)
		}}
	}
	return nil
}

// Counting is the keyring with a further condition on what its keys count for.
func (k Keyring) Counting(counts func(repository string, hash crypto.Hash) bool) Keyring {
	out := Keyring{}
	for name, key := range k {
		out[name] = Key{key.PublicKey, func(repository string, h crypto.Hash) bool {
			return key.counts(repository, h) && counts(repository, h)
		}}
	}
	return out
}

// names for messages.
func (k Keyring) names() string {
	if len(k) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(k)), ", ")
}
