package apk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/sha1" // and the checksum of the control member
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Package is a verified package.
type Package struct {
	Meta Meta
	// Scripts are the install scripts and the trigger by kind: "pre-install",
	// "post-install", "trigger" …
	Scripts map[string]string
	// Tree holds the files; the contents are valid until Close, or as long as
	// the spool given with InSpool.
	Tree *rootfs.Tree

	own *rootfs.Spool
	// sums are the SHA-1 sums of files and symbolic links by path.
	sums map[string][]byte
}

// Close frees the contents of the package's files.
func (p *Package) Close() error {
	if p.own == nil {
		return nil
	}
	return p.own.Close()
}

// OpenOption changes how a package is opened.
type OpenOption func(*openOptions)

type openOptions struct {
	spool  *rootfs.Spool
	pin    *Meta
	limits rootfs.Limits
}

// InSpool keeps the contents in a spool of the caller's.
func InSpool(s *rootfs.Spool) OpenOption { return func(o *openOptions) { o.spool = s } }

// Pinned trusts a package whose control member has the checksum of m, a record
// of an index that was verified, in place of a signature of its own.
func Pinned(m Meta) OpenOption { return func(o *openOptions) { o.pin = &m } }

// DataLimits bounds the data member; rootfs.DefaultLimits otherwise.
func DataLimits(l rootfs.Limits) OpenOption { return func(o *openOptions) { o.limits = l } }

// Open reads a package and verifies it: its signature by one of keys (or its
// checksum, with Pinned), the digest of its data, the checksum of each file.
// What is not as it was signed is an error of class fault.Verification that
// names the package and the file.
func Open(path string, keys Keyring, opts ...OpenOption) (*Package, error) {
	return OpenContext(context.Background(), path, keys, opts...)
}

// maxInMemory is the largest data member, compressed, that is read at once.
const maxInMemory = 32 << 20

// OpenContext is Open with a context.
func OpenContext(ctx context.Context, path string, keys Keyring, opts ...OpenOption) (_ *Package, err error) {
	o := openOptions{limits: rootfs.DefaultLimits()}
	for _, opt := range opts {
		opt(&o)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Errorf(fault.Source, "package: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", path, err)
	}
	control, err := readControl(path, f, info.Size(), keys, o.pin)
	if err != nil {
		return nil, err
	}
	p := &Package{Meta: control.meta, Scripts: control.scripts}
	p.Meta.Size = info.Size()
	if o.spool == nil {
		if p.own, err = rootfs.NewSpool(""); err != nil {
			return nil, err
		}
		o.spool = p.own
		defer func() {
			if err != nil {
				err = errors.Join(err, p.own.Close())
			}
		}()
	}
	// Most packages fit in memory, where the decompressor is fastest.
	section := io.NewSectionReader(f, control.end, info.Size()-control.end)
	data := io.Reader(bufio.NewReaderSize(section, 1<<20))
	sum := sha256.New()
	if section.Size() <= maxInMemory {
		all := make([]byte, section.Size())
		if _, err := io.ReadFull(section, all); err != nil {
			return nil, fmt.Errorf("package %s: %w", path, err)
		}
		sum.Write(all)
		data = bytes.NewReader(all)
	} else {
		if _, err := io.Copy(sum, section); err != nil {
			return nil, fmt.Errorf("package %s: %w", path, err)
		}
		if _, err := section.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("package %s: %w", path, err)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.Meta.DataHash {
		return nil, fault.Errorf(fault.Verification, "package %s (%s): the data has sha256 %s, .PKGINFO says %s", p.Meta.ID(), path, got, orNothing(p.Meta.DataHash)).
			Hintf("the package is damaged or was changed: fetch or build it again")
	}
	gz, err := kgzip.NewReader(data)
	if err != nil {
		return nil, fault.Errorf(fault.Source, "package %s (%s): data: %w", p.Meta.ID(), path, err)
	}
	inflated := readAhead(gz)
	defer inflated.Close()
	p.sums = map[string][]byte{}
	contents := sha1.New()
	p.Tree, err = rootfs.ReadTar(ctx, inflated, o.spool, rootfs.WithLimits(o.limits), rootfs.WithSum(contents), rootfs.WithVisitor(func(h *tar.Header, e rootfs.Entry) error {
		sum, err := checkEntry(p.Meta.ID(), h, e, contents)
		if sum != nil {
			p.sums[e.Path] = sum
		}
		return err
	}))
	if err != nil {
		var verification *fault.Error
		if errors.As(err, &verification) && verification.Class == fault.Verification {
			return nil, err
		}
		return nil, fmt.Errorf("package %s (%s): %w", p.Meta.ID(), path, err)
	}
	return p, nil
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// control is what stands before the data of a package.
type control struct {
	meta    Meta
	scripts map[string]string
	end     int64 // where the data begins
}

func readControl(path string, f io.ReaderAt, size int64, keys Keyring, pin *Meta) (control, error) {
	var c control
	in := &countingReader{r: bufio.NewReader(io.NewSectionReader(f, 0, size))}
	if err := checkFormat("package "+path, in.r); err != nil {
		return c, err
	}
	files, err := readMember(in, maxControl)
	if err != nil {
		return c, fault.Errorf(fault.Source, "package %s: first member: %w", path, err)
	}
	sigs, signed := signatures(files)
	start := int64(0)
	if signed {
		start = in.n
		if files, err = readMember(in, maxControl); err != nil {
			return c, fault.Errorf(fault.Source, "package %s: control: %w", path, err)
		}
	}
	c.end = in.n
	sum := func(h crypto.Hash) ([]byte, error) {
		d := h.New()
		if _, err := io.Copy(d, io.NewSectionReader(f, start, c.end-start)); err != nil {
			return nil, fmt.Errorf("package %s: %w", path, err)
		}
		return d.Sum(nil), nil
	}
	digest, err := sum(crypto.SHA1)
	if err != nil {
		return c, err
	}
	checksum := checksumString(digest)
	if pin != nil {
		if checksum != pin.Checksum {
			return c, fault.Errorf(fault.Verification, "package %s (%s): the control data has checksum %s, the index says %s", pin.ID(), path, checksum, pin.Checksum).
				Hintf("the package is damaged, was changed, or is newer than the index: fetch both again")
		}
	} else if err := keys.verify("package "+path, sigs, sum); err != nil {
		return c, err
	}
	found := false
	for _, file := range files {
		name, dot := strings.CutPrefix(file.name, ".")
		switch {
		case name == "PKGINFO" && dot && !found:
			if c.meta, err = parsePkginfo(bytes.NewReader(file.data)); err != nil {
				return c, fault.Errorf(fault.Source, "package %s: %w", path, err)
			}
			found = true
		case dot && scriptKinds(name):
			if c.scripts == nil {
				c.scripts = map[string]string{}
			}
			c.scripts[name] = string(file.data)
		}
	}
	if !found {
		return c, fault.Errorf(fault.Source, "package %s: no .PKGINFO in it: this is not an apk package of format 2", path)
	}
	c.meta.Checksum = checksum
	return c, nil
}

func scriptKinds(name string) bool {
	switch name {
	case "pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-deinstall", "post-deinstall", "trigger":
		return true
	}
	return false
}

// checkEntry compares an entry with its checksum, which it returns. Hard links
// have none of their own in packages made by abuild. contents has seen what a
// file has.
func checkEntry(id string, h *tar.Header, e rootfs.Entry, contents hash.Hash) ([]byte, error) {
	want, have := h.PAXRecords[checksumKey]
	if e.Hard != "" || !have && !e.IsRegular() {
		return nil, nil
	}
	if !have {
		return nil, fault.Errorf(fault.Verification, "package %s: %s has no checksum", id, e.Path).
			Hintf("build the package again with a tool that writes %s", checksumKey)
	}
	sum := contents.Sum(nil)
	if !e.IsRegular() {
		var ok bool
		var err error
		if sum, ok, err = entrySum(e); err != nil || !ok {
			return nil, err
		}
	}
	if !strings.EqualFold(hex.EncodeToString(sum), want) {
		return nil, fault.Errorf(fault.Verification, "package %s: %s has SHA-1 %x, the package says %s", id, e.Path, sum, want).
			Hintf("the package is damaged or was changed: fetch or build it again")
	}
	return sum, nil
}

// ReadMeta reads what a package says of itself, with its checksum and size,
// after verifying its signature. The data is not read.
func ReadMeta(path string, keys Keyring) (Meta, error) {
	c, err := readControlOf(path, keys, nil)
	return c.meta, err
}

// readControlOf is readControl for a file.
func readControlOf(path string, keys Keyring, pin *Meta) (control, error) {
	f, err := os.Open(path)
	if err != nil {
		return control{}, fault.Errorf(fault.Source, "package: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return control{}, fmt.Errorf("package %s: %w", path, err)
	}
	c, err := readControl(path, f, info.Size(), keys, pin)
	c.meta.Size = info.Size()
	return c, err
}
