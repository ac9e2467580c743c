package cache

import (
	"context"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// A Place keeps entries and outputs. Any number of goroutines and machines use
// one at a time. Nothing that comes from it is believed.
type Place interface {
	// String is its name, as Open takes it.
	String() string
	// Remote says that it is on a network.
	Remote() bool
	// Entry returns the signed entry of a step's key; fs.ErrNotExist where there
	// is none. Any other error says that the place is of no use now, but for one
	// of class fault.Verification, which is about this entry alone.
	Entry(ctx context.Context, key string) ([]byte, error)
	// Blob gives read the bytes of a blob, again from their beginning after a
	// transfer that broke off. They may be wrong.
	Blob(ctx context.Context, d store.Digest, size int64, read func(io.Reader) error) error
	// Whole says whether the outputs of an entry are all there, as far as that is
	// seen without reading them.
	Whole(e *Entry) bool
	// Put keeps an entry with its outputs, which are files by digest. What is
	// there already need not be sent; an entry of the key is replaced.
	Put(ctx context.Context, e *Entry, signed []byte, path func(store.Digest) string) error
}

// prefix begins the name of a place in a registry.
const prefix = "oci://"

// Open finds the place of a name: "oci://HOST/NAME" for a repository of a
// registry, else a directory. Nothing is asked or made. Errors are of class
// fault.Usage.
func Open(name string, client *registry.Client) (Place, error) {
	ref, ok := strings.CutPrefix(name, prefix)
	switch {
	case name == "":
		return nil, fault.Errorf(fault.Usage, "a cache without a name").Hintf("give %sHOST/NAME or a directory", prefix)
	case ok:
		return openRegistry(ref, client)
	case strings.Contains(name, "://"):
		return nil, fault.Errorf(fault.Usage, "cache %q is neither %sHOST/NAME nor a directory", name, prefix)
	}
	return directory(name), nil
}
