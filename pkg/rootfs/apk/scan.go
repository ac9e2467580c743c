package apk

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Found is what a package's files provide and need, as abuild finds it.
type Found struct {
	// Shared are the shared libraries in lib and usr/lib: soname to version.
	// The version is what follows .so. in the file's name, "0" without one:
	// libz.so.1.3.1 gives libz.so.1 → 1.3.1.
	Shared map[string]string
	// Needed are sonames that executables and libraries need and the tree
	// does not have, sorted.
	Needed []string
	// Commands are the names in bin, sbin, usr/bin, usr/sbin, sorted.
	Commands []string
	// Modules are pkg-config modules: name to version.
	Modules map[string]string
	// Requires are pkg-config modules needed, "zlib" or "libssl>=3", sorted.
	Requires []string
}

// Provides are the provides lines of a package of the given version.
func (f Found) Provides(version string) []string {
	var out []string
	for name, v := range f.Shared {
		out = append(out, "so:"+name+"="+v)
	}
	for _, name := range f.Commands {
		out = append(out, "cmd:"+name+"="+version)
	}
	for name, v := range f.Modules {
		out = append(out, "pc:"+name+"="+v)
	}
	slices.Sort(out)
	return out
}

// Depends are the depend lines.
func (f Found) Depends() []string {
	var out []string
	for _, name := range f.Needed {
		out = append(out, "so:"+name)
	}
	for _, r := range f.Requires {
		out = append(out, "pc:"+r)
	}
	slices.Sort(out)
	return out
}

// Scan finds what the files of a package provide and need. An ELF file for
// another architecture than the one of apk's name is an error that names it:
// the cross build went wrong. A package for all architectures (NoArch) has none.
func Scan(t *rootfs.Tree, apkArch string) (Found, error) {
	f := Found{Shared: map[string]string{}, Modules: map[string]string{}}
	a, ok := arch.OfApk(apkArch)
	if !ok && apkArch != NoArch {
		return f, fmt.Errorf("there is no architecture %q", apkArch)
	}
	have, needed, requires := map[string]bool{}, map[string]string{}, map[string]bool{}
	for e := range t.All() {
		dir, base := path.Split(e.Path)
		switch dir = strings.TrimSuffix(dir, "/"); dir {
		case "bin", "sbin", "usr/bin", "usr/sbin":
			// A name that a dependency cannot have (busybox's "[") is left out.
			if (e.IsRegular() && e.Mode.Perm()&0o111 != 0 || e.IsSymlink()) && validName(base) && !slices.Contains(f.Commands, base) {
				f.Commands = append(f.Commands, base)
			}
		case "usr/lib/pkgconfig", "usr/share/pkgconfig":
			if name, ok := strings.CutSuffix(base, ".pc"); ok && e.IsRegular() {
				version, needs, err := readPkgConfig(e)
				if err != nil {
					return f, err
				}
				f.Modules[name] = version
				for _, r := range needs {
					requires[r] = true
				}
			}
		}
		if !e.IsRegular() {
			if strings.Contains(base, ".so") {
				have[base] = true
			}
			continue
		}
		file, done, err := openELF(e)
		if err != nil {
			return f, err
		}
		if file == nil {
			continue
		}
		if !ok || file.Machine != a.ELF {
			return f, errors.Join(fmt.Errorf("%s is for %v, the package for %s", e.Path, file.Machine, apkArch), done())
		}
		soname, libs := dynamic(file)
		if err := done(); err != nil {
			return f, fmt.Errorf("%s: %w", e.Path, err)
		}
		for _, l := range libs {
			if _, ok := needed[l]; !ok {
				needed[l] = e.Path
			}
		}
		have[base] = true
		if soname != "" {
			have[soname] = true
		}
		if (dir == "lib" || dir == "usr/lib") && file.Type == elf.ET_DYN && strings.Contains(base, ".so") {
			if soname == "" {
				soname = base // the loader finds it by its file name
			}
			version := "0"
			if _, v, ok := strings.Cut(base, ".so."); ok && ValidVersion(v) {
				version = v
			}
			f.Shared[soname] = version
		}
	}
	for lib := range needed {
		if !have[lib] {
			f.Needed = append(f.Needed, lib)
		}
	}
	for r := range requires {
		if d, err := ParseDependency(r); err == nil {
			if _, own := f.Modules[d.Name]; own {
				continue
			}
		}
		f.Requires = append(f.Requires, r)
	}
	slices.Sort(f.Needed)
	slices.Sort(f.Requires)
	slices.Sort(f.Commands)
	return f, nil
}

func dynamic(f *elf.File) (soname string, needed []string) {
	if names, err := f.DynString(elf.DT_SONAME); err == nil && len(names) > 0 {
		soname = names[0]
	}
	if libs, err := f.ImportedLibraries(); err == nil {
		needed = libs
	}
	return soname, needed
}

// openELF opens an entry as an ELF file for use; nil is no error: it is none.
// done frees it. The file is not read into memory where its content can be
// read at any place, as spooled content can.
func openELF(e rootfs.Entry) (f *elf.File, done func() error, err error) {
	nothing := func() error { return nil }
	if e.Size < 64 {
		return nil, nothing, nil
	}
	rc, err := e.Open()
	if err != nil {
		return nil, nothing, err
	}
	var magic [4]byte
	if _, err := io.ReadFull(rc, magic[:]); err != nil {
		return nil, nothing, errors.Join(fmt.Errorf("%s: %w", e.Path, err), rc.Close())
	}
	if string(magic[:]) != elf.ELFMAG {
		return nil, nothing, rc.Close()
	}
	at, ok := rc.(io.ReaderAt)
	if !ok {
		var b bytes.Buffer
		if err := e.CopyTo(&b); err != nil {
			return nil, nothing, errors.Join(err, rc.Close())
		}
		at = bytes.NewReader(b.Bytes())
	}
	if f, err = elf.NewFile(at); err != nil {
		return nil, nothing, errors.Join(fmt.Errorf("%s: begins like an ELF file and is none: %w", e.Path, err), rc.Close())
	}
	return f, rc.Close, nil
}
