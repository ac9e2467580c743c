package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/bundletest"
	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/build/release"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// released makes a release of two architectures, with a key.
func released(t *testing.T, key signature.SecretKey, content, version string, index int64) string {
	t.Helper()
	dir := t.TempDir()
	var bundles []string
	for _, arch := range []string{"amd64", "arm64"} {
		d := filepath.Join(dir, "sql-"+arch)
		bundletest.Make(t, d, bundletest.Options{Arch: arch, Key: key.Public(), Content: content})
		bundles = append(bundles, d)
	}
	packages := filepath.Join(dir, "packages", "x86_64")
	if err := errors.Join(os.MkdirAll(packages, 0o755), os.WriteFile(filepath.Join(packages, "APKINDEX.tar.gz"), []byte("index "+content), 0o644)); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	_, err := release.Make(t.Context(), release.Spec{Dir: out, Version: version, Bundles: bundles, Packages: filepath.Join(dir, "packages"), Index: index, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// lied checks that a directory is refused, with exit code 6 and these words, and
// that the last line of the report says so.
func lied(t *testing.T, dir string, o Options, words string) {
	t.Helper()
	r, err := Dir(t.Context(), dir, o)
	if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
		t.Errorf("%v; want %q", err, words)
		return
	}
	if n := len(r.Checks); n == 0 || r.Checks[n-1].Result != Failed {
		t.Errorf("the report does not end with the lie: %+v", r.Checks)
	}
}

func TestGood(t *testing.T) {
	key := bundletest.NewKey(t)
	dir := released(t, key, "a", "1.0", 5)
	r, err := Dir(t.Context(), dir, Options{Key: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != "1.0" || r.Index != 5 || r.Key != key.Public() {
		t.Errorf("%+v", r)
	}
	done := map[string]int{}
	for _, c := range r.Checks {
		if c.Result != OK {
			t.Errorf("%+v", c)
		}
		done[c.What]++
	}
	for _, what := range []string{"manifest", "files", "sums", "root hash", "descriptions", "provenance", "envelope", "licences", "bill of materials", "belongs here"} {
		if done[what] != 2 {
			t.Errorf("%s was checked %d times", what, done[what])
		}
	}
	// Without signature and key: that is said, and nothing else is wrong.
	plain := filepath.Join(t.TempDir(), "sql")
	bundletest.Make(t, plain, bundletest.Options{Plain: true})
	if r, err = Dir(t.Context(), plain, Options{}); err != nil {
		t.Fatal(err)
	}
	skipped := map[string]bool{}
	for _, c := range r.Checks {
		skipped[c.What] = c.Result == Skipped
	}
	if !skipped["signature"] || !skipped["provenance"] || !skipped["bill of materials"] || skipped["files"] {
		t.Errorf("%+v", r.Checks)
	}
}

// Every file of a release changed, cut, removed, and swapped with another
// release's.
func TestEveryFile(t *testing.T) {
	key := bundletest.NewKey(t)
	dir, other := released(t, key, "a", "1.0", 5), released(t, key, "b", "1.1", 6)
	var all []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, relErr := filepath.Rel(dir, path)
			all, err = append(all, rel), relErr
		}
		return err
	})
	if err != nil || len(all) < 20 {
		t.Fatalf("%d files, %v", len(all), err)
	}
	attacks := map[string]func(path, theirs string) error{
		"changed": func(path, _ string) error {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text[len(text)/2] ^= 1
			return os.WriteFile(path, text, 0o644)
		},
		"cut": func(path, _ string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, info.Size()-1)
		},
		"longer": func(path, _ string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("\n")
			return errors.Join(err, f.Close())
		},
		"gone": func(path, _ string) error { return os.Remove(path) },
		"swapped": func(path, theirs string) error {
			text, err := os.ReadFile(theirs)
			if err != nil {
				return err
			}
			return os.WriteFile(path, text, 0o644)
		},
	}
	for _, rel := range all {
		before, err := os.ReadFile(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		for name, attack := range attacks {
			path, theirs := filepath.Join(dir, rel), filepath.Join(other, rel)
			if err := attack(path, theirs); err != nil {
				t.Fatal(err)
			}
			after, _ := os.ReadFile(path)
			_, err := Dir(t.Context(), dir, Options{Key: key.Public()})
			// The one thing that is no lie: it is the very same file there.
			same := bytes.Equal(before, after) && name != "gone"
			if !same && err == nil {
				t.Errorf("%s %s: nobody has seen it", rel, name)
			}
			// Without its list it is no release at all, and that is said.
			none := name == "gone" && (rel == release.ListFile && fault.ClassOf(err) == fault.Usage || fault.ClassOf(err) == fault.Environment)
			if class := fault.ClassOf(err); err != nil && class != fault.Verification && !none {
				t.Errorf("%s %s: class %v: %v", rel, name, class, err)
			}
			if err := os.WriteFile(path, before, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := Dir(t.Context(), dir, Options{Key: key.Public()}); err != nil {
		t.Errorf("after all that, the good one: %v", err)
	}
}

// A forger who changes more than one file, so that they agree with each other.
func TestForgers(t *testing.T) {
	key, forger := bundletest.NewKey(t), bundletest.NewKey(t)
	good, newer := released(t, key, "a", "1.0", 5), released(t, key, "b", "1.1", 6)
	o := Options{Key: key.Public()}

	lied(t, released(t, forger, "a", "1.0", 5), o, "only what "+string(key.Public())+" signs")

	dir := copyOf(t, good)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "sql-arm64")), os.CopyFS(filepath.Join(dir, "sql-arm64"), os.DirFS(filepath.Join(newer, "sql-arm64")))); err != nil {
		t.Fatal(err)
	}
	lied(t, dir, o, "sql-arm64/")

	// The list names a file twice, once with another digest.
	dir = copyOf(t, good)
	edit(t, filepath.Join(dir, release.ListFile), func(l map[string]any) {
		files := l["files"].([]any)
		l["files"] = append([]any{files[0]}, files...)
	})
	lied(t, dir, o, "is named twice")

	// So does a bundle's manifest.
	one := filepath.Join(copyOf(t, good), "sql-amd64")
	edit(t, filepath.Join(one, bundle.ManifestFile), func(m map[string]any) {
		files := m["artifacts"].([]any)
		m["artifacts"] = append([]any{files[0]}, files...)
	})
	lied(t, one, o, "is not sorted behind")

	// A file that nobody names.
	dir = copyOf(t, good)
	if err := os.WriteFile(filepath.Join(dir, "sql-amd64", "vmlinuz"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	lied(t, dir, o, "vmlinuz is not in the list")
	lied(t, filepath.Join(dir, "sql-amd64"), o, "vmlinuz is no part of the bundle")

	// No signature at all, which is no way around it.
	dir = copyOf(t, good)
	if err := os.Remove(filepath.Join(dir, release.SignatureFile)); err != nil {
		t.Fatal(err)
	}
	lied(t, dir, o, "is not signed")
	lied(t, dir, Options{}, "is not signed")

	// A bundle that its own key has signed, whose image says another root hash.
	bad := filepath.Join(t.TempDir(), "sql-amd64")
	bundletest.Make(t, bad, bundletest.Options{Key: key.Public(), Plain: true})
	edit(t, filepath.Join(bad, bundle.ManifestFile), func(m map[string]any) {
		hash := strings.Repeat("0", 64)
		m["root"].(map[string]any)["hash"] = hash
		m["vm"].(map[string]any)["cmdline"] = "roothash=" + hash
	})
	rewrite(t, bad)
	bundletest.Sign(t, bad, key, "1.0", 9, nil)
	lied(t, bad, o, "the file system leads to")

	// A text that is not upstream's any more, and a list of licences that is another
	// bundle's, each signed by whoever has the key.
	for words, change := range map[string]func(dir string) error{
		"has the text": func(dir string) error {
			path := filepath.Join(dir, bundle.LicenseTextsFile)
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, bytes.Replace(text, []byte("what you like"), []byte("what WE like!"), 1), 0o644)
		},
		"licenses.json is about": func(dir string) error {
			for _, name := range []string{bundle.LicensesFile, bundle.LicenseTextsFile} {
				text, err := os.ReadFile(filepath.Join(newer, "sql-amd64", name))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		"there is only one": func(dir string) error { return os.Remove(filepath.Join(dir, bundle.LicensesFile)) },
	} {
		d := filepath.Join(t.TempDir(), "sql-amd64")
		bundletest.Make(t, d, bundletest.Options{Key: key.Public(), Content: "a"})
		if err := change(d); err != nil {
			t.Fatal(err)
		}
		bundletest.Sign(t, d, key, "1.0", 9, nil)
		lied(t, d, o, words)
	}

	// What describes a bundle is another's, or says less than the image holds, and
	// whoever has the key has signed that.
	for words, change := range map[string]func(dir string) error{
		"sbom.spdx.json is not what the image makes it": func(dir string) error {
			return replace(filepath.Join(dir, bundle.SPDXFile), `"name": "zlib"`, `"name": "zlob"`)
		},
		"sbom.cdx.json is not what the image makes it": func(dir string) error {
			return replace(filepath.Join(dir, bundle.CycloneDXFile), `"name": "zlib"`, `"name": "zlob"`)
		},
		"which is no file of this bundle": func(dir string) error {
			return replace(filepath.Join(dir, bundle.ProvenanceFile), `"name": "bzImage"`, `"name": "vmlinuz"`)
		},
		"is not what the lock": func(dir string) error {
			return replace(filepath.Join(dir, bundle.ProvenanceFile), `"name": "zlib 1.3.1"`, `"name": "zlib 1.3.2"`)
		},
	} {
		d := filepath.Join(t.TempDir(), "sql-amd64")
		bundletest.Make(t, d, bundletest.Options{Key: key.Public(), Content: "a"})
		if err := change(d); err != nil {
			t.Fatal(err)
		}
		if _, _, err := attest.Sign(t.Context(), d, attest.Options{Key: key, Version: "1.0", Index: 9}); err != nil {
			// Who signs looks at what it is about first.
			if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
				t.Errorf("signing: %v; want %q", err, words)
			}
			continue
		}
		lied(t, d, o, words)
	}

	// A rotation is followed, and one by somebody else is not.
	rotated, err := signature.Rotate(key, forger.Public(), 6, nil)
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(t.TempDir(), "sql-amd64")
	bundletest.Make(t, next, bundletest.Options{Key: forger.Public()})
	bundletest.Sign(t, next, forger, "2.0", 7, rotated)
	if r, err := Dir(t.Context(), next, o); err != nil || r.Key != forger.Public() {
		t.Errorf("rotated: %+v, %v", r, err)
	}
	if rotated, err = signature.Rotate(bundletest.NewKey(t), forger.Public(), 6, nil); err != nil {
		t.Fatal(err)
	}
	bundletest.Sign(t, next, forger, "2.0", 7, rotated)
	lied(t, next, o, "only what")
}

// replace changes a text of a file, which has to be there.
func replace(path, old, other string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := bytes.Replace(text, []byte(old), []byte(other), 1)
	if bytes.Equal(changed, text) {
		return fmt.Errorf("%s does not have %s", path, old)
	}
	return os.WriteFile(path, changed, 0o644)
}

// edit changes a JSON file and keeps the order of keys as its type has it where
// that matters, which the caller sees to by rewrite.
func edit(t *testing.T, path string, change func(map[string]any)) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	change(v)
	if text, err = json.MarshalIndent(v, "", "  "); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rewrite writes an edited manifest as the program does, with its sums.
func rewrite(t *testing.T, dir string) {
	t.Helper()
	m, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, a := range m.Artifacts {
		files[a.File] = filepath.Join(dir, a.File)
	}
	temp := filepath.Join(t.TempDir(), "again")
	if err := bundle.Write(t.Context(), temp, *m, files); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(dir), os.Rename(temp, dir)); err != nil {
		t.Fatal(err)
	}
}
