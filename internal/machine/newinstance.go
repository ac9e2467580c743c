package machine

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// staged is an instance that is being put together beside the others, under a
// name that is nobody's, until it takes its own in one step. What a program that
// was killed left of one is removed by the next of that name.
type staged struct {
	r         *Runtime
	name, dir string
	unlock    func()
}

// stage begins an instance with a name that nobody has. The caller commits or
// aborts it.
func (r *Runtime) stage(ctx context.Context, name string) (_ *staged, err error) {
	if !nameForm.MatchString(name) {
		return nil, fault.Errorf(fault.Usage, "%q cannot be an instance's name", name).
			Hintf("use lower case letters, digits and dashes, beginning with a letter, at most 32")
	}
	unlock, err := r.lockBoth(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &staged{r: r, name: name, dir: filepath.Join(r.dir, "instances", copying+name), unlock: unlock}
	if err = r.absent(name); err == nil {
		err = fault.Wrap(fault.Environment, os.RemoveAll(s.dir))
	}
	if err == nil {
		err = fault.Wrap(fault.Environment, os.MkdirAll(filepath.Join(s.dir, slotsDir, "a"), 0o700))
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return s, nil
}

// lockBoth takes the lock of copies and that of the instance, in this order, as
// everybody does.
func (r *Runtime) lockBoth(ctx context.Context, name string) (unlock func(), err error) {
	first, err := r.lock(ctx, name+".copy")
	if err != nil {
		return nil, err
	}
	second, err := r.lock(ctx, name)
	if err != nil {
		first()
		return nil, err
	}
	return func() { second(); first() }, nil
}

// absent is an error where there is something of that name already.
func (r *Runtime) absent(name string) error {
	entries, err := os.ReadDir(r.instanceDir(name))
	switch {
	case errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0:
		return nil
	case err != nil:
		return fault.Wrap(fault.Environment, err)
	case r.keptData(name):
		return fault.Errorf(fault.Usage, "there is a data disk that was kept of a machine %s", name).
			Hintf("choose another name, or remove it: sovereign-build remove %s --data", name)
	}
	return fault.Errorf(fault.Usage, "there is a machine %s already", name).Hintf("choose another name")
}

func (s *staged) slot() string { return filepath.Join(s.dir, slotsDir, "a") }

// commit writes the record, brings all to the disk and gives the instance its
// name.
func (s *staged) commit(rec record, m *bundle.Manifest) error {
	defer s.unlock()
	final := s.r.instanceDir(s.name)
	rec.Schema, rec.Name, rec.Ports, rec.Process, rec.Network = recordSchema, s.name, nil, nil, nil
	rec.Bundle = BundleRef{Path: filepath.Join(final, slotsDir, "a"), Digest: rec.Slots["a"].Digest}
	i := &Instance{r: s.r, dir: s.dir, rec: rec, manifest: m}
	err := i.save()
	if err == nil {
		err = atomicfile.SyncTree(s.dir)
	}
	if err == nil {
		// An empty directory is what a start that failed at once has left.
		err = atomicfile.Rename(s.dir, final)
	}
	if err != nil {
		return errors.Join(fault.Wrap(fault.Environment, err), os.RemoveAll(s.dir))
	}
	s.r.did("new instance")
	return nil
}

func (s *staged) abort() error {
	defer s.unlock()
	return fault.Wrap(fault.Environment, os.RemoveAll(s.dir))
}
