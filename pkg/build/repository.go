package build

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

const indexFile = "APKINDEX.tar.gz"

// writeRepository lays the packages out as an apk repository in
// OUTPUT/packages, which any apk client can install from, and returns its
// directory. The directory of an architecture holds exactly the packages of
// this build when it returns.
func (b *builder) writeRepository(ctx context.Context, packages map[string]built) (string, error) {
	root, err := filepath.Abs(filepath.Join(b.opts.output, "packages"))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, b.arch.Apk)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	var metas []apk.Meta
	want := map[string]store.Digest{}
	for _, name := range sortedKeys(packages) {
		m := packages[name].Meta
		metas = append(metas, m)
		want[m.FileName()] = packages[name].Digest
	}
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, b.key, b.epoch); err != nil {
		return "", err
	}
	// The index is written last, so the same index means the same packages.
	have, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err == nil && bytes.Equal(have, index.Bytes()) {
		return root, nil
	}
	if err := os.Remove(filepath.Join(dir, indexFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fault.Wrap(fault.Environment, err)
	}
	for _, file := range sortedKeys(want) {
		if err := b.export(ctx, want[file], filepath.Join(dir, file)); err != nil {
			return "", err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if _, ok := want[e.Name()]; !ok && strings.HasSuffix(e.Name(), ".apk") {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return "", fault.Wrap(fault.Environment, err)
			}
		}
	}
	public, err := b.key.PublicPEM()
	if err != nil {
		return "", err
	}
	if err := writeFile(filepath.Join(root, b.key.Name), bytes.NewReader(public)); err != nil {
		return "", err
	}
	return root, writeFile(filepath.Join(dir, indexFile), &index)
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
	return writeFile(path, r)
}

// writeFile writes by a temporary file and a rename.
func writeFile(path string, r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fault.Wrap(fault.Environment, err)
		}
	}()
	if _, err = io.Copy(f, r); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
