package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// TestStaleLock changes what the project's own recipe declares and wants the
// lock refused, before anything is fetched or built.
func TestStaleLock(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../recipes")); err != nil {
		t.Fatal(err)
	}
	sql, cache := filepath.Join(dir, "sql"), t.TempDir()
	open := func() *Builder {
		t.Helper()
		b, _ := openDir(t, sql, WithCacheDir(cache), WithOutput(t.TempDir()), WithOffline(true))
		return b
	}
	if err := open().CheckLock(); err != nil {
		t.Fatalf("the lock in the repository: %v", err)
	}
	sources := filepath.Join(dir, "sources.yaml")
	text, err := os.ReadFile(sources)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `series: "6.12"`, `series: "6.18"`, 1)
	if err := os.WriteFile(sources, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "is stale: linux: 6.12.") || !strings.Contains(err.Error(), " is not in the series 6.18") ||
			fault.HintOf(err) != "lock what has changed" {
			t.Errorf("%s: %v (%s)", what, err, fault.HintOf(err))
		}
		if r, ok := remedy.Of(err); !ok || r.Kind != remedy.Lock || r.Recipe != sql {
			t.Errorf("%s: the remedy is %+v", what, r)
		}
	}
	b := open()
	check("check", b.CheckLock())
	_, err = b.Plan(t.Context())
	check("plan", err)
	_, err = b.Bundle(t.Context())
	check("bundle", err)
	_, err = b.Kernel(t.Context())
	check("kernel", err)
}
