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

// portsRepository is the ports' packages, out of the store, as a repository.
// Their sizes are those of signed packages, which the exported ones are.
func (b *Builder) portsRepository(packages map[string]Package) (apk.Repository, error) {
	signature, err := apk.SignatureSize()
	if err != nil {
		return apk.Repository{}, err
	}
	var metas []apk.Meta
	files := map[string]store.Digest{}
	for _, name := range sortedKeys(packages) {
		m := packages[name].Meta
		files[m.ID()] = packages[name].Digest
		m.Size += signature
		metas = append(metas, m)
	}
	return apk.NewRepository("the ports", "", b.arch.Apk, metas, b.packageFile(files)), nil
}

// exportRepository lays the packages out as an apk repository in packages below
// the output, which any apk client can install from. The directory of an
// architecture holds exactly the packages of the build that wrote last: while
// one writes, another waits for it.
func (b *Builder) exportRepository(ctx context.Context, packages map[string]Package) (err error) {
	root, err := filepath.Abs(filepath.Join(b.opts.output, "packages"))
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	dir := filepath.Join(root, b.arch.Apk)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	key, err := b.signing()
	if err != nil {
		return err
	}
	public, err := key.PublicPEM()
	if err != nil {
		return err
	}
	unlock, err := b.lockOutput(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := b.writePackages(ctx, dir, packages); err != nil {
		return err
	}
	path := filepath.Join(root, key.Name)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, public) {
		return nil
	}
	return atomicfile.Write(path, public, 0o644)
}

// lockOutput locks a directory of the output; where the file system has no
// locks, it is the user who must not build there twice at once.
func (b *Builder) lockOutput(ctx context.Context, dir string) (release func() error, err error) {
	l, err := flock.AcquireDir(ctx, dir, func() { b.tell(Waiting{dir}) })
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
func (b *Builder) writePackages(ctx context.Context, dir string, packages map[string]Package) error {
	signature, err := apk.SignatureSize()
	if err != nil {
		return err
	}
	var metas []apk.Meta
	want := map[string]Package{}
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

// exportSigned copies a package out of the store and signs it.
func (b *Builder) exportSigned(ctx context.Context, d store.Digest, path string) error {
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
