package recipe

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Ref is a file or directory that a recipe names.
type Ref struct {
	// FS holds it; nil is this machine's own file system.
	FS fs.FS
	// Name is its name in FS, as io/fs has names, or a path of this machine.
	Name string
}

// String is the name, for people.
func (r Ref) String() string { return r.Name }

// OnDisk is the path of the file on this machine; ok is false for one in an
// fs.FS.
func (r Ref) OnDisk() (path string, ok bool) { return r.Name, r.FS == nil }

// Join is a file below a directory, or one beside it ("../ports").
func (r Ref) Join(name string) Ref {
	if r.FS == nil {
		if filepath.IsAbs(name) {
			return Ref{Name: name}
		}
		return Ref{Name: filepath.Join(r.Name, name)}
	}
	return Ref{r.FS, path.Join(r.Name, filepath.ToSlash(name))}
}

// Dir is the directory that holds the file.
func (r Ref) Dir() Ref {
	if r.FS == nil {
		return Ref{Name: filepath.Dir(r.Name)}
	}
	return Ref{r.FS, path.Dir(r.Name)}
}

// Open opens the file for reading.
func (r Ref) Open() (io.ReadCloser, error) {
	if r.FS == nil {
		return os.Open(r.Name)
	}
	return r.FS.Open(r.Name)
}

// Stat is as os.Stat.
func (r Ref) Stat() (fs.FileInfo, error) {
	if r.FS == nil {
		return os.Stat(r.Name)
	}
	return fs.Stat(r.FS, r.Name)
}

// Sub is what is in the directory.
func (r Ref) Sub() (fs.FS, error) {
	if r.FS == nil {
		return os.DirFS(r.Name), nil
	}
	return fs.Sub(r.FS, r.Name)
}

// ReadFile reads the file, of at most so many bytes. Errors are of class
// fault.Usage.
func (r Ref) ReadFile(limit int64) (_ []byte, err error) {
	f, err := r.Open()
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	if int64(len(data)) > limit {
		return nil, fault.Errorf(fault.Usage, "%s: larger than %d bytes", r, limit)
	}
	return data, nil
}
