package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

const indexFile = "APKINDEX.tar.gz"

// writeRepository lays the packages out as an apk repository in packages below
// output, which any apk client can install from, and returns its
// directory. The directory of an architecture holds exactly the packages of
// this build until release is called: another build with the same output
// waits for it.
func (b *builder) writeRepository(ctx context.Context, output string, packages map[string]built) (_ string, release func() error, err error) {
	root, err := filepath.Abs(filepath.Join(output, "packages"))
	if err != nil {
		return "", nil, fault.Wrap(fault.Environment, err)
	}
	dir := filepath.Join(root, b.arch.Apk)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fault.Wrap(fault.Environment, err)
	}
	unlock, err := b.lockOutput(ctx, dir)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unlock())
		}
	}()
	if err := b.writePackages(ctx, dir, packages); err != nil {
		return "", nil, err
	}
	public, err := b.key.PublicPEM()
	if err != nil {
		return "", nil, err
	}
	key := filepath.Join(root, b.key.Name)
	if have, err := os.ReadFile(key); err != nil || !bytes.Equal(have, public) {
		if err := atomicfile.Write(key, public, 0o644); err != nil {
			return "", nil, err
		}
	}
	return root, unlock, nil
}

// lockOutput locks a directory of the output; where the file system has no
// locks, it is the user who must not build there twice at once.
func (b *builder) lockOutput(ctx context.Context, dir string) (release func() error, err error) {
	l, err := flock.AcquireDir(ctx, dir, func() { b.note("waiting for another build that writes to %s", dir) })
	if flock.Unsupported(err) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	return l.Close, nil
}

// writePackages makes dir hold the packages and their index, and no other
// package. What is there already and goes by its size is not written again.
func (b *builder) writePackages(ctx context.Context, dir string, packages map[string]built) error {
	signature, err := b.key.SignatureSize()
	if err != nil {
		return err
	}
	var metas []apk.Meta
	want := map[string]built{}
	for _, name := range sortedKeys(packages) {
		m := packages[name].Meta
		m.Size += signature
		metas = append(metas, m)
		want[m.FileName()] = packages[name]
	}
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, b.key, b.epoch); err != nil {
		return err
	}
	// The index is removed first and written last, so where it is the same,
	// the packages were. A user may have removed some since.
	path := filepath.Join(dir, indexFile)
	have, err := os.ReadFile(path)
	same := err == nil && bytes.Equal(have, index.Bytes())
	if !same {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Environment, err)
		}
	}
	for _, file := range sortedKeys(want) {
		path := filepath.Join(dir, file)
		if info, err := os.Lstat(path); same && err == nil && info.Mode().IsRegular() && info.Size() == want[file].Meta.Size+signature {
			continue
		}
		if err := b.exportSigned(ctx, want[file].Digest, path); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, e := range entries {
		if _, ok := want[e.Name()]; !ok && strings.HasSuffix(e.Name(), ".apk") {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fault.Wrap(fault.Environment, err)
			}
		}
	}
	if same {
		return nil
	}
	return atomicfile.Write(path, index.Bytes(), 0o644)
}

// export copies a blob out of the store.
func (b *builder) export(ctx context.Context, d store.Digest, path string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r, err := b.store.Open(d)
	if err != nil {
		return err
	}
	defer r.Close()
	return atomicfile.Copy(path, r, 0o644)
}

// exportSigned copies a package out of the store and signs it.
func (b *builder) exportSigned(ctx context.Context, d store.Digest, path string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r, err := b.store.Open(d)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := apk.Sign(f, r, b.key, b.epoch); err != nil {
		return fault.Wrap(fault.Environment, fmt.Errorf("%s: %w", path, err))
	}
	return f.Commit()
}
