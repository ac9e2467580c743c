package machine

import (
	"context"
	"path/filepath"

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
