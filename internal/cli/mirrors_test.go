package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestUserMirrors(t *testing.T) {
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	if m, err := userMirrors(); err != nil || len(m) != 0 {
		t.Errorf("without a file: %v, %v", m, err)
	}
	file := filepath.Join(config, "sovereign", mirrorsFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("https://example.org: [https://mirror.example.net]\n")
	if m, err := userMirrors(); err != nil || len(m["https://example.org/"]) != 1 {
		t.Errorf("%v, %v", m, err)
	}
	write("https://example.org:\n- mirror.example.net\n")
	if _, err := userMirrors(); fault.ClassOf(err) != fault.Usage || !strings.HasPrefix(err.Error(), file+":2:3: ") {
		t.Errorf("a bad file: %v", err)
	}
	// It is read before a build begins.
	f := &BuildRequest{Recipe: "../../recipes/sql", ProgressMode: "quiet"}
	if _, err := f.open(true); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), mirrorsFile) {
		t.Errorf("a build with a bad file: %v", err)
	}
}
