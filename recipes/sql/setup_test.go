// Package sql holds the tests of what the sql recipe brings itself; the
// recipe as a whole is tested by building and booting it.
package sql

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
)

// The recipe is read by the loader as it stands, apart from the files that
// other directories own.
func TestRecipe(t *testing.T) {
	r, err := recipe.Load(".")
	if err != nil {
		t.Fatal(err)
	}
	ports := r.BundlePorts()
	if len(ports) != 1 || ports[0].Port != 5432 {
		t.Errorf("ports %+v, scripts rely on 5432", ports)
	}
	users := map[string]string{"root": "the machine"}
	for _, s := range r.Services {
		if other := users[s.User]; other != "" {
			t.Errorf("service %s has the user %s of %s", s.Name, s.User, other)
		}
		users[s.User] = s.Name
	}
}

// initdb stands in for PostgreSQL's: it makes a cluster, and fails after half
// of the work when told to.
const initdb = `#!/bin/sh
set -eu
for arg; do case $arg in --pgdata=*) dir=${arg#*=} ;; esac; done
mkdir "$dir"
echo "$*" >"$dir/arguments"
[ -z "${CUT:-}" ] || exit 9
echo 17 >"$dir/PG_VERSION"
echo "# made by initdb" >"$dir/postgresql.conf"
`

type machine struct{ data, bin, secrets, cluster string }

func newMachine(t *testing.T) machine {
	t.Helper()
	dir := t.TempDir()
	m := machine{
		data:    filepath.Join(dir, "data"),
		bin:     filepath.Join(dir, "bin"),
		secrets: filepath.Join(dir, "secrets"),
	}
	m.cluster = filepath.Join(m.data, "17")
	for _, d := range []string{m.data, m.bin, m.secrets} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.write(t, filepath.Join(m.bin, "initdb"), initdb)
	m.write(t, filepath.Join(m.secrets, "password"), "secret")
	return m
}

func (m machine) write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// setup runs the script and returns its exit code and output.
func (m machine) setup(t *testing.T, env ...string) (int, string) {
	t.Helper()
	env = append([]string{"PATH=" + m.bin + ":/usr/bin:/bin", "SOVEREIGN_SECRETS=" + m.secrets,
		"SOVEREIGN_MEMORY_MIB=512", "SOVEREIGN_DATA_MIB=8192"}, env...)
	return run(t, env, "/bin/sh", "files/postgresql-setup", m.cluster, filepath.Join(m.secrets, "machine.conf"))
}

// run runs a program, which is looked for in the PATH of env, and returns its
// exit code and output.
func run(t *testing.T, env []string, argv ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/env", append(env, argv...)...)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestFirstBoot(t *testing.T) {
	m := newMachine(t)
	if code, out := m.setup(t); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	conf, err := os.ReadFile(filepath.Join(m.cluster, "postgresql.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(conf), "\ninclude '/etc/sovereign/postgresql.conf'\n") {
		t.Errorf("postgresql.conf does not end with the image's settings:\n%s", conf)
	}
	args, err := os.ReadFile(filepath.Join(m.cluster, "arguments"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--locale-provider=icu", "--icu-locale=en-US", "--encoding=UTF8", "--data-checksums", "--auth-host=scram-sha-256", "--set=dynamic_shared_memory_type=mmap"} {
		if !strings.Contains(string(args), want) {
			t.Errorf("initdb was not given %s: %s", want, args)
		}
	}

	// The next boots leave it alone.
	if err := os.Remove(filepath.Join(m.bin, "initdb")); err != nil {
		t.Fatal(err)
	}
	if code, out := m.setup(t); code != 0 || out != "" {
		t.Errorf("second boot: exit %d: %s", code, out)
	}
}

// A log that is to be replayed is replayed once, also where the power is cut
// before the server has begun.
func TestReplay(t *testing.T) {
	m := newMachine(t)
	if code, out := m.setup(t); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	recovery := filepath.Join(m.data, "recovery")
	signal, conf := filepath.Join(m.cluster, "recovery.signal"), filepath.Join(m.secrets, "machine.conf")
	slot := filepath.Join(m.cluster, "pg_replslot/sovereign")
	m.write(t, filepath.Join(slot, "state"), "x")
	begin := func(want bool) {
		t.Helper()
		if code, out := m.setup(t, "SOVEREIGN_RECOVERY="+recovery); code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
		text, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(signal)
		says := strings.Contains(string(text), "recovery_target_timeline = '2'\nrecovery_target_lsn = '0/3000060'\n") &&
			strings.Contains(string(text), "restore_command = 'cp "+recovery+"/%f \"%p\"'\n")
		if (err == nil) != want || says != want {
			t.Errorf("recovery.signal: %v, settings: %v, want %v", err, says, want)
		}
	}
	begin(false)
	if _, err := os.Stat(slot); err != nil {
		t.Errorf("a machine that replays nothing lost its slot: %v", err)
	}
	m.write(t, filepath.Join(recovery, "target"), "first 2 0/3000060\n")
	begin(true)
	if _, err := os.Stat(slot); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the slot of the other machine is still there: %v", err)
	}
	begin(true) // cut off before the end
	// The server's own end of it.
	if err := os.Remove(signal); err != nil {
		t.Fatal(err)
	}
	begin(false)
	m.write(t, filepath.Join(recovery, "target"), "second 2 0/3000060\n")
	begin(true)
}

func TestPowerCut(t *testing.T) {
	m := newMachine(t)
	if code, _ := m.setup(t, "CUT=1"); code != 9 {
		t.Fatalf("exit %d, want initdb's 9", code)
	}
	if _, err := os.Stat(m.cluster); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a cluster has the name of a whole one: %v", err)
	}
	m.write(t, filepath.Join(m.cluster+".new", "leftover"), "x")
	if code, out := m.setup(t); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(m.cluster, "leftover")); err == nil {
		t.Error("a leftover of the interrupted boot is in the cluster")
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(m machine)
		want    string
	}{
		{"no cluster inside", func(m machine) { m.write(t, m.cluster+"/base/1", "x") }, "is not a PostgreSQL cluster"},
		{"another version inside", func(m machine) { m.write(t, m.cluster+"/PG_VERSION", "16\n") }, "was made by PostgreSQL 16, this image has 17"},
		{"another version beside", func(m machine) { m.write(t, m.data+"/16/PG_VERSION", "16\n") }, "holds data of PostgreSQL 16, this image has 17"},
		{"empty password", func(m machine) { m.write(t, m.secrets+"/password", "") }, "password is missing or empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			tt.prepare(m)
			code, out := m.setup(t)
			if code != 1 || !strings.Contains(out, tt.want) {
				t.Errorf("exit %d: %s\nwant 1: %s", code, out, tt.want)
			}
		})
	}
}

// Every package of the recipe is made by a port, and every source a port
// names is declared.
func TestPorts(t *testing.T) {
	r, err := recipe.Load(".")
	if err != nil {
		t.Fatal(err)
	}
	ports, err := r.LoadPorts()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Packages {
		if ports[recipe.DependencyName(p)] == nil {
			t.Errorf("no port makes %s", p)
		}
	}
	sources, err := r.LoadSources()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		if err := p.CheckSources(sources); err != nil {
			t.Error(err)
		}
	}
}
