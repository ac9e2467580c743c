// Package daemontest makes a test binary sovereignd over fake machines: what
// starts it by its name, as runtime.Local does, gets one.
package daemontest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
)

// soak is for how long the services of a trial have to stay healthy.
const soak = 100 * time.Millisecond

// Main is to be called first of all by TestMain: it does not return in a process
// that is a machine, a sovereignd or a "sovereignd connect".
func Main() {
	machinetest.Main()
	if len(os.Args) < 3 || os.Args[1] != "--state-dir" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if os.Args[len(os.Args)-1] == "connect" {
		os.Exit(daemon.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	o := daemon.Options{Report: func(name, text string) { fmt.Println(name, text) }}
	for _, a := range os.Args[3:] {
		o.ExitWhenIdle = o.ExitWhenIdle || a == "--exit-when-idle"
		o.StopMachines = o.StopMachines || a == "--stop-machines"
	}
	if err := Run(ctx, os.Args[2], o); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Run is daemon.Run over fake machines.
func Run(ctx context.Context, stateDir string, o daemon.Options) error {
	r, err := machine.Open(stateDir, machine.WithHypervisor(machinetest.New("quick")), machine.WithSoak(soak))
	if err != nil {
		return err
	}
	return daemon.RunMachines(ctx, r, o)
}

// Program is the test binary.
func Program(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// StateDir is a directory for sovereignd to be started in, whose machines and
// sovereignd end with the test.
func StateDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := sovereignd.MakeStateDir(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if text, err := os.ReadFile(filepath.Join(dir, sovereignd.LogFile)); err == nil {
				t.Logf("%s:\n%s", sovereignd.LogFile, text)
			}
		}
		End(t, dir)
		KillMachines(t, dir)
	})
	return dir
}

// Daemon is the sovereignd of a state directory; ok is false where none runs.
func Daemon(t testing.TB, dir string) (p process.Process, ok bool) {
	t.Helper()
	p, ok, err := process.Listener(context.Background(), filepath.Join(dir, sovereignd.Socket))
	if err != nil {
		t.Fatal(err)
	}
	return p, ok
}

// End kills the sovereignd of a state directory, if one runs that is not this
// process, and waits for its end.
func End(t testing.TB, dir string) {
	t.Helper()
	p, ok := Daemon(t, dir)
	if !ok || p.PID == os.Getpid() {
		return
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := p.Wait(context.Background()); err != nil {
		t.Error(err)
	}
}

// KillMachines pulls the plug of all machines of a state directory.
func KillMachines(t testing.TB, dir string) {
	t.Helper()
	if err := killMachines(dir); err != nil {
		t.Error(err)
	}
}

func killMachines(dir string) error {
	hv := machinetest.New("")
	dirs, err := os.ReadDir(filepath.Join(dir, "instances"))
	if err != nil {
		return nil // there never was one
	}
	var errs []error
	for _, e := range dirs {
		p, runs, err := hv.Find(context.Background(), filepath.Join(dir, "instances", e.Name()))
		if err == nil && runs {
			err = p.Signal(syscall.SIGKILL)
		}
		if err == nil && runs {
			err = p.Wait(context.Background())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Example is a state directory for an example, whose machines are fakes, and a
// bundle for it. done is its end.
func Example() (stateDir, program, bundle string, done func()) {
	work, err := os.MkdirTemp("", "example-")
	if err == nil {
		program, err = os.Executable()
	}
	stateDir, bundle = filepath.Join(work, "state"), filepath.Join(work, "sql")
	if err == nil {
		err = machinetest.MakeBundle(context.Background(), bundle, "one", "fake=quick")
	}
	if err != nil {
		panic(err)
	}
	return stateDir, program, bundle, func() {
		p, runs, err := process.Listener(context.Background(), filepath.Join(stateDir, sovereignd.Socket))
		if err == nil && runs {
			err = errors.Join(p.Signal(syscall.SIGKILL), p.Wait(context.Background()))
		}
		if err := errors.Join(err, killMachines(stateDir), os.RemoveAll(work)); err != nil {
			panic(err)
		}
	}
}
