package sql

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What a machine of each size gets, which docs/postgresql.md shows too.
func TestSettings(t *testing.T) {
	const loopback = "127.0.0.1,::1"
	tests := []struct {
		name         string
		memory, disk int    // MiB
		addresses    string // of the machine
		want         []string
		wantAddesses string
	}{
		{
			"64 MiB, the least", 56, 64, "",
			[]string{"shared_buffers = 14MB", "effective_cache_size = 28MB", "work_mem = 1075kB", "maintenance_work_mem = 4MB", "max_connections = 20", "max_wal_size = 64MB", "max_slot_wal_keep_size = 64MB"},
			loopback,
		},
		{
			"512 MiB, the recipe's", 480, 8 << 10, "10.0.2.15",
			[]string{"shared_buffers = 120MB", "effective_cache_size = 240MB", "work_mem = 3840kB", "maintenance_work_mem = 30MB", "max_connections = 48", "max_wal_size = 1024MB", "max_slot_wal_keep_size = 1024MB"},
			loopback + ",10.0.2.15",
		},
		{
			"4 GiB, two addresses", 3900, 2 << 10, "192.168.7.2,fd00::2",
			[]string{"shared_buffers = 975MB", "effective_cache_size = 1950MB", "work_mem = 7488kB", "maintenance_work_mem = 243MB", "max_connections = 200", "max_wal_size = 256MB", "max_slot_wal_keep_size = 256MB"},
			loopback + ",192.168.7.2,fd00::2",
		},
		{
			"16 GiB", 16000, 1 << 20, "",
			[]string{"shared_buffers = 4000MB", "effective_cache_size = 8000MB", "work_mem = 30720kB", "maintenance_work_mem = 512MB", "max_connections = 200", "max_wal_size = 1024MB", "max_slot_wal_keep_size = 131072MB"},
			loopback,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			file := m.data + "/machine.conf"
			// Twice: the file of the last start is replaced.
			for range 2 {
				if code, out := m.settings(t, tt.memory, tt.disk, tt.addresses, file); code != 0 || out != "" {
					t.Fatalf("exit %d: %s", code, out)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append(tt.want, "listen_addresses = '"+tt.wantAddesses+"'") {
				if !strings.Contains(string(text), "\n"+want+"\n") {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
		})
	}
}

func TestSettingsRefusals(t *testing.T) {
	m := newMachine(t)
	file := m.data + "/machine.conf"
	for _, env := range [][]string{nil, {"SOVEREIGN_MEMORY_MIB=512"}, {"SOVEREIGN_DATA_MIB=8192"}} {
		if code, out := run(t, env, "/bin/sh", "files/postgresql-settings", file); code != 1 || !strings.Contains(out, "cannot tell the size") {
			t.Errorf("%q: exit %d: %s", env, code, out)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("half a file was left")
	}
	if code, out := m.settings(t, 512, 8192, ""); code != 1 || !strings.Contains(out, "usage") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// settings runs the script on a machine of so many MiB.
func (m machine) settings(t *testing.T, memory, disk int, addresses string, args ...string) (int, string) {
	t.Helper()
	return run(t, []string{
		fmt.Sprintf("SOVEREIGN_MEMORY_MIB=%d", memory), fmt.Sprintf("SOVEREIGN_DATA_MIB=%d", disk), "SOVEREIGN_ADDRESSES=" + addresses,
	}, append([]string{"/bin/sh", "files/postgresql-settings"}, args...)...)
}

// The image's shell reads every script.
func TestSyntax(t *testing.T) {
	scripts, err := filepath.Glob("files/*-*")
	if err != nil || len(scripts) < 6 {
		t.Fatalf("%v, %v", scripts, err)
	}
	for _, s := range scripts {
		if code, out := run(t, nil, busybox(t)+"/sh", "-n", s); code != 0 {
			t.Errorf("%s: %s", s, out)
		}
	}
}

// busybox returns a directory with busybox's applets, the commands that the
// image has. Its shell is no good for tests with stand-ins in PATH, as Debian's
// runs applets without looking there.
func busybox(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox: install busybox-static")
	}
	dir := filepath.Join(t.TempDir(), "applets")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "--install", "-s", dir).CombinedOutput(); err != nil {
		t.Fatalf("busybox --install: %v: %s", err, out)
	}
	return dir
}
