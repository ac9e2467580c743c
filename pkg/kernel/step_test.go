package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPatches runs the config step on a source of a few files, whose .config
// is what its makefile and a file that Kconfig never reads say.
func TestPatches(t *testing.T) {
	const makefile = "allnoconfig olddefconfig:\n\tcat Kconfig $(wildcard drivers/*.c) >.config\n"
	source := map[string]string{
		"Makefile": makefile, "drivers/Makefile": "", "Kconfig": "# top\n", "drivers/Kconfig": "",
		"arch/Kconfig": "# arch\n", "Kbuild": "", "scripts/x": "",
		"arch/x86/x.config": "", "arch/x86/configs/x": "", "arch/x86/tools/x": "",
		"drivers/line.c": "# one\n# two\n# three\n", "drivers/other.c": "# not needed\n",
	}
	const (
		first  = "Why the second line is another.\n--- a/drivers/line.c\n+++ b/drivers/line.c\n@@ -1,3 +1,3 @@\n # one\n-# two\n+# 2\n # three\n"
		second = "--- a/drivers/line.c\t2026-01-01 00:00:00\n+++ b/drivers/line.c\t2026-01-01 00:00:00\n@@ -1,3 +1,4 @@\n # one\n # 2\n+# 2a\n # three\n"
		added  = "--- /dev/null\n+++ b/drivers/new.c\n@@ -0,0 +1 @@\n+# new\n--- a/Kconfig\n+++ b/Kconfig\n@@ -1 +1 @@\n-# top\n+# Top\n--- a/arch/Kconfig\n+++ b/arch/Kconfig\n@@ -1 +1 @@\n-# arch\n+# Arch\n"
		gone   = "--- a/drivers/gone.c\n+++ b/drivers/gone.c\n@@ -1 +1 @@\n-# one\n+# 1\n"
	)
	tests := []struct {
		name    string
		patches []string
		config  string // "" for a failure
		says    string
	}{
		{"none", nil, "# top\n", ""},
		{"one after the other", []string{first, second}, "# top\n# one\n# 2\n# 2a\n# three\n", "0001-b.patch"},
		{"a new file, and Kconfig's own", []string{added}, "# Top\n# new\n", "drivers/new.c"},
		{"in another order", []string{second, first}, "", "0000-b.patch\npatching file drivers/line.c\nHunk #1 FAILED"},
		{"twice", []string{first, first}, "", "FAILED"},
		{"a file that is not there", []string{gone}, "", "*/drivers/gone.c: Not found in archive"},
		{"no patch", []string{"hello\n"}, "", "garbage"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for name, text := range source {
				write("linux-1/"+name, text)
			}
			write("src/fragments.config", "")
			names := map[string]string{first: "a.patch", second: "b.patch"}
			for i, patch := range tt.patches {
				name, ok := names[patch]
				if !ok {
					name = "c.patch"
				}
				write(strings.TrimPrefix(PatchInput(i, name), "/"), patch)
			}
			if out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-cf", filepath.Join(dir, "src/linux"), "linux-1").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			write("work/.keep", "")
			cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", ConfigScript(Arch{Go: "amd64", Linux: "x86"}))
			cmd.Dir = filepath.Join(dir, "work")
			cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "SRC="+filepath.Join(dir, "src"), "OUT="+filepath.Join(dir, "out"))
			out, err := cmd.CombinedOutput()
			if (err == nil) != (tt.config != "") || !strings.Contains(string(out), tt.says) {
				t.Fatalf("got %v, wanted to be told %q\n%s", err, tt.says, out)
			}
			if err != nil {
				return
			}
			got, err := os.ReadFile(filepath.Join(dir, "out", ConfigFile))
			if err != nil || string(got) != tt.config {
				t.Errorf("got %q, %v, want %q", got, err, tt.config)
			}
		})
	}
}
