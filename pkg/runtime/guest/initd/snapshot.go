package initd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/snapshot"
)

// snapshots keeps the one snapshot there may be. Its methods may be called from
// several goroutines.
type snapshots struct {
	mu     sync.Mutex
	closed bool
	disk   *snapshot.Disk // nil before the data disk is there
	held   *agent.Snapshot
}

// TakeSnapshot implements agent.Snapshotter.
func (g *guest) TakeSnapshot(ctx context.Context) (agent.Snapshot, error) {
	if _, _, err := g.data(); err != nil {
		return agent.Snapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	ctx, done := g.untilStop(ctx)
	defer done()
	s := &g.snapshots
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return agent.Snapshot{}, errStopping
	case s.held != nil:
		return agent.Snapshot{}, snapshot.ErrHeld
	}
	var now agent.Snapshot
	if manager, err := g.services(); err == nil {
		now.Marks, now.Notes = manager.BeforeSnapshot(ctx)
	}
	if c, err := g.Record(ctx); err == nil {
		now.Continuity = &c
	} else {
		now.Notes = append(now.Notes, err.Error())
	}
	if ctx.Err() != nil {
		return agent.Snapshot{}, context.Cause(ctx)
	}
	taken, err := s.disk.Take(ctx)
	if err != nil {
		return agent.Snapshot{}, err
	}
	id := make([]byte, 8)
	rand.Read(id) //nolint:errcheck // it never fails
	now.ID, now.At, now.Size = hex.EncodeToString(id), taken.At.UTC(), taken.Size
	now.HoldMS = float64(taken.Hold.Microseconds()) / 1000
	s.held = &now
	g.c.note("snapshot %s: writes were held for %.1f ms", now.ID, now.HoldMS)
	return s.look(), nil
}

// look is the snapshot that is held, with what its store has.
func (s *snapshots) look() agent.Snapshot {
	now := *s.held
	store, err := s.disk.Store()
	now.Store = agent.SnapshotStore{Used: store.Used, Size: store.Size, Invalid: store.Invalid}
	if err != nil {
		now.Store.Invalid = err.Error()
	}
	return now
}

// Snapshot implements agent.Snapshotter.
func (g *guest) Snapshot() (agent.Snapshot, error) {
	s := &g.snapshots
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		return agent.Snapshot{}, fmt.Errorf("no snapshot is held: %w", fs.ErrNotExist)
	}
	return s.look(), nil
}

// ReleaseSnapshot implements agent.Snapshotter.
func (g *guest) ReleaseSnapshot(id string) error {
	s := &g.snapshots
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil || s.held.ID != id {
		return nil
	}
	err := s.release()
	switch {
	case err != nil:
		g.c.note("%v", err)
	default:
		g.c.note("snapshot %s: released", id)
		// What the disk had grown by meanwhile.
		g.trouble(topicGrowth, g.fill())
	}
	return err
}

func (s *snapshots) release() error {
	if s.held == nil {
		return nil
	}
	if err := s.disk.Release(); err != nil {
		return err
	}
	s.held = nil
	return nil
}

// closeSnapshots releases the snapshot for good.
func (g *guest) closeSnapshots() error {
	s := &g.snapshots
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.release()
}

// fill makes the data disk's device and its file system as large as the disk.
// While a snapshot is held that waits for its end.
func (g *guest) fill() error {
	device, mount, err := g.data()
	if err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	if err := g.snapshots.disk.Fill(); err != nil {
		return fmt.Errorf("data disk %s: grow: %w", device, err)
	}
	return g.grow(device, mount)
}

// Grow implements agent.Operator.
func (g *guest) Grow(context.Context) error {
	err := g.fill()
	if !errors.Is(err, snapshot.ErrHeld) {
		g.trouble(topicGrowth, err)
	}
	return err
}

// CheckRestored implements agent.RestoreChecker.
func (g *guest) CheckRestored(ctx context.Context) (map[string]agent.RestoredService, error) {
	manager, err := g.services()
	if err != nil {
		return nil, err
	}
	ctx, done := g.untilStop(ctx)
	defer done()
	return manager.CheckRestored(ctx), nil
}
