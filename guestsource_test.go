package sovereign

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The engine has no other source of the guest than this: a package of this
// module that the guest imports and that is not embedded breaks every build
// that compiles it, and none that finds it in the cache.
func TestGuestSourceIsWhole(t *testing.T) {
	var have []string
	if err := GuestSource(func(name string, _ []byte) error {
		have = append(have, filepath.Dir(name))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	module, err := exec.CommandContext(t.Context(), "go", "list", "-m").Output()
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.CommandContext(t.Context(), "go", "list", "-deps", GuestPackage).Output()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for path := range strings.Lines(string(list)) {
		dir, ok := strings.CutPrefix(strings.TrimSpace(path), strings.TrimSpace(string(module))+"/")
		if !ok {
			continue
		}
		ours++
		if !slices.Contains(have, dir) {
			t.Errorf("%s is imported and not embedded", dir)
		}
	}
	if ours < 10 {
		t.Errorf("the guest is of %d packages of this module: what was listed is not it", ours)
	}
}
