package machine

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

// signedBundle writes a bundle that is signed with an index; 0 leaves it
// without a signature.
func signedBundle(t *testing.T, root string, key signature.SecretKey, index int64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sql")
	machinetest.WriteBundleWith(t, dir, root, "x=y", func(m *bundle.Manifest) {
		m.Release = &bundle.Release{Key: string(key.Public())}
	})
	if index == 0 {
		return dir
	}
	manifest, err := os.ReadFile(filepath.Join(dir, bundle.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signature.Sign(key, manifest, signature.Statement{Name: "sql", Arch: "amd64", Version: "1." + root, Index: index}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, signature.FileName), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// From the first bundle with a key on, a machine takes what that key signs, and
// nothing older, and its record says what was let through.
func TestSignedMachine(t *testing.T) {
	f := setup(t, "good")
	newKey := func() signature.SecretKey {
		k, err := signature.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	key, other := newKey(), newKey()
	ctx := t.Context()
	refused := func(what string, err error, words string) {
		t.Helper()
		if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", what, err, words)
		}
	}
	install := func(dir string, o UpOptions) error {
		_, err := f.Install(ctx, dir, "", o, nil)
		return err
	}
	refused("a first one without its signature", install(signedBundle(t, "a", key, 0), UpOptions{}), "is not signed")
	if _, err := f.Instance(ctx, "sql"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("something was installed: %v", err)
	}
	if err := install(signedBundle(t, "a", key, 5), UpOptions{}); err != nil {
		t.Fatal(err)
	}
	i := f.loaded(t)
	if r := i.rec.Release; r == nil || r.Key != key.Public() || r.Index != 5 || i.rec.Slots["a"].Index != 5 {
		t.Fatalf("record: %+v", r)
	}
	if text, err := bundle.Signature(i.slotDir("a")); err != nil || text == nil {
		t.Errorf("the slot's signature: %v", err)
	}
	update := func(dir string, allow bool) error {
		_, err := f.UpdateFrom(ctx, "sql", Source{Dir: dir, AllowRollback: allow}, 0, nil)
		return err
	}
	unsigned := filepath.Join(t.TempDir(), "sql")
	writeBundle(t, unsigned, "b")
	refused("a bundle without a key", update(unsigned, false), "is not signed")
	refused("another's bundle", update(signedBundle(t, "b", other, 6), false), "only what")
	refused("an older one", update(signedBundle(t, "b", key, 4), false), "older than 5")

	if i = f.loaded(t); i.rec.Trial != nil || i.rec.Release.Index != 5 {
		t.Errorf("a refusal left %+v", i.rec.Trial)
	}
	if err := update(signedBundle(t, "c", key, 6), false); err != nil {
		t.Fatal(err)
	}
	if i = f.loaded(t); i.rec.Release.Index != 6 || i.rec.Release.Version != "1.c" || i.rec.Slots["b"].Index != 6 {
		t.Errorf("after an update: %+v", i.rec.Release)
	}
	// As though it had been committed.
	i.rec.Active, i.rec.Previous, i.rec.Trial = "b", "a", nil
	if err := i.saveRecord(); err != nil {
		t.Fatal(err)
	}
	_, err := f.Rollback(ctx, "sql", 0)
	refused("a rollback", err, "index 5 is older than 6")
	if _, err := f.Rollback(ctx, "sql", 0, runtime.AllowRollback); err != nil {
		t.Fatal(err)
	}
	if i = f.loaded(t); i.rec.Trial == nil || len(i.rec.Release.Rollbacks) != 1 || i.rec.Release.Rollbacks[0].To != 5 || i.rec.Release.Index != 6 {
		t.Errorf("after a rollback: %+v, %+v", i.rec.Trial, i.rec.Release)
	}
	// A record that does not know, of a copy of the machine say: its bundle does.
	i.rec.Release, i.rec.Trial = nil, nil
	if err := i.saveRecord(); err != nil {
		t.Fatal(err)
	}
	refused("another's bundle, without a record", update(signedBundle(t, "d", other, 9), false), "only what")
	refused("an older one, without a record", update(signedBundle(t, "d", key, 5), false), "older than 6")
	if err := update(signedBundle(t, "d", key, 9), false); err != nil {
		t.Fatal(err)
	}
	if i = f.loaded(t); i.rec.Release == nil || i.rec.Release.Index != 9 {
		t.Errorf("after that: %+v", i.rec.Release)
	}
}
