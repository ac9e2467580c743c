package cli

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestRemove(t *testing.T) {
	for _, tt := range []struct {
		args, call, want string
		code             int
	}{
		{"remove sql --yes", "remove sql false", "sql is removed; its data disk is kept: /s/sql/data.img\n", 0},
		{"remove sql --yes --data", "remove sql true", "sql is removed\n", 0},
		{"remove sql -y --json", "remove sql false", `{"name":"sql","data":"/s/sql/data.img"}` + "\n", 0},
		{"remove sql --yes --data --json", "remove sql true", `{"name":"sql"}` + "\n", 0},
		{"remove sql", "", "", int(fault.Usage)}, // no terminal, no --yes
		{"remove", "", "", int(fault.Usage)},
	} {
		f := &fake{}
		code, out, errs := call(t, t.Context(), f, strings.Fields(tt.args)...)
		if code != tt.code || out != tt.want || (errs == "") != (code == 0) {
			t.Errorf("%s: exit %d, %q, %q", tt.args, code, out, errs)
		}
		if got := strings.Join(f.calls, ","); got != tt.call {
			t.Errorf("%s: calls %q, want %q", tt.args, got, tt.call)
		}
	}
}

func TestRemoveAsks(t *testing.T) {
	for _, tt := range []struct {
		answer string
		args   []string
		does   bool
	}{
		{"y\n", []string{"remove", "sql"}, true},
		{"YES\n", []string{"remove", "sql", "--data"}, true},
		{"\n", []string{"remove", "sql"}, false},
		{"no\n", []string{"remove", "sql", "--data"}, false},
		{"\x04", []string{"remove", "sql"}, false}, // the end of the input
		{"y\n", []string{"remove", "sql", "--json"}, false},
	} {
		keys, tty := pty(t)
		if _, err := keys.WriteString(tt.answer); err != nil {
			t.Fatal(err)
		}
		f := &fake{}
		var out, errs bytes.Buffer
		c := &CLI{Args: tt.args, Env: os.Environ(), Stdin: tty, Stdout: &out, Stderr: &errs, Builder: f, Dial: f.dial}
		code := c.Run(t.Context())
		if (code == 0) != tt.does || (len(f.calls) == 1) != tt.does {
			t.Errorf("%q: exit %d, calls %q, %s", tt.answer, code, f.calls, errs.String())
		}
		if asked := strings.Contains(errs.String(), "remove sql: "); asked == slices.Contains(tt.args, "--json") {
			t.Errorf("%q: asked %v", tt.args, asked)
		}
		if slices.Contains(tt.args, "--data") != strings.Contains(errs.String(), "cannot be undone") {
			t.Errorf("%q: asked %q", tt.args, errs.String())
		}
	}
}

// The host warns where the guest does.
func TestNearlyFull(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		size, free int64
		want       bool
	}{
		{8192 * mib, 900 * mib, false}, {8192 * mib, 800 * mib, true}, {2048 * mib, 260 * mib, false}, {2048 * mib, 250 * mib, true},
		{512 * mib, 130 * mib, false}, {512 * mib, 120 * mib, true},
	} {
		if got := nearlyFull(tt.size, tt.free); got != tt.want {
			t.Errorf("%d of %d MiB: %v", tt.free/mib, tt.size/mib, got)
		}
	}
}
