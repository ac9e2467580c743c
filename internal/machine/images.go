package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// images are a bundle's files that a machine reads, open and checked.
type images struct{ kernel, initramfs, root *os.File }

// openImages opens the files of the bundle in dir that its machine reads and
// holds each to the manifest, so that nothing the manifest does not name reaches
// a guest. A file whose digest is remembered is not read for that.
func (r *Runtime) openImages(ctx context.Context, dir string, m *bundle.Manifest) (*images, error) {
	var im images
	roles := []struct {
		role string
		file **os.File
	}{{bundle.RoleKernel, &im.kernel}, {bundle.RoleInitramfs, &im.initramfs}, {bundle.RoleRoot, &im.root}}
	known := loadDigests(r.digestFile())
	found := make([]digest, len(roles))
	group, ctx := errgroup.WithContext(ctx)
	for n, v := range roles {
		a, _ := m.Artifact(v.role)
		group.Go(func() (err error) {
			if *v.file, err = openArtifact(filepath.Join(dir, a.File)); err != nil {
				return err
			}
			found[n], err = known.verify(ctx, *v.file, a)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, im.Close())
	}
	// What was read is only remembered to read it no more.
	_ = known.add(found).save(r.digestFile())
	return &im, nil
}

// Close closes what is open.
func (im *images) Close() error {
	var errs []error
	for _, f := range []*os.File{im.kernel, im.initramfs, im.root} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

const bundleHint = "build the bundle again, or fetch it again from where it came"

// openArtifact opens a file of a bundle. A link may lead out of the bundle, to
// another machine's data, and is not followed.
func openArtifact(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.Errorf(fault.Verification, "%s: the manifest names this file and it is not there", path).Hintf(bundleHint)
	case errors.Is(err, unix.ELOOP):
		return nil, fault.Errorf(fault.Verification, "%s is a link, and the files of a bundle are none", path).Hintf("copy the file that it leads to")
	case err != nil:
		return nil, fault.Wrap(fault.Environment, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.Errorf(fault.Verification, "%s is not a regular file", path).Hintf(bundleHint)
	}
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Environment, err), f.Close())
	}
	return f, nil
}

// verify holds an open file to the manifest and returns its digest, to be
// remembered.
func (ds digests) verify(ctx context.Context, f *os.File, a bundle.Artifact) (digest, error) {
	id, err := identify(f)
	if err != nil {
		return digest{}, err
	}
	if id.Size != a.Size {
		return digest{}, fault.Errorf(fault.Verification, "%s: expected %d bytes, got %d", f.Name(), a.Size, id.Size).Hintf(bundleHint)
	}
	d, known := ds.find(id)
	if !known {
		if d, err = hash(ctx, f, id); err != nil {
			return digest{}, err
		}
	}
	if d.Digest != a.Digest {
		return digest{}, fault.Errorf(fault.Verification, "%s: expected %s, got %s", f.Name(), a.Digest, d.Digest).Hintf(bundleHint)
	}
	return d, nil
}

// hash reads an open file.
func hash(ctx context.Context, f *os.File, id fileID) (digest, error) {
	h, buf := sha256.New(), make([]byte, 1<<20)
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return digest{}, context.Cause(ctx)
		}
		n, err := f.ReadAt(buf, at)
		h.Write(buf[:n])
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return digest{id, "sha256:" + hex.EncodeToString(h.Sum(nil))}, nil
		}
		if err != nil {
			return digest{}, fault.Wrap(fault.Environment, err)
		}
	}
}
