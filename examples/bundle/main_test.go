package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/bundle"
)

func TestRecipe(t *testing.T) {
	if _, err := web().Checked(); err != nil {
		t.Error(err)
	}
}

func TestRun(t *testing.T) {
	if os.Getenv("SOVEREIGN_E2E") == "" {
		t.Skip("SOVEREIGN_E2E is not set: without recipes/sql in the cache this compiles all of it; run make test-modules")
	}
	made, err := run(t.Context(), t.TempDir(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if made.StepsRun != 0 {
		t.Errorf("recipes/sql is in the cache, and this was not: %v", made.Reasons)
	}
	if err := bundle.Verify(t.Context(), made.Bundle); err != nil {
		t.Error(err)
	}
	m, err := bundle.Load(made.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "web" || len(m.Ports) != 1 || m.Ports[0].Port != 8080 || len(m.Lock.Unpinned) != 0 || strings.Join(m.Services, " ") != "web" {
		t.Errorf("%+v", m)
	}
	again, err := run(t.Context(), t.TempDir(), io.Discard)
	if err != nil || again.Digest != made.Digest || len(again.Reasons) != 0 {
		t.Errorf("the second time: %+v, %v", again, err)
	}
}
