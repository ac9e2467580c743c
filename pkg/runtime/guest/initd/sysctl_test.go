package initd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSysctls(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"kernel/a", "net/conf/all/b", "net/conf/eth0/b"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, name), nil, 0o644)
	}
	list := []sysctl{{"kernel/a", "2"}, {"kernel/missing", "1"}, {"net/conf/*/b", "0"}}
	if err := setSysctls(root, list); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"kernel/a": "2", "net/conf/all/b": "0", "net/conf/eth0/b": "0"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := os.Stat(root + "/kernel/missing"); err == nil {
		t.Error("a setting that the kernel does not have was made")
	}
	// One that cannot be written is told, and the others are written.
	list = []sysctl{{"kernel", "1"}, {"kernel/a", "3"}}
	err := setSysctls(root, list)
	b, readErr := os.ReadFile(root + "/kernel/a")
	if err == nil || !strings.Contains(err.Error(), "kernel setting kernel=1") || readErr != nil || string(b) != "3" {
		t.Errorf("%v; %q, %v", err, b, readErr)
	}
}
