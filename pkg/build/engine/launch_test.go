package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// machine is a host whose files and tools the test chooses.
func machine(t *testing.T, files map[string]string, tools ...string) host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return host{root: root, uid: 1000, user: "ann", look: func(name string) (string, error) {
		for _, tool := range tools {
			if tool == name {
				return "/usr/bin/" + name, nil
			}
		}
		return "", errors.New("not found")
	}}
}

func TestRootless(t *testing.T) {
	ids := func() map[string]string {
		return map[string]string{"etc/subuid": "ann:100000:65536\n", "etc/subgid": "1000:100000:65536\n"}
	}
	with := func(name, text string) map[string]string {
		m := ids()
		m[name] = text
		return m
	}
	all := []string{"rootlesskit", "newuidmap", "newgidmap"}
	for _, c := range []struct {
		name  string
		files map[string]string
		tools []string
		want  []string // in message or hint; none: it works
	}{
		{"works", ids(), all, nil},
		{"namespaces on", with("proc/sys/kernel/unprivileged_userns_clone", "1\n"), all, nil},
		{"nothing there", nil, nil, []string{"rootlesskit is not installed", "newuidmap is not installed", "/etc/subuid gives ann no ids",
			"/etc/subgid gives ann no ids", "apt-get install rootlesskit uidmap", "use an engine elsewhere", "run as root"}},
		{"no uidmap", ids(), all[:1], []string{"newuidmap is not installed", "apt-get install uidmap"}},
		{"no ids", map[string]string{"etc/subuid": "bob:1:2\n", "etc/subgid": ""}, all, []string{"/etc/subuid gives ann no ids", "administrator", "use an engine elsewhere"}},
		{"no namespaces", with("proc/sys/user/max_user_namespaces", "0\n"), all, []string{"user namespaces are off (/proc/sys/user/max_user_namespaces is 0)"}},
		{"apparmor", with("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"), all, []string{"apparmor_restrict_unprivileged_userns is 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := machine(t, c.files, c.tools...)
			cmd, err := h.command("/bin/buildkitd", "/config", "/state", "/state")
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if line := strings.Join(cmd.Args, " "); !strings.Contains(line, "rootlesskit") || !strings.HasSuffix(line, "/bin/buildkitd --config /config --rootless") {
					t.Errorf("command line %s", line)
				}
				return
			}
			if fault.ClassOf(err) != fault.Environment {
				t.Fatalf("got %v", err)
			}
			for _, want := range c.want {
				if text := err.Error() + "; " + fault.HintOf(err); !strings.Contains(text, want) {
					t.Errorf("%q lacks %q", text, want)
				}
			}
		})
	}
}

func TestNoRuntime(t *testing.T) {
	_, err := machine(t, nil).runtime()
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(fault.HintOf(err), "apt-get install runc") {
		t.Errorf("got %v; %s", err, fault.HintOf(err))
	}
	if path, err := machine(t, nil, "runc").runtime(); err != nil || path != "/usr/bin/runc" {
		t.Errorf("got %q, %v", path, err)
	}
}

func TestConfig(t *testing.T) {
	text := daemonConfig{root: `/a "b"`, socket: "/s/buildkitd.sock", runc: "/usr/sbin/runc", cacheLimit: 3 << 30}.toml()
	for _, want := range []string{`root = "/a \"b\""`, `address = ["unix:///s/buildkitd.sock"]`, "maxUsedSpace = 3221225472", `binary = "/usr/sbin/runc"`, "rootless = false"} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no line %s in\n%s", want, text)
		}
	}
}

// TestBrokenBuildkitd: a daemon that ends at once is an error with its last words.
func TestBrokenBuildkitd(t *testing.T) {
	base := busyboxImage(t)
	if os.Getuid() != 0 {
		t.Skip("the private engine's tests run as root")
	}
	state := t.TempDir()
	broken := filepath.Join(t.TempDir(), "buildkitd")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho the reason >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{broken: "ended at once: the reason", filepath.Join(state, "none"): "no such file"} {
		e, err := Start(t.Context(), WithBuildkitd(program), WithStateDir(state))
		if err != nil {
			t.Fatal(err)
		}
		_, err = run(t.Context(), e, Step{Name: "x", Base: base, Script: "true"})
		if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), want) || !strings.Contains(fault.HintOf(err), "use an engine elsewhere") {
			t.Errorf("got %v; %s", err, fault.HintOf(err))
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}
