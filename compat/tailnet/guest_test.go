package tailnet

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/usernet"
)

// guest is the machine under test.
type guest struct {
	t       *testing.T
	state   string // of its sovereignd
	machine *runtime.Machine
}

// boot starts the bundle, on the data disk of the boot before.
func (g *guest) boot(ctx context.Context, dir string) {
	g.t.Helper()
	if g.machine == nil {
		g.keep()
	}
	report := func(e runtime.Event) { g.t.Logf("%-8s %s", e.Phase, e.Text) }
	here, err := runtime.Local(g.state)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { here.Close() })
	outbound := true
	g.machine, err = here.Install(ctx, dir, "", runtime.UpOptions{Outbound: &outbound, Restart: runtime.RestartNever, Replace: true}, report)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if g.t.Failed() {
			g.logs()
		}
	})
	wait, cancel := context.WithTimeout(ctx, bootDeadline)
	defer cancel()
	if _, err := g.machine.WaitReady(wait, report); err != nil {
		g.t.Fatalf("%v\nhint: %s", err, fault.HintOf(err))
	}
}

// keep keeps the machines of the state directory until the test ends, and takes
// them down then.
func (g *guest) keep() {
	g.t.Helper()
	if err := os.MkdirAll(g.state, 0o700); err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	kept, err := daemon.Start(ctx, daemon.Options{
		StateDir: g.state, StopMachines: true,
		Network: usernet.Config{Allow: []netip.Prefix{netip.MustParsePrefix(host + "/32")}},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		cancel()
		if err := kept(); err != nil {
			g.t.Error(err)
		}
	})
}

func (g *guest) stop(ctx context.Context) {
	g.t.Helper()
	if res, err := g.machine.Down(ctx, 0); err != nil || res.Forced {
		g.t.Fatalf("stop: %+v, %v", res, err)
	}
}

// logs shows what the guest's services printed.
func (g *guest) logs() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, service := range []string{"init", "postgresql", "tailscale"} {
		var b strings.Builder
		err := g.machine.Logs(ctx, []string{service}, false, func(l runtime.LogLine) error {
			fmt.Fprintln(&b, l.Text)
			return nil
		})
		if err != nil {
			g.t.Log(err)
		}
		g.t.Logf("%s:\n%s", service, b.String()[max(0, b.Len()-16<<10):])
	}
}

func (g *guest) url(ctx context.Context) string {
	g.t.Helper()
	c, err := g.machine.Credentials(ctx, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	return c.URL
}

// setSecret hands a secret of the tailscale service over.
func (g *guest) setSecret(ctx context.Context, name, value string) {
	g.t.Helper()
	if err := g.machine.SetSecret(ctx, runtime.SecretRef{Service: "tailscale", Name: name}, value); err != nil {
		g.t.Fatal(err)
	}
}

// waitTailscale waits until the service is healthy, with a warning that holds
// the text, or without any for "".
func (g *guest) waitTailscale(ctx context.Context, warning string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last agent.Service
	for {
		if s, err := g.machine.Status(ctx); err == nil && s.Guest != nil {
			last, _ = s.Guest.Service("tailscale")
			if last.Healthy && strings.Contains(last.Warning, warning) && (warning == "") == (last.Warning == "") {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.t.Fatalf("tailscale: want healthy, warning %q; it is %+v", warning, last)
		}
	}
}

// shell runs a line in the guest as root.
func (g *guest) shell(ctx context.Context, line string) string {
	g.t.Helper()
	var out bytes.Buffer
	code, err := g.machine.Exec(ctx, agent.ExecRequest{Argv: []string{"sh", "-c", line}}, agent.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		g.t.Fatalf("%s: exit code %d, %v: %s", line, code, err, out.String())
	}
	return out.String()
}

// fenced checks that tailscaled is not root, and has what it needs and no more.
func (g *guest) fenced(ctx context.Context) {
	g.t.Helper()
	status := g.shell(ctx, "cat /proc/$(head -n 1 /sys/fs/cgroup/tailscale/cgroup.procs)/status")
	for _, want := range []string{"Name:\ttailscaled\n", "Uid:\t71\t71\t71\t71\n", "CapEff:\t0000000000003000\n", "CapBnd:\t0000000000003000\n", "NoNewPrivs:\t1\n"} {
		if !strings.Contains(status, want) {
			g.t.Errorf("tailscaled: no %q in\n%s", want, status)
		}
	}
	if out := g.shell(ctx, "find /data/tailscale /data/secrets/tailscale/* ! -user tailscale"); out != "" {
		g.t.Errorf("not tailscale's:\n%s", out)
	}
}

// giveToRoot leaves the service's files as an image does in which it was root.
func (g *guest) giveToRoot(ctx context.Context) {
	g.t.Helper()
	g.shell(ctx, "chown -R 0:0 /data/tailscale /data/secrets/tailscale")
}

// hasDevice says whether the guest has a network device of the name.
func (g *guest) hasDevice(ctx context.Context, conn *pgx.Conn, name string) bool {
	g.t.Helper()
	var devices string
	if err := conn.QueryRow(ctx, "SELECT pg_read_file('/proc/net/dev')").Scan(&devices); err != nil {
		g.t.Fatal(err)
	}
	return strings.Contains(devices, name+":")
}

// rebuild builds the recipe of a bundle with other words in its file: each of
// changes is followed by what takes its place.
func rebuild(t *testing.T, from, recipe string, changes ...string) string {
	t.Helper()
	m, err := bundle.Load(from)
	if err != nil {
		t.Fatal(err)
	}
	recipes := filepath.Join(t.TempDir(), "recipes")
	if err := os.CopyFS(recipes, os.DirFS("../../recipes")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(recipes, recipe, "recipe.yaml")
	read, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("%s has no %q", path, changes[i])
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	cmd := exec.Command("../../bin/sovereign-build", "build", filepath.Dir(path), "--arch", m.Arch, "--output", out, "--progress", "plain")
	if log, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sovereign-build build: %v\n%s", err, log[max(0, len(log)-4<<10):])
	}
	return filepath.Join(out, recipe+"-"+m.Arch)
}

// rebuiltSQL is recipes/sql built for the nth time, with another file in its
// root image, for tun mode or for userspace networking.
func rebuiltSQL(t *testing.T, from string, n int, tun bool) string {
	t.Helper()
	changes := []string{"\nfiles:\n", fmt.Sprintf("\nfiles:\n  - path: /etc/rebuilt\n    content: rebuilt %d\n", n)}
	if !tun {
		changes = append(changes, "--tun=tailscale0,userspace-networking", "--tun=userspace-networking")
	}
	return rebuild(t, from, "sql", changes...)
}
