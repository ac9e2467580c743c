package sql

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// node stands in for tailscale's command line: it says it is in the state of
// the file state, notes what it is told in the file calls, and logs in with
// one key only.
const node = `#!/bin/sh
set -eu
dir=${0%/*}
[ "$1" = "--socket=$dir/run/tailscaled.sock" ] || exit 9
shift
case $1 in
status)
	[ -e "$dir/run/tailscaled.sock" ] || { echo "failed to connect to local Tailscale service"; exit 1; }
	printf '{\n  "Version": "1.102.5",\n  "BackendState": "%s",\n  "Self": {\n    "BackendState": "no"\n  }\n}\n' "$(cat "$dir/state")"
	;;
up)
	echo "$*" >>"$dir/calls"
	for arg; do case $arg in --auth-key=file:*) key=$(cat "${arg#*file:}") ;; esac; done
	[ "$key" = good ] || { echo "some lines before"; echo "backend error: invalid key"; exit 1; }
	echo Running >"$dir/state"
	;;
serve)
	echo "$*" >>"$dir/calls"
	[ ! -e "$dir/noserve" ] || { echo "no serve today"; exit 1; }
	;;
*) exit 9 ;;
esac
`

type daemon struct {
	machine
	run string
}

func newDaemon(t *testing.T, state string) daemon {
	t.Helper()
	m := newMachine(t)
	m.write(t, m.bin+"/tailscale", node)
	d := daemon{m, m.bin + "/run"}
	d.write(t, m.bin+"/state", state)
	d.write(t, m.bin+"/calls", "")
	d.write(t, m.bin+"/hostname", "#!/bin/sh\necho sql\n")
	d.write(t, d.run+"/tailscaled.sock", "")
	d.age(t, d.run+"/tailscaled.sock", time.Hour)
	return d
}

func (d daemon) age(t *testing.T, path string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

// check runs the health check, and returns what it told the daemon too.
func (d daemon) check(t *testing.T) (code int, out, calls string) {
	t.Helper()
	d.write(t, d.bin+"/calls", "")
	code, out = run(t, []string{"PATH=" + d.bin + ":" + busybox(t), "SOVEREIGN_SECRETS=" + d.secrets},
		"/bin/sh", "files/tailscale-health", d.run, "5432", "80")
	text, err := os.ReadFile(d.bin + "/calls")
	if err != nil {
		t.Fatal(err)
	}
	return code, strings.TrimSpace(out), string(text)
}

const serving = "serve --bg --tcp 5432 tcp://127.0.0.1:5432\nserve --bg --tcp 80 tcp://127.0.0.1:80\n"

func TestTailscaleStates(t *testing.T) {
	tests := []struct {
		state string
		code  int
		want  string
	}{
		{"NoState", 1, "no answer from the control server yet (state NoState)"},
		{"Starting", 1, "no answer from the control server yet (state Starting)"},
		{"NeedsLogin", 0, "waiting for an auth key"},
		{"NeedsMachineAuth", 0, "approval"},
		{"Stopped", 0, "taken down by hand"},
		{"Running", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.state, func(t *testing.T) {
			d := newDaemon(t, tt.state)
			code, out, calls := d.check(t)
			if code != tt.code || !strings.Contains(out, tt.want) || (tt.want == "") != (out == "") {
				t.Errorf("exit %d: %s\nwant %d: %s", code, out, tt.code, tt.want)
			}
			if want := map[bool]string{true: serving}[tt.state == "Running"]; calls != want {
				t.Errorf("told the daemon:\n%s\nwant:\n%s", calls, want)
			}
		})
	}
	t.Run("no daemon", func(t *testing.T) {
		d := newDaemon(t, "Running")
		if err := os.Remove(d.run + "/tailscaled.sock"); err != nil {
			t.Fatal(err)
		}
		if code, out, _ := d.check(t); code != 2 || !strings.Contains(out, "failed to connect") {
			t.Errorf("exit %d: %s", code, out)
		}
	})
}

func TestTailscaleLogin(t *testing.T) {
	d := newDaemon(t, "NeedsLogin")
	key := d.secrets + "/auth-key"
	d.write(t, d.secrets+"/control-url", "http://control.invalid")
	d.write(t, key, "bad")
	d.age(t, key, 2*time.Second) // busybox's find compares whole seconds
	up := "up --auth-key=file:" + key + " --hostname=sql --accept-dns=false --timeout=25s --login-server=http://control.invalid\n"

	code, out, calls := d.check(t)
	if code != 0 || out != "not in the tailnet: backend error: invalid key" || calls != up {
		t.Errorf("a bad key: exit %d: %s; told the daemon:\n%s", code, out, calls)
	}
	if _, out, calls := d.check(t); !strings.Contains(out, "invalid key") || calls != "" {
		t.Errorf("at once again: %s; told the daemon:\n%s", out, calls)
	}
	d.age(t, d.run+"/login", 2*time.Minute)
	d.age(t, key, 3*time.Minute)
	if _, _, calls := d.check(t); calls != up {
		t.Errorf("after a minute: told the daemon:\n%s", calls)
	}

	d.write(t, key, "good")
	d.age(t, d.run+"/login", time.Second)
	code, out, calls = d.check(t)
	if code != 0 || out != "" || calls != up+serving {
		t.Errorf("a good key: exit %d: %s; told the daemon:\n%s", code, out, calls)
	}
	if i, err := os.Stat(key); err != nil || i.Size() > 0 {
		t.Errorf("the key was left on the disk: %v, %v", i, err)
	}

	if _, _, calls := d.check(t); calls != "" {
		t.Errorf("served already: told the daemon:\n%s", calls)
	}
	// The daemon's next start makes the socket anew.
	d.age(t, d.run+"/served", time.Minute)
	d.write(t, filepath.Join(d.run, "tailscaled.sock"), "")
	d.write(t, d.bin+"/noserve", "")
	if code, out, calls := d.check(t); code != 0 || !strings.Contains(out, "port 5432 is not served: no serve today") || calls == serving {
		t.Errorf("exit %d: %s; told the daemon:\n%s", code, out, calls)
	}
	if err := os.Remove(d.bin + "/noserve"); err != nil {
		t.Fatal(err)
	}
	if code, out, calls := d.check(t); code != 0 || out != "" || calls != serving {
		t.Errorf("a new start: exit %d: %s; told the daemon:\n%s", code, out, calls)
	}
}
