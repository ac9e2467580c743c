package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/kernel"
)

func TestRun(t *testing.T) {
	bundle := os.Getenv("SOVEREIGN_E2E")
	if bundle == "" {
		t.Skip("SOVEREIGN_E2E is not set: without recipes/sql in the cache this compiles a kernel; run make test-modules")
	}
	dir := t.TempDir()
	var out strings.Builder
	if err := run(t.Context(), dir, &out); err != nil {
		t.Fatal(err)
	}
	if want := "kernel " + runtime.GOARCH + ": from the cache\n"; !strings.Contains(out.String(), want) {
		t.Errorf("the output has no %q:\n%s", want, out.String())
	}
	config, err := kernel.ReadConfig(filepath.Join(dir, "kernel-"+runtime.GOARCH+".config"))
	if err != nil {
		t.Fatal(err)
	}
	report, err := kernel.Check(config, "virtio", "no-android")
	if err != nil || !report.OK {
		t.Errorf("%+v, %v", report, err)
	}
	// It is the very kernel of the bundle.
	made, err := os.ReadFile(filepath.Join(dir, "kernel-"+runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	image := map[string]string{"amd64": "bzImage", "arm64": "Image"}[runtime.GOARCH]
	if in, err := os.ReadFile(filepath.Join(bundle, image)); err != nil || !bytes.Equal(in, made) {
		t.Errorf("it is not the bundle's: %v", err)
	}
}
