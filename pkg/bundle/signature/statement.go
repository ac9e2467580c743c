package signature

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Statement is what is signed of a bundle.
type Statement struct {
	Name string `json:"name"`
	Arch string `json:"arch"` // "amd64" or "arm64", AllArchs for a release
	// Version is for people: letters, digits and ._+-, at most 64.
	Version string `json:"version"`
	// Index is from 1 to MaxIndex, and higher than that of every bundle of this
	// name that was signed before.
	Index int64 `json:"index"`
	Key   Key   `json:"key"`
	// Manifest is the manifest's digest, "sha256:…", and so of all of the bundle.
	Manifest string `json:"manifest"`
	// Files are those that describe the bundle and are not in its manifest,
	// sorted by name; at most 16.
	Files []File `json:"files,omitempty"`
}

// File is a file beside a bundle's own.
type File struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // "sha256:…"
}

// AllArchs is the architecture of a release, which is of bundles for several.
const AllArchs = "all"

// MaxIndex is the highest index: a whole number in every JSON.
const MaxIndex = 1<<53 - 1

const (
	statementWord = "sovereign-bundle-v1"
	rotationWord  = "sovereign-key-v1"
	maxFiles      = 16
	// maxComment is the longest that minisign reads, in bytes.
	maxComment = 8192
)

var (
	nameForm    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	versionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
	digestForm  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	fileForm    = regexp.MustCompile(`^[a-z][a-z0-9-]*(\.[a-z0-9-]+)+$`)
)

// Check says whether every value is in its range.
func (s Statement) Check() error {
	switch {
	case !nameForm.MatchString(s.Name):
		return fmt.Errorf("name %q is not that of a bundle", s.Name)
	case s.Arch != "amd64" && s.Arch != "arm64" && s.Arch != AllArchs:
		return fmt.Errorf("architecture %q is neither amd64 nor arm64 nor all", s.Arch)
	case !versionForm.MatchString(s.Version):
		return fmt.Errorf("version %q is not of letters, digits and ._+-, at most 64", s.Version)
	case s.Index < 1 || s.Index > MaxIndex:
		return fmt.Errorf("index %d is not from 1 to %d", s.Index, int64(MaxIndex))
	case s.Key.Check() != nil:
		return fmt.Errorf("key %q is none", s.Key)
	case !digestForm.MatchString(s.Manifest):
		return fmt.Errorf("manifest %q is not sha256: and 64 hex digits", s.Manifest)
	case len(s.Files) > maxFiles:
		return fmt.Errorf("%d files are more than %d", len(s.Files), maxFiles)
	}
	for i, f := range s.Files {
		switch {
		case !fileForm.MatchString(f.Name) || len(f.Name) > 100:
			return fmt.Errorf("file %q is not a plain name in lower case", f.Name)
		case i > 0 && f.Name == s.Files[i-1].Name:
			return fmt.Errorf("file %s is named twice", f.Name)
		case i > 0 && f.Name < s.Files[i-1].Name:
			return fmt.Errorf("file %s is not sorted behind %s", f.Name, s.Files[i-1].Name)
		case !digestForm.MatchString(f.Digest):
			return fmt.Errorf("file %s: digest %q is not sha256: and 64 hex digits", f.Name, f.Digest)
		}
	}
	return nil
}

// String is the one line that the values are signed as.
func (s Statement) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s name=%s arch=%s version=%s index=%d key=%s manifest=%s", statementWord, s.Name, s.Arch, s.Version, s.Index, s.Key, s.Manifest)
	for _, f := range s.Files {
		fmt.Fprintf(&b, " %s=%s", f.Name, f.Digest)
	}
	return b.String()
}

// File returns the digest of a file, "" where the statement has none of it.
func (s Statement) File(name string) string {
	i := slices.IndexFunc(s.Files, func(f File) bool { return f.Name == name })
	if i < 0 {
		return ""
	}
	return s.Files[i].Digest
}

// ParseStatement reads what String writes, and nothing else.
func ParseStatement(line string) (Statement, error) {
	var s Statement
	fields, err := pairs(line, statementWord, "name", "arch", "version", "index", "key", "manifest")
	if err != nil {
		return s, err
	}
	s.Name, s.Arch, s.Version, s.Key, s.Manifest = fields[0].value, fields[1].value, fields[2].value, Key(fields[4].value), fields[5].value
	if s.Index, err = strconv.ParseInt(fields[3].value, 10, 64); err != nil {
		return s, fmt.Errorf("index %q is not a number", fields[3].value)
	}
	for _, f := range fields[6:] {
		s.Files = append(s.Files, File{f.name, f.value})
	}
	if err := s.Check(); err != nil {
		return s, err
	}
	if s.String() != line {
		return s, fmt.Errorf("it is not written as its values are: %q", line)
	}
	return s, nil
}

type pair struct{ name, value string }

// pairs cuts a line of a word and name=value, the first of which have these
// names.
func pairs(line, word string, names ...string) ([]pair, error) {
	if len(line) > maxComment {
		return nil, fmt.Errorf("%d bytes are more than %d", len(line), maxComment)
	}
	fields := strings.Split(line, " ")
	if fields[0] != word {
		return nil, fmt.Errorf("it does not begin with %s", word)
	}
	var out []pair
	for _, f := range fields[1:] {
		name, value, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not name=value", f)
		}
		if n := len(out); n < len(names) && name != names[n] {
			return nil, fmt.Errorf("%q stands where %s has to", name, names[n])
		}
		out = append(out, pair{name, value})
	}
	if len(out) < len(names) {
		return nil, fmt.Errorf("%s is missing", names[len(out)])
	}
	return out, nil
}

// Rotation is a key's word that another one follows it.
type Rotation struct {
	From Key `json:"from"`
	To   Key `json:"to"`
	// Index is the first that To signs, and From no more.
	Index int64 `json:"index"`
}

// String is the one line that the values are signed as.
func (r Rotation) String() string {
	return fmt.Sprintf("%s from=%s to=%s index=%d", rotationWord, r.From, r.To, r.Index)
}

func (r Rotation) check() error {
	switch {
	case r.From.Check() != nil:
		return fmt.Errorf("from: %q is no key", r.From)
	case r.To.Check() != nil:
		return fmt.Errorf("to: %q is no key", r.To)
	case r.From == r.To:
		return fmt.Errorf("the key %s follows itself", r.To)
	case r.Index < 1 || r.Index > MaxIndex:
		return fmt.Errorf("index %d is not from 1 to %d", r.Index, int64(MaxIndex))
	}
	return nil
}

func parseRotation(line string) (Rotation, error) {
	var r Rotation
	fields, err := pairs(line, rotationWord, "from", "to", "index")
	if err != nil {
		return r, err
	}
	r.From, r.To = Key(fields[0].value), Key(fields[1].value)
	if r.Index, err = strconv.ParseInt(fields[2].value, 10, 64); err != nil {
		return r, fmt.Errorf("index %q is not a number", fields[2].value)
	}
	if err := r.check(); err != nil {
		return r, err
	}
	if r.String() != line {
		return r, fmt.Errorf("it is not written as its values are: %q", line)
	}
	return r, nil
}
