package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/initramfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/verity"
)

// guestInit is where the package sovereign-init puts the guest's PID 1.
const guestInit = "sbin/sovereign-init"

// builtRoot is the root file system's part of a bundle.
type builtRoot struct {
	Disk, Initramfs store.Digest
	Hash            string // dm-verity root hash
	Packages        []bundle.Package
}

// assemble solves the recipe's packages, installs them, and makes the root
// disk and the initramfs, or finds both in the action cache.
func (b *builder) assemble(ctx context.Context, locations []string) (*builtRoot, error) {
	keys, err := b.keyring()
	if err != nil {
		return nil, err
	}
	var repositories []apk.Repository
	for _, location := range locations {
		r, err := apk.OpenRepository(ctx, location, b.arch.Apk, keys)
		if err != nil {
			return nil, err
		}
		repositories = append(repositories, r)
	}
	selected, err := apk.Solve(ctx, b.recipe.Packages, repositories)
	if err != nil {
		return nil, fmt.Errorf("%s: packages: %w", b.recipe.Path, err)
	}

	// The tree without packages stands for the recipe's part in the key.
	own, err := b.ownTree(nil)
	if err != nil {
		return nil, err
	}
	files, err := b.treeDigest(own)
	if err != nil {
		return nil, err
	}
	in := inputs{
		"format":       "root/1",
		"arch":         b.arch.Apk,
		"recipe files": files.String(),
		"source date":  strconv.FormatInt(b.epoch, 10),
	}
	root := &builtRoot{}
	for _, s := range selected {
		in["package "+s.Meta.Name] = s.Meta.Version + " " + s.Meta.Checksum
		root.Packages = append(root.Packages, bundle.Package{Name: s.Meta.Name, Version: s.Meta.Version})
	}
	for i, d := range b.recipe.Packages {
		in[fmt.Sprintf("world %d", i)] = d
	}

	out, err := b.cached(ctx, "root "+b.recipe.Name+" "+b.arch.Go, in, false, func(ctx context.Context) (outputs, error) {
		spool, err := b.spool()
		if err != nil {
			return nil, err
		}
		defer spool.Close()
		t, err := b.ownTree(func(t *rootfs.Tree) error {
			return apk.Install(ctx, t, selected, apk.InstallOptions{
				Spool: spool, World: b.recipe.Packages, Arch: b.arch.Apk, Repositories: b.recipe.Repositories, Epoch: b.epoch,
			})
		})
		if err != nil {
			return nil, err
		}
		return b.writeRoot(ctx, t)
	})
	if err != nil {
		return nil, err
	}
	hash, err := b.readBlob(out["hash"])
	if err != nil {
		return nil, err
	}
	root.Disk, root.Initramfs, root.Hash = out["disk"], out["initramfs"], string(hash)
	return root, nil
}

// ownTree is the base tree, what install adds to it, and the recipe's files,
// which may replace a package's own: the recipe's word is the last.
func (b *builder) ownTree(install func(*rootfs.Tree) error) (*rootfs.Tree, error) {
	t, err := baseTree(b.recipe, b.recipe.Spec())
	if err != nil {
		return nil, err
	}
	if install != nil {
		if err := install(t); err != nil {
			return nil, err
		}
	}
	return t, addFiles(t, b.recipe)
}

// treeDigest is the digest of a tree as a tar.
func (b *builder) treeDigest(t *rootfs.Tree) (store.Digest, error) {
	h := sha256.New()
	if err := rootfs.WriteTar(h, t, 0); err != nil {
		return "", err
	}
	return store.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil))), nil
}

// writeRoot makes the root disk and the initramfs of a finished tree.
func (b *builder) writeRoot(ctx context.Context, t *rootfs.Tree) (outputs, error) {
	init, ok := t.Lookup(guestInit)
	if !ok {
		return nil, fault.Errorf(fault.Usage, "%s: no package brings /%s, the guest's PID 1", b.recipe.Path, guestInit).
			Hintf("add sovereign-init to packages:")
	}
	dir, err := os.MkdirTemp(filepath.Join(b.opts.cacheDir, "tmp"), "root-")
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer os.RemoveAll(dir)

	rootPath, hashPath, diskPath := filepath.Join(dir, "root.erofs"), filepath.Join(dir, "root.verity"), filepath.Join(dir, "root.img")
	if err := erofs.WriteFile(ctx, rootPath, t, erofs.Options{Epoch: b.epoch, Label: b.recipe.Name}); err != nil {
		return nil, err
	}
	hash, err := verity.WriteFile(ctx, rootPath, hashPath)
	if err != nil {
		return nil, err
	}
	if err := disk.WriteRoot(ctx, diskPath, b.arch.Go, rootPath, hashPath, hash); err != nil {
		return nil, err
	}
	out := outputs{}
	if out["disk"], _, err = b.store.Adopt(ctx, diskPath, ""); err != nil {
		return nil, err
	}

	early := rootfs.New()
	for _, name := range []string{"dev", "proc", "sys", "root"} {
		if err := early.Add(rootfs.Entry{Path: name, Mode: fs.ModeDir | 0o755}); err != nil {
			return nil, err
		}
	}
	init.Path, init.Hard = "init", ""
	if err := early.Add(init); err != nil {
		return nil, err
	}
	w, err := b.store.Create(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	if err := initramfs.Write(w, early, b.epoch); err != nil {
		return nil, err
	}
	if out["initramfs"], _, err = w.Commit(""); err != nil {
		return nil, err
	}
	out["hash"], _, err = b.store.Put(ctx, bytes.NewReader([]byte(hash)), "")
	return out, err
}

// readBlob reads a small blob of our own making.
func (b *builder) readBlob(d store.Digest) ([]byte, error) {
	f, err := b.store.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
