package machine

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// FindBlob returns the file of a slot, of any machine, that has a digest, whole:
// what is not as it was when it was read is read again. "" is that there is
// none.
func (r *Runtime) FindBlob(ctx context.Context, want string) (path string, err error) {
	names, err := r.Names()
	if err != nil {
		return "", err
	}
	known := loadDigests(r.digestFile())
	for _, name := range names {
		for _, slot := range []SlotName{"a", "b"} {
			dir := filepath.Join(r.instanceDir(name), slotsDir, string(slot))
			m, err := bundle.Load(dir)
			if err != nil {
				continue // an empty slot, or a damaged one
			}
			if own, err := bundle.Digest(dir); err == nil && own == want {
				return filepath.Join(dir, bundle.ManifestFile), nil
			}
			for _, a := range m.Artifacts {
				if a.Digest != want {
					continue
				}
				path := filepath.Join(dir, a.File)
				f, err := openArtifact(path)
				if err != nil {
					continue
				}
				d, err := known.verify(ctx, f, a)
				f.Close()
				if err == nil {
					_ = known.add([]digest{d}).save(r.digestFile()) // only to read it no more
					return path, nil
				}
				if ctx.Err() != nil {
					return "", context.Cause(ctx)
				}
			}
		}
	}
	return "", nil
}

// Seeds are the files of that name in the slots of all machines, the newest
// bundles first: where a bundle's file is likely to have its content from. A
// recipe's next build differs little from its last.
func (r *Runtime) Seeds(_ context.Context, name string) (paths []string, err error) {
	names, err := r.Names()
	if err != nil {
		return nil, err
	}
	type seed struct {
		path      string
		installed time.Time
	}
	var seeds []seed
	for _, n := range names {
		i, err := r.load(n)
		if err != nil {
			continue // it hides no other
		}
		for slot, v := range i.rec.Slots {
			m, err := bundle.Load(i.slotDir(slot))
			if err != nil {
				continue // a damaged one
			}
			for _, a := range m.Artifacts {
				if a.File == name {
					seeds = append(seeds, seed{filepath.Join(i.slotDir(slot), a.File), v.Installed})
				}
			}
		}
	}
	slices.SortFunc(seeds, func(a, b seed) int {
		if c := b.installed.Compare(a.installed); c != 0 {
			return c
		}
		return strings.Compare(a.path, b.path)
	})
	for _, s := range seeds {
		paths = append(paths, s.path)
	}
	return paths, nil
}

// HostStatus is the status of a machine without its guest's own words.
func (r *Runtime) HostStatus(ctx context.Context, name string) (Status, error) {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return Status{}, err
	}
	s, err := i.hostStatus(ctx)
	s.Dir = i.dir
	return s, err
}

// OnReport has f told what starts of machines tell, as WithReport does.
func (r *Runtime) OnReport(f func(name string, e Event)) { r.report = f }
