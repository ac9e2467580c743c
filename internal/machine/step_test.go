package machine

import (
	"os"
	"testing"
)

func TestEndReason(t *testing.T) {
	i := &Instance{dir: t.TempDir()}
	for console, want := range map[string]string{
		"": "its process is gone, and the guest printed nothing",
		"[0.1] Linux\n[0.2] Kernel panic - not syncing: no root\n[0.3] Rebooting in 1 seconds..\n":                 "[0.2] Kernel panic - not syncing: no root",
		"sovereign-init: [2.8] root: wrong hash\nsovereign-init: [2.9] reboot\n[ 2.8] reboot: Restarting system\n": "the guest ended itself; what it said before: sovereign-init: [2.8] root: wrong hash",
		"[0.1] Linux\n": "its process is gone (killed, or it crashed); the console's last line: [0.1] Linux",
	} {
		if err := os.WriteFile(i.ConsoleFile(), []byte(console), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := i.endReason(); got != want {
			t.Errorf("%q: %q, want %q", console, got, want)
		}
	}
}
