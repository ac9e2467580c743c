package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/sovereign-build/sovereign/internal/decompress"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Names of the image specification (layer.md, Whiteouts). What else begins
// with metaPrefix is bookkeeping of AUFS.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// Limits bound what an image may cost.
type Limits struct {
	Layers  int   // layers of the image
	Entries int   // tar headers of all layers, and directories they imply
	Bytes   int64 // of all layers uncompressed; see rootfs.MaxHoles for holes
	// Metadata is what all names, link targets and attributes take of memory,
	// bytes, also of what a later layer hides; 0 is DefaultLimits'. The tree
	// that is made of them takes as much again.
	Metadata int64
}

// DefaultLimits are far above any image in use and far below what harms a
// machine: 512 layers (overlayfs takes 500, docker 127), and
// rootfs.DefaultLimits.
func DefaultLimits() Limits {
	l := rootfs.DefaultLimits()
	return Limits{Layers: 512, Entries: l.Entries, Bytes: l.Bytes, Metadata: l.Metadata}
}

// TreeOption changes how Tree reads.
type TreeOption func(*treeOptions)

type treeOptions struct {
	limits   Limits
	progress func(layer, layers int)
}

// WithLimits replaces DefaultLimits.
func WithLimits(l Limits) TreeOption { return func(o *treeOptions) { o.limits = l } }

// WithProgress is told, before each layer is read, which of how many it is,
// from 1.
func WithProgress(fn func(layer, layers int)) TreeOption {
	return func(o *treeOptions) { o.progress = fn }
}

// Tree applies the image's layers, lowest first, and returns what they make.
// Contents go to the spool and are valid until it is closed.
//
// Errors: fault.Verification for a blob that has not its digest or a layer
// that has not its diff ID; fault.Source for a layer that is broken, leads out
// of the image or exceeds a limit, and for a registry that fails;
// fault.Environment for a spool that is full.
func (i *Image) Tree(ctx context.Context, spool *rootfs.Spool, opts ...TreeOption) (*rootfs.Tree, error) {
	o := treeOptions{limits: DefaultLimits(), progress: func(int, int) {}}
	for _, opt := range opts {
		opt(&o)
	}
	if len(i.layers) > o.limits.Layers {
		return nil, fault.Errorf(fault.Source, "%s: %d layers are more than %d", i.Name, len(i.layers), o.limits.Layers)
	}
	budget := rootfs.NewBudget(rootfs.Limits{Entries: o.limits.Entries, Bytes: o.limits.Bytes, Metadata: o.limits.Metadata})
	a := &applier{overlay: newOverlay(budget), ctx: ctx, spool: spool}
	for n, l := range i.layers {
		if l.size > o.limits.Bytes {
			return nil, fault.Errorf(fault.Source, "%s: layer %d (%s): its %d bytes are more than %d: %w", i.Name, n+1, l.label(), l.size, o.limits.Bytes, rootfs.ErrLimit)
		}
		o.progress(n+1, len(i.layers))
		a.layer = n + 1
		if err := a.apply(l); err != nil {
			return nil, layerError(ctx, fmt.Sprintf("%s: layer %d (%s)", i.Name, n+1, l.label()), err)
		}
	}
	t, err := a.tree()
	if err != nil {
		return nil, fault.Wrap(fault.Source, fmt.Errorf("%s: %w", i.Name, err))
	}
	return t, nil
}

// layerError gives broken layers the class Source, the machine's own errors
// Environment, and leaves cancellation as it is.
func layerError(ctx context.Context, what string, err error) error {
	var classed *fault.Error
	var pathErr *fs.PathError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &classed):
	case errors.As(err, &pathErr):
		return fault.Errorf(fault.Environment, "%s: %w", what, err).Hintf("check that there is space for the temporary file, or set TMPDIR")
	}
	return fault.Wrap(fault.Source, fmt.Errorf("%s: %w", what, err))
}

type applier struct {
	*overlay
	ctx   context.Context
	spool *rootfs.Spool
}

// apply reads one layer to the end of its blob, so that nothing goes
// unverified.
func (a *applier) apply(l layer) error {
	blob, err := l.open(a.ctx)
	if err != nil {
		return err
	}
	defer blob.Close() // only read
	compressed := stream.WithContext(a.ctx, blob)
	err = a.read(l, compressed)
	if err == nil || a.ctx.Err() != nil {
		return err
	}
	// Wrong bytes usually break the format before their digest is known to be
	// wrong. Which of the two it is decides what to do about it.
	var class *fault.Error
	if _, drainErr := io.Copy(io.Discard, compressed); errors.As(drainErr, &class) && class.Class == fault.Verification {
		return drainErr
	}
	return err
}

func (a *applier) read(l layer, compressed io.Reader) error {
	plain, err := decompress.New(compressed)
	if err != nil {
		return err
	}
	defer plain.Close() // a decoder without state of its own
	hash := sha256.New()
	tr := rootfs.NewTarReader(a.ctx, io.TeeReader(plain, hash), a.budget)
	for {
		h, e, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := a.entry(h, e, tr); err != nil {
			return err
		}
	}
	// Padding behind the archive's end belongs to both digests.
	if err := tr.Drain(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, compressed); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != l.diffID.String() {
		return fault.Errorf(fault.Verification, "wrong diff ID: the image's configuration has %s, got %s", l.diffID, got)
	}
	return nil
}

// entry applies one entry of a layer.
func (a *applier) entry(h *tar.Header, e rootfs.Entry, tr *rootfs.TarReader) error {
	if e.Path == rootfs.Root {
		if !e.IsDir() || e.Hard != "" {
			return fmt.Errorf("the root directory is not a directory but %v", e.Mode)
		}
		a.root.file, a.root.implicit = &file{entry: e}, false
		return nil
	}
	dir, base := path.Split(e.Path)
	if skip, err := inWhiteout(dir); skip || err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(e.Path, dir, base)
	}
	f := &file{entry: e}
	var target *node
	var err error
	if e.Hard != "" {
		targetDir, targetBase := path.Split(e.Hard)
		if target, err = a.target(targetDir, targetBase); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if target == nil {
			return fmt.Errorf("%s: hard link to %s, which is not there", e.Path, e.Hard)
		}
		f = target.file
		f.take(e)
	} else if e.IsRegular() && h.Size > 0 {
		if f.entry.Content, err = tr.Contents(a.spool, nil); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		f.entry.Size = h.Size
	}
	parent, err := a.dir(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	for n := target; n != nil; n = n.parent {
		if n == parent.children[base] {
			return fmt.Errorf("%s: hard link to %s, which it replaces", e.Path, e.Hard)
		}
	}
	return a.put(parent, base, f)
}

// take gives a file the attributes of a further name's header, as chown and
// chmod by that name would: containerd does, and in layers that tools make they
// are the same anyway.
func (f *file) take(e rootfs.Entry) {
	f.entry.UID, f.entry.GID = e.UID, e.GID
	if !f.entry.IsSymlink() {
		f.entry.Mode = f.entry.Mode.Type() | e.Mode
	}
	for name, value := range e.Xattrs {
		if f.entry.Xattrs == nil {
			f.entry.Xattrs = map[string][]byte{}
		}
		f.entry.Xattrs[name] = value
	}
}

func (a *applier) whiteout(name, dir, base string) error {
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return fmt.Errorf("%s: a whiteout of nothing", name)
	}
	if strings.HasPrefix(base, metaPrefix) && base != opaqueName {
		return nil
	}
	parent, err := a.dir(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if base == opaqueName {
		a.hide(parent)
	} else if n := parent.children[hidden]; n != nil {
		a.drop(parent, hidden, n)
	}
	return nil
}

// inWhiteout says whether a directory is AUFS's own, whose entries mean
// nothing outside it; one below a whiteout of any other kind is an error.
func inWhiteout(dir string) (bool, error) {
	if !strings.Contains(dir, whiteoutPrefix) {
		return false, nil
	}
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, metaPrefix) {
			return true, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return false, fmt.Errorf("%s: an entry below a whiteout", dir)
		}
	}
	return false, nil
}
