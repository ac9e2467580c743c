package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/testphone/app"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// appEnv has this program become another as an app of Android would (package app).
const appEnv = "SOVEREIGN_E2E_APP"

func becomeApp() {
	if os.Getenv(appEnv) == "" {
		return
	}
	os.Unsetenv(appEnv)
	fmt.Fprintln(os.Stderr, app.Exec(os.Args[1], os.Args[1:]))
	os.Exit(1)
}

// TestDeviceTermux runs a machine as in Termux: by a sovereignd that, with all that
// it starts, is refused what Android refuses an app, in a home of its own and with
// a PATH elsewhere.
func TestDeviceTermux(t *testing.T) {
	needBundle(t)
	m := newMachine(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs("../bin/sovereignd")
	if err != nil {
		t.Fatal(err)
	}
	// Termux has its programs below its own prefix, and nothing of Linux' places.
	home, prefix := t.TempDir(), filepath.Join(t.TempDir(), "usr/bin")
	if err := os.MkdirAll(prefix, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-aarch64"} {
		if err := os.Symlink("/usr/bin/"+name, filepath.Join(prefix, name)); err != nil {
			t.Fatal(err)
		}
	}
	m.env[len(m.env)-1] = "XDG_STATE_HOME=" + filepath.Join(home, ".local/state") // where it is
	m.env = append([]string{fmt.Sprintf("SOVEREIGN_DEVICE=exec:exec env -i %s=1 HOME=%s PATH=%s %s %s connect", appEnv, home, prefix, self, program)}, m.env...)
	m.ok("up", m.bundle, "--timeout", bootDeadline.String())
	ask := func(query string) string {
		t.Helper()
		return strings.TrimSpace(m.ok("psql", "sql", "--", "-qtAc", query))
	}
	ask("create table t (n int); insert into t values (42)")
	if _, err := os.Stat(filepath.Join(home, ".local/state/sovereign/instances/sql/data.img")); err != nil {
		t.Error(err)
	}
	// What arrived for an update gets its place by a copy, where there are no links.
	m.ok("update", "sql", m.variant(t, func(b *bundle.Manifest) { b.VM.MemoryMiB += 64 }), "--timeout", bootDeadline.String())
	if got := ask("select n from t"); got != "42" {
		t.Errorf("%q", got)
	}
	m.ok("down", "sql")
	m.ok("remove", "sql", "--data", "--yes")
}
