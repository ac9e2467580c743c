// Package image looks at a bundle for package audit: a directory comes in, and
// the facts of its manifest, its kernel's .config and its root image go out. It
// mounts nothing and needs no privilege.
package image

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

const (
	rootLabel = "root" // of the partition with the file system
	// maxText bounds a file of the image that is read as text, in bytes.
	maxText = 1 << 20
	// settingsFile is the image's postgresql.conf.
	settingsFile = "etc/sovereign/postgresql.conf"
)

// Look looks at the bundle in dir. Every artifact is held to its digest first: a
// bundle that is not what its manifest says is an error, of class
// fault.Verification, and so is one that cannot be read at all. What is missing
// in it is a fact.
func Look(ctx context.Context, dir string) (*audit.Facts, error) {
	m, err := bundle.Load(dir)
	if err != nil {
		return nil, err
	}
	if err := bundle.Verify(ctx, dir); err != nil {
		return nil, err
	}
	f := &audit.Facts{Name: m.Name, Arch: m.Arch, Manifest: m}
	if f.Bundle, err = bundle.Digest(dir); err != nil {
		return nil, err
	}
	f.Kernel = audit.Unseen[*kernel.Config]("the bundle has no kernel's .config")
	if a, ok := m.Artifact(bundle.RoleKernelConfig); ok {
		f.Kernel = audit.Look(kernel.ReadConfig(filepath.Join(dir, a.File)))
	}
	a, ok := m.Artifact(bundle.RoleRoot)
	if !ok { // Load has seen that there is one
		return nil, fault.Errorf(fault.Internal, "%s: no root image", dir)
	}
	f.Image, err = lookAtRoot(ctx, filepath.Join(dir, a.File))
	return f, err
}

func lookAtRoot(ctx context.Context, file string) (i audit.Image, err error) {
	f, err := os.Open(file)
	if err != nil {
		return i, fault.Wrap(fault.Environment, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d, err := disk.Read(f)
	if err != nil {
		return i, err
	}
	for _, p := range d.Partitions {
		if p.Label != rootLabel {
			continue
		}
		at, ok := p.Content.(io.ReaderAt)
		if !ok {
			return i, fault.Errorf(fault.Internal, "%s: its root cannot be read at random", file)
		}
		t, err := erofs.Read(ctx, at)
		if err != nil {
			return i, err
		}
		return Tree(ctx, t)
	}
	return i, fault.Errorf(fault.Usage, "%s has no partition %q", file, rootLabel)
}

// Tree looks at a root file system.
func Tree(ctx context.Context, t *rootfs.Tree) (audit.Image, error) {
	i := audit.Image{ICUData: audit.Saw([]audit.File(nil))}
	var programs []audit.Program
	for e := range t.All() {
		if err := ctx.Err(); err != nil {
			return i, context.Cause(ctx)
		}
		if !e.IsRegular() || e.Hard != "" {
			continue
		}
		name := "/" + e.Path
		if base := path.Base(name); strings.HasPrefix(base, "icudt") && strings.HasSuffix(base, ".dat") {
			i.ICUData.Value = append(i.ICUData.Value, audit.File{Path: name, Size: e.Size})
		}
		if e.Mode.Perm()&0o111 == 0 {
			continue
		}
		p, ok, err := program(e, name)
		if err != nil {
			return i, err
		}
		if ok {
			programs = append(programs, p)
		}
	}
	i.Programs = audit.Saw(programs)
	i.Settings = audit.Look(text(t, settingsFile))
	specText, err := text(t, strings.TrimPrefix(spec.Path, "/"))
	if err == nil {
		s := new(spec.Spec)
		err = json.Unmarshal([]byte(specText), s)
		i.Spec = audit.Look(s, err)
		i.Setup = setup(t, s)
	} else {
		i.Spec = audit.Unseen[*spec.Spec]("%v", err)
		i.Setup = audit.Unseen[string]("%v", err)
	}
	return i, nil
}

// setup is the text of the program that makes the cluster: the first setup
// command of the service that runs postgres.
func setup(t *rootfs.Tree, s *spec.Spec) audit.Known[string] {
	for _, v := range s.Services {
		if len(v.Command) == 0 || path.Base(v.Command[0]) != "postgres" {
			continue
		}
		if len(v.Setup) == 0 || len(v.Setup[0]) == 0 {
			return audit.Unseen[string]("the service %s has no setup", v.Name)
		}
		return audit.Look(text(t, strings.TrimPrefix(v.Setup[0][0], "/")))
	}
	return audit.Unseen[string]("no service runs postgres")
}

// text is a small file of the tree.
func text(t *rootfs.Tree, name string) (string, error) {
	e, ok := t.Lookup(name)
	switch {
	case !ok:
		return "", fmt.Errorf("/%s is not in the image", name)
	case !e.IsRegular() || e.Size > maxText:
		return "", fmt.Errorf("/%s is no text of at most %d bytes", name, maxText)
	}
	var b strings.Builder
	if err := e.CopyTo(&b); err != nil {
		return "", err
	}
	return b.String(), nil
}

// program reads the head of an executable file, and of postgres what it is
// linked with.
func program(e rootfs.Entry, name string) (p audit.Program, ok bool, err error) {
	rc, err := e.Open()
	if err != nil {
		return p, false, err
	}
	defer rc.Close() // only read
	head := make([]byte, min(e.Size, audit.HeadSize))
	if _, err := io.ReadFull(rc, head); err != nil {
		return p, false, fmt.Errorf("%s: %w", name, err)
	}
	p, ok = audit.ParseProgram(name, head)
	if ok && p.WantsData() {
		if err := lookAtData(e, &p); err != nil {
			return p, false, fmt.Errorf("%s: %w", name, err)
		}
	}
	if !ok || path.Base(name) != "postgres" {
		return p, ok, nil
	}
	var b strings.Builder
	if err := e.CopyTo(&b); err != nil {
		return p, false, err
	}
	f, err := elf.NewFile(strings.NewReader(b.String()))
	if err != nil {
		return p, false, fault.Errorf(fault.Source, "%s: %w", name, err)
	}
	if p.Needed, err = f.ImportedLibraries(); err != nil {
		return p, false, fault.Errorf(fault.Source, "%s: %w", name, err)
	}
	return p, true, nil
}

func lookAtData(e rootfs.Entry, p *audit.Program) error {
	rc, err := e.Open()
	if err != nil {
		return err
	}
	defer rc.Close() // only read
	if _, err := io.CopyN(io.Discard, rc, p.Data); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(rc, audit.DataSize))
	p.LookAtData(b)
	return err
}
