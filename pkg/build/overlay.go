package build

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// overlay is what lies over the packages in a root image: the recipe's own
// files, which may replace a package's, and the caller's, which have the last
// word. Contents are in the store, read once, so that the bytes in the image
// are those in its key, whatever happens to the files meanwhile.
type overlay struct {
	recipe, caller []rootfs.Entry
}

// readOverlay reads the recipe's and the caller's files into the store.
func (b *Builder) readOverlay(ctx context.Context) (*overlay, error) {
	o := &overlay{}
	for _, f := range b.recipe.Files {
		e, err := fileEntry(b.recipe, f)
		if err == nil {
			e, err = b.keepContent(ctx, e)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: file %s: %w", b.name(), f.Path, err)
		}
		o.recipe = append(o.recipe, e)
	}
	if b.opts.files == nil {
		return o, nil
	}
	for e := range b.opts.files.All() {
		e, err := b.keepContent(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", e.Path, err)
		}
		o.caller = append(o.caller, e)
	}
	return o, nil
}

// keepContent moves the contents of a regular file to the store.
func (b *Builder) keepContent(ctx context.Context, e rootfs.Entry) (rootfs.Entry, error) {
	if !e.IsRegular() || e.Hard != "" || e.Content == nil {
		return e, nil
	}
	r, err := e.Content.Open()
	if err != nil {
		return e, fault.Wrap(fault.Usage, err)
	}
	defer r.Close()
	d, size, err := b.keep(ctx, r)
	if err != nil || b.planning {
		e.Size = size
		return e, err
	}
	e.Size, e.Content = size, rootfs.File(b.store.Path(d))
	return e, nil
}

// addTo lays the files over what the tree has.
func (o *overlay) addTo(t *rootfs.Tree) error {
	for _, e := range o.recipe {
		if err := t.Set(e); err != nil {
			return err
		}
	}
	for _, e := range o.caller {
		if have, ok := t.Lookup(e.Path); ok && have.IsDir() && e.IsDir() {
			continue
		}
		if err := t.Set(e); err != nil {
			return err
		}
	}
	return nil
}

// fileEntry is one of the recipe's files; its content is where the recipe says.
func fileEntry(r *recipe.Recipe, f recipe.File) (rootfs.Entry, error) {
	e := rootfs.Entry{Path: strings.TrimPrefix(f.Path, "/"), Mode: 0o644}
	if f.User != "" {
		i := slices.IndexFunc(r.Users, func(u recipe.User) bool { return u.Name == f.User })
		if i >= 0 {
			e.UID, e.GID = uint32(r.Users[i].UID), uint32(r.Users[i].UID)
		}
	}
	switch {
	case f.Link != "":
		e.Mode, e.Link = fs.ModeSymlink|0o777, f.Link
	case f.Directory:
		e.Mode = fs.ModeDir | 0o755
	case f.From != "":
		from := r.Resolve(f.From)
		info, err := from.Stat()
		if err != nil {
			return e, fault.Wrap(fault.Usage, err)
		}
		e.Size, e.Content = info.Size(), from
	default:
		e.Size, e.Content = int64(len(f.Content)), rootfs.Bytes([]byte(f.Content))
	}
	if f.Mode != "" && f.Link == "" {
		mode, err := strconv.ParseUint(f.Mode, 8, 12)
		if err != nil {
			return e, fault.Errorf(fault.Usage, "mode %q is not octal", f.Mode)
		}
		e.Mode = e.Mode.Type() | rootfs.ModeFromUnix(uint32(mode)).Perm() | rootfs.ModeFromUnix(uint32(mode))&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)
	}
	return e, nil
}
