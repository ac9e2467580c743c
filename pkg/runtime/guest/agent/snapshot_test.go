package agent

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// snapshooter is a guest with a data disk.
type snapshooter struct {
	fakeGuest

	mu      sync.Mutex
	taken   int
	held    string
	invalid string
}

func (g *snapshooter) TakeSnapshot(context.Context) (Snapshot, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != "" {
		return Snapshot{}, fmt.Errorf("a snapshot of the data disk is held")
	}
	g.taken++
	g.held = fmt.Sprintf("s%d", g.taken)
	return Snapshot{ID: g.held, HoldMS: 12.5, Size: 1 << 30, Marks: map[string]string{"postgresql": "7"}}, nil
}

func (g *snapshooter) Snapshot() (Snapshot, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held == "" {
		return Snapshot{}, fmt.Errorf("no snapshot is held: %w", fs.ErrNotExist)
	}
	return Snapshot{ID: g.held, HoldMS: 12.5, Size: 1 << 30, Store: SnapshotStore{Used: 16 << 10, Invalid: g.invalid}}, nil
}

func (g *snapshooter) ReleaseSnapshot(id string) error {
	g.mu.Lock()
	released := g.held == id
	if released {
		g.held = ""
	}
	g.mu.Unlock()
	if released {
		g.note("released " + id)
	}
	return nil
}

func (g *snapshooter) fail(why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.invalid = why
}

func TestSnapshot(t *testing.T) {
	g := &snapshooter{}
	c := dial(t, line(t, g))
	s, err := c.TakeSnapshot(t.Context())
	if err != nil || s.ID != "s1" || s.HoldMS != 12.5 || s.Size != 1<<30 || s.Marks["postgresql"] != "7" {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := s.Check(t.Context()); err != nil || s.Err() != nil {
		t.Fatalf("a good one: %v, %v", err, s.Err())
	}
	if _, err := c.TakeSnapshot(t.Context()); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "is held") {
		t.Errorf("a second one: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.waitFor(t, "released s1")

	// A store that is full.
	if s, err = c.TakeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.fail("its store was full")
	select {
	case <-s.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("nobody said that the snapshot is of no use")
	}
	if err := s.Err(); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "its store was full") {
		t.Errorf("%v", err)
	}
	if err := s.Check(t.Context()); err == nil {
		t.Error("what was read of it is taken for good")
	}
	g.waitFor(t, "released s2")
}

// TestSnapshotEndsWithTheSession leaves nobody to release it.
func TestSnapshotEndsWithTheSession(t *testing.T) {
	g := &snapshooter{}
	c := dial(t, line(t, g))
	s, err := c.TakeSnapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close() //nolint:errcheck // it is the end that counts
	g.waitFor(t, "released s1")
	select {
	case <-s.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the host goes on reading")
	}
	if s.Err() == nil {
		t.Error("nothing says why")
	}
}
