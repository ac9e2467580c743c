package composite

import (
	"errors"
	"io"
	"os"
	"slices"
)

// A File is an open component.
type File struct {
	*os.File
	Offset   uint64
	Size     uint64
	Writable bool
}

// An Image is a disk whose files are open: package nbd can serve it.
type Image struct {
	Files  []File
	Length uint64
}

// at gives the parts of a range to use, each with its file or nil for what no file
// has.
func (i *Image) at(offset, length uint64, use func(f *File, at, from, n uint64) error) error {
	if offset+length > i.Length || offset+length < offset {
		return errors.New("beyond the disk")
	}
	for from := uint64(0); from < length; {
		where := offset + from
		n := length - from
		var found *File
		for k := range i.Files {
			f := &i.Files[k]
			switch {
			case where >= f.Offset && where < f.Offset+f.Size:
				found, n = f, min(n, f.Offset+f.Size-where)
			case f.Offset > where:
				n = min(n, f.Offset-where)
			}
			if found != nil {
				break
			}
		}
		at := where
		if found != nil {
			at -= found.Offset
		}
		if err := use(found, at, from, n); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// Size is the disk's, in bytes.
func (i *Image) Size() int64 { return int64(i.Length) }

// ReadOnly is so where every one of its files is.
func (i *Image) ReadOnly() bool {
	return !slices.ContainsFunc(i.Files, func(f File) bool { return f.Writable })
}

// ReadAt reads; what no file has is zero.
func (i *Image) ReadAt(b []byte, offset int64) (int, error) {
	err := i.at(uint64(offset), uint64(len(b)), func(f *File, at, from, n uint64) error {
		if f == nil {
			clear(b[from : from+n])
			return nil
		}
		got, err := f.ReadAt(b[from:from+n], int64(at))
		if errors.Is(err, io.EOF) { // it was cut off since
			clear(b[from+uint64(got) : from+n])
			err = nil
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// WriteAt writes where a file is that may be written to, and elsewhere fails.
func (i *Image) WriteAt(b []byte, offset int64, fua bool) error {
	err := i.at(uint64(offset), uint64(len(b)), func(f *File, at, from, n uint64) error {
		if f == nil || !f.Writable {
			return os.ErrPermission
		}
		_, err := f.WriteAt(b[from:from+n], int64(at))
		return err
	})
	if err == nil && fua {
		err = i.Flush()
	}
	return err
}

// Flush has all that was written on the disk.
func (i *Image) Flush() error {
	for _, f := range i.Files {
		if f.Writable {
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
	return nil
}
