package services

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

const (
	// drainEvery is how often a control group is looked at while it empties,
	// at first, and drainMost at last.
	drainEvery = time.Millisecond
	drainMost  = 50 * time.Millisecond
	// killLimit is how long a killed process may take to end before it counts
	// as hanging in the kernel.
	killLimit = 10 * time.Second
)

// cgroup is the control group of a service; nil works and holds nothing.
type cgroup struct {
	path string
	dir  *os.File
}

// newCgroup makes a group; an empty one of that name is replaced. A group is
// never used again after a kill: on kernels that count kills (6.12.x and
// later) a process cloned into a killed group is killed at its birth.
func newCgroup(root, name string, limits spec.Limits) (*cgroup, error) {
	if root == "" {
		return nil, nil
	}
	path := filepath.Join(root, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control group: %w", err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	err := limitMemory(path, limits.MemoryMiB)
	if err == nil {
		err = limitPIDs(path, limits.PIDs)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	return &cgroup{path, dir}, nil
}

// limitMemory sets the limit, and has the kernel kill the group as a whole when
// memory runs out: half a service helps nobody, and its start again is in
// order.
func limitMemory(path string, mib uint64) error {
	if err := control(path, "memory.oom.group", "1"); err != nil && (mib > 0 || !errors.Is(err, os.ErrNotExist)) {
		return fmt.Errorf("control group: %w: the kernel needs MEMCG", err)
	}
	if mib == 0 {
		return nil
	}
	if err := control(path, "memory.max", strconv.FormatUint(mib<<20, 10)); err != nil {
		return fmt.Errorf("control group: memory limit: %w", err)
	}
	return nil
}

// limitPIDs keeps the group from taking every process of the machine. Zero is
// the default, which a kernel that cannot limit them does without.
func limitPIDs(path string, pids int) error {
	err := control(path, "pids.max", strconv.Itoa(cmp.Or(pids, spec.DefaultPIDs)))
	if err != nil && (pids > 0 || !errors.Is(err, os.ErrNotExist)) {
		return fmt.Errorf("control group: pids limit: %w: the kernel needs CGROUP_PIDS", err)
	}
	return nil
}

// control writes a group's control file. It makes none: where the kernel has
// none the error is os.ErrNotExist.
func control(group, name, value string) error {
	f, err := os.OpenFile(filepath.Join(group, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// file is what a process is started in.
func (c *cgroup) file() *os.File {
	if c == nil {
		return nil
	}
	return c.dir
}

// outOfMemory says whether the kernel killed something in the group because
// memory ran out.
func (c *cgroup) outOfMemory() bool {
	if c == nil {
		return false
	}
	b, err := os.ReadFile(filepath.Join(c.path, "memory.events"))
	if err != nil {
		return false // a kernel without MEMCG
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// empty says whether no process is left.
func (c *cgroup) empty() (bool, error) {
	b, err := os.ReadFile(filepath.Join(c.path, "cgroup.events"))
	return bytes.Contains(b, []byte("populated 0")), err
}

// close drains and removes the group.
func (c *cgroup) close(ctx context.Context, limit time.Duration, stuck func()) (killed bool, err error) {
	if c == nil {
		return false, nil
	}
	killed, err = c.drain(ctx, limit, stuck)
	err = errors.Join(err, c.dir.Close())
	if err == nil {
		err = os.Remove(c.path)
	}
	return killed, err
}

// drain waits until the group is empty; after limit, or when ctx ends, it
// kills what is left. It says whether something had to be killed. What does
// not end then hangs in the kernel: stuck is called, and it is waited for, as
// a new start must not meet it; but not once ctx has ended.
func (c *cgroup) drain(ctx context.Context, limit time.Duration, stuck func()) (killed bool, err error) {
	pause := drainEvery
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	ended := ctx.Done()
	for told := false; ; {
		if ok, err := c.empty(); err != nil || ok {
			return killed, err
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, drainMost)
			continue
		case <-deadline.C:
		case <-ended:
		}
		switch {
		case !killed:
			if err := control(c.path, "cgroup.kill", "1"); err != nil {
				return false, fmt.Errorf("control group: kill: %w", err)
			}
			killed, ended = true, nil
			deadline.Reset(killLimit)
		case ctx.Err() != nil:
			return killed, errors.New("processes do not end after KILL: they hang in the kernel")
		default:
			if !told {
				stuck()
			}
			told, ended = true, ctx.Done()
			deadline.Reset(killLimit)
		}
	}
}
