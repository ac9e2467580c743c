package daemon

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sovereign-build/sovereign/internal/android"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Two processes look after each other on a phone, where nobody else would start
// them again: the one that keeps machines, and the one that starts it. childEnv is
// set in the first, with the number of the second; adoptEnv in a second one that the
// first has started, with its own.
const (
	childEnv = "SOVEREIGND_CHILD"
	adoptEnv = "SOVEREIGND_ADOPT"
)

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
	parent := os.Getenv(childEnv)
	if parent == "" {
		return restart(ctx, o, hv)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go keepParent(ctx, parent, o, hv)
	return runLogged(ctx, o, hv, func(report func(string)) (Guard, error) {
		return android.NewKeeper(filepath.Dir(o.StateDir), report)
	})
}

// keepParent starts another parent when this process's has ended, until ctx ends.
// What it cannot do is tried again: the machines are kept meanwhile.
func keepParent(ctx context.Context, parent string, o Options, hv hypervisorFlags) {
	pid, err := strconv.Atoi(parent)
	for ; ctx.Err() == nil; err = pause.For(ctx, firstPause) {
		if err == nil {
			p, alive, lookErr := process.Running(pid)
			if lookErr != nil {
				continue
			}
			if alive && p.Wait(ctx) != nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		cmd, startErr := another(o, hv, adoptEnv+"="+strconv.Itoa(os.Getpid()))
		if startErr != nil {
			continue
		}
		pid = cmd.Process.Pid
		go cmd.Wait() //nolint:errcheck // it is waited for by its number
	}
}

// another starts this program once more, with one variable of its own.
func another(o Options, hv hypervisorFlags, env string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	args := []string{"--android"}
	if strings.HasPrefix(env, childEnv) {
		args = append(args, "--state-dir", o.StateDir)
	}
	cmd := exec.Command(self, append(args, hv.flags()...)...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, childEnv+"=") && !strings.HasPrefix(v, adoptEnv+"=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, env)
	// Neither ends with the other.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, fault.Wrap(fault.Environment, cmd.Start())
}

// restart keeps a child that keeps the machines, until that ends in order or ctx
// does.
func restart(ctx context.Context, o Options, hv hypervisorFlags) error {
	// What it leaves here, its children have left.
	if _, err := android.NewKeeper(filepath.Dir(o.StateDir), func(string) {}); err != nil {
		return err
	}
	// The child of a former parent, which has started this one.
	if pid, err := strconv.Atoi(os.Getenv(adoptEnv)); err == nil {
		if p, alive, err := process.Running(pid); err == nil && alive {
			stop := context.AfterFunc(ctx, func() {
				p.Signal(syscall.SIGTERM) //nolint:errcheck // it has ended
			})
			err := p.Wait(context.WithoutCancel(ctx))
			stop()
			if err != nil || ctx.Err() != nil {
				return err
			}
			// How it has ended nobody knows. Where it was in order, so does the next.
		}
	}
	wait := firstPause
	for {
		begin := time.Now()
		cmd, err := another(o, hv, childEnv+"="+strconv.Itoa(os.Getpid()))
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() {
			cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it has ended
		})
		err = cmd.Wait()
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
			wait = firstPause
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, lastPause)
	}
}

// undoAndroid puts back what was changed on the phone.
func undoAndroid(ctx context.Context, o Options) error {
	return android.Undo(ctx, filepath.Dir(o.StateDir))
}
