package build

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/cache"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// signer makes a key of minisign's.
func signer(t *testing.T) signature.SecretKey {
	t.Helper()
	k, err := signature.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func place(t *testing.T, dir string) cache.Place {
	t.Helper()
	p, err := cache.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// remote is a place that says that it is on a network.
type remote struct{ cache.Place }

func (remote) Remote() bool { return true }

// noToolchain fails when anything asks for the toolchain image.
func noToolchain(t *testing.T) Option {
	return func(o *options) error {
		o.image = func() (engine.Image, error) {
			t.Error("the toolchain image was asked for")
			return engine.Image{}, fault.Errorf(fault.Internal, "no image")
		}
		return nil
	}
}

// A machine with nothing but the recipe, the lock and the cache makes the same
// bundle, without the engine, the toolchain or a source.
func TestSharedCache(t *testing.T) {
	key, dir := signer(t), filepath.Join(t.TempDir(), "cache")
	first := newWorld(t)
	var events []string
	listen := WithEvents(func(e Event) { events = append(events, e.String()) })
	made, err := first.build(t.Context(), WithCachePush(place(t, dir), key), listen)
	if err != nil {
		t.Fatal(err)
	}
	shared := func() (n int) {
		for _, e := range events {
			if strings.Contains(e, "put into "+dir) {
				n++
			}
		}
		return n
	}
	// The steps, and the licences of what they are made of.
	if len(first.ran) != 6 || shared() != 7 {
		t.Errorf("ran %v, told %q", first.ran, events)
	}
	// What is in the store is pushed as well, and what is there is not.
	events = nil
	if _, err := first.build(t.Context(), WithCachePush(place(t, dir), key), listen); err != nil || shared() != 0 {
		t.Errorf("the second time: %v, %q", err, events)
	}
	another := filepath.Join(t.TempDir(), "another")
	if _, err := first.build(t.Context(), WithCachePush(place(t, another), key), listen); err != nil || len(first.ran) != 0 {
		t.Fatalf("to another place: %v, ran %v", err, first.ran)
	}
	if a, b := contents(t, dir), contents(t, another); len(a) != len(b) || len(a) < 12 {
		t.Errorf("a place that is filled later has %d files, not %d", len(b), len(a))
	}

	fresh := newWorld(t)
	fresh.useKey(1)
	if err := os.RemoveAll(filepath.Join(fresh.cache, "store")); err != nil { // no sources either
		t.Fatal(err)
	}
	events = nil
	got, err := fresh.build(t.Context(), WithCaches(place(t, dir)), WithCacheKeys(key.Public()), noToolchain(t), listen)
	if err != nil {
		t.Fatal(err)
	}
	if len(fresh.ran) != 0 || got.StepsFetched != 6 || got.StepsRun != 0 || got.StepsCached != 0 || got.Digest != made.Digest {
		t.Errorf("ran %v, %+v; the first's is %s", fresh.ran, got, made.Digest)
	}
	if !slices.ContainsFunc(events, func(e string) bool {
		return strings.HasPrefix(e, "port lib amd64: ") && strings.HasSuffix(e, " from "+dir)
	}) {
		t.Errorf("told %q", events)
	}
	for _, name := range []string{bundle.ManifestFile, "root.img", "bzImage", bundle.ProvenanceFile, bundle.SPDXFile, bundle.LicensesFile, bundle.LicenseTextsFile} {
		a, b := textFile(t, filepath.Join(made.Bundle, name)), textFile(t, filepath.Join(got.Bundle, name))
		if a != b || a == "" {
			t.Errorf("%s differs", name)
		}
	}
	// What was fetched is in the store, and counts while the key is trusted.
	if again, err := fresh.build(t.Context(), WithCacheKeys(key.Public())); err != nil || again.StepsCached != 6 || again.Digest != made.Digest {
		t.Errorf("%+v, %v", again, err)
	}
}

func textFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What one recipe trusts another one does not have to: the results in the store
// count only for who trusts their signer.
func TestSharedTrust(t *testing.T) {
	key, dir := signer(t), filepath.Join(t.TempDir(), "cache")
	first := newWorld(t)
	made, err := first.build(t.Context(), WithCachePush(place(t, dir), key))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	var events []string
	listen := WithEvents(func(e Event) { events = append(events, e.String()) })
	// Nobody is trusted: told once, and everything is compiled.
	got, err := w.build(t.Context(), WithCaches(place(t, dir)), listen)
	if err != nil || len(w.ran) != 6 || got.Digest != made.Digest {
		t.Fatalf("ran %v, %+v, %v", w.ran, got, err)
	}
	var told []string
	for _, e := range events {
		if strings.HasPrefix(e, "cache ") {
			told = append(told, e)
		}
	}
	if want := "cache " + dir + ": what it has is not taken: it is signed by the key " + string(key.Public()) + ", which is not trusted here"; len(told) != 1 || told[0] != want {
		t.Errorf("told %q", told)
	}

	// The recipe names the key.
	public, err := key.Public().File()
	if err != nil {
		t.Fatal(err)
	}
	x := newWorld(t)
	x.write("ci.pub", string(public))
	x.write("recipe.yaml", fakeRecipe+"cache: {keys: [ci.pub]}\n")
	if got, err := x.build(t.Context(), WithCaches(place(t, dir))); err != nil || got.StepsFetched != 6 || got.Digest != made.Digest {
		t.Fatalf("%+v, %v", got, err)
	}
	// Another recipe of the same store does not.
	x.write("recipe.yaml", fakeRecipe)
	got, err = x.build(t.Context())
	if err != nil || len(x.ran) != 6 || got.Digest != made.Digest {
		t.Fatalf("ran %v, %+v, %v", x.ran, got, err)
	}
	if want := "port lib amd64: what the store has was made by " + string(key.Public()) + ", whose key is not trusted here"; !slices.Contains(got.Reasons, want) {
		t.Errorf("%q", got.Reasons)
	}
	// Its own work counts for both from here on.
	if got, err := x.build(t.Context()); err != nil || got.StepsCached != 6 {
		t.Errorf("%+v, %v", got, err)
	}

	x.write("ci.pub", "nonsense")
	x.write("recipe.yaml", fakeRecipe+"cache: {keys: [ci.pub]}\n")
	b, err := newOf(t, x)
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "cache.keys[0]") {
		t.Errorf("%v, %v", b, err)
	}
}

// newOf is New of a world's recipe.
func newOf(t *testing.T, w *world, opts ...Option) (*Builder, error) {
	t.Helper()
	r, err := recipe.Load(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Load(filepath.Join(w.dir, lock.FileName))
	if err != nil {
		t.Fatal(err)
	}
	return New(r, l, w.options(opts...)...)
}

// Only what a machine has made itself does it give to others.
func TestSharedIsNotPassedOn(t *testing.T) {
	key, mine, dir := signer(t), signer(t), filepath.Join(t.TempDir(), "cache")
	first := newWorld(t)
	if _, err := first.build(t.Context(), WithCachePush(place(t, dir), key)); err != nil {
		t.Fatal(err)
	}
	w, to := newWorld(t), filepath.Join(t.TempDir(), "mine")
	w.write("ports/lib/build.sh", "true # changed\n")
	got, err := w.build(t.Context(), WithCaches(place(t, dir)), WithCacheKeys(key.Public()), WithCachePush(place(t, to), mine))
	if err != nil || got.StepsFetched != 5 || got.StepsRun != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	steps, err := os.ReadDir(filepath.Join(to, "steps"))
	if err != nil || len(steps) != 1 {
		t.Errorf("%v, %v", steps, err)
	}
}

// A cache that fails in the middle, and one with wrong entries, cost the steps
// that it had.
func TestSharedCacheFails(t *testing.T) {
	key, dir := signer(t), filepath.Join(t.TempDir(), "cache")
	first := newWorld(t)
	made, err := first.build(t.Context(), WithCachePush(place(t, dir), key))
	if err != nil {
		t.Fatal(err)
	}
	damage := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("nonsense"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := first.open()
	action, ok, err := b.Store().LastAction("port lib amd64")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	damage(filepath.Join(dir, "blobs", action.Outputs["apk lib"].Hex()))
	damage(filepath.Join(dir, "steps", store.Key(action.Description)+"x"))
	config, ok, err := b.Store().LastAction("kernel config amd64")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	damage(filepath.Join(dir, "steps", store.Key(config.Description)))

	w := newWorld(t)
	var told []string
	got, err := w.build(t.Context(), WithCaches(place(t, dir)), WithCacheKeys(key.Public()), WithEvents(func(e Event) {
		if e, ok := e.(CacheTrouble); ok {
			told = append(told, e.String())
		}
	}))
	if err != nil || got.Digest != made.Digest || got.StepsFetched != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	slices.Sort(w.ran)
	if want := []string{"kernel config 1.0", "lib 1.0-r1"}; !slices.Equal(w.ran, want) || len(told) != 2 {
		t.Errorf("ran %v, told %q", w.ran, told)
	}

	// What cannot be pushed is an error once all else is done.
	x := newWorld(t)
	file := filepath.Join(t.TempDir(), "file")
	damage(file)
	_, err = x.build(t.Context(), WithCachePush(place(t, file), key))
	if err == nil || !strings.Contains(err.Error(), "was not pushed") {
		t.Errorf("%v", err)
	}
	if d, err := bundle.Digest(filepath.Join(x.output, "demo-amd64")); err != nil || d != made.Digest {
		t.Errorf("the bundle is %s, %v", d, err)
	}
}

// Without a network a registry is not asked, and a directory is; a plan asks
// neither.
func TestSharedOffline(t *testing.T) {
	key, dir := signer(t), filepath.Join(t.TempDir(), "cache")
	first := newWorld(t)
	if _, err := first.build(t.Context(), WithCachePush(place(t, dir), key)); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	b := w.open(WithCaches(place(t, dir)), WithCacheKeys(key.Public()))
	plan, err := b.Plan(t.Context())
	if err != nil || len(plan.Reasons()) == 0 {
		t.Errorf("%+v, %v", plan, err)
	}
	far := remote{place(t, dir)}
	if got, err := w.build(t.Context(), WithCaches(far), WithCacheKeys(key.Public())); err != nil || got.StepsRun != 6 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := newOf(t, w, WithCachePush(far, key)); fault.ClassOf(err) != fault.Usage {
		t.Errorf("pushing without a network: %v", err)
	}
}

// Repro holds what a cache had against this machine's own work, also what a
// trusted key has signed.
func TestReproChecksTheCache(t *testing.T) {
	key, dir := signer(t), filepath.Join(t.TempDir(), "cache")
	first := newWorld(t)
	if _, err := first.build(t.Context(), WithCachePush(place(t, dir), key)); err != nil {
		t.Fatal(err)
	}
	shared := []Option{WithCaches(place(t, dir)), WithCacheKeys(key.Public())}
	w := newWorld(t)
	r, err := w.open(shared...).Repro(t.Context())
	if err != nil || !r.Same || len(w.ran) != 6 {
		t.Fatalf("%+v, %v, ran %v", r, err, w.ran)
	}
	for _, s := range r.Steps {
		if (s.Signer == key.Public()) == strings.HasPrefix(s.Name, "root") {
			t.Errorf("%+v", s)
		}
	}

	// The owner of the key signs another kernel.
	b := first.open()
	action, ok, err := b.Store().LastAction("kernel amd64")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	e := cache.Entry{Schema: cache.Schema, Key: store.Key(action.Description), Step: action.Name, Outputs: map[string]cache.Output{}}
	if err := json.Unmarshal(action.Description, &e.Inputs); err != nil {
		t.Fatal(err)
	}
	wrong, n, err := b.Store().Put(t.Context(), strings.NewReader("a kernel with a back door"), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range action.Outputs {
		size, err := b.Store().Size(d)
		if err != nil {
			t.Fatal(err)
		}
		e.Outputs[name] = cache.Output{Digest: d, Size: size}
	}
	e.Outputs["bzImage"] = cache.Output{Digest: wrong, Size: n}
	signed, err := e.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := place(t, dir).Put(t.Context(), &e, signed, b.Store().Path); err != nil {
		t.Fatal(err)
	}
	x := newWorld(t)
	r, err = x.open(shared...).Repro(t.Context())
	if err != nil || r.Same {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, s := range r.Steps {
		if s.Same == (s.Name == "kernel amd64") {
			t.Errorf("%+v", s)
		}
		if !s.Same && (s.Signer != key.Public() || len(s.Outputs) != 1 || s.Outputs[0].First != wrong || len(s.Outputs[0].Changes) != 1) {
			t.Errorf("%+v", s)
		}
	}
	// A build that takes only its own work does not meet it.
	y := newWorld(t)
	if _, err := y.build(t.Context(), append(shared, WithOwnWork(true))...); err != nil || len(y.ran) != 6 {
		t.Errorf("%v, ran %v", err, y.ran)
	}
}
