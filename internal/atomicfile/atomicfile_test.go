package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, text := range []string{"one", "another, longer", ""} {
		if err := Write(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || string(b) != text || info.Mode() != 0o600 {
			t.Errorf("%q: %q, %v, %v", text, b, err, info.Mode())
		}
	}
	if err := Write(filepath.Join(dir, "absent", "f"), nil, 0o600); fault.ClassOf(err) != fault.Environment {
		t.Errorf("no directory: %v", err)
	}
	// A place that cannot be renamed onto: nothing stays behind.
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "d"), []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Copy(path, strings.NewReader("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := Copy(path, io.MultiReader(strings.NewReader("two"), iotest.ErrReader(broken)), 0o644); err != broken {
		t.Errorf("the reader's error came as %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "one" {
		t.Errorf("after a broken copy: %q, %v", b, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
