package kernel

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

// Limits of a source tarball. Linux 6.12 unpacks to 1.5 GiB in 93,000 entries,
// and its Kconfig files to 11 MiB in 1,800.
const (
	maxUnpacked    = 8 << 30
	maxEntries     = 1_000_000
	maxKconfigFile = 4 << 20
	maxKconfig     = 64 << 20
)

// OpenSource returns the Kconfig files of a kernel source tree, given its
// directory or a tarball as ReadSource takes it.
func OpenSource(ctx context.Context, name string) (fs.FS, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "kernel source: %w", err).
			Hintf("give the directory or the tarball of a Linux source tree")
	}
	if info.IsDir() {
		tree := os.DirFS(name)
		if _, err := fs.Stat(tree, "Kconfig"); err != nil {
			return nil, fault.Errorf(fault.Usage, "%s is no kernel source tree: %w", name, err).
				Hintf("give the directory that holds the kernel's top Kconfig file")
		}
		return tree, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "kernel source: %w", err)
	}
	files, err := ReadSource(ctx, f)
	if cerr := f.Close(); err == nil && cerr != nil {
		err = fault.Wrap(fault.Environment, cerr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return files, nil
}

// ReadSource keeps the Kconfig files, and the top makefile, of a kernel source
// tarball: tar, or tar compressed with xz, gzip or zstd. Where everything in it
// is under one directory, that is left out of the names; the tarballs of
// git archive may have none.
//
// It reads to the end, since Kconfig files are everywhere. xz takes more than
// a minute for Linux; a caller that has the xz program may pipe the plain tar
// in.
func ReadSource(ctx context.Context, r io.Reader) (kconfig.Files, error) {
	plain, err := decompressed(r)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "kernel source: %w", err).
			Hintf("%s", cmp.Or(fault.HintOf(err), "give the tarball of a Linux source tree"))
	}
	limited := &io.LimitedReader{R: plain, N: maxUnpacked}
	t := tar.NewReader(limited)
	files := kconfig.Files{}
	size := int64(0)
	for n := 0; ; n++ {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case err == nil && n >= maxEntries:
			err = fmt.Errorf("more than %d entries", maxEntries)
		case limited.N <= 0:
			err = fmt.Errorf("larger than %d bytes", int64(maxUnpacked))
		}
		if err != nil {
			return nil, fault.Errorf(fault.Usage, "kernel source: %w", err).
				Hintf("give the whole tarball of a Linux source tree")
		}
		name := cleanName(h.Name)
		if h.Typeflag != tar.TypeReg || !kconfigFile(name) {
			continue
		}
		if size += h.Size; h.Size > maxKconfigFile || size > maxKconfig {
			return nil, fault.Errorf(fault.Usage, "kernel source: %s: Kconfig files are larger than %d bytes, or %d in all", name, maxKconfigFile, maxKconfig)
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return nil, fault.Errorf(fault.Usage, "kernel source: %s: %w", name, err).
				Hintf("give the whole tarball of a Linux source tree")
		}
		files[name] = data
	}
	return topOf(files)
}

// cleanName is the path of an entry from the top of the tarball.
func cleanName(name string) string { return strings.TrimLeft(path.Clean("/"+name), "/") }

// kconfigFile says whether Kconfig reads the file, or it is a makefile that may
// be the top one.
func kconfigFile(name string) bool {
	base := path.Base(name)
	return strings.HasPrefix(base, "Kconfig") || base == "Makefile" && strings.Count(name, "/") <= 1
}

// topOf finds the top of the source tree, which has the file Kconfig: the top of
// the tarball, or the one directory there. It returns the files below.
func topOf(files kconfig.Files) (kconfig.Files, error) {
	top, found := "", files["Kconfig"] != nil
	if !found {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			dir, base, ok := strings.Cut(name, "/")
			if !ok || base != "Kconfig" {
				continue
			}
			if found {
				return nil, fault.Errorf(fault.Usage, "kernel source: the tarball has no Kconfig file at its top, and both %s and %s have one", top+"Kconfig", name).
					Hintf("give the tarball of a whole Linux source tree, and of no other")
			}
			top, found = dir+"/", true
		}
	}
	if !found {
		return nil, fault.Errorf(fault.Usage, "kernel source: the tarball has no Kconfig file, neither at its top nor in a directory there").
			Hintf("give the tarball of a Linux source tree")
	}
	out := kconfig.Files{}
	for name, data := range files {
		below, ok := strings.CutPrefix(name, top)
		if ok && (path.Base(below) != "Makefile" || below == "Makefile") {
			out[below] = data
		}
	}
	return out, nil
}

// WriteSource writes files as a plain tarball that ReadSource takes: about
// 12 MB for Linux, and always the same bytes for the same files.
func WriteSource(w io.Writer, files kconfig.Files) error {
	t := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: "linux/" + name, Mode: 0o644, Size: int64(len(files[name])), Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("kernel source: %s: %w", name, err)
		}
		if _, err := t.Write(files[name]); err != nil {
			return fmt.Errorf("kernel source: %s: %w", name, err)
		}
	}
	return t.Close()
}
