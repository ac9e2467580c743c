package licenses

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// made is a small list with its texts.
func made(t testing.TB) (list, texts []byte) {
	t.Helper()
	l := List{Bundle: digest([]byte("manifest")), Name: "sql", Arch: "amd64", Components: []Component{
		{Kind: "source", Name: "zlib", Version: "1.3.1", Declared: []string{"Zlib"}, Packages: []string{"zlib"}},
		{Kind: "module", Name: "x.org/y", Version: "v1.0.0", Packages: []string{"tool"}},
		{Kind: "package", Name: "foreign", Version: "2-r0", Declared: []string{"MIT"}},
	}}
	out, text, err := Make(l, func(c Component) []Found {
		switch c.Name {
		case "zlib":
			return []Found{{Path: "LICENSE", Text: []byte("same\n"), Size: 5}, {Path: "contrib/COPYING", Text: []byte("latin \xe4 1\n"), Size: 10}, {Path: "COPYING.huge", Size: 5 << 20}}
		case "x.org/y":
			return []Found{{Module: "x.org/y@v1.0.0", Path: "LICENSE", Text: []byte("same\n"), Size: 5}}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if list, err = out.Marshal(); err != nil {
		t.Fatal(err)
	}
	return list, text
}

func TestCheck(t *testing.T) {
	list, texts := made(t)
	l, err := Check(list, texts)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Texts) != 2 {
		t.Errorf("%d texts: the same one is there once", len(l.Texts))
	}
	for _, want := range []string{
		"module-x.org/y-v1.0.0", "foreign 2-r0 (package): MIT\n    no file with a licence was found\n",
		"zlib 1.3.1 (source), in zlib: Zlib\n    [1] LICENSE\n    [2] contrib/COPYING\n    [-] COPYING.huge, of 5242880 bytes, is not in here\n",
		"    x.org/y v1.0.0: LICENSE\n    zlib 1.3.1: LICENSE\n" + rule + "same\n\n", "latin \xe4 1\n",
	} {
		if !strings.Contains(string(texts), want) && l.Components[0].ID() != want {
			t.Errorf("%q is not in\n%s", want, texts)
		}
	}
	swap := func(b []byte, old, other string) []byte { return bytes.Replace(b, []byte(old), []byte(other), 1) }
	for name, tt := range map[string]struct {
		list, texts []byte
		want        string
	}{
		"a changed text":         {list, swap(texts, "latin", "Latin"), "has the text"},
		"a changed line between": {list, swap(texts, "in zlib", "in ZLIB"), "is not what"},
		"a line more":            {list, append(bytes.Clone(texts), '\n'), "is not what"},
		"a text that is gone":    {list, texts[:len(texts)-9], "has no bytes"},
		"another component":      {swap(list, `"name": "zlib"`, `"name": "zlob"`), texts, "is not what"},
		"another file":           {swap(list, `"path": "LICENSE"`, `"path": "LICENCE"`), texts, "is not what"},
		"a negative place":       {swap(list, `"offset": `, `"offset": -`), texts, "has no bytes"},
		"a place far away":       {swap(list, `"offset": `, `"offset": 9000000000000000`), texts, "has no bytes"},
		"a blank more":           {swap(list, "{\n", "{ \n"), texts, "not written as"},
		"another form":           {swap(list, `"form": 1`, `"form": 2`), texts, "has form 2"},
		"a key more":             {swap(list, "{\n", "{\"x\": 1,\n"), texts, "x"},
	} {
		if _, err := Check(tt.list, tt.texts); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Many texts of the same bytes would be read many times.
	one := `    {
      "digest": "` + digest([]byte("same\n")) + `"`
	i := bytes.Index(list, []byte(one))
	entry := list[i : i+bytes.IndexByte(list[i:], '}')+1]
	many := bytes.Replace(list, entry, bytes.Join([][]byte{entry, bytes.Repeat(append([]byte(",\n"), entry...), len(texts))}, nil), 1)
	if _, err := Check(many, texts); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "are larger than") {
		t.Errorf("the same text many times: %v", err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	list, texts := made(t)
	if l, _, err := Read(dir); l != nil || err != nil {
		t.Errorf("nothing there: %v, %v", l, err)
	}
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(bundle.LicensesFile, list)
	if l, _, err := Read(dir); l != nil || err != nil {
		t.Errorf("one of two: %v, %v", l, err)
	}
	write(bundle.LicenseTextsFile, texts)
	if l, d, err := Read(dir); err != nil || l == nil || d != digest(texts) {
		t.Errorf("both: %v, %s, %v", l, d, err)
	}
	write(bundle.LicenseTextsFile, append(texts, 'x'))
	if _, _, err := Read(dir); fault.ClassOf(err) != fault.Verification {
		t.Errorf("changed: %v", err)
	}
	write(bundle.LicensesFile, bytes.Replace(list, []byte(`"form": 1`), []byte(`"form": 7`), 1))
	if l, _, err := Read(dir); l != nil || err != nil {
		t.Errorf("another form: %v, %v", l, err)
	}
}

func FuzzCheck(f *testing.F) {
	list, texts := made(f)
	f.Add(list, texts)
	f.Fuzz(func(t *testing.T, list, texts []byte) {
		if _, err := Check(list, texts); err != nil && fault.ClassOf(err) != fault.Verification {
			t.Errorf("class %v: %v", fault.ClassOf(err), err)
		}
	})
}
