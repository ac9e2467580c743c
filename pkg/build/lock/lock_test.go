package lock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const digestA = store.Digest("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")

func sample() *Lock {
	return &Lock{
		Schema: 1, SourceDate: 1790000000,
		Sources: []Source{
			{Name: "zlib", Version: "1.3.1", File: "zlib_1.3.1.orig.tar.gz", Digest: digestA, Size: 10, Mirrors: []string{"debian:trixie/zlib=1:1.3.dfsg+really1.3.1-1"}},
			{Name: "musl", Version: "1.2.5", File: "musl.tar.gz", Digest: digestA, Size: 3, Relocked: "1.2.4",
				Mirrors: []string{"https://musl.libc.org/releases/musl-1.2.5.tar.gz?a=1&b=2", "debian:trixie/musl=1.2.5-3.1~deb13u1"}},
		},
		Toolchain: Toolchain{Suite: "bookworm", Packages: []DebPackage{{Name: "make", Version: "4.3-4.1", Arch: "amd64", File: "pool/main/m/make/make_4.3-4.1_amd64.deb", Digest: digestA, Size: 5}}},
		Go: Go{Version: "go1.26.8", Modules: []Module{{Name: "golang.org/toolchain", Version: "v0.0.1-go1.26.8.linux-amd64",
			Sum: "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", Digest: digestA, Size: 7}}},
		Packages: []Package{{Name: "lib", Version: "2-r0", Arch: "x86_64", Repository: "https://packages.example/main", Digest: digestA, Size: 9}},
		Released: []Package{{Name: "lib", Version: "1-r0", Arch: "aarch64", Repository: "https://packages.example/main", Tag: "edge", Digest: digestA, Size: 8}},
	}
}

func TestSaveIsStable(t *testing.T) {
	p := filepath.Join(t.TempDir(), FileName)
	if _, err := Load(p); !errors.Is(err, fs.ErrNotExist) || fault.ClassOf(err) != fault.Usage {
		t.Fatalf("no file: %v", err)
	}
	f := New(p)
	if f.Lock() != nil {
		t.Error("a lock out of nothing")
	}
	if err := f.Save(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(p)
	if err != nil {
		t.Fatal(err)
	}
	if got.Sources[0].Name != "musl" {
		t.Errorf("sources are not sorted: %v", got.Sources)
	}
	if err := f.Save(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(p)
	if err != nil || string(first) != string(second) {
		t.Errorf("not stable (%v):\n%s\n%s", err, first, second)
	}
	if entries, err := os.ReadDir(filepath.Dir(p)); err != nil || len(entries) != 1 {
		t.Errorf("files beside the lock: %v, %v", entries, err)
	}
	if !strings.Contains(string(first), "?a=1&b=2") || !strings.HasSuffix(string(first), "}\n") {
		t.Errorf("text is not plain:\n%s", first)
	}
}

func TestEmptyLock(t *testing.T) {
	b, err := (&Lock{SourceDate: 1}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse("x", b); err != nil {
		t.Fatal(err)
	}
}

func TestSourceAndChanged(t *testing.T) {
	l := sample()
	if s, ok := l.Source("musl"); !ok || s.Version != "1.2.5" {
		t.Errorf("musl: %v, %v", s, ok)
	}
	if _, ok := l.Source("nothing"); ok {
		t.Error("found a source that is not there")
	}
	l.Toolchain.Relocked, l.Go.Relocked, l.Packages[0].Relocked = "x", "y", "z"
	if got := l.Changed(); !reflect.DeepEqual(got, []string{"go", "musl", "packages", "toolchain"}) {
		t.Errorf("Changed = %v", got)
	}
	c := l.Clone()
	c.Sources[0].Mirrors[0] = "changed"
	if l.Sources[0].Mirrors[0] == "changed" {
		t.Error("Clone shares mirrors")
	}
}

func TestParseErrors(t *testing.T) {
	b, err := sample().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("sample lacks %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	tests := map[string]struct{ text, want string }{
		"empty":          {"", "x:1:1: the file ends in the middle"},
		"not an object":  {"[]", "x:1:1: the lock is an array, want an object"},
		"unknown key":    {replace(`"schema"`, `"shema"`), `x:2:3: unknown key "shema" in the lock`},
		"case":           {replace(`"schema"`, `"Schema"`), `x:2:3: unknown key "Schema"`},
		"nested unknown": {replace(`"file": "musl`, `"fil": "musl`), `x:8:7: unknown key "fil" in sources[0]`},
		"double key":     {replace(`"schema": 1,`, `"schema": 1, "schema": 1,`), `x:2:16: key "schema" is given twice`},
		"missing key":    {replace(`"version": "1.2.5",`, ``), `x:5:5: sources[0] lacks the key "version"`},
		"wrong type":     {replace(`"schema": 1`, `"schema": "1"`), `x:2:13: schema is a string, want a whole number`},
		"null":           {replace(`"sources": [`, `"sources": null, "x": [`), `x:4:14: sources is null, want an array`},
		"fraction":       {replace(`"schema": 1`, `"schema": 1.5`), `x:2:13: schema: 1.5 is not a whole number`},
		"huge":           {replace(`"size": 3`, `"size": 99999999999999999999`), `is not a whole number in range`},
		"syntax":         {replace(`"schema": 1,`, `"schema": 1;`), `x:2:14: not JSON`},
		"cut":            {good[:len(good)/2], "the file ends in the middle"},
		"after":          {good + "{}", "something follows the lock"},
		"schema":         {replace(`"schema": 1`, `"schema": 2`), "x:2:13: schema: 2 is not supported"},
		"date":           {replace(`1790000000`, `0`), "x:3:18: source_date: 0 is not from 1"},
		"digest":         {replace(`"sha256:ba`, `"sha256:BA`), "x:9:17: sources[0].digest"},
		"no digest":      {replace(string(digestA), ``), "x:9:17: sources[0].digest"},
		"path in file":   {replace(`musl.tar.gz"`, `../musl.tar.gz"`), "sources[0].file"},
		"plain http":     {replace(`https://musl`, `http://musl`), "sources[0].mirrors[0]"},
		"bad mirror":     {replace(`debian:trixie/zlib=`, `debian:trixie/zlib-`), "is not debian:SUITE/SOURCE=VERSION"},
		"twice":          {replace(`"name": "zlib"`, `"name": "musl"`), `"musl" is locked twice`},
		"reserved":       {replace(`"name": "zlib"`, `"name": "toolchain"`), `is reserved`},
		"size":           {replace(`"size": 3`, `"size": -3`), "sources[0].size: -3 is not from 1"},
		"option as path": {replace(`pool/main/m/make`, `../../m/make`), "toolchain.packages[0].file"},
		"h1":             {replace(`h1:47`, `h2:47`), "go.modules[0].sum"},
		"package":        {replace(`"arch": "x86_64"`, `"arch": "../x"`), "packages[0].arch"},
		"released":       {replace(`"tag": "edge"`, `"tag": "e e"`), "released[0].tag"},
		"go version":     {replace(`"go1.26.8"`, `"1.26.8"`), "go.version"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %q, want %q", err, tt.want)
			}
			if fault.ClassOf(err) != fault.Usage || !strings.HasPrefix(err.Error(), "x:") {
				t.Errorf("class %d, text %q", fault.ClassOf(err), err)
			}
		})
	}
}

func TestSourceDate(t *testing.T) {
	l := sample()
	for env, want := range map[string]int64{"": l.SourceDate, "1": 1, "1700000000": 1700000000} {
		if got, err := SourceDate(l, env); got != want || err != nil {
			t.Errorf("SourceDate(%q) = %d, %v", env, got, err)
		}
	}
	for _, env := range []string{"0", "-1", "x", "1.5", " 1", "99999999999999"} {
		if _, err := SourceDate(l, env); fault.ClassOf(err) != fault.Usage {
			t.Errorf("SourceDate(%q): %v", env, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	b, err := sample().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema":1,"sources":[{"name":1}]}`))
	f.Add([]byte(`{"schema":1,"schema":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse("x", data)
		if err != nil {
			if fault.ClassOf(err) != fault.Usage || !strings.HasPrefix(err.Error(), "x:") {
				t.Fatalf("class %d: %v", fault.ClassOf(err), err)
			}
			return
		}
		out, err := l.Marshal()
		if err != nil {
			t.Fatalf("a lock that loads does not save: %v", err)
		}
		again, err := Parse("x", out)
		if err != nil || !reflect.DeepEqual(l, again) {
			t.Fatalf("not the same after saving: %v", err)
		}
	})
}

func FuzzParseMirror(f *testing.F) {
	f.Add("https://zlib.net/zlib-1.3.1.tar.gz")
	f.Add("debian:trixie/zlib=1:1.3.dfsg+really1.3.1-1")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMirror(s)
		if err != nil {
			return
		}
		if m.String() != s || strings.HasPrefix(m.Source, "-") || strings.HasPrefix(m.Suite, "-") {
			t.Fatalf("%q became %+v", s, m)
		}
	})
}
