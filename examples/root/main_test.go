package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	goerofs "github.com/erofs/go-erofs"
)

func TestRun(t *testing.T) {
	if os.Getenv("SOVEREIGN_E2E") == "" {
		t.Skip("SOVEREIGN_E2E is not set: without recipes/sql in the cache this compiles packages; run make test-modules")
	}
	var images [2][]byte
	for i := range images {
		dir := t.TempDir()
		if err := run(t.Context(), dir, io.Discard); err != nil {
			t.Fatal(err)
		}
		var err error
		if images[i], err = os.ReadFile(filepath.Join(dir, "root.erofs")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two runs wrote two images")
	}
	// Another reader of EROFS than this project's.
	image, err := goerofs.Open(bytes.NewReader(images[0]))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := fs.ReadFile(image, "etc/motd"); err != nil || string(text) != "changed before it was written\n" {
		t.Errorf("etc/motd is %q, %v", text, err)
	}
	if _, err := fs.Stat(image, "bin/busybox"); err != nil {
		t.Error(err)
	}
	for _, gone := range []string{"lib/apk", "usr/lib/apk", "etc/apk"} {
		if _, err := fs.Stat(image, gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
}
