package licenses

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// tarball is a tar of files, by name, with directories where names end in "/".
func tarball(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))}
		if strings.HasSuffix(name, "/") {
			h = &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(t testing.TB, data []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// said is what was found, "MODULE PATH=TEXT".
func said(all []Found) string {
	var out []string
	for _, f := range all {
		text := string(f.Text)
		if f.Text == nil {
			text = fmt.Sprintf("(%d)", f.Size)
		}
		out = append(out, strings.TrimSpace(f.Module+" "+f.Path)+"="+text)
	}
	return strings.Join(out, "\n")
}

func TestIsLicense(t *testing.T) {
	for name, want := range map[string]bool{
		"LICENSE": true, "License.txt": true, "LICENCE.md": true, "COPYING": true, "COPYING.LESSER": true, "COPYRIGHT": true,
		"NOTICE": true, "NOTICE.txt": true, "PATENTS": true, "UNLICENSE": true, "LICENSE-MIT": true, "LICENSE.Apache-2.0": true,
		"debian/copyright": true, "src/backend/regex/COPYRIGHT": true, "llvm/lib/Support/COPYRIGHT.regex": true,
		"LICENSES/preferred/GPL-2.0": true, "LICENSES/exceptions/Linux-syscall-note": true, "LICENSE.rst": true,
		"include/linux/license.h": false, "src/tools/copyright.pl": false, "LICENSES/check.py": false, "license.html": false,
		"license-rules.rst": false, "licensed.txt": false, "README": false, "main.go": false, "noticeboard.txt": false,
		"classifier/testdata/LICENSE": false, "copyingmachine": false,
	} {
		if isLicense(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

func TestInSource(t *testing.T) {
	files := map[string]string{
		"zlib-1.3.1/": "", "zlib-1.3.1/LICENSE": "zlib\n", "zlib-1.3.1/deflate.c": "int x;", "zlib-1.3.1/contrib/COPYING": "GPL\n",
		"zlib-1.3.1/contrib/license.go": "package x", "zlib-1.3.1/NOTICE": " \n", "zlib-1.3.1/COPYING.bin": "a\x00b",
		"zlib-1.3.1/LICENSES/" + "big": strings.Repeat("x", maxText+1),
	}
	want := fmt.Sprintf("LICENSE=zlib\n\nLICENSES/big=(%d)\ncontrib/COPYING=GPL\n", maxText+1)
	plain := tarball(t, files)
	var xzed bytes.Buffer
	x, err := xz.NewWriter(&xzed)
	if err == nil {
		_, err = x.Write(plain)
	}
	if err == nil {
		err = x.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	archives := map[string][]byte{"tar": plain, "tar.gz": gzipped(t, plain), "tar.xz": xzed.Bytes(), "zip": zipped(t, files)}
	if bzip2, err := exec.LookPath("bzip2"); err == nil {
		cmd := exec.Command(bzip2, "-c")
		cmd.Stdin = bytes.NewReader(plain)
		if archives["tar.bz2"], err = cmd.Output(); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{os.Getenv("PATH"), t.TempDir()} { // with the programs, and without
		t.Setenv("PATH", path)
		for name, data := range archives {
			found, err := InSource(t.Context(), file(t, data))
			if err != nil || said(found) != want {
				t.Errorf("%s: %v\n%s", name, err, said(found))
			}
		}
	}
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no directory around":         {map[string]string{"LICENSE": "a", "zic.c": "b"}, "LICENSE=a"},
		"licences in one of several":  {map[string]string{"lib/COPYING": "a", "src/x.c": "b"}, "lib/COPYING=a"},
		"nothing but texts":           {map[string]string{"LICENSES/MIT": "a"}, "LICENSES/MIT=a"},
		"none":                        {map[string]string{"x/README": "a"}, ""},
		"dots before the name":        {map[string]string{"./x/COPYING": "a", "./x/../x/b": ""}, "COPYING=a"},
		"an entry outside stays one":  {map[string]string{"../../COPYING": "a"}, "COPYING=a"},
		"packages of npm":             {map[string]string{"registry/a/-/a-1.tgz": string(gzipped(t, tarball(t, map[string]string{"package/LICENSE": "a", "package/index.js": ""}))), "registry/@b/c/-/c-2.tgz": string(gzipped(t, tarball(t, map[string]string{"c/licence.md": "c"}))), "cache/x": "", "package-lock.json": ""}, "a-1/LICENSE=a\nc-2/licence.md=c"},
		"packages of npm with a hole": {map[string]string{"registry/a/-/a-1.tgz": "a"}, ""},
	} {
		found, err := InSource(t.Context(), file(t, tarball(t, tt.files)))
		if err != nil || said(found) != tt.want {
			t.Errorf("%s: %v\n%s", name, err, said(found))
		}
	}
	for name, data := range map[string][]byte{"nothing": nil, "a file": []byte("int main;\n"), "a script": []byte("#!/bin/sh\n" + strings.Repeat("x", 1000)), "lz4": []byte("\x04\x22\x4d\x18xxxx")} {
		if found, err := InSource(t.Context(), file(t, data)); err != nil || found != nil {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	for name, data := range map[string][]byte{"a tar that is cut": plain[:len(plain)/2], "a gzip that is cut": gzipped(t, plain)[:200], "an xz that is cut": xzed.Bytes()[:xzed.Len()/2]} {
		if _, err := InSource(t.Context(), file(t, data)); fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := InSource(ctx, file(t, plain)); err == nil {
		t.Error("it went on after the end")
	}
}

func TestInGo(t *testing.T) {
	module := zipped(t, map[string]string{"github.com/Masterminds/x@v1.0.0/LICENSE": "MIT", "github.com/Masterminds/x@v1.0.0/sub/NOTICE": "n", "elsewhere/LICENSE": "no"})
	cache := map[string]string{
		"cache/download/github.com/!masterminds/x/@v/v1.0.0.zip": string(module), "cache/download/github.com/!masterminds/x/@v/v1.0.0.mod": "module x",
		"cache/download/y.org/z/@v/v2.0.0.mod": "module z",
	}
	found, err := InGoModules(t.Context(), bytes.NewReader(tarball(t, cache)))
	if want := "github.com/Masterminds/x@v1.0.0 LICENSE=MIT\ngithub.com/Masterminds/x@v1.0.0 sub/NOTICE=n"; err != nil || said(found) != want {
		t.Errorf("%v\n%s", err, said(found))
	}
	cache["cache/download/y.org/z/@v/v2.0.0.zip"] = "no zip"
	if _, err := InGoModules(t.Context(), bytes.NewReader(tarball(t, cache))); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "z/@v/v2.0.0.zip") {
		t.Errorf("no zip: %v", err)
	}
	top := "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/"
	found, err = InGoToolchain(t.Context(), file(t, zipped(t, map[string]string{top + "LICENSE": "BSD", top + "PATENTS": "p", top + "src/vendor/golang.org/x/net/LICENSE": "net", top + "src/cmd/vendor/x/LICENSE": "no", top + "bin/go": ""})))
	if want := "LICENSE=BSD\nPATENTS=p\nsrc/vendor/golang.org/x/net/LICENSE=net"; err != nil || said(found) != want {
		t.Errorf("%v\n%s", err, said(found))
	}
}

// TestFormat: what is found in the same archive is the same, or has another
// FindFormat, since it is kept under that.
func TestFormat(t *testing.T) {
	found, err := InSource(t.Context(), file(t, tarball(t, map[string]string{"x-1/COPYING": "GPL\n", "x-1/LICENSES/MIT": "MIT\n", "x-1/doc/NOTICE.md": "n\n", "x-1/license.c": "", "x-1/a/testdata/COPYING": "no"})))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(found)
	if err != nil {
		t.Fatal(err)
	}
	const want = "licenses/1 84e03623674700646585839d8e69294c6d7113a5ba092634c710bdd784ca56ff"
	if got := fmt.Sprintf("%s %x", FindFormat, sha256.Sum256(text)); got != want {
		t.Errorf("%s\nwas %s\n%s", got, want, text)
	}
}

func FuzzInSource(f *testing.F) {
	f.Add(tarball(f, map[string]string{"x/COPYING": "a"}))
	f.Add(gzipped(f, tarball(f, map[string]string{"registry/a/-/a-1.tgz": string(gzipped(f, tarball(f, map[string]string{"package/LICENSE": "a"})))})))
	f.Add(zipped(f, map[string]string{"x/LICENSE": "a"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := InSource(t.Context(), file(t, data))
		if err != nil && fault.ClassOf(err) != fault.Source {
			t.Errorf("class %v: %v", fault.ClassOf(err), err)
		}
		for _, v := range found {
			if v.Path == "" || strings.HasPrefix(v.Path, "/") || int64(len(v.Text)) != v.Size && v.Size <= maxText {
				t.Errorf("%q of %d bytes with %d", v.Path, v.Size, len(v.Text))
			}
		}
	})
}
