package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/cache"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// SharedCache is what the flags and the user's configuration say of results that
// machines share.
type SharedCache struct {
	Places []string // "oci://HOST/NAME" or a directory
	Trust  []string // files of public keys
	Push   string   // a place
	// KeyFile has the secret key that signs what is pushed; "" is the environment.
	KeyFile string

	// keys and key are read from the files.
	keys []signature.Key
	key  signature.SecretKey
}

// addFlags adds the flags of commands that compile.
func (c *SharedCache) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&c.Places, "cache", nil, "`place` to take results of compile steps from, oci://HOST/NAME or a directory; may be given more than once")
	f.StringArrayVar(&c.Trust, "cache-trust", nil, "public key `file` of who fills the caches, beside the keys of the recipe and of the configuration; may be given more than once")
	f.StringVar(&c.Push, "cache-push", "", "`place` to put results of compile steps into, signed")
	f.StringVar(&c.KeyFile, "cache-key-file", "", "`FILE` with the secret key that signs for --cache-push (default: the environment variable "+keyVariable+")")
}

// cacheFile is the user's list of caches and of keys that they trust, in the
// directory of this program's configuration.
const cacheFile = "cache.yaml"

// userCaches reads it; there is nothing in it where it is not there.
func userCaches() (recipe.Caches, error) {
	var c recipe.Caches
	text, path, err := userFile(cacheFile)
	if err == nil && text != nil {
		c, err = recipe.ParseCaches(path, text)
	}
	return c, err
}

// userFile reads a file of the user's configuration; nil for none.
func userFile(name string) (text []byte, path string, err error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil, "", nil // no HOME: no configuration
	}
	file := recipe.Ref{Name: filepath.Join(dir, "sovereign", name)}
	text, err = file.ReadFile(maxUserFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	return text, file.Name, err
}

// complete checks what was given, adds the user's configuration, and reads the
// keys.
func (c *SharedCache) complete(s *session, offline bool) error {
	if c.KeyFile != "" && c.Push == "" {
		return fault.Errorf(fault.Usage, "--cache-key-file signs what --cache-push puts into a cache, and that is missing")
	}
	user, err := userCaches()
	if err != nil {
		return err
	}
	c.Places = slices.Concat(c.Places, user.Places)
	all := slices.Clone(c.Places)
	if c.Push != "" {
		all = append(all, c.Push)
	}
	for _, name := range all {
		p, err := cache.Open(name, nil)
		if err != nil {
			return err
		}
		if name == c.Push && offline && p.Remote() {
			return fault.Errorf(fault.Usage, "--offline and --cache-push %s exclude each other", name)
		}
	}
	for _, file := range c.Trust {
		key, err := readKey(file)
		if err != nil {
			return err
		}
		c.keys = append(c.keys, key)
	}
	for i, text := range user.Keys {
		key, err := signature.ParseKey([]byte(text))
		if err != nil {
			return fmt.Errorf("%s: keys[%d]: %w", cacheFile, i, err)
		}
		c.keys = append(c.keys, key)
	}
	if c.Push != "" {
		c.key, err = s.cacheKey(c.KeyFile)
	}
	return err
}

// cacheKey reads the key that signs what is pushed.
func (s *session) cacheKey(file string) (signature.SecretKey, error) {
	if file == "" && s.env(keyVariable) == "" {
		return signature.SecretKey{}, fault.Errorf(fault.Usage, "--cache-push needs a key to sign with: --cache-key-file is missing, and %s is not set", keyVariable).
			Hintf("make a key: sovereign-build key new FILE")
	}
	return s.secretKey(file)
}

// options are those of package build.
func (c *SharedCache) options() ([]build.Option, error) {
	client := &registry.Client{}
	o := []build.Option{build.WithCacheKeys(c.keys...)}
	for _, name := range c.Places {
		p, err := cache.Open(name, client)
		if err != nil {
			return nil, err
		}
		o = append(o, build.WithCaches(p))
	}
	if c.Push != "" {
		p, err := cache.Open(c.Push, client)
		if err != nil {
			return nil, err
		}
		o = append(o, build.WithCachePush(p, c.key))
	}
	return o, nil
}
