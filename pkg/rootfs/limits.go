package rootfs

import (
	"errors"
	"fmt"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Limits bound what a reader takes in from outside.
type Limits struct {
	// Entries of the tree, and headers of the archive, a directory that only
	// the names of others imply among them.
	Entries int
	// Bytes of an archive as it is read, after decompression. The holes of a
	// sparse file are not in it: they may be MaxHoles times as much.
	Bytes int64
	// Metadata is what paths, link targets, extended attributes and the
	// entries that hold them take of memory, bytes, as Budget counts them; 0
	// is DefaultLimits'. The garbage collector may keep as much again.
	Metadata int64
}

// MaxHoles is how many times Limits.Bytes all files of an archive may have
// together with their holes, which cost time and no space: with DefaultLimits
// 16 TiB, the largest file of ext4 and EROFS.
const MaxHoles = 256

// DefaultLimits are far above any root file system and far below what harms a
// machine: a million entries, 64 GiB, and 512 MiB of memory for what is not
// contents, enough for a million names of 128 bytes.
func DefaultLimits() Limits {
	return Limits{Entries: 1_000_000, Bytes: 64 << 30, Metadata: 512 << 20}
}

// What an entry and an extended attribute take of memory beside their texts,
// in bytes, rounded up: measured with a million of them.
const (
	costEntry = 384
	costXattr = 96
)

// ErrLimit is in the chain of every error about a limit: the input may be
// right, and too much. ErrBytes is in that of one about Limits.Bytes.
var (
	ErrLimit = errors.New("more than the limit")
	ErrBytes = errors.New("more bytes than the limit")
)

type limitError struct {
	text  string
	bytes bool
}

func (e limitError) Error() string { return e.text }
func (e limitError) Is(target error) bool {
	return target == ErrLimit || e.bytes && target == ErrBytes
}

func overLimit(format string, args ...any) error {
	return fault.Wrap(fault.Source, limitError{text: fmt.Sprintf(format, args...)})
}

func overBytes(format string, args ...any) error {
	return fault.Wrap(fault.Source, limitError{text: fmt.Sprintf(format, args...), bytes: true})
}

// Budget is what is left of Limits while something is read; the parts of one
// input share it. Its methods take from it, and return an error of class
// fault.Source with ErrLimit in it when there is too little.
type Budget struct {
	limits          Limits
	entries         int
	bytes, contents int64
	metadata        int64
}

// NewBudget is a budget of which nothing is used.
func NewBudget(l Limits) *Budget {
	if l.Metadata == 0 {
		l.Metadata = DefaultLimits().Metadata
	}
	contents := l.Bytes * MaxHoles
	if contents/MaxHoles != l.Bytes {
		contents = 1<<63 - 1
	}
	return &Budget{limits: l, entries: l.Entries, bytes: l.Bytes, contents: contents, metadata: l.Metadata}
}

// Count takes n entries or headers.
func (b *Budget) Count(n int) error {
	if b.entries -= n; b.entries < 0 {
		return overLimit("more than %d entries", b.limits.Entries)
	}
	return nil
}

// Entry takes the memory of an entry with its texts and attributes.
func (b *Budget) Entry(e Entry) error {
	n := costEntry + len(e.Path) + len(e.Link) + len(e.Hard)
	for name, value := range e.Xattrs {
		n += costXattr + len(name) + len(value)
	}
	return b.Memory(int64(n))
}

// Implied takes n directories that are there because of others' names, which
// they share.
func (b *Budget) Implied(n int) error {
	if err := b.Count(n); err != nil {
		return err
	}
	return b.Memory(int64(n) * costEntry)
}

// Memory takes n bytes of memory for anything but contents.
func (b *Budget) Memory(n int64) error {
	if b.metadata -= n; b.metadata < 0 {
		return overLimit("names, links, extended attributes and the entries that have them take more than %d bytes of memory", b.limits.Metadata)
	}
	return nil
}

// Bytes takes n bytes of an archive.
func (b *Budget) Bytes(n int64) error {
	if b.bytes -= n; b.bytes < 0 {
		return overBytes("more than %d bytes in all", b.limits.Bytes)
	}
	return nil
}

// file takes the contents of a file, holes among them.
func (b *Budget) file(size int64) error {
	if size < 0 || size > b.contents {
		return overBytes("its %d bytes and those before it are, holes included, more than %d times %d", size, MaxHoles, b.limits.Bytes)
	}
	b.contents -= size
	return nil
}
