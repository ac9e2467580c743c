package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// drainEvery is how often a control group is looked at while it empties.
const drainEvery = 10 * time.Millisecond

// cgroup is the control group of a service; nil works and holds nothing.
type cgroup struct {
	path string
	dir  *os.File
}

// newCgroup makes a group; an empty one of that name is replaced. A group is
// never used again after a kill: on kernels that count kills (6.12.x and
// later) a process cloned into a killed group is killed at its birth.
func newCgroup(root, name string, memoryMiB uint64) (*cgroup, error) {
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
	if memoryMiB > 0 {
		limit := strconv.FormatUint(memoryMiB<<20, 10)
		if err := os.WriteFile(filepath.Join(path, "memory.max"), []byte(limit), 0); err != nil {
			return nil, fmt.Errorf("control group: memory limit: %w: the kernel needs MEMCG", err)
		}
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	return &cgroup{path, dir}, nil
}

// file is what a process is started in.
func (c *cgroup) file() *os.File {
	if c == nil {
		return nil
	}
	return c.dir
}

// empty says whether no process is left.
func (c *cgroup) empty() (bool, error) {
	b, err := os.ReadFile(filepath.Join(c.path, "cgroup.events"))
	return bytes.Contains(b, []byte("populated 0")), err
}

// close drains and removes the group.
func (c *cgroup) close(ctx context.Context, limit time.Duration) (killed bool, err error) {
	if c == nil {
		return false, nil
	}
	killed, err = c.drain(ctx, limit)
	err = errors.Join(err, c.dir.Close())
	if err == nil {
		err = os.Remove(c.path)
	}
	return killed, err
}

// drain waits until the group is empty; after limit, or when ctx ends, it
// kills what is left. It says whether something had to be killed.
func (c *cgroup) drain(ctx context.Context, limit time.Duration) (killed bool, err error) {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	deadline := time.After(limit)
	ended := ctx.Done()
	for {
		if ok, err := c.empty(); err != nil || ok {
			return killed, err
		}
		select {
		case <-tick.C:
			continue
		case <-deadline:
		case <-ended:
		}
		// Killed once: what is left after that is in the kernel and will end.
		ended, deadline, killed = nil, nil, true
		if err := os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0); err != nil {
			return false, fmt.Errorf("control group: kill: %w", err)
		}
	}
}
