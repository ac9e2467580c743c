package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicdir"
	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/build/compare"
	"github.com/sovereign-build/sovereign/pkg/build/disk/bootable"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Spec says what a release is made of.
type Spec struct {
	// Dir is where the release is to stand: nothing, an empty directory or
	// another release, which it replaces in one step.
	Dir string
	// Name is "" for that of the bundles, which is then one.
	Name    string
	Version string
	// Bundles are directories of bundles. They are copied.
	Bundles []string
	// Packages is a directory with apk repositories; "" for none.
	Packages string
	// Index and Key sign all of it; without a key nobody does.
	Index     int64
	Key       *signature.SecretKey
	Rotations []byte
	// Last is the release before, for the notes; "" for none.
	Last string
	// Disks are the formats of disks that are made of every bundle.
	Disks []bootable.Format
}

// Make makes a release. Errors are of class fault.Usage for the spec and
// fault.Verification for bundles that are not as they say.
func Make(ctx context.Context, s Spec) (_ *List, err error) {
	l := &List{Schema: Schema, Name: s.Name, Version: s.Version, Bundles: []string{}}
	manifests := map[string]*bundle.Manifest{}
	for _, dir := range s.Bundles {
		m, err := bundle.Load(dir)
		if err != nil {
			return nil, err
		}
		name := m.Name + "-" + m.Arch
		switch {
		case manifests[name] != nil:
			return nil, fault.Errorf(fault.Usage, "%s is given twice", name)
		case l.Name == "":
			l.Name = m.Name
		case s.Name == "" && l.Name != m.Name:
			return nil, fault.Errorf(fault.Usage, "the release is of %s and %s, and has no name of its own", l.Name, m.Name).Hintf("give it a name")
		}
		if s.Key != nil {
			l.Key, l.Index = string(s.Key.Public()), s.Index
		} else if m.Key() != "" {
			return nil, fault.Errorf(fault.Usage, "%s: the bundle names the key %s, and the release is to be signed by nobody", dir, m.Key()).
				Hintf("give the secret key")
		}
		manifests[name] = m
		l.Bundles = append(l.Bundles, name)
	}
	slices.Sort(l.Bundles)
	out, err := atomicdir.Create(s.Dir, replaceable)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Abort())
		}
	}()
	for _, dir := range s.Bundles {
		m, err := bundle.Load(dir)
		if err != nil {
			return nil, err
		}
		if err := s.bundle(ctx, dir, m, out.Path); err != nil {
			return nil, err
		}
	}
	if s.Packages != "" {
		if err := copyTree(ctx, s.Packages, filepath.Join(out.Path, "packages")); err != nil {
			return nil, err
		}
	}
	notes, err := s.notes(ctx, l, out.Path)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(out.Path, NotesFile), notes, 0o644); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if l.Files, err = files(ctx, out.Path); err != nil {
		return nil, err
	}
	text, err := l.Marshal()
	if err != nil {
		return nil, err
	}
	top := map[string][]byte{ListFile: text, SumsFile: l.sums(text)}
	if s.Key != nil {
		top[SignatureFile], err = signature.Sign(*s.Key, text, signature.Statement{Name: l.Name, Arch: signature.AllArchs, Version: l.Version, Index: l.Index}, s.Rotations)
		if err != nil {
			return nil, err
		}
	}
	for name, text := range top {
		if err := os.WriteFile(filepath.Join(out.Path, name), text, 0o644); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
	}
	return l, out.Commit()
}

func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if !IsRelease(dir) {
		return fault.Errorf(fault.Usage, "%s holds files and no %s: it will not be replaced by a release", dir, ListFile).
			Hintf("name another output directory, or move this one away")
	}
	return nil
}

// bundle puts a bundle, signed, and its disks into the release.
func (s Spec) bundle(ctx context.Context, dir string, m *bundle.Manifest, out string) error {
	to := filepath.Join(out, m.Name+"-"+m.Arch)
	names := append(bundle.Descriptions(), bundle.ManifestFile, bundle.SumsFile)
	for _, a := range m.Artifacts {
		names = append(names, a.File)
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, name := range names {
		err := copyFile(ctx, filepath.Join(dir, name), filepath.Join(to, name))
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && slices.Contains(bundle.Descriptions(), name)) {
			return err
		}
	}
	if err := bundle.Verify(ctx, to); err != nil {
		return err
	}
	if s.Key != nil {
		if _, _, err := attest.Sign(ctx, to, attest.Options{Key: *s.Key, Rotations: s.Rotations, Version: s.Version, Index: s.Index}); err != nil {
			return err
		}
	}
	for _, format := range s.Disks {
		if err := writeDisk(ctx, to, format, out); err != nil {
			return err
		}
	}
	return nil
}

// writeDisk makes a disk of a bundle: NAME-ARCH.FORMAT.
func writeDisk(ctx context.Context, dir string, format bootable.Format, out string) error {
	d, err := bootable.Open(ctx, bootable.Spec{Bundle: dir, TempDir: out, Epoch: -1})
	if err != nil {
		return err
	}
	defer d.Close() // only read
	f, err := os.OpenFile(filepath.Join(out, filepath.Base(dir)+"."+string(format)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	_, err = d.Write(ctx, f, format)
	return errors.Join(err, fault.Wrap(fault.Environment, f.Close()))
}

func copyTree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return fault.Wrap(fault.Internal, err)
		}
		if strings.HasPrefix(e.Name(), ".") && rel != "." {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil // a lock, or what is being written
		}
		if e.IsDir() {
			return fault.Wrap(fault.Environment, os.MkdirAll(filepath.Join(to, rel), 0o755))
		}
		return copyFile(ctx, path, filepath.Join(to, rel))
	})
}

func copyFile(ctx context.Context, from, to string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	_, err = out.ReadFrom(in) // the kernel copies
	return fault.Wrap(fault.Environment, errors.Join(err, out.Close()))
}

// notes says what is new, bundle by bundle.
func (s Spec) notes(ctx context.Context, l *List, out string) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s %s\n", l.Name, l.Version)
	if s.Last == "" {
		b.WriteString("\nThe first release.\n")
	}
	for _, name := range l.Bundles {
		fmt.Fprintf(&b, "\n## %s\n\n", name)
		digest, err := bundle.Digest(filepath.Join(out, name))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "`%s`\n", digest)
		if s.Last == "" {
			continue
		}
		before := filepath.Join(s.Last, name)
		if _, err := os.Stat(filepath.Join(before, bundle.ManifestFile)); errors.Is(err, fs.ErrNotExist) {
			b.WriteString("\nNew in this release.\n")
			continue
		}
		report, err := compare.Bundles(ctx, before, filepath.Join(out, name), "")
		if err != nil {
			return nil, err
		}
		if report.Equal {
			b.WriteString("\nNothing has changed.\n")
			continue
		}
		b.WriteString("\n```\n")
		if err := report.WriteText(&b); err != nil {
			return nil, err
		}
		b.WriteString("```\n")
	}
	return b.Bytes(), nil
}
