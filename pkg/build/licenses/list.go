package licenses

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Form is the version of both files: another one where the same sources would
// give other bytes.
const Form = 1

// List is licenses.json.
type List struct {
	Form int `json:"form"`
	// Bundle is the digest of the bundle's manifest.
	Bundle string `json:"bundle"`
	Name   string `json:"name"`
	Arch   string `json:"arch"`
	// Components are what the bundle is made of, sorted by kind, name and version.
	Components []Component `json:"components"`
	// Texts are in the order in which they are in licenses.txt.
	Texts []Text `json:"texts"`
}

// Component is a source, a module of Go's, or a package whose source nobody has
// here.
type Component struct {
	Kind    string `json:"kind"` // that of the bill of materials
	Name    string `json:"name"`
	Version string `json:"version"`
	// Declared are the SPDX expressions that ports and packages declare of what
	// is made of it, sorted.
	Declared []string `json:"declared"`
	// Packages are those of the image that are made of it, sorted.
	Packages []string `json:"packages"`
	// Files are those that a licence was found in, sorted by path.
	Files []File `json:"files"`
}

// File is a file with a licence in it.
type File struct {
	Path string `json:"path"`
	// Text is the SHA-256 of the text, "" for a file that is too large to be one
	// and is only named.
	Text string `json:"text"`
	Size int64  `json:"size"` // bytes
}

// Text is one text.
type Text struct {
	Digest string `json:"digest"` // "sha256:…"
	Offset int64  `json:"offset"` // in licenses.txt, bytes
	Size   int64  `json:"size"`   // bytes
}

// ID tells components apart, as in the bill of materials.
func (c Component) ID() string { return c.Kind + "-" + c.Name + "-" + c.Version }

// Make makes the list and licenses.txt. Files of the components are those that
// of returns.
func Make(l List, of func(Component) []Found) (*List, []byte, error) {
	l.Form, l.Texts = Form, []Text{}
	l.Components = slices.Clone(l.Components)
	slices.SortFunc(l.Components, func(a, b Component) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	texts := map[string][]byte{}
	for i := range l.Components {
		c := &l.Components[i]
		c.Declared, c.Packages, c.Files = unique(c.Declared), unique(c.Packages), []File{}
		for _, f := range of(*c) {
			v := File{Path: f.Path, Size: f.Size}
			if f.Text != nil {
				v.Text = digest(f.Text)
				if texts[v.Text] == nil {
					l.Texts = append(l.Texts, Text{Digest: v.Text, Size: f.Size})
				}
				texts[v.Text] = f.Text
			}
			c.Files = append(c.Files, v)
		}
	}
	text, err := l.render(texts)
	if err == nil {
		err = fits(bundle.LicenseTextsFile, text)
	}
	return &l, text, err
}

func fits(name string, text []byte) error {
	if len(text) > bundle.MaxDescription {
		return fault.Errorf(fault.Source, "%s would have %d bytes, more than %d", name, len(text), bundle.MaxDescription)
	}
	return nil
}

func unique(all []string) []string {
	all = append([]string{}, all...)
	slices.Sort(all)
	return slices.Compact(all)
}

func digest(text []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(text)) }

// Marshal is licenses.json.
func (l *List) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(l); err != nil {
		return nil, fault.Errorf(fault.Internal, "licenses: %w", err)
	}
	return b.Bytes(), fits(bundle.LicensesFile, b.Bytes())
}

const rule = "================================================================================\n"

// render writes licenses.txt, and into the list where each text is.
func (l *List) render(texts map[string][]byte) ([]byte, error) {
	number := map[string]int{}
	for i, t := range l.Texts {
		number[t.Digest] = i + 1
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "Licences of what %s for %s is made of\n\nThe bundle is %s.\n\n", l.Name, l.Arch, l.Bundle)
	b.WriteString("For each part: what its packages declare, and the files in its source that\n" +
		"licences are in, with the number that the text has below. Each text is there\n" +
		"once, as upstream wrote it. A source may have licences of parts that are not in\n" +
		"this image, and notices in other files. " + bundle.LicensesFile + " says the same for programs.\n\n")
	users := map[string][]string{}
	for _, c := range l.Components {
		what := strings.TrimSpace(c.Name + " " + c.Version)
		fmt.Fprintf(&b, "%s (%s)", what, c.Kind)
		if len(c.Packages) > 0 {
			fmt.Fprintf(&b, ", in %s", strings.Join(c.Packages, ", "))
		}
		if len(c.Declared) > 0 {
			fmt.Fprintf(&b, ": %s", strings.Join(c.Declared, "; "))
		}
		b.WriteByte('\n')
		for _, f := range c.Files {
			if f.Text == "" {
				fmt.Fprintf(&b, "    [-] %s, of %d bytes, is not in here\n", f.Path, f.Size)
				continue
			}
			fmt.Fprintf(&b, "    [%d] %s\n", number[f.Text], f.Path)
			users[f.Text] = append(users[f.Text], what+": "+f.Path)
		}
		if len(c.Files) == 0 {
			b.WriteString("    no file with a licence was found\n")
		}
	}
	for i := range l.Texts {
		t := &l.Texts[i]
		text, ok := texts[t.Digest]
		if !ok || len(users[t.Digest]) == 0 {
			return nil, fmt.Errorf("the text %s is not there, or no component has it", t.Digest)
		}
		fmt.Fprintf(&b, "\n%s[%d] %s\n", rule, i+1, t.Digest)
		for _, u := range users[t.Digest] {
			fmt.Fprintf(&b, "    %s\n", u)
		}
		b.WriteString(rule)
		t.Offset, t.Size = int64(b.Len()), int64(len(text))
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// Parse reads licenses.json. Errors are of class fault.Verification.
func Parse(file string, text []byte) (*List, error) {
	l := new(List)
	if _, err := strictjson.Decode(strictjson.File{Name: file, Data: text, What: "list of licences"}, l); err != nil {
		return nil, fault.Errorf(fault.Verification, "%w", err)
	}
	return l, nil
}

// FormOf is the form that licenses.json says it has, 0 where it says none.
func FormOf(text []byte) int {
	var l struct {
		Form int `json:"form"`
	}
	if json.Unmarshal(text, &l) != nil {
		return 0
	}
	return l.Form
}

// Check holds both files to each other: each text lies where the list says and
// has its digest, and licenses.txt is what the list and the texts make, byte by
// byte. Errors are of class fault.Verification.
func Check(list, texts []byte) (*List, error) {
	l, err := Parse(bundle.LicensesFile, list)
	if err != nil {
		return nil, err
	}
	fail := func(format string, args ...any) (*List, error) {
		return nil, fault.Errorf(fault.Verification, format, args...)
	}
	if l.Form != Form {
		return fail("%s has form %d, and this program reads form %d", bundle.LicensesFile, l.Form, Form)
	}
	have := map[string][]byte{}
	end, left := int64(len(texts)), int64(len(texts))
	for _, t := range l.Texts {
		if t.Offset < 0 || t.Size < 0 || t.Offset > end || t.Size > end-t.Offset {
			return fail("%s has no bytes %d to %d, where %s puts the text %s", bundle.LicenseTextsFile, t.Offset, t.Offset+t.Size, bundle.LicensesFile, t.Digest)
		}
		// No byte is of two texts.
		if left -= t.Size; left < 0 {
			return fail("the texts of %s are larger than %s", bundle.LicensesFile, bundle.LicenseTextsFile)
		}
		text := texts[t.Offset : t.Offset+t.Size]
		if got := digest(text); got != t.Digest {
			return fail("%s has the text %s where %s puts %s", bundle.LicenseTextsFile, got, bundle.LicensesFile, t.Digest)
		}
		have[t.Digest] = text
	}
	again := *l
	again.Texts = slices.Clone(l.Texts)
	want, err := again.render(have)
	if err != nil {
		return fail("%s: %w", bundle.LicensesFile, err)
	}
	canonical, err := again.Marshal()
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(want, texts):
		return fail("%s is not what %s and its texts make", bundle.LicenseTextsFile, bundle.LicensesFile)
	case !bytes.Equal(canonical, list):
		return fail("%s is not written as this program writes it", bundle.LicensesFile)
	}
	return l, nil
}

// Read reads both files of the bundle in dir, checked, and the second's digest.
// Without them, or with those of another form, the list is nil.
func Read(dir string) (*List, string, error) {
	var both [2][]byte
	for i, name := range []string{bundle.LicensesFile, bundle.LicenseTextsFile} {
		text, err := read(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		if both[i] = text; i == 0 && FormOf(text) != Form {
			return nil, "", nil
		}
	}
	l, err := Check(both[0], both[1])
	return l, digest(both[1]), err
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close() // only read
	text, err := io.ReadAll(io.LimitReader(f, bundle.MaxDescription+1))
	if err == nil && len(text) > bundle.MaxDescription {
		return nil, fault.Errorf(fault.Verification, "%s is larger than %d bytes", path, bundle.MaxDescription)
	}
	return text, fault.Wrap(fault.Environment, err)
}
