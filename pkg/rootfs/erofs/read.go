package erofs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	goerofs "github.com/erofs/go-erofs"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// namesAtOnce is how many names of a directory are read at once. A directory may
// claim any number of them.
const namesAtOnce = 1024

// Read reads an image into a tree, within rootfs.DefaultLimits, also one whose
// files are compressed with zstd, lz4 or deflate.
// The tree's contents read from r when they are opened, so r must stay open as
// long as the tree is used. Damage, and what is not supported, is an error of
// class fault.Source that names the path it was found at.
func Read(ctx context.Context, r io.ReaderAt) (*rootfs.Tree, error) {
	return read(ctx, r, rootfs.DefaultLimits())
}

func read(ctx context.Context, r io.ReaderAt, limits rootfs.Limits) (*rootfs.Tree, error) {
	if err := checkSuper(r); err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	z, err := newZImage(r)
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", explain(err))
	}
	image, err := goerofs.Open(uncompressed{r})
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", explain(err))
	}
	w := walk{ctx: ctx, image: image, z: z, tree: rootfs.New(), budget: rootfs.NewBudget(limits), first: map[int64]string{}}
	root, err := fs.Stat(image, rootfs.Root)
	if err == nil {
		err = w.add(rootfs.Root, root)
	}
	for len(w.queue) > 0 && err == nil {
		dir := w.queue[0]
		w.queue[0] = ""
		w.queue = w.queue[1:]
		err = w.directory(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", explain(err))
	}
	return w.tree, nil
}

// Features of images that Read does not know, as the kernel's
// fs/erofs/erofs_fs.h names them.
var unsupported = []struct {
	bits uint32
	name string
}{
	{0x8, "data on other devices, or a second compression"}, {0x80, "block numbers of 48 bits"}, {0x100, "a metabox"},
}

// checkSuper says why an image cannot be read, better than the reader could.
func checkSuper(r io.ReaderAt) error {
	sb := make([]byte, 128)
	if _, err := r.ReadAt(sb, superOffset); err != nil && !errors.Is(err, io.EOF) {
		return fault.Wrap(fault.Environment, err)
	}
	le := binary.LittleEndian
	if le.Uint32(sb) != superMagic {
		return fault.Errorf(fault.Source, "there is no magic number: not an EROFS image")
	}
	const blockCount = 36
	features := le.Uint32(sb[superIncompat:])
	for _, f := range unsupported {
		if features&f.bits != 0 {
			return notSupported("%s is not supported", f.name)
		}
	}
	if known := uint16(1<<algorithmLZ4 | 1<<algorithmDeflate | 1<<algorithmZstd); features&incompatClusters != 0 && le.Uint16(sb[superAlgorithms:])&^known != 0 {
		return notSupported("compression with other than zstd, lz4 and deflate is not supported")
	}
	// A file cut short is found here, not at the first use of what is gone.
	if sb[superBlockBits] > 16 {
		return fault.Errorf(fault.Source, "blocks of 1 << %d bytes", sb[superBlockBits])
	}
	end := int64(le.Uint32(sb[blockCount:])) << sb[superBlockBits]
	if _, err := r.ReadAt(sb[:1], max(end, 1)-1); errors.Is(err, io.EOF) {
		return fault.Errorf(fault.Source, "the image ends before byte %d", end)
	} else if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return nil
}

func notSupported(format string, args ...any) error {
	return fault.Errorf(fault.Source, format, args...).Hintf("mount the image, and give the directory")
}

// explain gives the errors of the reader their class.
func explain(err error) error {
	var classed *fault.Error
	switch {
	case errors.As(err, &classed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, goerofs.ErrNotImplemented):
		return notSupported("%w, which is not supported", err)
	}
	return fault.Wrap(fault.Source, err)
}

// walk makes the tree, directory by directory.
type walk struct {
	ctx    context.Context
	image  fs.FS
	z      *zImage
	tree   *rootfs.Tree
	budget *rootfs.Budget
	first  map[int64]string // first name of each directory, and of each inode that has several
	queue  []string         // directories whose names are still to be read
}

// directory reads the names in a directory.
func (w *walk) directory(name string) error {
	opened, err := w.image.Open(name)
	if err != nil {
		return fmt.Errorf("%.255s: %w", name, err)
	}
	defer opened.Close() // only read
	dir, ok := opened.(fs.ReadDirFile)
	if !ok {
		return fault.Errorf(fault.Internal, "%.255s: the reader gives %T for a directory", name, opened)
	}
	for {
		list, err := dir.ReadDir(namesAtOnce)
		for _, d := range list {
			if err := w.child(name, d); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%.255s: %w", name, err)
		}
	}
}

// child adds one name of a directory.
func (w *walk) child(dir string, d fs.DirEntry) error {
	name := path.Join(dir, d.Name())
	if d.Name() == "" || strings.Contains(d.Name(), "/") {
		return fault.Errorf(fault.Source, "%.255s: the name %q is not one", dir, d.Name())
	}
	info, err := d.Info()
	if err != nil {
		return fmt.Errorf("%.255s: %w", name, err)
	}
	return w.add(name, info)
}

// add adds an entry to the tree.
func (w *walk) add(name string, info fs.FileInfo) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if err := w.budget.Count(1); err != nil {
		return err
	}
	stat, ok := info.Sys().(*goerofs.Stat)
	if !ok {
		return fault.Errorf(fault.Internal, "%.255s: no attributes in %T", name, info.Sys())
	}
	if info.Size() < 0 || stat.Mode.Type() != info.Mode().Type() {
		return fault.Errorf(fault.Source, "%.255s: inode %d is %v of %d bytes, its directory has it as %v", name, stat.Ino, stat.Mode, uint64(info.Size()), info.Mode().Type())
	}
	e, err := w.entry(name, info, stat)
	if err == nil {
		err = w.budget.Entry(e)
	}
	if err != nil {
		return fmt.Errorf("%.255s: %w", name, err)
	}
	first, seen := w.first[stat.Ino]
	switch {
	case e.IsDir() && seen: // below itself it would be walked for ever
		return fault.Errorf(fault.Source, "%.255s is the directory %.255s already", name, first)
	case e.IsDir():
		w.queue = append(w.queue, name)
		w.first[stat.Ino] = name
	case seen:
		e = rootfs.Hardlink(name, first)
	case stat.Nlink > 1:
		w.first[stat.Ino] = name
	}
	if name == rootfs.Root {
		return w.tree.Set(e)
	}
	return w.tree.Add(e)
}

func (w *walk) entry(name string, info fs.FileInfo, stat *goerofs.Stat) (rootfs.Entry, error) {
	// go-erofs gives the type as Go has it and the other bits as the inode
	// has them.
	const regular = 0o100000
	bits := rootfs.ModeFromUnix(uint32(info.Mode())&0o7777 | regular)
	e := rootfs.Entry{Path: name, Mode: info.Mode().Type() | bits, UID: stat.UID, GID: stat.GID}
	for key, value := range stat.Xattrs {
		if e.Xattrs == nil {
			e.Xattrs = map[string][]byte{}
		}
		// go-erofs ends the names that are an index of their own, those of
		// ACLs, with a dot.
		e.Xattrs[strings.TrimSuffix(key, ".")] = []byte(value)
	}
	compressed := stat.InodeLayout<<1 == layoutFull || stat.InodeLayout<<1 == layoutCompact
	switch {
	case e.IsRegular() && info.Size() > 0 && compressed:
		e.Size, e.Content = info.Size(), zContent{w.z, stat.Ino, info.Size()}
	case e.IsRegular() && info.Size() > 0:
		e.Size, e.Content = info.Size(), imageFile{w.image, name}
	case compressed && info.Size() > 0:
		return e, notSupported("compressed, which is supported of files only")
	case e.IsSymlink():
		links, ok := w.image.(fs.ReadLinkFS)
		if !ok {
			return e, errors.New("the reader gives no link targets")
		}
		var err error
		if e.Link, err = links.ReadLink(name); err != nil {
			return e, err
		}
	case e.IsDevice():
		// As Linux's new_decode_dev reads it.
		e.Major, e.Minor = stat.Rdev>>8&0xfff, stat.Rdev&0xff|stat.Rdev>>12&0xfff00
	}
	return e, nil
}

// imageFile is the contents of a file of the image.
type imageFile struct {
	image fs.FS
	name  string
}

func (f imageFile) Open() (io.ReadCloser, error) {
	file, err := f.image.Open(f.name)
	if err != nil {
		return nil, explain(err)
	}
	return classed{file}, nil
}

// classed is a file whose errors have their class.
type classed struct{ fs.File }

func (c classed) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	if err != nil && err != io.EOF {
		err = explain(err)
	}
	return n, err
}
