package machine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Remove forgets an instance and removes what it has. It refuses while the
// machine runs or is wanted up (fault.Usage). The data disk stays, for the next
// start under the same name, unless data is true; then the image that a link
// leads to is removed as well. A data disk that was kept by an earlier Remove is
// an instance to this one. kept is the path of a data disk that stays.
//
// Interrupted, it leaves no instance, and what is left of its files is taken
// up or removed by the next.
func (r *Runtime) Remove(ctx context.Context, name string, data bool) (kept string, err error) {
	if _, err := r.Instance(ctx, name); err != nil && !(data && r.keptData(name)) {
		return "", err
	}
	// Whoever copies a bundle into the instance has the first, and then waits
	// for the second.
	for _, lock := range []string{name + ".copy", name} {
		unlock, err := r.lock(ctx, lock)
		if err != nil {
			return "", err
		}
		defer unlock()
	}
	i, err := r.load(name)
	if errors.Is(err, fs.ErrNotExist) && data && r.keptData(name) {
		i = &Instance{r: r, dir: r.instanceDir(name), rec: record{Name: name}}
	} else if err != nil {
		return "", err
	}
	if err := i.removable(ctx); err != nil {
		return "", err
	}
	// First of all, so that there is no instance with a part of its files.
	if err := os.Remove(filepath.Join(i.dir, recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fault.Wrap(fault.Environment, err)
	}
	if err := atomicfile.SyncDir(i.dir); err != nil {
		return "", err
	}
	r.did("forgotten")
	if data {
		return "", i.removeAll()
	}
	return i.removeButData()
}

// keptData says whether there is a data disk under the name of no instance.
func (r *Runtime) keptData(name string) bool {
	if !nameForm.MatchString(name) {
		return false
	}
	_, recordErr := os.Lstat(filepath.Join(r.instanceDir(name), recordFile))
	_, dataErr := os.Lstat(filepath.Join(r.instanceDir(name), dataFile))
	return errors.Is(recordErr, fs.ErrNotExist) && dataErr == nil
}

func (i *Instance) removable(ctx context.Context) error {
	_, alive, err := i.running(ctx)
	switch {
	case err != nil:
		return err
	case i.rec.Wanted == Up:
		return fault.Errorf(fault.Usage, "%s is wanted up and cannot be removed", i.Name()).
			Hintf("take it down first: sovereign-build down %s", i.Name())
	case alive:
		return fault.Errorf(fault.Usage, "%s is running and cannot be removed", i.Name()).
			Hintf("stop it first: sovereign-build stop %s", i.Name())
	}
	return nil
}

// removeAll removes the directory, and the data disk wherever it lies.
func (i *Instance) removeAll() error {
	former, err := i.FormerDisks()
	if err != nil {
		return err
	}
	for _, path := range append(former, i.dataPath(), i.keptPath()) {
		if err := removeImage(path); err != nil {
			return err
		}
	}
	if err := removeStaging(filepath.Join(i.dir, stagingDir)); err != nil {
		return err
	}
	return fault.Wrap(fault.Environment, os.RemoveAll(i.dir))
}

func (i *Instance) removeButData() (kept string, err error) {
	// Nobody could go back to it without the bundle.
	if err := removeImage(i.keptPath()); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(i.dir)
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	for _, e := range entries {
		if e.Name() == dataFile {
			kept = i.dataPath()
			continue
		}
		if strings.HasPrefix(e.Name(), beforePrefix) {
			if kept == "" {
				kept = filepath.Join(i.dir, e.Name())
			}
			continue
		}
		if err := os.RemoveAll(filepath.Join(i.dir, e.Name())); err != nil {
			return kept, fault.Wrap(fault.Environment, err)
		}
	}
	if kept == "" {
		err = os.Remove(i.dir)
	}
	return kept, fault.Wrap(fault.Environment, err)
}
