package kconfig

import (
	"bytes"
	"io"
	"io/fs"
	"regexp"
	"time"
)

// Files are Kconfig files in memory, by path. It is an fs.FS that opens files
// only.
type Files map[string][]byte

// Open opens a file for reading.
func (f Files) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	data, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{Reader: bytes.NewReader(data), name: name}, nil
}

// ReadFile returns a file's bytes, which must not be changed.
func (f Files) ReadFile(name string) ([]byte, error) {
	data, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return data, nil
}

type file struct {
	*bytes.Reader
	name string
}

func (f *file) Stat() (fs.FileInfo, error) { return info{f}, nil }
func (f *file) Close() error               { return nil }

type info struct{ f *file }

func (i info) Name() string       { return i.f.name }
func (i info) Size() int64        { return i.f.Reader.Size() }
func (i info) Mode() fs.FileMode  { return 0o444 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }

// kernelVersion reads the version from the top of the kernel's makefile, ""
// without one. It is only part of the .config's title.
func kernelVersion(files fs.FS) string {
	f, err := files.Open("Makefile")
	if err != nil {
		return ""
	}
	head, err := io.ReadAll(io.LimitReader(f, 4096))
	if cerr := f.Close(); err != nil || cerr != nil {
		return ""
	}
	value := func(name string) string {
		m := regexp.MustCompile(`(?m)^` + name + `[ \t]*=[ \t]*(\S*)[ \t]*$`).FindSubmatch(head)
		if m == nil {
			return ""
		}
		return string(m[1])
	}
	version := value("VERSION")
	for _, part := range []string{"PATCHLEVEL", "SUBLEVEL"} {
		if v := value(part); v != "" {
			version += "." + v
		}
	}
	return version + value("EXTRAVERSION")
}
