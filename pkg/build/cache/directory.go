package cache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// directory is a Place on a disk: steps/KEY has a signed entry, blobs/SHA256 an
// output. Each file is written beside its place and renamed.
type directory string

var errNoDirectory = errors.New("there is no such directory")

// String implements Place.
func (d directory) String() string { return string(d) }

// Remote implements Place.
func (directory) Remote() bool { return false }

func (d directory) entry(key string) string { return filepath.Join(string(d), "steps", key) }

func (d directory) blob(b store.Digest) string { return filepath.Join(string(d), "blobs", b.Hex()) }

// Entry implements Place.
func (d directory) Entry(_ context.Context, key string) (_ []byte, err error) {
	f, err := open(d.entry(key))
	if errors.Is(err, fs.ErrNotExist) {
		// A directory that is not there is a mistyped one.
		if info, err := os.Stat(string(d)); err != nil || !info.IsDir() {
			return nil, fault.Errorf(fault.Usage, "%w", errNoDirectory).Hintf("check its name; the first push makes it")
		}
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	return readEntry(f)
}

// open opens a file. Others may write to the directory, and a pipe of theirs is
// not waited for.
func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.Errorf(fault.Verification, "%s is not a file", path)
	}
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Environment, err), f.Close())
	}
	return f, nil
}

// readEntry reads to the end, unless that is too far away.
func readEntry(r io.Reader) ([]byte, error) {
	left := int64(MaxEntry)
	return io.ReadAll(stream.AtMost(r, &left, fault.Errorf(fault.Verification, "its entry is larger than %d bytes", MaxEntry)))
}

// Blob implements Place.
func (d directory) Blob(ctx context.Context, b store.Digest, _ int64, read func(io.Reader) error) error {
	f, err := open(d.blob(b))
	if errors.Is(err, fs.ErrNotExist) {
		return fault.Errorf(fault.Verification, "an output that its entry names, %s, is not there", b)
	}
	if err != nil {
		return err
	}
	defer f.Close() // only read
	return read(stream.WithContext(ctx, f))
}

// Whole implements Place.
func (d directory) Whole(e *Entry) bool {
	for _, o := range e.Outputs {
		if !d.has(o) {
			return false
		}
	}
	return true
}

func (d directory) has(o Output) bool {
	info, err := os.Stat(d.blob(o.Digest))
	return err == nil && info.Size() == o.Size
}

// Put implements Place.
func (d directory) Put(ctx context.Context, e *Entry, signed []byte, path func(store.Digest) string) error {
	for _, sub := range []string{"steps", "blobs"} {
		if err := os.MkdirAll(filepath.Join(string(d), sub), 0o755); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
	}
	for _, o := range e.Outputs {
		if d.has(o) {
			continue
		}
		if err := copyFile(ctx, path(o.Digest), d.blob(o.Digest)); err != nil {
			return err
		}
	}
	return atomicfile.Write(d.entry(e.Key), signed, 0o644)
}

func copyFile(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer in.Close() // only read
	return atomicfile.Copy(to, stream.WithContext(ctx, in), 0o644)
}
