package machine

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == operatorWord {
		operate(os.Args[2:])
	}
	machinetest.Main()
	os.Exit(m.Run())
}

// testSoak is short: a trial of a fake ends soon.
const testSoak = 100 * time.Millisecond

// fixture is a runtime over fake machines, and a bundle.
type fixture struct {
	*Runtime
	hv     machinetest.HV
	bundle string
	state  string
}

func setup(t *testing.T, mode string) *fixture {
	t.Helper()
	f := &fixture{state: filepath.Join(t.TempDir(), "state"), bundle: filepath.Join(t.TempDir(), "sql")}
	f.hv = machinetest.New(mode)
	f.open(t)
	writeBundle(t, f.bundle, "root")
	t.Cleanup(func() {
		i, err := f.Instance(context.Background(), "sql")
		if err != nil {
			return
		}
		if p, alive, err := i.running(context.Background()); err == nil && alive {
			if err := i.cutPower(context.Background(), p); err != nil {
				t.Error(err)
			}
		}
	})
	return f
}

// open is what another program would do with the same state.
func (f *fixture) open(t *testing.T) {
	t.Helper()
	r, err := Open(f.state, WithHypervisor(f.hv))
	if err != nil {
		t.Fatal(err)
	}
	f.Runtime = r
	r.soak = testSoak
}

// Start is what the command run does with a bundle.
func (f *fixture) Start(ctx context.Context, dir string, o UpOptions) (*Instance, error) {
	return run(ctx, f.Runtime, dir, "", o)
}

func run(ctx context.Context, r *Runtime, dir, name string, o UpOptions) (*Instance, error) {
	o.Restart, o.Replace = RestartNever, true
	i, err := r.Install(ctx, dir, name, o, nil)
	if err != nil {
		return nil, err
	}
	return r.Settle(ctx, i.Name())
}

func (f *fixture) start(t *testing.T, o UpOptions) *Instance {
	t.Helper()
	i, err := f.Start(t.Context(), f.bundle, o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func writeBundle(t *testing.T, dir, root string) {
	t.Helper()
	writeFakeBundle(t, dir, root, "x=y")
}

func writeFakeBundle(t *testing.T, dir, root, cmdline string) {
	t.Helper()
	machinetest.WriteBundle(t, dir, root, cmdline)
}

func takenPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
