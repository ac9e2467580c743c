package licenses

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/module"

	"github.com/sovereign-build/sovereign/internal/decompress"
	"github.com/sovereign-build/sovereign/internal/unpack"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// FindFormat stands for what is found in the same archives: who changes which
// files are, or what is said of them, counts it up (TestFormat).
const FindFormat = "licenses/1"

// Limits of one archive. The largest source here, Linux, unpacks to 1.5 GiB in
// 93,000 entries, of which 32 are licences; the longest text has 45 KB.
const (
	maxUnpacked = 32 << 30
	maxEntries  = 4_000_000
	// maxText bounds one text. A larger file is named, and its text left out.
	maxText  = 1 << 20
	maxFiles = 20_000
	maxTexts = 256 << 20 // bytes of all
)

// Found is a file with a licence in it.
type Found struct {
	// Module is "PATH@VERSION" where the archive has Go modules.
	Module string `json:"module,omitempty"`
	// Path is where the file lies from the top of the source, of a package of npm
	// behind the name of that package's archive.
	Path string `json:"path"`
	Text []byte `json:"text,omitempty"`
	// Size is in bytes. A file of more than 1 MiB has no Text.
	Size int64 `json:"size"`
}

// name is what files with licences are called, in lower-case letters.
var name = regexp.MustCompile(`^(copying|copyrights?|licen[cs]es?|unlicen[cs]e|notices?|patents)([-._].+)?$`)

// others are the endings of files that are not texts, whatever their names:
// LICENSE.go, copyright.pl.
var others = strings.Fields(`.bat .c .cc .cmake .cpp .css .diff .el .f90 .go .h .hpp .htm .html .icns .in .java .js
	.json .map .mjs .patch .pl .pm .png .po .ps1 .py .rb .rs .s .sh .spec .svg .tmpl .toml .ts .tsx .xml .yaml .yml`)

// isLicense says whether a file of this name is one. What is only there to be
// tested with is none.
func isLicense(file string) bool {
	dir, base := path.Split(strings.ToLower(file))
	ext := path.Ext(base)
	dirs := strings.Split(dir, "/")
	switch {
	case slices.Contains(others, ext) || slices.Contains(dirs, "testdata"):
		return false
	case slices.Contains(dirs, "licenses"): // REUSE's, and Linux's
		return true
	case ext == ".rst": // a text about licences may be called license-rules.rst
		return name.MatchString(strings.TrimSuffix(base, ext)) && !strings.Contains(base, "-")
	}
	return name.MatchString(base)
}

// finder collects what one archive has, within the limits.
type finder struct {
	ctx     context.Context
	found   []Found
	entries int
	bytes   int64
	// top is the directory that all entries lie in, with its slash; "" for none.
	top string
}

// entry counts an entry of the archive itself.
func (f *finder) entry(name string) error {
	if err := context.Cause(f.ctx); err != nil {
		return err
	}
	top, _, _ := strings.Cut(name, "/")
	switch {
	case f.entries == 0:
		f.top = top + "/"
	case f.top != top+"/":
		f.top = ""
	}
	if f.entries++; f.entries > maxEntries {
		return fault.Errorf(fault.Source, "more than %d entries", maxEntries)
	}
	return nil
}

// add reads a file.
func (f *finder) add(mod, file string, size int64, r io.Reader) error {
	v := Found{Module: mod, Path: file, Size: size}
	if len(f.found) >= maxFiles {
		return fault.Errorf(fault.Source, "more than %d files with licences", maxFiles)
	}
	if size <= maxText {
		text, err := io.ReadAll(io.LimitReader(r, maxText+1))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if int64(len(text)) != size {
			return fault.Errorf(fault.Source, "%s: %d bytes, and its header says %d", file, len(text), size)
		}
		if bytes.IndexByte(text, 0) >= 0 || len(bytes.TrimSpace(text)) == 0 {
			return nil // no text
		}
		v.Text = text
		if f.bytes += size; f.bytes > maxTexts {
			return fault.Errorf(fault.Source, "more than %d bytes of licences", maxTexts)
		}
	}
	f.found = append(f.found, v)
	return nil
}

// clean is an entry's path from the top of its archive.
func clean(p string) string { return strings.TrimLeft(path.Clean("/"+p), "/") }

// tar looks at each regular file of a tar stream. With no entry that is one the
// stream is no archive, and has nothing.
func (f *finder) tar(r io.Reader, each func(name string, h *tar.Header, r io.Reader) error) error {
	b := bufio.NewReader(io.LimitReader(r, maxUnpacked))
	if _, err := b.Peek(512); err == io.EOF { // less than a header
		return nil
	}
	t := tar.NewReader(b)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF || n == 0 && errors.Is(err, tar.ErrHeader) {
			return nil
		}
		if err != nil {
			return fault.Errorf(fault.Source, "%w", err)
		}
		name := clean(h.Name)
		if h.Typeflag == tar.TypeXGlobalHeader || name == "" { // git's note, or the directory itself
			continue
		}
		if err := f.entry(name); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := each(name, h, t); err != nil {
			return err
		}
	}
}

// InSource finds the licences in a source: a tar archive, whichever way it is
// compressed, a zip, or the packages of npm that package source keeps in one
// tar. Any other file has none.
func InSource(ctx context.Context, f *os.File) ([]Found, error) {
	head := make([]byte, 4)
	if n, err := f.ReadAt(head, 0); err == nil && string(head[:n]) == "PK\x03\x04" {
		return inZip(ctx, f)
	}
	r, err := unpack.File(ctx, f)
	var unsupported *decompress.UnsupportedError
	if errors.As(err, &unsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close() // only read
	return inTar(ctx, r)
}

func inTar(ctx context.Context, r io.Reader) ([]Found, error) {
	find := &finder{ctx: ctx}
	err := find.tar(r, func(name string, h *tar.Header, r io.Reader) error {
		switch {
		case strings.HasPrefix(name, "registry/") && strings.HasSuffix(name, ".tgz"):
			return find.npm(path.Base(name), r)
		case isLicense(name):
			return find.add("", name, h.Size, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return find.withoutTop(), nil
}

// npm looks into a package of npm.
func (f *finder) npm(name string, r io.Reader) error {
	z, err := decompress.New(r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer z.Close() // only read
	inner := &finder{ctx: f.ctx, entries: f.entries, bytes: f.bytes, found: f.found}
	err = inner.tar(z, func(file string, h *tar.Header, r io.Reader) error {
		// The directory is "package", or any other: npm does not look at it.
		_, below, ok := strings.Cut(file, "/")
		if !ok || !isLicense(below) {
			return nil
		}
		return inner.add("", strings.TrimSuffix(name, ".tgz")+"/"+below, h.Size, r)
	})
	f.entries, f.bytes, f.found = inner.entries, inner.bytes, inner.found
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func inZip(ctx context.Context, f *os.File) ([]Found, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	find := &finder{ctx: ctx}
	if err := find.zip(f, info.Size(), "", func(name string) string { return name }); err != nil {
		return nil, err
	}
	return find.withoutTop(), nil
}

// zip looks at each file; inside says where it lies below the module's top, ""
// for elsewhere.
func (f *finder) zip(r io.ReaderAt, size int64, mod string, inside func(string) string) error {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return fault.Errorf(fault.Source, "%w", err)
	}
	for _, e := range z.File {
		if err := f.entry(clean(e.Name)); err != nil {
			return err
		}
		file := inside(clean(e.Name))
		if file == "" || !e.Mode().IsRegular() || !isLicense(file) {
			continue
		}
		if e.UncompressedSize64 > maxUnpacked {
			return fault.Errorf(fault.Source, "%s: more than %d bytes", file, int64(maxUnpacked))
		}
		one, err := e.Open()
		if err != nil {
			return fault.Errorf(fault.Source, "%s: %w", file, err)
		}
		err = f.add(mod, file, int64(e.UncompressedSize64), one)
		if err = errors.Join(err, one.Close()); err != nil {
			return err
		}
	}
	return nil
}

// InGoModules finds the licences in the modules that package source keeps as a
// tar, a zip for each.
func InGoModules(ctx context.Context, r io.Reader) ([]Found, error) {
	find := &finder{ctx: ctx}
	err := find.tar(r, func(file string, h *tar.Header, r io.Reader) error {
		rest, ok := strings.CutPrefix(file, "cache/download/")
		escaped, version, at := strings.Cut(rest, "/@v/")
		version, isZip := strings.CutSuffix(version, ".zip")
		if !ok || !at || !isZip {
			return nil
		}
		name, err := module.UnescapePath(escaped)
		if err == nil {
			version, err = module.UnescapeVersion(version)
		}
		if err != nil {
			return fault.Errorf(fault.Source, "%s: %w", file, err)
		}
		// A module's zip has 500 MiB at most (golang.org/x/mod/zip).
		const limit = 500 << 20
		if h.Size > limit {
			return fault.Errorf(fault.Source, "%s: %d bytes, more than a module may have", file, h.Size)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return fault.Errorf(fault.Source, "%s: %w", file, err)
		}
		mod := name + "@" + version
		err = find.zip(bytes.NewReader(data), int64(len(data)), mod, func(file string) string {
			if below, ok := strings.CutPrefix(file, mod+"/"); ok {
				return below
			}
			return ""
		})
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sorted(find.found), nil
}

// InGoToolchain finds the licences of Go's own packages, which every program of
// Go's has parts of, in the zip of a toolchain.
func InGoToolchain(ctx context.Context, f *os.File) ([]Found, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	find := &finder{ctx: ctx}
	err = find.zip(f, info.Size(), "", func(file string) string {
		// golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/LICENSE
		_, inside, _ := strings.Cut(file, "/toolchain@")
		_, below, _ := strings.Cut(inside, "/")
		if strings.HasPrefix(below, "src/cmd/") || strings.HasPrefix(below, "test/") || strings.HasPrefix(below, "misc/") {
			return "" // the tools, which stay on the machine that builds
		}
		return below
	})
	if err != nil {
		return nil, err
	}
	return sorted(find.found), nil
}

func sorted(all []Found) []Found {
	slices.SortStableFunc(all, func(a, b Found) int { return cmp.Or(cmp.Compare(a.Module, b.Module), cmp.Compare(a.Path, b.Path)) })
	return slices.CompactFunc(all, func(a, b Found) bool { return a.Module == b.Module && a.Path == b.Path })
}

// withoutTop is what was found, by the paths below the one directory that the
// archive has, as in "zlib-1.3.1/LICENSE".
func (f *finder) withoutTop() []Found {
	all := sorted(f.found)
	if strings.EqualFold(f.top, "licenses/") {
		return all
	}
	for i := range all {
		all[i].Path = strings.TrimPrefix(all[i].Path, f.top)
	}
	return all
}
