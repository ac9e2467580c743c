package daemon

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sovereign-build/sovereign/internal/android"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// childEnv is set in the process that keeps machines on a phone. The other one
// starts it again when something has ended it: nobody else on a phone would.
const childEnv = "SOVEREIGND_CHILD"

const (
	// firstPause and lastPause are before a child is started again.
	firstPause = time.Second
	lastPause  = time.Minute
	// steady is how long a child has to have run for the pauses to begin anew.
	steady = time.Minute
)

// runAndroid is sovereignd on a phone.
func runAndroid(ctx context.Context, o Options, hv hypervisorFlags) error {
	if err := sovereignd.MakeStateDir(o.StateDir); err != nil {
		return err
	}
	if os.Getenv(childEnv) == "" {
		return restart(ctx, o, hv)
	}
	return runLogged(ctx, o, hv, func(report func(string)) (Guard, error) {
		return android.NewKeeper(filepath.Dir(o.StateDir), report)
	})
}

// restart keeps a child that keeps the machines, until that ends in order or ctx
// does.
func restart(ctx context.Context, o Options, hv hypervisorFlags) error {
	// What it leaves here, its children have left.
	if _, err := android.NewKeeper(filepath.Dir(o.StateDir), func(string) {}); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	pause := firstPause
	for {
		begin := time.Now()
		cmd := exec.Command(self, append([]string{"--android", "--state-dir", o.StateDir}, hv.flags()...)...)
		cmd.Env = append(os.Environ(), childEnv+"=1")
		// A child whose parent was killed goes on, and has no parent then.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		stop := context.AfterFunc(ctx, func() {
			cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it has ended
		})
		err := cmd.Wait()
		stop()
		code := cmd.ProcessState.ExitCode()
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case code == int(fault.Usage):
			// Another one keeps these machines.
			return fault.Errorf(fault.Usage, "another sovereignd runs: read %s", filepath.Join(o.StateDir, sovereignd.LogFile))
		}
		if time.Since(begin) > steady {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// undoAndroid puts back what was changed on the phone.
func undoAndroid(ctx context.Context, o Options) error {
	return android.Undo(ctx, filepath.Dir(o.StateDir))
}
