package runtime_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// signedBundle writes a bundle of a machine that gets ready at once, signed with
// an index; 0 leaves it without a signature.
func (f *fixture) signedBundle(t *testing.T, root string, key signature.SecretKey, index int64) string {
	t.Helper()
	dir := f.bundle + "-" + root
	machinetest.WriteBundleWith(t, dir, root, "fake=quick", func(m *bundle.Manifest) {
		m.Release = &bundle.Release{Key: string(key.Public())}
	})
	if index == 0 {
		return dir
	}
	manifest, err := os.ReadFile(filepath.Join(dir, bundle.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signature.Sign(key, manifest, signature.Statement{Name: "sql", Arch: "amd64", Version: root, Index: index}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, signature.FileName), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// It is sovereignd that refuses, whoever asks, and its record that remembers.
func TestSignedBundles(t *testing.T) {
	f := setup(t)
	key, err := signature.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := signature.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error, words string) {
		t.Helper()
		if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", what, err, words)
		}
		if sent, err := os.ReadDir(filepath.Join(f.dir, "blobs")); err != nil || len(sent) != 0 {
			t.Errorf("%s: it was sent before: %v, %v", what, sent, err)
		}
	}
	_, err = f.Install(deadline(t), f.signedBundle(t, "one", key, 0), "", runtime.UpOptions{}, nil)
	refused("without a signature", err, "is not signed")
	m, err := f.Install(deadline(t), f.signedBundle(t, "one", key, 5), "", runtime.UpOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	status, err := m.WaitReady(deadline(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := status.Supervision.Release; r == nil || r.Key != key.Public() || r.Index != 5 || r.Version != "one" {
		t.Errorf("status: %+v", r)
	}
	update := func(dir string, options ...runtime.UpdateOption) error {
		r, err := m.Update(deadline(t), dir, 0, nil, options...)
		if err == nil && r.Result != runtime.UpdateCommitted {
			t.Errorf("%s: %+v", dir, r)
		}
		return err
	}
	refused("a bundle without a key", update(f.bundle), "is not signed")
	refused("another's bundle", update(f.signedBundle(t, "two", other, 6)), "only what")
	refused("an older one", update(f.signedBundle(t, "three", key, 4)), "older than 5")
	if err := update(f.signedBundle(t, "four", key, 6)); err != nil {
		t.Fatal(err)
	}
	_, err = m.Rollback(deadline(t), 0, nil)
	refused("a rollback", err, "index 5 is older than 6")
	r, err := m.Rollback(deadline(t), 0, nil, runtime.AllowRollback)
	if err != nil || r.Result != runtime.UpdateCommitted {
		t.Fatalf("a rollback that is allowed: %+v, %v", r, err)
	}
	if v := r.Status.Supervision.Release; v.Index != 6 || len(v.Rollbacks) != 1 || v.Rollbacks[0].To != 5 {
		t.Errorf("after it: %+v", v)
	}
}
