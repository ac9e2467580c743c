package services

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// Every program of a service stands behind the same fence: setup, the service
// itself, its checks and its reload.
func TestServicesAreFenced(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root starts programs of other users")
	}
	show := func(what string) []string {
		return []string{"/bin/sh", "-c", "echo " + what + ": $(grep -E '^(Uid|NoNewPrivs|CapPrm|CapEff|CapBnd|CapAmb):' /proc/self/status | tr -s '\\t' ' ') >&2"}
	}
	root := cgroups(t)
	control := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+pids"), 0)
	r := startWith(t, root, func(o *Options) {
		o.Lookup = func(string) (*user.User, []string, error) {
			return &user.User{Uid: "12345", Gid: "12345", HomeDir: "/"}, nil, nil
		}
	}, svc("net", "", func(s *spec.Service) {
		s.Capabilities = []string{"NET_ADMIN", "NET_RAW"}
		s.Secrets = []spec.Secret{{Name: "key", Given: true}}
		s.Setup, s.Reload = [][]string{show("setup")}, show("reload")
		s.Command = []string{"/bin/sh", "-c", show("command")[2] + "; exec sleep 1000"}
		s.Health.Command = []string{"/bin/sh", "-c", show("health")[2]}
		if control == nil {
			s.Limits.PIDs = 77
		}
	}))
	r.state(agent.StateReady)
	if control == nil {
		if b, err := os.ReadFile(filepath.Join(root, "net", "pids.max")); err != nil || string(b) != "77\n" {
			t.Errorf("pids.max: %q, %v", b, err)
		}
	} else {
		t.Logf("the limit of processes is not looked at: %v", control)
	}
	if err := r.SetSecret(t.Context(), "net", "key", "a given one"); err != nil {
		t.Fatal(err)
	}
	const fence = " Uid: 12345 12345 12345 12345 CapPrm: 0000000000003000 CapEff: 0000000000003000 CapBnd: 0000000000003000 CapAmb: 0000000000003000 NoNewPrivs: 1"
	log := r.text("net")
	for _, what := range []string{"setup", "command"} {
		if !strings.Contains(log, what+":"+fence+"\n") {
			t.Errorf("%s: log:\n%s", what, log)
		}
	}
	for _, argv := range [][]string{show("reload"), show("health")} {
		n := r.byName["net"]
		res, err := r.opts.Procs.Output(t.Context(), n.attr(argv, nil))
		if err != nil || !strings.Contains(res.Stderr, fence) {
			t.Errorf("%+v, %v", res, err)
		}
	}
	// A service that has done with a given secret empties its file.
	if err := os.Truncate(filepath.Join(r.data, "secrets/net/key"), 0); err != nil {
		t.Fatal(err)
	}
	if v, err := r.Secret(t.Context(), "net", "key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an emptied secret: %q, %v", v, err)
	}
}

func TestUnknownPrivilegesAreRefused(t *testing.T) {
	for want, change := range map[string]func(*spec.Service){
		`capability "ALL"`:     func(s *spec.Service) { s.Capabilities = []string{"ALL"} },
		`device "/data/tun"`:   func(s *spec.Service) { s.Devices = []string{"/data/tun"} },
		`limits.pids: 1000000`: func(s *spec.Service) { s.Limits.PIDs = 1000000 },
	} {
		s := spec.Spec{Schema: 1, Name: "test", Data: spec.Data{FileSystem: "ext4", Mount: "/data"}, Services: []spec.Service{svc("a", "", change)}}
		if err := Check(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestDevicesAreOpened(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root makes device files")
	}
	dir := t.TempDir()
	device := dir + "/tun"
	if err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
		t.Skipf("no device files can be made here: %v", err)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := account{uid: 12345, gid: 12345}
	if err := openDevices([]string{device, dir + "/missing"}, a); err != nil {
		t.Fatal(err)
	}
	i, err := os.Stat(device)
	if err != nil {
		t.Fatal(err)
	}
	if st := i.Sys().(*syscall.Stat_t); st.Uid != 0 || st.Gid != 12345 || st.Mode&0o777 != 0o660 {
		t.Errorf("uid %d, gid %d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	for _, path := range []string{dir + "/file", dir} {
		if err := openDevices([]string{path}, a); err == nil || !strings.Contains(err.Error(), "not a device file") {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
