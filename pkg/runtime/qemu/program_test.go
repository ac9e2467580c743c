package qemu

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFirmware has QEMU's directories listed by a program that does nothing
// else, and looks for qboot in them.
func TestFirmware(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	for _, d := range []string{first, second} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	qemu := program(t, `[ "$*" = "-L help" ] && printf '%s\n' `+first+" "+second)
	if got := firmware(t.Context(), qemu, "amd64"); got != "" {
		t.Errorf("without qboot: %q", got)
	}
	want := filepath.Join(second, qboot)
	if err := os.WriteFile(want, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := firmware(t.Context(), qemu, "amd64"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := firmware(t.Context(), qemu, "arm64"); got != "" {
		t.Errorf("for arm64: %q", got)
	}
	if got := firmware(t.Context(), program(t, "echo "+second+"; exit 1"), "amd64"); got != "" {
		t.Errorf("from a QEMU that lists no directories: %q", got)
	}
}
