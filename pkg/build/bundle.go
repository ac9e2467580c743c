package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// Serials of the two disks, by which the guest finds them whatever order the
// hypervisor attaches them in.
const (
	rootSerial = "root"
	dataSerial = "data"
)

// writeBundle writes the bundle's directory, unless what is there already is
// this bundle.
func (b *Builder) writeBundle(ctx context.Context, kernel Kernel, root *builtRoot) error {
	locked, err := b.lock.Digest()
	if err != nil {
		return err
	}
	m := bundle.Manifest{
		Schema:     bundle.Schema,
		Name:       b.recipe.Name,
		Arch:       b.arch.Go,
		SourceDate: b.epoch,
		Lock:       bundle.Lock{Digest: locked.String(), Changed: b.lock.Changed(), Unpinned: root.Unpinned},
		Root:       bundle.Root{Serial: rootSerial, Hash: root.Hash},
		VM: bundle.VM{
			MemoryMiB: int(b.recipe.VM.Memory >> 20),
			CPUs:      b.recipe.VM.CPUs,
			Cmdline: strings.Join([]string{
				"roothash=" + root.Hash,
				"root.serial=" + rootSerial,
				"data.serial=" + dataSerial,
				"quiet",
			}, " "),
			Data: bundle.Data{Serial: dataSerial, Size: int64(b.recipe.VM.Data)},
		},
		Ports:    b.recipe.BundlePorts(),
		Packages: root.Packages,
	}
	if m.Release, err = b.release(); err != nil {
		return err
	}
	for _, s := range b.recipe.Services {
		m.Services = append(m.Services, s.Name)
	}
	files := map[string]string{}
	for _, a := range []struct {
		file, role string
		digest     store.Digest
	}{
		{b.arch.Image, bundle.RoleKernel, kernel.Image},
		{"initramfs.cpio", bundle.RoleInitramfs, root.Initramfs},
		{"kernel.config", bundle.RoleKernelConfig, kernel.Config},
		{"root.img", bundle.RoleRoot, root.Disk},
	} {
		size, err := b.store.Size(a.digest)
		if err != nil {
			return err
		}
		m.Artifacts = append(m.Artifacts, bundle.Artifact{File: a.file, Role: a.role, Digest: a.digest.String(), Size: size})
		files[a.file] = b.store.Path(a.digest)
	}

	dir := filepath.Join(b.opts.output, fmt.Sprintf("%s-%s", b.recipe.Name, b.arch.Go))
	if b.result.Bundle, err = filepath.Abs(dir); err != nil {
		return err
	}
	text, err := bundle.Marshal(&m)
	if err != nil {
		return err
	}
	b.manifest = store.FromBytes(text)
	b.result.Digest = b.manifest.String()
	if isBundle(dir, b.result.Digest, &m) {
		return nil
	}
	if b.planning {
		b.miss("bundle", dir+" is to be written", false)
		return nil
	}
	b.tell(Writing{dir})
	err = bundle.Write(ctx, dir, m, files)
	if fault.ClassOf(err) == fault.Verification {
		return remedy.By(remedy.Remedy{Kind: remedy.RepairStore}, fault.Errorf(fault.Verification, "content store %s: %w", b.store.Dir(), err).
			Hintf("a file of the store is damaged: repair the store, then build again"))
	}
	return err
}

// release reads the key that the recipe names, nil for none.
func (b *Builder) release() (*bundle.Release, error) {
	if b.recipe.Release.Key == "" {
		return nil, nil
	}
	key, err := b.readKey("release.key", b.recipe.Release.Key)
	if err != nil {
		return nil, err
	}
	return &bundle.Release{Key: string(key)}, nil
}

// readKey reads a public key that the recipe names in a field.
func (b *Builder) readKey(field, name string) (signature.Key, error) {
	file := b.recipe.Resolve(name)
	text, err := file.ReadFile(signature.MaxSize)
	if err != nil {
		return "", fault.Errorf(fault.Usage, "%s: %s: %w", b.name(), field, err)
	}
	key, err := signature.ParseKey(text)
	if err != nil {
		return "", fmt.Errorf("%s: %s: %s: %w", b.name(), field, file, err)
	}
	return key, nil
}

// isBundle reports whether dir holds the bundle whose manifest has this
// digest, going by the files' names and sizes: bundle.Verify reads every byte,
// and a build with nothing to do should not.
func isBundle(dir, digest string, m *bundle.Manifest) bool {
	if have, err := bundle.Digest(dir); err != nil || have != digest {
		return false
	}
	for _, a := range m.Artifacts {
		if info, err := os.Stat(filepath.Join(dir, a.File)); err != nil || info.Size() != a.Size {
			return false
		}
	}
	_, err := os.Stat(filepath.Join(dir, bundle.SumsFile))
	return err == nil
}
