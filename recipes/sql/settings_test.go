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
		memKiB       int // MemTotal
		diskKiB      int
		ip           string // of "ip -o addr"
		want         []string
		wantAddesses string
	}{
		{
			"64 MiB, the least", 56 << 10, 64 << 10, "",
			[]string{"shared_buffers = 14MB", "effective_cache_size = 28MB", "work_mem = 1075kB", "maintenance_work_mem = 4MB", "max_connections = 20", "max_wal_size = 64MB"},
			loopback,
		},
		{
			"512 MiB, the recipe's", 480 << 10, 8 << 20,
			"2: eth0    inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0\\       valid_lft forever preferred_lft forever\n",
			[]string{"shared_buffers = 120MB", "effective_cache_size = 240MB", "work_mem = 3840kB", "maintenance_work_mem = 30MB", "max_connections = 48", "max_wal_size = 1024MB"},
			loopback + ",10.0.2.15",
		},
		{
			"4 GiB, in a tailnet", 3900 << 10, 2 << 20,
			"2: eth0    inet 192.168.7.2/24 scope global eth0\\       valid_lft forever\n" +
				"2: eth0    inet6 fd00::2/64 scope global flags 02 \\       valid_lft forever\n" +
				"3: tailscale0    inet 100.64.0.1/32 scope global tailscale0\\       valid_lft forever\n",
			[]string{"shared_buffers = 975MB", "effective_cache_size = 1950MB", "work_mem = 7488kB", "maintenance_work_mem = 243MB", "max_connections = 200", "max_wal_size = 256MB"},
			loopback + ",192.168.7.2,fd00::2",
		},
		{
			"16 GiB", 16000 << 10, 1 << 30, "",
			[]string{"shared_buffers = 4000MB", "effective_cache_size = 8000MB", "work_mem = 30720kB", "maintenance_work_mem = 512MB", "max_connections = 200", "max_wal_size = 1024MB"},
			loopback,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.write(t, m.bin+"/ip", "#!/bin/sh\n[ \"$*\" = '-o addr show scope global' ] || exit 1\ncat <<'END'\n"+tt.ip+"END\n")
			m.write(t, m.bin+"/stat", fmt.Sprintf("#!/bin/sh\n[ \"$*\" = \"-f -c disk %%b %%S %s\" ] || exit 1\necho disk %d 1024\n", m.data, tt.diskKiB))
			m.write(t, m.data+"/meminfo", fmt.Sprintf("MemTotal:       %d kB\nMemFree:        100 kB\n", tt.memKiB))
			file := m.data + "/machine.conf"
			// Twice: the file of the last start is replaced.
			for range 2 {
				if code, out := m.settings(t, m.data, file, m.data+"/meminfo"); code != 0 || out != "" {
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
	m.write(t, m.data+"/meminfo", "MemFree: 1 kB\n")
	file := m.data + "/machine.conf"
	if code, out := m.settings(t, m.data, file, m.data+"/meminfo"); code != 1 || !strings.Contains(out, "cannot tell the size") {
		t.Errorf("exit %d: %s", code, out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("half a file was left")
	}
	// Two programs run at once, and the failure of neither passes for a size or
	// an address.
	m.write(t, m.data+"/meminfo", "MemTotal: 524288 kB\n")
	m.write(t, m.bin+"/stat", "#!/bin/sh\nexit 1\n")
	if code, out := m.settings(t, m.data, file, m.data+"/meminfo"); code != 1 || !strings.Contains(out, "cannot tell the size") {
		t.Errorf("without stat: exit %d: %s", code, out)
	}
	m.write(t, m.bin+"/stat", "#!/bin/sh\necho disk 8388608 1024\n")
	m.write(t, m.bin+"/ip", "#!/bin/sh\necho ip: no netlink >&2\nexit 1\n")
	if code, out := m.settings(t, m.data, file, m.data+"/meminfo"); code != 1 || !strings.Contains(out, "no netlink") {
		t.Errorf("without ip: exit %d: %s", code, out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was left without an answer")
	}
	if code, out := m.settings(t); code != 1 || !strings.Contains(out, "usage") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func (m machine) settings(t *testing.T, args ...string) (int, string) {
	t.Helper()
	return run(t, []string{"PATH=" + m.bin + ":" + busybox(t)}, append([]string{"/bin/sh", "files/postgresql-settings"}, args...)...)
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
