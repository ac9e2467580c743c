package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicdir"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A Writer makes a bundle in a hidden directory beside its final place, so
// that a build that fails, or a machine that goes down, leaves the former
// bundle whole. One of Commit and Abort ends it.
type Writer struct {
	temp  *atomicdir.Dir
	roles map[string]string
	// added are the sizes and digests of what Add wrote.
	added map[string]Artifact
}

// Create begins the bundle that is to stand at dir. What is at dir now must be
// nothing, an empty directory or a bundle, else the error is of class
// fault.Usage: it would be replaced as a whole. What former writers of the
// same dir left behind when they were killed is removed.
func Create(dir string) (*Writer, error) {
	temp, err := atomicdir.Create(dir, replaceable)
	if err != nil {
		return nil, err
	}
	return &Writer{temp: temp, roles: map[string]string{}, added: map[string]Artifact{}}, nil
}

// Path registers the artifact name with its role and returns the path its
// content is to be written to before Commit.
func (w *Writer) Path(name, role string) (string, error) {
	if !fileForm.MatchString(name) || name == ManifestFile || name == SumsFile {
		return "", fault.Errorf(fault.Internal, "bundle: %q cannot be the name of an artifact", name)
	}
	if _, ok := w.roles[name]; ok {
		return "", fault.Errorf(fault.Internal, "bundle: artifact %s is added twice", name)
	}
	w.roles[name] = role
	return filepath.Join(w.temp.Path, name), nil
}

// writeback is after how many bytes the kernel is asked to begin to bring them to
// the disk, so that little is left to do for the sync at the end.
const writeback = 16 << 20

// Add copies r into the artifact name. After an error, of r's own class where r
// gave it, there is no such artifact, and it may be added again.
func (w *Writer) Add(ctx context.Context, name, role string, r io.Reader) error {
	h := sha256.New()
	a, err := w.add(ctx, name, role, r, h)
	if err != nil {
		return err
	}
	a.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	w.added[name] = a
	return nil
}

// AddVerified is Add for a reader that ends in an error unless it gave the bytes
// that a describes: they are not hashed once more.
func (w *Writer) AddVerified(ctx context.Context, a Artifact, r io.Reader) error {
	got, err := w.add(ctx, a.File, a.Role, r, nil)
	if err != nil {
		return err
	}
	got.Digest = a.Digest
	w.added[a.File] = got
	return nil
}

// add writes a file and tells its size.
func (w *Writer) add(ctx context.Context, name, role string, r io.Reader, h hash.Hash) (a Artifact, err error) {
	path, err := w.Path(name, role)
	if err != nil {
		return a, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return a, fault.Wrap(fault.Environment, err)
	}
	to := &writtenBack{f: f, hash: h}
	_, err = io.CopyBuffer(to, struct{ io.Reader }{stream.WithContext(ctx, r)}, make([]byte, 1<<20))
	if err = errors.Join(err, fault.Wrap(fault.Environment, f.Close())); err != nil {
		delete(w.roles, name)
		return a, errors.Join(fmt.Errorf("writing %s: %w", path, err), fault.Wrap(fault.Environment, os.Remove(path)))
	}
	return Artifact{File: name, Role: role, Size: to.size}, nil
}

// writtenBack is a file that is hashed as it is written, if there is a hash, and
// brought to the disk.
type writtenBack struct {
	f           *os.File
	hash        hash.Hash
	size, given int64
}

// Write implements io.Writer.
func (w *writtenBack) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	if w.hash != nil {
		w.hash.Write(b[:n])
	}
	w.size += int64(n)
	if w.size-w.given >= writeback {
		// Not every file system can; the sync at the end can.
		_ = unix.SyncFileRange(int(w.f.Fd()), w.given, w.size-w.given, unix.SYNC_FILE_RANGE_WRITE)
		w.given = w.size
	}
	return n, fault.Wrap(fault.Environment, err)
}

// Describe adds a file that describes the bundle, or its signature.
func (w *Writer) Describe(name string, text []byte) error {
	if name != signature.FileName && !slices.Contains(Descriptions(), name) {
		return fault.Errorf(fault.Internal, "bundle: %q describes nothing", name)
	}
	return w.writeText(name, text)
}

// Commit writes the manifest and the sums, and puts the bundle in its place in
// one rename. It returns the manifest as written. After an error nothing of the
// bundle is left, and what stood at its place still does.
//
// Artifacts that m names are what the files must be: other bytes, a file more
// or one less are an error of class fault.Verification. Without any, they are
// what the files are.
func (w *Writer) Commit(ctx context.Context, m Manifest) (*Manifest, error) {
	if err := w.commit(ctx, &m); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return &m, nil
}

func (w *Writer) commit(ctx context.Context, m *Manifest) error {
	promised := m.Artifacts
	m.Artifacts = make([]Artifact, 0, len(w.roles))
	for name, role := range w.roles {
		m.Artifacts = append(m.Artifacts, Artifact{File: name, Role: role})
	}
	slices.SortFunc(m.Artifacts, func(a, b Artifact) int { return strings.Compare(a.File, b.File) })
	for i := range m.Artifacts {
		a := &m.Artifacts[i]
		path := filepath.Join(w.temp.Path, a.File)
		if err := settle(path); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		if added, ok := w.added[a.File]; ok {
			a.Size, a.Digest = added.Size, added.Digest
			continue
		}
		var err error
		if a.Size, a.Digest, err = digestFile(ctx, path, -1); err != nil {
			return fmt.Errorf("hashing %s: %w", path, err)
		}
	}
	if promised != nil {
		if err := kept(promised, m.Artifacts); err != nil {
			return err
		}
	}
	data, err := Marshal(m)
	if err != nil {
		return err
	}
	if err := w.writeText(ManifestFile, data); err != nil {
		return err
	}
	if err := w.writeSums(ctx, m); err != nil {
		return err
	}
	return w.temp.Commit()
}

// Abort removes what was written. It is safe to call after Commit.
func (w *Writer) Abort() error { return w.temp.Abort() }

// kept is an error that says how the files differ from what was promised.
func kept(promised, written []Artifact) error {
	byFile := map[string]Artifact{}
	for _, a := range written {
		byFile[a.File] = a
	}
	for _, want := range promised {
		got, ok := byFile[want.File]
		delete(byFile, want.File)
		switch {
		case !ok:
			return fault.Errorf(fault.Verification, "bundle: %s is in the manifest and was not written", want.File)
		case got != want:
			return fault.Errorf(fault.Verification, "bundle: %s (%s) came as %s of %d bytes (%s), the manifest says %s of %d bytes",
				want.File, want.Role, got.Digest, got.Size, got.Role, want.Digest, want.Size)
		}
	}
	for _, a := range written {
		if _, ok := byFile[a.File]; ok {
			return fault.Errorf(fault.Verification, "bundle: %s was written and is not in the manifest", a.File)
		}
	}
	return nil
}

// Write makes a bundle at dir of the artifacts that m names; files holds the
// path of each one's bytes, by its name. Bytes that are not of the digest in m
// are an error of class fault.Verification, and no bundle.
func Write(ctx context.Context, dir string, m Manifest, files map[string]string) error {
	w, err := Create(dir)
	if err != nil {
		return err
	}
	for _, a := range m.Artifacts {
		if err := w.addFile(ctx, a.File, a.Role, files[a.File]); err != nil {
			return errors.Join(err, w.Abort())
		}
	}
	_, err = w.Commit(ctx, m)
	return err
}

func (w *Writer) addFile(ctx context.Context, name, role, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	return fault.Wrap(fault.Environment, w.Add(ctx, name, role, f))
}

// Marshal gives the manifest's bytes: indented, keys in the order of the type,
// lists never null, one line feed at the end. The same manifest always gives
// the same bytes. A value outside its range is an error as Check gives it.
func Marshal(m *Manifest) ([]byte, error) {
	out := *m
	if out.Artifacts == nil {
		out.Artifacts = []Artifact{}
	}
	if out.Services == nil {
		out.Services = []string{}
	}
	if out.Ports == nil {
		out.Ports = []Port{}
	}
	if out.Packages == nil {
		out.Packages = []Package{}
	}
	if err := out.Check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // URLs hold &
	enc.SetIndent("", "  ")
	if err := enc.Encode(&out); err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	return b.Bytes(), nil
}

func (w *Writer) writeSums(ctx context.Context, m *Manifest) error {
	_, manifest, err := digestFile(ctx, filepath.Join(w.temp.Path, ManifestFile), -1)
	if err != nil {
		return fmt.Errorf("hashing %s: %w", ManifestFile, err)
	}
	sums := map[string]string{ManifestFile: manifest}
	for _, a := range m.Artifacts {
		sums[a.File] = a.Digest
	}
	names := make([]string, 0, len(sums))
	for name := range sums {
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&b, "%s  %s\n", strings.TrimPrefix(sums[name], "sha256:"), name)
	}
	return w.writeText(SumsFile, b.Bytes())
}

func (w *Writer) writeText(name string, data []byte) error {
	path := filepath.Join(w.temp.Path, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return fault.Wrap(fault.Environment, settle(path))
}

// settle gives a file the mode of a bundle's files and brings it to the disk.
func settle(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.Errorf(fault.Internal, "bundle: artifact %s was announced and never written", filepath.Base(path))
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o644), f.Sync(), f.Close())
}
