package build

import (
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/build/upkeep"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// rememberLock makes what the lock pins stay in the store for as long as the
// lock is there, also what this build needs none of.
func (b *builder) rememberLock() error {
	if b.opts.dryRun {
		return nil
	}
	path, err := filepath.Abs(b.lockPath)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return b.store.AddRoot(upkeep.LockRoot(path, b.lock))
}

// rememberBundle does the same for what the finished bundle consists of.
func (b *builder) rememberBundle() error {
	m, err := bundle.Load(b.result.Bundle)
	if err != nil {
		return err
	}
	return b.store.AddRoot(upkeep.BundleRoot(b.result.Bundle, m))
}
