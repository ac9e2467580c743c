package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

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
}

// A device, a pipe or a directory, by its name or by a link to it, stays what
// it is: root's "-o /dev/null" must not leave a machine without one.
func TestNotRegular(t *testing.T) {
	dir := t.TempDir()
	for name, create := range map[string]func(path string) error{
		"directory":   func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":        func(path string) error { return unix.Mkfifo(path, 0o600) },
		"device link": func(path string) error { return os.Symlink("/dev/null", path) },
	} {
		path := filepath.Join(dir, name)
		if err := create(path); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(path, []byte("x"), 0o600); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s was replaced: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A name may be as long as the file system lets it.
func TestLongName(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	if err := Write(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFill(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	put := func(text string) func(*os.File) error {
		return func(f *os.File) error { _, err := f.WriteAt([]byte(text), 2); return err }
	}
	if err := Fill(path, 0o644, put("one")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		err   error
		class fault.Class
	}{
		"the caller's": {broken, fault.Internal},
		"a file's":     {&os.PathError{Op: "read", Path: "x", Err: broken}, fault.Environment},
		"with a class": {fault.Errorf(fault.Source, "%w", &os.PathError{Op: "read", Path: "x", Err: broken}), fault.Source},
	} {
		err := Fill(path, 0o644, func(f *os.File) error { return errors.Join(put("two")(f), c.err) })
		if !errors.Is(err, broken) || fault.ClassOf(err) != c.class {
			t.Errorf("%s: %v of class %d", name, err, fault.ClassOf(err))
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "\x00\x00one" {
		t.Errorf("after what failed: %q, %v", b, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// On a full disk the old content stays, whole, and nothing beside it.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "f")
	if err := Write(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 1<<20)
	for name, err := range map[string]error{
		"write": Write(path, []byte(large), 0o644),
		"copy":  Copy(path, strings.NewReader(large), 0o644),
		"fill":  Fill(path, 0o644, func(f *os.File) error { _, err := f.WriteString(large); return err }),
	} {
		if !errors.Is(err, unix.ENOSPC) || fault.ClassOf(err) != fault.Environment || fault.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, fault.HintOf(err))
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("the old content: %q, %v", b, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestScratch(t *testing.T) {
	dir := t.TempDir()
	f, err := Scratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("it has a name: %v, %v", entries, err)
	}
	if _, err := Scratch(filepath.Join(dir, "absent")); fault.ClassOf(err) != fault.Environment {
		t.Errorf("no directory: %v", err)
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
