package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Files of a release's directory.
const (
	ListFile      = "release.json"
	SignatureFile = ListFile + ".minisig"
	SumsFile      = "SHA256SUMS" // for sha256sum --check
	NotesFile     = "NOTES.md"
)

// Schema is the version of release.json.
const Schema = 1

// MaxList bounds release.json, in bytes, and maxFiles how many files it names.
const (
	MaxList  = 8 << 20
	maxFiles = 10_000
)

// List is release.json: what a release is made of.
type List struct {
	Schema  int    `json:"schema"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// Index is that of the bundles' signatures; 0 where nobody signs.
	Index int64 `json:"index"`
	// Key signs the release, "" for nobody.
	Key string `json:"key,omitempty"`
	// Bundles are the directories of bundles, sorted.
	Bundles []string `json:"bundles"`
	// Files are all of them but release.json, its signature and SHA256SUMS,
	// sorted by path.
	Files []File `json:"files"`
}

// File is one file of a release.
type File struct {
	Path   string `json:"path"` // with slashes, within the directory
	Digest string `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

var (
	nameForm    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	versionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
	digestForm  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	// No part begins with a dot, so that none leads out.
	pathForm = regexp.MustCompile(`^[A-Za-z0-9_+][A-Za-z0-9._+-]*(/[A-Za-z0-9_+][A-Za-z0-9._+-]*){0,7}$`)
)

// Parse reads release.json. file is its name in errors, which are of class
// fault.Verification.
func Parse(file string, text []byte) (*List, error) {
	l := new(List)
	err := func() error {
		if len(text) > MaxList {
			return fmt.Errorf("%s: %d bytes are more than %d", file, len(text), MaxList)
		}
		d, err := strictjson.Decode(strictjson.File{Name: file, Data: text, What: "release"}, l)
		if err != nil {
			return err
		}
		return l.check(d.Errorf)
	}()
	if err != nil {
		return nil, fault.Errorf(fault.Verification, "%w", err).Hintf("fetch the release again from where it came")
	}
	return l, nil
}

func (l *List) check(fail func(path, format string, args ...any) error) error {
	switch {
	case l.Schema != Schema:
		return fail("schema", "%d is not %d, the only version this program reads", l.Schema, Schema)
	case !nameForm.MatchString(l.Name):
		return fail("name", "%q is not lower case letters, digits and dashes, at most 32", l.Name)
	case !versionForm.MatchString(l.Version):
		return fail("version", "%q is not of letters, digits and ._+-, at most 64", l.Version)
	case l.Index < 0 || l.Index > signature.MaxIndex:
		return fail("index", "%d is not from 0 to %d", l.Index, int64(signature.MaxIndex))
	case l.Key != "" && signature.Key(l.Key).Check() != nil:
		return fail("key", "%q is none", l.Key)
	case (l.Key == "") != (l.Index == 0):
		return fail("index", "%d does not go with the key %q", l.Index, l.Key)
	case len(l.Files) > maxFiles:
		return fail("files", "%d are more than %d", len(l.Files), maxFiles)
	case len(l.Bundles) == 0 || len(l.Bundles) > 256:
		return fail("bundles", "%d are not from 1 to 256", len(l.Bundles))
	}
	for i, b := range l.Bundles {
		if !nameForm.MatchString(strings.TrimSuffix(strings.TrimSuffix(b, "-amd64"), "-arm64")) || i > 0 && b <= l.Bundles[i-1] {
			return fail(fmt.Sprintf("bundles[%d]", i), "%q is not the directory of a bundle, sorted behind the one before", b)
		}
	}
	for i, f := range l.Files {
		at := fmt.Sprintf("files[%d]", i)
		switch {
		case !pathForm.MatchString(f.Path) || len(f.Path) > 300 || slices.Contains([]string{ListFile, SignatureFile, SumsFile}, f.Path):
			return fail(at+".path", "%q is not the path of a file of a release", f.Path)
		case i > 0 && f.Path == l.Files[i-1].Path:
			return fail(at+".path", "%s is named twice", f.Path)
		case i > 0 && f.Path < l.Files[i-1].Path:
			return fail(at+".path", "%s is not sorted behind %s", f.Path, l.Files[i-1].Path)
		case !digestForm.MatchString(f.Digest):
			return fail(at+".digest", "%q is not sha256: and 64 hex digits", f.Digest)
		case f.Size < 0:
			return fail(at+".size", "%d is not a size", f.Size)
		}
	}
	return nil
}

// Marshal is the list's one and only text.
func (l *List) Marshal() ([]byte, error) {
	err := l.check(func(path, format string, args ...any) error {
		return fault.Errorf(fault.Usage, "release: "+path+": "+format, args...)
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(l); err != nil {
		return nil, fault.Errorf(fault.Internal, "release: %w", err)
	}
	return b.Bytes(), nil
}

// sums is the text of SHA256SUMS.
func (l *List) sums(list []byte) []byte {
	lines := []string{fmt.Sprintf("%x  %s\n", sha256.Sum256(list), ListFile)}
	for _, f := range l.Files {
		lines = append(lines, strings.TrimPrefix(f.Digest, "sha256:")+"  "+f.Path+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return []byte(strings.Join(lines, ""))
}

// IsRelease says whether a directory is a release.
func IsRelease(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ListFile))
	return err == nil
}

// Read reads release.json of the release in dir, its text and its signature,
// nil for none.
func Read(dir string) (l *List, text, signed []byte, err error) {
	if text, err = readFile(filepath.Join(dir, ListFile), MaxList); err != nil {
		return nil, nil, nil, err
	}
	if l, err = Parse(filepath.Join(dir, ListFile), text); err != nil {
		return nil, nil, nil, err
	}
	signed, err = readFile(filepath.Join(dir, SignatureFile), signature.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return l, text, signed, err
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	return text, fault.Wrap(fault.Environment, err)
}

// Verify holds the directory to the list: every file is there and is as the list
// says, and there is no other.
func (l *List) Verify(ctx context.Context, dir string) error {
	text, err := l.Marshal()
	if err != nil {
		return err
	}
	have, err := files(ctx, dir)
	if err != nil {
		return err
	}
	for i, f := range l.Files {
		switch {
		case i >= len(have) || have[i].Path > f.Path:
			return fault.Errorf(fault.Verification, "%s is in the list and is not there", f.Path)
		case have[i].Path < f.Path:
			return fault.Errorf(fault.Verification, "%s is not in the list", have[i].Path)
		case have[i] != f:
			return fault.Errorf(fault.Verification, "%s: expected %s of %d bytes, got %s of %d", f.Path, f.Digest, f.Size, have[i].Digest, have[i].Size)
		}
	}
	if len(have) > len(l.Files) {
		return fault.Errorf(fault.Verification, "%s is not in the list", have[len(l.Files)].Path)
	}
	sums, err := readFile(filepath.Join(dir, SumsFile), MaxList)
	if err == nil && !bytes.Equal(sums, l.sums(text)) {
		err = fault.Errorf(fault.Verification, "%s does not say what %s does", SumsFile, ListFile)
	}
	return err
}

// files lists a release's directory, sorted by path.
func files(ctx context.Context, dir string) ([]File, error) {
	var out []File
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return fault.Wrap(fault.Internal, err)
		}
		rel = filepath.ToSlash(rel)
		if e.IsDir() || rel == ListFile || rel == SignatureFile || rel == SumsFile {
			return nil
		}
		if !e.Type().IsRegular() {
			return fault.Errorf(fault.Verification, "%s is not a regular file", rel)
		}
		if len(out) >= maxFiles {
			return fault.Errorf(fault.Usage, "%s holds more than %d files", dir, maxFiles)
		}
		f, err := os.Open(path)
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{stream.WithContext(ctx, f)}, make([]byte, 1<<20))
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		out = append(out, File{rel, fmt.Sprintf("sha256:%x", h.Sum(nil)), n})
		return nil
	})
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return out, err
}
