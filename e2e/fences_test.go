package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// shell runs a line in the guest as a user.
func (m *machine) shell(user, line string) (out string, code int) {
	m.t.Helper()
	return m.command("exec", "sql", "--user", user, "--", "sh", "-c", line)
}

// statuses are /proc/PID/status of each process of a service.
func (m *machine) statuses(service string) (all []map[string]string) {
	m.t.Helper()
	// One that ends meanwhile has none.
	out, _ := m.shell("root", fmt.Sprintf("for p in $(cat /sys/fs/cgroup/%s/cgroup.procs); do cat /proc/$p/status 2>/dev/null; echo; done", service))
	for text := range strings.SplitSeq(out, "\n\n") {
		s := map[string]string{}
		for line := range strings.Lines(text) {
			k, v, _ := strings.Cut(line, ":")
			s[k] = strings.Join(strings.Fields(v), " ")
		}
		if s["Uid"] != "" {
			all = append(all, s)
		}
	}
	return all
}

// TestFences looks at what each service of the booted guest could do if it were
// taken over.
func TestFences(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*bootDeadline)
	defer cancel()
	m.boot()

	// NET_ADMIN is 12 and NET_RAW 13 in <linux/capability.h>.
	const none, net = "0000000000000000", "0000000000003000"
	for service, want := range map[string]struct{ uid, capabilities, pids string }{
		"postgresql": {"70", none, "1024"},
		"tailscale":  {"71", net, "512"},
	} {
		t.Run(service, func(t *testing.T) {
			m := m.in(t)
			var processes []map[string]string
			for len(processes) == 0 { // an optional service starts later
				if processes = m.statuses(service); len(processes) == 0 {
					pause(t, ctx)
				}
			}
			for _, p := range processes {
				for k, v := range map[string]string{"NoNewPrivs": "1", "CapInh": want.capabilities, "CapPrm": want.capabilities,
					"CapEff": want.capabilities, "CapBnd": want.capabilities, "CapAmb": want.capabilities,
					"Uid": strings.Repeat(want.uid+" ", 3) + want.uid, "Gid": strings.Repeat(want.uid+" ", 3) + want.uid} {
					if p[k] != v {
						t.Errorf("%s (%s): %s is %q, want %q", p["Name"], p["Pid"], k, p[k], v)
					}
				}
			}
			if out, _ := m.shell("root", "cat /sys/fs/cgroup/"+service+"/pids.max"); strings.TrimSpace(out) != want.pids {
				t.Errorf("at most %q processes, want %s", out, want.pids)
			}
		})
	}

	t.Run("tun mode", func(t *testing.T) {
		m := m.in(t)
		for {
			out, _ := m.shell("root", "ls /sys/class/net")
			if slices.Contains(strings.Fields(out), "tailscale0") {
				return
			}
			pause(t, ctx) // tailscaled makes it when it starts
		}
	})

	t.Run("mounts", func(t *testing.T) {
		m := m.in(t)
		out, _ := m.shell("root", "cat /proc/mounts")
		options := map[string][]string{}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			options[f[1]] = strings.Split(f[3], ",")
		}
		for target, want := range map[string][]string{"/": {"ro", "nosuid", "nodev"}, "/data": {"nosuid", "nodev", "noexec"}, "/run": {"nosuid", "nodev", "noexec"},
			"/tmp": {"nosuid", "nodev", "noexec"}, "/dev/shm": {"nosuid", "nodev", "noexec"}, "/dev": {"nosuid", "noexec"}} {
			for _, o := range want {
				if !slices.Contains(options[target], o) {
					t.Errorf("%s is not mounted %s: %q", target, o, options[target])
				}
			}
		}
	})

	t.Run("kernel settings", func(t *testing.T) {
		m := m.in(t)
		for name, want := range map[string]int{"user/max_user_namespaces": 0, "kernel/io_uring_disabled": 2, "kernel/yama/ptrace_scope": 2,
			"kernel/kptr_restrict": 2, "kernel/dmesg_restrict": 1, "fs/protected_symlinks": 1, "fs/protected_hardlinks": 1, "fs/protected_regular": 2} {
			out, _ := m.shell("root", "cat /proc/sys/"+name)
			if n, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || n != want {
				t.Errorf("%s is %q, want %d", name, out, want)
			}
		}
	})

	t.Run("secrets", func(t *testing.T) {
		m := m.in(t)
		dsn, err := url.Parse(strings.TrimSpace(m.ok("dsn", "sql")))
		if err != nil {
			t.Fatal(err)
		}
		password, _ := dsn.User.Password()
		if len(password) < 20 {
			t.Fatalf("a password of %d bytes", len(password))
		}
		texts := map[string]string{"logs init": m.ok("logs", "sql", "init"), "logs postgresql": m.ok("logs", "sql", "postgresql")}
		texts["command lines of the guest"], _ = m.shell("root", "cat /proc/[0-9]*/cmdline /proc/cmdline")
		for _, name := range []string{"console.log", "machine.log", "instance.json"} {
			b, err := os.ReadFile(filepath.Join(m.stateDir(), "instances", "sql", name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			texts[name] = string(b)
		}
		for where, text := range texts {
			if strings.Contains(text, password) {
				t.Errorf("the password stands in: %s", where)
			}
		}
	})

	// What a service that was taken over would try first.
	t.Run("ways out", func(t *testing.T) {
		m := m.in(t)
		for _, user := range []string{"postgres", "tailscale"} {
			for _, line := range []string{
				"head -c 1 /dev/vda", "head -c 1 /dev/vdb",
				"ls /data/secrets/" + map[string]string{"postgres": "tailscale", "tailscale": "postgresql"}[user],
				"echo x >/proc/sys/kernel/core_pattern",
				"mkdir /tmp/$USER && cp /bin/busybox /tmp/$USER/true && /tmp/$USER/true",
				"dmesg",
			} {
				// Refused, and not for another reason.
				out, code := m.shell(user, "{ "+line+"; } 2>&1")
				if code == 0 || !strings.Contains(out, "ermission denied") && !strings.Contains(out, "not permitted") {
					t.Errorf("%s: %s: exit code %d: %q", user, line, code, out)
				}
			}
		}
		out, _ := m.shell("root", "stat -c '%u %g %a %n' /dev/vd* /dev/vport*")
		for line := range strings.Lines(out) {
			if !strings.HasPrefix(line, "0 0 600 ") {
				t.Errorf("a device that is not root's alone: %s", line)
			}
		}
		if out, code := m.shell("postgres", "exec 3<>/dev/net/tun"); code == 0 {
			t.Errorf("postgres opens the TUN device: %s", out)
		}
		if out, code := m.shell("tailscale", "exec 3<>/dev/net/tun"); code != 0 {
			t.Errorf("tailscale does not open the TUN device: %s", out)
		}
		// An owner who executes as root may do everything, repairs too.
		if out, code := m.shell("root", "head -c 1 /dev/vdb >/dev/null && mount -o remount,exec /tmp && cp /bin/busybox /tmp/true && /tmp/true && mount -o remount,noexec /tmp"); code != 0 {
			t.Errorf("root: exit code %d: %s", code, out)
		}
	})
}
