package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
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
	start, _, err := procStat(pid)
	return process{pid, start}, err
}

// alive tells whether the process still runs; a zombie does not.
func (p process) alive() bool {
	if p.PID <= 1 {
		return false
	}
	start, state, err := procStat(p.PID)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// procStat reads start time and state of a process, see proc(5).
func procStat(pid int) (start uint64, state byte, err error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	// The second field is the name in parentheses and may hold anything.
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("%s: no process name in %q", path, text)
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, fmt.Errorf("%s: %d fields", path, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: start time: %w", path, err)
	}
	return start, fields[0][0], nil
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
