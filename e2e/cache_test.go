package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// TestCache fills a shared cache from this machine's store, and builds with
// nothing but the recipe, the lock and the cache: no source, no toolchain, no
// engine, and no way to fetch them, and yet the same bytes.
func TestCache(t *testing.T) {
	dir := needBundle(t)
	m, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(ociregistry.New(
		ociregistry.Logger(log.New(io.Discard, "", 0)), ociregistry.WithBlobHandler(ociregistry.NewDiskBlobHandler(t.TempDir()))))
	defer server.Close()
	place := "oci://" + strings.TrimPrefix(server.URL, "http://") + "/sovereign/cache"
	key := filepath.Join(t.TempDir(), "ci.key")
	sovereignBuild(t, "", "key", "new", key, "--no-password")

	run := func(env []string, args ...string) (*build.Result, time.Duration) {
		t.Helper()
		cmd := exec.Command("../bin/sovereign-build", append([]string{"build", "../recipes/sql", "--arch", m.Arch, "--frozen", "--json", "--progress", "plain"}, args...)...)
		cmd.Env = append(os.Environ(), env...)
		var log bytes.Buffer
		cmd.Stderr = &log
		began := time.Now()
		line, err := cmd.Output()
		took := time.Since(began)
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, line, tail(log.String(), 4<<10))
		}
		var r build.Result
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("build --json printed %q: %v", line, err)
		}
		return &r, took
	}
	filled, took := run(nil, "--output", t.TempDir(), "--cache-push", place, "--cache-key-file", key)
	if filled.StepsRun != 0 {
		t.Errorf("filling the cache compiled: %v", filled.Reasons)
	}
	t.Logf("%d steps were put into the cache in %.1f s", filled.StepsCached, took.Seconds())

	// Whatever would fetch something else finds a proxy that is not there; this
	// machine's own addresses are never asked for by one.
	cache, out := t.TempDir(), t.TempDir()
	nowhere := []string{"XDG_CACHE_HOME=" + cache, "HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1", "GOPROXY=off"}
	got, took := run(nowhere, "--output", out, "--cache", place, "--cache-trust", key+".pub")
	if got.StepsRun != 0 || got.StepsCached != 0 || got.StepsFetched != filled.StepsCached || got.Digest != filled.Digest {
		t.Errorf("%+v; the cache was filled with %+v", got, filled)
	}
	same(t, dir, filepath.Join(out, filepath.Base(dir)))

	// Nothing of what steps are made from is there.
	for _, name := range []string{"toolchain", "engine/buildkitd.toml"} {
		if left, err := filepath.Glob(filepath.Join(cache, "sovereign", name, "*")); err != nil || len(left) > 0 {
			t.Errorf("there is %v, %v", left, err)
		}
	}
	l, err := lock.Load("../recipes/sql/sovereign.lock")
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(cache, "sovereign", "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range l.Sources {
		if st.Has(s.Digest) {
			t.Errorf("the source %s was fetched", s.Name)
		}
	}
	var size, bundled int64
	err = st.Actions(func(_ string, a store.Action) error {
		if a.Signer == "" {
			return nil
		}
		for _, d := range a.Outputs {
			n, err := st.Size(d)
			if err != nil {
				return err
			}
			size += n
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range m.Artifacts {
		bundled += a.Size
	}
	t.Logf("%d steps, %.1f MiB, came from the cache: a bundle of %.1f MiB in %.1f s, %.1f times its size", got.StepsFetched,
		float64(size)/(1<<20), float64(bundled)/(1<<20), took.Seconds(), float64(size)/float64(bundled))
	for _, step := range got.Took {
		t.Logf("%-40s %.1f s", step.Step, step.Seconds)
	}
}

// same compares two bundles file by file, with what describes them.
func same(t *testing.T, one, other string) {
	t.Helper()
	files, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".minisig") || f.Name() == bundle.EnvelopeFile {
			continue // whoever signs a bundle has another key
		}
		a, err := os.ReadFile(filepath.Join(one, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(other, f.Name()))
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v", f.Name(), err)
		}
		compared++
	}
	if compared < 8 {
		t.Errorf("%d files were compared", compared)
	}
}
