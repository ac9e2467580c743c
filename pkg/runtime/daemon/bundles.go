package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// blobsDir is where blobs arrive, in the state directory.
	blobsDir = "blobs"
	// assembling is the start of the name of a directory, beside it, in which a
	// bundle is put together.
	assembling = ".bundle-"
)

// sweep removes what was on its way when a sovereignd was killed.
func (d *daemon) sweep() error {
	entries, err := os.ReadDir(d.r.Dir())
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), assembling) {
			if err := os.RemoveAll(filepath.Join(d.r.Dir(), e.Name())); err != nil {
				return fault.Wrap(fault.Environment, err)
			}
		}
	}
	_, err = d.blobs.Sweep(time.Now())
	return err
}

// withBundle puts a bundle together from its blobs, for use. What arrived for
// it, and was used, is not kept any longer.
func (d *daemon) withBundle(ctx context.Context, q requests.Bundle, use func(machine.Source) error) (err error) {
	dir, err := os.MkdirTemp(d.r.Dir(), assembling)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer func() {
		if removeErr := os.RemoveAll(dir); err == nil {
			err = fault.Wrap(fault.Environment, removeErr)
		}
	}()
	if err := d.putBlob(ctx, q.Digest, filepath.Join(dir, bundle.ManifestFile)); err != nil {
		return err
	}
	m, err := bundle.Load(dir)
	if err != nil {
		return err
	}
	if q.Signature != "" {
		if err := os.WriteFile(filepath.Join(dir, signature.FileName), []byte(q.Signature), 0o600); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
	}
	digests := []string{q.Digest}
	for _, a := range m.Artifacts {
		if err := d.putBlob(ctx, a.Digest, filepath.Join(dir, a.File)); err != nil {
			return err
		}
		digests = append(digests, a.Digest)
	}
	if err := use(machine.Source{Dir: dir, From: q.Source, Given: true}); err != nil {
		return err
	}
	return d.blobs.Drop(ctx, digests...)
}

// putBlob gives a blob a name. What arrived is nobody else's, and gets a second
// name; what a slot has is copied, so that each slot is whole by itself.
func (d *daemon) putBlob(ctx context.Context, digest, path string) error {
	if waiting := d.blobs.Waiting(digest); waiting != "" {
		err := os.Link(waiting, path)
		if errors.Is(err, os.ErrPermission) { // Android lets no app make hard links
			return copyTo(path, func() (*os.File, error) { return os.Open(waiting) })
		}
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return fault.Wrap(fault.Environment, err)
		}
	}
	return copyTo(path, func() (*os.File, error) { return d.blobs.Open(ctx, digest) })
}

func copyTo(path string, open func() (*os.File, error)) error {
	f, err := open()
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	return atomicfile.Copy(path, f, 0o600)
}
