package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The shell function that looks up what a lost symbol depends on, on a small
// tree of Kconfig files.
func TestExplain(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Kconfig": "mainmenu \"x\"\nsource \"drivers/Kconfig\"\n",
		"drivers/Kconfig": `menu "Drivers"
	depends on HAS_IO

if NET
config OTHER
	bool "other"
	depends on NOT_THIS

menuconfig LOST
	bool "lost"
	depends on A || B # why
	select OTHER
	depends on C
	help
	  Say y.
endif # NET

config PLAIN
	bool "plain"
endmenu

config TOP
	bool "outside"
`,
		"arch/x86/Kconfig":   "config LOST\n\tdef_bool y\n",
		"arch/arm64/Kconfig": "config LOST\n\tdepends on ARM\n",
	} {
		path := filepath.Join(dir, "linux", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c",
		"KARCH=x86\n"+commonScript+"\ncd linux\nprintf 'LOST\\nPLAIN\\nTOP\\nABSENT\\n' >../lost\nexplain ../lost\n")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "OUT="+filepath.Join(dir, "out"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := `depends LOST arch/x86/Kconfig:1 y
depends LOST drivers/Kconfig:9 ((HAS_IO)) && (NET) && (A || B) && (C)
depends PLAIN drivers/Kconfig:18 ((HAS_IO))
depends TOP drivers/Kconfig:22 y
`
	if d := cmp.Diff(want, string(out)); d != "" {
		t.Error(d)
	}
	if _, err := ParseNotes(strings.NewReader(string(out))); err != nil {
		t.Error(err)
	}
}
