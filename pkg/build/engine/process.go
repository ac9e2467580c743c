package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	processes "github.com/sovereign-build/sovereign/internal/process"
)

// process is a process that cannot be mistaken for another one: pids are
// reused, a pid with its start time is not.
type process struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/PID/stat: clock ticks since boot.
	Start uint64 `json:"start"`
}

// identify reads the start time of a running process.
func identify(pid int) (process, error) {
	s, err := processes.ReadStat(pid)
	return process{pid, s.Start}, err
}

// alive tells whether the process is not over.
func (p process) alive() bool {
	alive, err := processes.Alive(p.PID, p.Start)
	return err == nil && alive && p.PID > 1
}

// stop sends TERM, waits for grace and sends KILL. It touches that process
// only: the handle is taken first and the start time compared after, and a
// handle (a pidfd) never moves on to another process.
func (p process) stop(grace time.Duration) error {
	handle, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	defer handle.Release()
	if !p.alive() {
		return nil
	}
	for _, try := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, 10 * time.Second}} {
		if err := handle.Signal(try.sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("send %v to process %d: %w", try.sig, p.PID, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), try.wait)
		err := until(ctx, 20*time.Millisecond, func() bool { return !p.alive() })
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("process %d did not end after KILL", p.PID)
}

// until polls a condition; it returns the context's cause when that ends first.
func until(ctx context.Context, every time.Duration, done func() bool) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if done() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
