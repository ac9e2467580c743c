package recipe

import (
	"path/filepath"
	"strings"
)

// Caches are shared caches and whose results count, in a user's cache.yaml.
type Caches struct {
	// Places are "oci://HOST/NAME" or absolute directories, asked in this order.
	Places []string `yaml:"places,omitempty"`
	// Keys are public keys of minisign's, of one line each.
	Keys []string `yaml:"keys,omitempty"`
}

// ParseCaches reads a user's cache.yaml. Whether a key is one, and a place can be
// asked, is not looked at. Errors are of class fault.Usage and begin with
// "FILE:LINE:COLUMN: ".
func ParseCaches(path string, data []byte) (Caches, error) {
	var read Caches
	doc, node, err := parse(path, data)
	if err != nil {
		return read, err
	}
	if err := doc.decode(node, &read); err != nil {
		return read, err
	}
	c := &check{doc: doc}
	for i, p := range read.Places {
		if !strings.HasPrefix(p, "oci://") && !filepath.IsAbs(p) {
			c.failf(index("places", i), "%q is neither oci://HOST/NAME nor an absolute directory", p)
		}
	}
	for i, k := range read.Keys {
		c.notEmpty(index("keys", i), k)
	}
	return read, c.err
}
