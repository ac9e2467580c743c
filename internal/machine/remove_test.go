package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestRemove(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	if _, err := f.Remove(t.Context(), "sql", false); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "is running") {
		t.Errorf("while it runs: %v", err)
	}
	f.stopped(t)
	// The data disk lies elsewhere.
	image := filepath.Join(t.TempDir(), "sql.img")
	if err := errors.Join(os.Rename(i.dataPath(), image), os.Symlink(image, i.dataPath())); err != nil {
		t.Fatal(err)
	}
	kept, err := f.Remove(t.Context(), "sql", false)
	if err != nil || kept != i.dataPath() {
		t.Fatalf("kept %q, %v", kept, err)
	}
	if entries, err := os.ReadDir(i.dir); err != nil || len(entries) != 1 || entries[0].Name() != dataFile {
		t.Errorf("left: %v, %v", entries, err)
	}
	if names, err := f.Names(); err != nil || len(names) != 0 {
		t.Errorf("instances %v, %v", names, err)
	}
	if _, err := f.Remove(t.Context(), "sql", false); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a second time: %v", err)
	}
	// What was kept is taken up.
	before, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	f.start(t, StartOptions{})
	f.stopped(t)
	if now, err := os.Stat(i.dataPath()); err != nil || !os.SameFile(before, now) {
		t.Errorf("another disk: %v", err)
	}
	// And is removed, at once or later.
	if _, err := f.Remove(t.Context(), "sql", false); err != nil {
		t.Fatal(err)
	}
	if kept, err := f.Remove(t.Context(), "sql", true); err != nil || kept != "" {
		t.Fatalf("kept %q, %v", kept, err)
	}
	for _, path := range []string{image, i.dir} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
	f.start(t, StartOptions{})
	f.stopped(t)
	if _, err := f.Remove(t.Context(), "sql", true); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(i.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", i.dir, err)
	}
}

// A state directory may have any name.
func TestNamesInAnyDirectory(t *testing.T) {
	r, err := Open(filepath.Join(t.TempDir(), "[a-z]*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"sql/" + recordFile, "forge/" + recordFile, "kept/" + dataFile, "Other/" + recordFile} {
		path := filepath.Join(r.Dir(), "instances", file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := r.Names(); err != nil || strings.Join(names, " ") != "forge sql" {
		t.Errorf("%v, %v", names, err)
	}
}

// One record that cannot be read hides no other instance.
func TestListWithAnUnreadableRecord(t *testing.T) {
	f := setup(t, "good")
	f.start(t, StartOptions{})
	broken := filepath.Join(f.state, "instances", "forge")
	if err := errors.Join(os.Mkdir(broken, 0o700), os.WriteFile(filepath.Join(broken, recordFile), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	all, err := f.List(t.Context())
	if err != nil || len(all) != 2 || all[0].State != Unreadable || !strings.Contains(all[0].Message, recordFile) || all[1].State != Running {
		t.Errorf("%+v, %v", all, err)
	}
}
