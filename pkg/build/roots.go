package build

import (
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/build/upkeep"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// rememberLock makes what the lock pins stay in the store for as long as the
// lock is there, also what this build needs none of.
func (b *Builder) rememberLock() error {
	if b.planning {
		return nil
	}
	if b.lock.Path == "" {
		return nil // made in Go: nothing on the disk stands for it
	}
	path, err := filepath.Abs(b.lock.Path)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return b.store.AddRoot(upkeep.LockRoot(path, b.lock))
}

// rememberBundle does the same for what the finished bundle consists of.
func (b *Builder) rememberBundle() error {
	m, err := bundle.Load(b.result.Bundle)
	if err != nil {
		return err
	}
	return b.store.AddRoot(upkeep.BundleRoot(b.result.Bundle, m))
}
