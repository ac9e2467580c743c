// Package compare says in what two bundles differ: kernel symbols, packages,
// files of the root file system and of the initramfs, and the manifest.
//
// Two bundle directories come in, a report goes out, empty for equal ones. It
// reads the artifacts themselves, without mounting or unpacking them, and
// does not verify them first: what is on the disk is what is compared.
package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/initramfs"
)

// Report is what differs between two bundles.
type Report struct {
	// Equal is true when the bundles are the same, byte for byte.
	Equal bool `json:"equal"`
	// Before and After are the digests of the two.
	Before string `json:"before"`
	After  string `json:"after"`
	// Artifacts names the files of the bundles whose contents differ, sorted.
	Artifacts []Artifact `json:"artifacts,omitempty"`
	// Manifest lists the other values of the manifests that differ.
	Manifest []Value `json:"manifest,omitempty"`
	// Kernel is the difference of the kernels' configurations.
	Kernel []kernel.Group `json:"kernel,omitempty"`
	// Packages are sorted by name.
	Packages []Package `json:"packages,omitempty"`
	// Root and Initramfs are the paths that differ in them.
	Root      []rootfs.Change `json:"root,omitempty"`
	Initramfs []rootfs.Change `json:"initramfs,omitempty"`
}

// Artifact is one file of a bundle that differs; a digest is empty where the
// bundle has no such file.
type Artifact struct {
	File   string `json:"file"`
	Before string `json:"before"`
	After  string `json:"after"`
	// Bytes is the first difference of two files of the same role.
	Bytes *rootfs.BytesChange `json:"bytes,omitempty"`
}

// Value is one value of the manifests, by its path in the JSON ("vm.cpus").
type Value struct {
	Path   string `json:"path"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Package is one whose version differs; empty where it is not installed.
type Package struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Bundles compares the bundles in two directories. temp holds temporary files;
// "" is the system's directory for them. Errors are those of reading: a
// directory without a bundle is of class fault.Usage, damage of class
// fault.Verification.
func Bundles(ctx context.Context, before, after, temp string) (*Report, error) {
	a, err := open(before)
	if err != nil {
		return nil, err
	}
	b, err := open(after)
	if err != nil {
		return nil, err
	}
	r := &Report{Before: a.digest, After: b.digest}
	r.Packages = packages(a.manifest, b.manifest)
	if r.Manifest, err = values(a.manifest, b.manifest); err != nil {
		return nil, err
	}
	spool, err := rootfs.NewSpool(temp)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer spool.Close()
	for _, role := range []string{bundle.RoleKernel, bundle.RoleKernelConfig, bundle.RoleInitramfs, bundle.RoleRoot} {
		x, y := a.artifact(role), b.artifact(role)
		first, err := sameFile(ctx, a, x, b, y)
		if err != nil {
			return nil, err
		}
		if first == nil {
			continue
		}
		c := Artifact{File: y.File, Before: x.Digest, After: y.Digest, Bytes: first}
		if c.File == "" {
			c.File = x.File
		}
		r.Artifacts = append(r.Artifacts, c)
		if x.File == "" || y.File == "" {
			continue
		}
		if err := r.inside(ctx, role, filepath.Join(a.dir, x.File), filepath.Join(b.dir, y.File), spool); err != nil {
			return nil, err
		}
	}
	r.Equal = a.digest == b.digest && len(r.Artifacts) == 0
	return r, nil
}

// opened is a bundle.
type opened struct {
	dir, digest string
	manifest    *bundle.Manifest
}

func open(dir string) (opened, error) {
	m, err := bundle.Load(dir)
	if err != nil {
		return opened{}, err
	}
	digest, err := bundle.Digest(dir)
	return opened{dir, digest, m}, err
}

// artifact is the artifact of a role, zero where the bundle has none.
func (o opened) artifact(role string) bundle.Artifact {
	for _, a := range o.manifest.Artifacts {
		if a.Role == role {
			return a
		}
	}
	return bundle.Artifact{}
}

// sameFile returns the first difference of two artifacts, nil for none.
func sameFile(ctx context.Context, a opened, x bundle.Artifact, b opened, y bundle.Artifact) (*rootfs.BytesChange, error) {
	if x.File == "" || y.File == "" {
		if x.File == y.File {
			return nil, nil
		}
		return &rootfs.BytesChange{}, nil
	}
	tree := func(dir string, f bundle.Artifact) (*rootfs.Tree, error) {
		path := filepath.Join(dir, f.File)
		info, err := os.Stat(path)
		if err != nil {
			return nil, fault.Wrap(fault.Verification, err)
		}
		t := rootfs.New()
		return t, t.Add(rootfs.Entry{Path: "file", Mode: 0o644, Size: info.Size(), Content: rootfs.File(path)})
	}
	s, err := tree(a.dir, x)
	if err != nil {
		return nil, err
	}
	t, err := tree(b.dir, y)
	if err != nil {
		return nil, err
	}
	changes, err := rootfs.Diff(ctx, s, t)
	if err != nil || len(changes) == 0 {
		return nil, err
	}
	return changes[0].Bytes, nil
}

// inside compares what is in two artifacts of a role.
func (r *Report) inside(ctx context.Context, role, before, after string, spool *rootfs.Spool) (err error) {
	switch role {
	case bundle.RoleKernelConfig:
		var x, y *kernel.Config
		if x, err = kernel.ReadConfig(before); err != nil {
			return err
		}
		if y, err = kernel.ReadConfig(after); err != nil {
			return err
		}
		r.Kernel = kernel.Diff(x, y)
	case bundle.RoleInitramfs:
		r.Initramfs, err = diffTrees(ctx, before, after, func(f *os.File) (*rootfs.Tree, error) {
			return initramfs.Read(ctx, f, spool)
		})
	case bundle.RoleRoot:
		r.Root, err = diffTrees(ctx, before, after, func(f *os.File) (*rootfs.Tree, error) {
			d, err := disk.Read(f)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(d.Partitions, func(p disk.Partition) bool { return p.Label == "root" })
			if i < 0 {
				return nil, errors.New("it has no partition with the label root")
			}
			root, ok := d.Partitions[i].Content.(io.ReaderAt)
			if !ok {
				return nil, fmt.Errorf("partition root is a %T", d.Partitions[i].Content)
			}
			return erofs.Read(ctx, root)
		})
	}
	return err
}

func diffTrees(ctx context.Context, before, after string, read func(*os.File) (*rootfs.Tree, error)) (_ []rootfs.Change, err error) {
	var trees [2]*rootfs.Tree
	for i, path := range []string{before, after} {
		f, err := os.Open(path)
		if err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		defer f.Close()
		if trees[i], err = read(f); err != nil {
			return nil, fault.Errorf(fault.Verification, "%s: %w", filepath.Base(path), err)
		}
	}
	return rootfs.Diff(ctx, trees[0], trees[1])
}

func packages(a, b *bundle.Manifest) []Package {
	versions := map[string]*Package{}
	at := func(name string) *Package {
		if versions[name] == nil {
			versions[name] = &Package{Name: name}
		}
		return versions[name]
	}
	for _, p := range a.Packages {
		at(p.Name).Before = p.Version
	}
	for _, p := range b.Packages {
		at(p.Name).After = p.Version
	}
	var changed []Package
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		if p := *versions[name]; p.Before != p.After {
			changed = append(changed, p)
		}
	}
	return changed
}

// values compares the manifests without packages and artifacts, which have
// their own places in the report.
func values(a, b *bundle.Manifest) ([]Value, error) {
	before, err := flatten(a)
	if err != nil {
		return nil, err
	}
	after, err := flatten(b)
	if err != nil {
		return nil, err
	}
	paths := slices.Collect(maps.Keys(before))
	paths = slices.AppendSeq(paths, maps.Keys(after))
	slices.Sort(paths)
	var changed []Value
	for _, p := range slices.Compact(paths) {
		if before[p] != after[p] {
			changed = append(changed, Value{p, before[p], after[p]})
		}
	}
	return changed, nil
}

// flatten maps paths to values as JSON writes them.
func flatten(m *bundle.Manifest) (map[string]string, error) {
	c := *m
	c.Packages, c.Artifacts = nil, nil
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	out := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				walk(strings.TrimPrefix(path+"."+k, "."), inner)
			}
		case []any:
			for i, inner := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), inner)
			}
		case nil:
		default:
			out[path] = fmt.Sprint(v)
		}
	}
	walk("", v)
	return out, nil
}
