package build

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/sbom"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/verify"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// The texts are in the sources, and lie beside the bundle: each once, the same
// bytes in each build, named in the bill of materials.
func TestLicenses(t *testing.T) {
	w := newWorld(t)
	r, err := w.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text := textFile(t, filepath.Join(r.Bundle, bundle.LicenseTextsFile))
	for _, want := range []string{
		"tarball 1.0 (source), in lib: MIT\n", "] COPYING\n", "Do with tarball what you like.\n", "Do with linux what you like.\n",
		"program 2-r1 (package): MIT\n    no file with a licence was found\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "Do with tarball"); n != 1 {
		t.Errorf("a text is there %d times", n)
	}
	bill, err := sbom.Collect(t.Context(), r.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	files, err := bill.Files()
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.TrimPrefix(store.FromBytes([]byte("Do with tarball what you like.\n")).String(), "sha256:")
	for _, f := range files {
		if !bytes.Contains(f.Text, []byte("COPYING sha256:"+digest)) || !bytes.Contains(f.Text, []byte(bundle.LicenseTextsFile)) {
			t.Errorf("%s names no licence", f.Name)
		}
	}
	report, err := verify.Bundle(t.Context(), r.Bundle, verify.Options{})
	if err != nil || !slices.ContainsFunc(report.Checks, func(c verify.Check) bool { return c.What == "licences" && c.Result == verify.OK }) {
		t.Errorf("%+v, %v", report, err)
	}

	// Another build has the same, and looks into no source again.
	var events []string
	again, err := w.build(t.Context(), WithOutput(filepath.Join(t.TempDir(), "dist")), WithEvents(func(e Event) { events = append(events, e.String()) }))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range bundle.Descriptions() {
		if name != bundle.EnvelopeFile && textFile(t, filepath.Join(r.Bundle, name)) != textFile(t, filepath.Join(again.Bundle, name)) {
			t.Errorf("%s differs", name)
		}
	}
	if slices.ContainsFunc(events, func(e string) bool { return strings.HasPrefix(e, "licenses of") }) || len(again.Reasons) != 0 {
		t.Errorf("told %q; %q", events, again.Reasons)
	}

	// What somebody changed beside the bundle is made anew when it is missing.
	if err := os.Remove(filepath.Join(r.Bundle, bundle.LicensesFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Bundle(t.Context(), r.Bundle, verify.Options{}); err != nil {
		t.Error(err)
	}
}

// A build whose steps are done needs no source. Without one there are no texts,
// and an event says so; with it they come.
func TestLicensesLeftOut(t *testing.T) {
	w := newWorld(t)
	r, err := w.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Nothing that was found is there any more, and one source neither.
	for _, name := range []string{"linux", "tarball"} {
		forget(t, w, "licenses of "+name)
	}
	forget(t, w, "licenses demo")
	source := store.FromBytes(fakeSource(t, "tarball")).Hex()
	var blob string
	if err := filepath.WalkDir(filepath.Join(w.cache, "store"), func(p string, _ os.DirEntry, err error) error {
		if filepath.Base(p) == source {
			blob = p
		}
		return err
	}); err != nil || blob == "" {
		t.Fatalf("%q, %v", blob, err)
	}
	if err := os.Rename(blob, blob+".away"); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "dist")
	var left []LicensesLeftOut
	got, err := w.build(t.Context(), WithOutput(out), WithEvents(func(e Event) {
		if e, ok := e.(LicensesLeftOut); ok {
			left = append(left, e)
		}
	}))
	if err != nil || got.Digest != r.Digest {
		t.Fatalf("%+v, %v", got, err)
	}
	if len(left) != 1 || !strings.Contains(left[0].String(), "tarball") {
		t.Errorf("told %v", left)
	}
	for _, name := range []string{bundle.LicensesFile, bundle.LicenseTextsFile} {
		if _, err := os.Stat(filepath.Join(got.Bundle, name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := verify.Bundle(t.Context(), got.Bundle, verify.Options{}); err != nil {
		t.Error(err)
	}
	if err := os.Rename(blob+".away", blob); err != nil {
		t.Fatal(err)
	}
	if _, err := w.build(t.Context(), WithOutput(out)); err != nil {
		t.Fatal(err)
	}
	for _, name := range bundle.Descriptions() {
		if name != bundle.EnvelopeFile && textFile(t, filepath.Join(r.Bundle, name)) != textFile(t, filepath.Join(got.Bundle, name)) {
			t.Errorf("%s differs", name)
		}
	}
}

// forget removes the last run of a step.
func forget(t *testing.T, w *world, step string) {
	t.Helper()
	dir := filepath.Join(w.cache, "store")
	name := filepath.Join(dir, "names", store.FromBytes([]byte(step)).Hex())
	key, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{name, filepath.Join(dir, "actions", string(key)+".json")} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
