package apk

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// MinStack is the least stack an executable's PT_GNU_STACK may ask for, in
// bytes. musl gives threads 128 KiB unless that header says more, and
// PostgreSQL's max_stack_depth alone is 2 MB.
const MinStack = 2 << 20

// Problem is something in a tree that must not go into an image.
type Problem struct {
	Path string `json:"path"` // of the file
	// What is wrong, a clause: "asks for a stack of 0 bytes, not 2097152".
	What string `json:"what"`
}

func (p Problem) String() string { return p.Path + " " + p.What }

// CheckELF looks at every file: executables that ask for less stack than
// MinStack (Go programs are exempt, they make their own stacks), ELF files
// that need glibc's symbol versions or look for libraries outside the image's
// library directories, and files of any kind that hold one of the forbidden
// strings (paths of the build, "/work/"). The result is sorted by path. An
// error is a file that could not be read.
func CheckELF(t *rootfs.Tree, forbidden ...string) ([]Problem, error) {
	var out []Problem
	for e := range t.All() {
		if e.IsSymlink() {
			for _, f := range forbidden {
				if strings.Contains(e.Link, f) {
					out = append(out, Problem{e.Path, fmt.Sprintf("points to %s, a path of the build (%s)", e.Link, f)})
				}
			}
		}
		if !e.IsRegular() || e.Hard != "" {
			continue
		}
		file, done, err := openELF(e)
		if err != nil {
			return nil, err
		}
		if file != nil {
			for _, what := range elfProblems(file) {
				out = append(out, Problem{e.Path, what})
			}
			if err := done(); err != nil {
				return nil, fmt.Errorf("%s: %w", e.Path, err)
			}
		}
		found, err := findStrings(e, forbidden)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			out = append(out, Problem{e.Path, fmt.Sprintf("holds %q, a path of the build", f)})
		}
	}
	return out, nil
}

func elfProblems(f *elf.File) []string {
	var out []string
	if isExecutable(f) && f.Section(".go.buildinfo") == nil && f.Section(".note.go.buildid") == nil {
		size, found := uint64(0), false
		for _, p := range f.Progs {
			if p.Type == elf.PT_GNU_STACK {
				size, found = p.Memsz, true
				if p.Flags&elf.PF_X != 0 {
					out = append(out, "asks for an executable stack: link it with -z noexecstack")
				}
			}
		}
		switch {
		case !found:
			out = append(out, fmt.Sprintf("has no PT_GNU_STACK header: link it with -Wl,-z,stack-size=%d", MinStack))
		case size < MinStack:
			out = append(out, fmt.Sprintf("asks for a stack of %d bytes, not %d: link it with -Wl,-z,stack-size=%d", size, MinStack, MinStack))
		}
	}
	if needs, err := f.DynamicVersionNeeds(); err == nil {
		for _, n := range needs {
			for _, v := range n.Needs {
				if strings.HasPrefix(v.Dep, "GLIBC_") {
					out = append(out, fmt.Sprintf("needs %s of %s: it was linked against glibc", v.Dep, n.Name))
				}
			}
		}
	}
	for _, tag := range [...]elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			continue
		}
		for p := range strings.SplitSeq(strings.Join(paths, ":"), ":") {
			if p != "" && !libraryDir(p) {
				out = append(out, fmt.Sprintf("looks for libraries in %s (%v), outside the image's library directories", p, tag))
			}
		}
	}
	return out
}

// isExecutable tells programs from shared libraries: both can be ET_DYN.
func isExecutable(f *elf.File) bool {
	if f.Type == elf.ET_EXEC {
		return true
	}
	if f.Type != elf.ET_DYN {
		return false
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	flags, err := f.DynValue(elf.DT_FLAGS_1)
	return err == nil && len(flags) > 0 && elf.DynFlag1(flags[0])&elf.DF_1_PIE != 0
}

func libraryDir(p string) bool {
	for _, ok := range [...]string{"$ORIGIN", "${ORIGIN}", "/lib", "/usr/lib", "/usr/libexec", "/usr/local/lib"} {
		if (p == ok || strings.HasPrefix(p, ok+"/")) && !strings.Contains(p, "/../../../..") {
			return true
		}
	}
	return false
}

// findStrings returns which of the absolute paths a file holds, reading it once
// in pieces that overlap.
func findStrings(e rootfs.Entry, forbidden []string) ([]string, error) {
	longest := 0
	for _, f := range forbidden {
		longest = max(longest, len(f))
	}
	if longest == 0 || e.Size == 0 {
		return nil, nil
	}
	rc, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	var found []string
	seen := make([]bool, len(forbidden))
	buf := make([]byte, 256<<10)
	keep, from := 0, 0
	for {
		n, err := io.ReadFull(rc, buf[keep:])
		piece := buf[:keep+n]
		for i, f := range forbidden {
			if f != "" && !seen[i] && holdsPath(piece, f, from) {
				seen[i] = true
				found = append(found, f)
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Path, err)
		}
		// Two bytes more than the longest path less one: holdsPath looks at what
		// is before. A match in those two was seen in this piece already.
		keep = min(longest+1, len(piece))
		from = min(2, keep)
		copy(buf, piece[len(piece)-keep:])
	}
}

// holdsPath reports whether data holds, at from or later, path as the beginning
// of an absolute path. "../../src/include" and "libcxx/src/atomic.cpp", which programs and
// headers are full of, are not in "/src/"; "-I/src/" is.
func holdsPath(data []byte, path string, from int) bool {
	for at := from; ; {
		i := bytes.Index(data[at:], []byte(path))
		if i < 0 {
			return false
		}
		before := data[:at+i]
		at += i + 1
		if len(before) == 0 || !partOfPath(before[len(before)-1]) ||
			bytes.HasSuffix(before, []byte("-I")) || bytes.HasSuffix(before, []byte("-L")) {
			return true
		}
	}
}

// partOfPath reports whether c can be the end of a path's element.
func partOfPath(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	default:
		return strings.IndexByte("._-+@/)}", c) >= 0
	}
}
