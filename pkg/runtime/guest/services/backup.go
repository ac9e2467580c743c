package services

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
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
	return n.marks(ctx)
}

// marks is what the service's copy is told by; "" where it has no such command.
func (n *service) marks(ctx context.Context) (string, error) {
	argv := n.spec.Backup.Marks
	if len(argv) == 0 {
		return "", nil
	}
	text, err := n.printed(ctx, argv)
	switch {
	case err != nil:
		return "", fmt.Errorf("marks: %w", err)
	case len(text) > maxMarks:
		return "", fmt.Errorf("marks: %d bytes: want at most %d", len(text), maxMarks)
	}
	return text, nil
}

// CheckRestored has every service with a command for it say whether what it
// found on a data disk that was restored is whole, one after the other, until
// ctx ends: each reads all it has. Those without are absent.
func (s *Manager) CheckRestored(ctx context.Context) map[string]agent.RestoredService {
	found := map[string]agent.RestoredService{}
	for _, n := range s.services {
		b := n.spec.Backup
		if b == nil || len(b.Check)+len(b.Marks) == 0 {
			continue
		}
		var r agent.RestoredService
		var err error
		if r.Marks, err = n.marks(ctx); err != nil {
			r.MarksError = err.Error()
		}
		if len(b.Check) > 0 {
			begin := time.Now()
			r.Checked = true
			if _, err := n.printed(ctx, b.Check); err != nil {
				r.Error = err.Error()
			}
			r.TookMS = time.Since(begin).Milliseconds()
		}
		found[n.spec.Name] = r
	}
	return found
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
