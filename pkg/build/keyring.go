package build

import (
	"crypto"
	"path"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// keyring is the keys that packages may be signed with, each bound to the
// repositories that it signs:
//
//   - those of the recipe's trust, to their repository alone;
//   - the recipe's keys, to every repository that trust says nothing of;
//   - those of the command line, to the command line's repositories;
//   - this machine's, to directories: the ports' repository, what is laid out
//     of the lock's packages, and others that were built here.
//
// So whoever holds the key of one repository cannot sign for another.
func (b *Builder) keyring() (apk.Keyring, error) {
	all := apk.Keyring{}
	bound := map[string]bool{} // where trust says whose signatures count
	for _, location := range sortedKeys(b.recipe.Trust) {
		trust, at := b.recipe.Trust[location], b.repositoryAt(location)
		bound[at] = true
		keys, err := b.loadKeys(trust.Keys)
		if err != nil {
			return nil, err
		}
		if err := all.Add(keys.Counting(func(repository string, h crypto.Hash) bool {
			return repository == at && (h != crypto.SHA1 || trust.SHA1 != "refuse")
		})); err != nil {
			return nil, err
		}
	}
	keys, err := b.loadKeys(b.recipe.Keys)
	if err != nil {
		return nil, err
	}
	if err := all.Add(keys.Counting(func(repository string, _ crypto.Hash) bool { return !bound[repository] })); err != nil {
		return nil, err
	}
	given, err := apk.LoadKeyring(b.opts.keys...)
	if err != nil {
		return nil, err
	}
	if err := all.Add(given.Counting(func(repository string, _ crypto.Hash) bool { return b.ofCommandLine(repository) })); err != nil {
		return nil, err
	}
	key, err := b.known()
	if err != nil || key == nil {
		return all, err
	}
	return all, all.Add(key.Keyring().Counting(func(repository string, _ crypto.Hash) bool {
		return !strings.Contains(repository, "://") && !bound[repository]
	}))
}

// loadKeys reads keys that the recipe names.
func (b *Builder) loadKeys(files []string) (apk.Keyring, error) {
	all := apk.Keyring{}
	for _, name := range files {
		file := b.recipe.Resolve(name)
		var keys apk.Keyring
		var err error
		if path, ok := file.OnDisk(); ok {
			keys, err = apk.LoadKeyring(path)
		} else {
			keys, err = readKey(file)
		}
		if err != nil {
			return nil, err
		}
		if err := all.Add(keys); err != nil {
			return nil, fault.Errorf(fault.Usage, "key %s: %w", file, err).Hintf("%s", fault.HintOf(err))
		}
	}
	return all, nil
}

// maxKey bounds a public key; one of 4096 bits is 800 bytes.
const maxKey = 64 << 10

// readKey reads one public key.
func readKey(file recipe.Ref) (apk.Keyring, error) {
	text, err := file.ReadFile(maxKey)
	if err != nil {
		return nil, err
	}
	public, err := apk.ParsePublicKey(text)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "key %s: %w", file, err)
	}
	return apk.Keyring{path.Base(file.Name): {PublicKey: public}}, nil
}

// ofCommandLine says whether a repository was given beside the recipe's.
func (b *Builder) ofCommandLine(location string) bool {
	return slices.ContainsFunc(b.opts.repositories, func(r string) bool {
		_, l := recipe.SplitTag(r)
		return l == location
	})
}
