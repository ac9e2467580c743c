package machine

import (
	"os"
	"path/filepath"
	"testing"
)

// What init says at the end of a start is heard once, also in pieces.
func TestConsoleTells(t *testing.T) {
	c := consoleEar{file: filepath.Join(t.TempDir(), "console.log")}
	if c.told() {
		t.Error("a console that is not there told")
	}
	f, err := os.Create(c.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, step := range []struct {
		text string
		want bool
	}{
		{"[    0.1] Linux\r\n", false},
		{"sovereign-init: [1.004] network eth0 is up\r\n", false},
		{"sovereign-init: [1.100] postgresql: not ready\r\n", false},
		{"sovereign-init: [1.2", false},
		{"00] rea", false},
		{"dy\r\n", true},
		{"", false},
		{"somebody says sovereign-init: [1.300] ready\r\n", false},
		{"sovereign-init: [1.400] FAILED: data disk: none\r\nsovereign-init: [1.500] no ser", true},
		{"vice is started\r\n", false},
	} {
		if _, err := f.WriteString(step.text); err != nil {
			t.Fatal(err)
		}
		if got := c.told(); got != step.want {
			t.Errorf("%q: told %v, want %v", step.text, got, step.want)
		}
	}
}
