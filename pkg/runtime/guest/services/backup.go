package services

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
)

const (
	// backupLimit is how long the commands of a service may take that are run
	// before a snapshot: a checkpoint of PostgreSQL writes all that is dirty.
	backupLimit = time.Minute
	maxMarks    = 16 << 10 // bytes
)

// BeforeSnapshot has every service that runs do what it wants to be on the disk,
// and say what a copy is told by. notes are of what did not work: the disk is
// then as after a power cut, which every service can do with.
func (s *Manager) BeforeSnapshot(ctx context.Context) (marks map[string]string, notes []string) {
	marks = map[string]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, n := range s.services {
		if n.spec.Backup == nil || !n.isHealthy() {
			continue
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, backupLimit)
			defer cancel()
			text, err := n.beforeSnapshot(ctx)
			mu.Lock()
			defer mu.Unlock()
			if text != "" {
				marks[n.spec.Name] = text
			}
			if err != nil {
				notes = append(notes, fmt.Sprintf("%s: %v", n.spec.Name, err))
			}
		})
	}
	all.Wait()
	return marks, notes
}

func (n *service) beforeSnapshot(ctx context.Context) (marks string, err error) {
	b := n.spec.Backup
	if len(b.Before) > 0 {
		if _, err := n.printed(ctx, b.Before); err != nil {
			return "", fmt.Errorf("before a snapshot: %w", err)
		}
	}
	if len(b.Marks) == 0 {
		return "", nil
	}
	text, err := n.printed(ctx, b.Marks)
	switch {
	case err != nil:
		return "", fmt.Errorf("marks: %w", err)
	case len(text) > maxMarks:
		return "", fmt.Errorf("marks: %d bytes: want at most %d", len(text), maxMarks)
	}
	return text, nil
}

// printed runs a command of the service to its end.
func (n *service) printed(ctx context.Context, argv []string) (string, error) {
	r, err := n.manager.opts.Procs.Output(ctx, n.attr(argv, n.manager.opts.Machine()))
	switch {
	case err != nil:
		return "", err
	case !r.Status.Exited() || r.Status.ExitStatus() != 0:
		return "", fmt.Errorf("%s: %s", proc.Describe(r.Status), strings.TrimSpace(r.Text()))
	}
	return r.Text(), nil
}
