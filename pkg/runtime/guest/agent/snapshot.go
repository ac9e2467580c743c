package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Snapshot is a snapshot of the data disk that is held; see package snapshot.
type Snapshot struct {
	ID string    `json:"id"`
	At time.Time `json:"at"` // by the guest's clock
	// HoldMS is for how long writes were held, in milliseconds.
	HoldMS float64 `json:"hold_ms"`
	Size   int64   `json:"size"` // of the disk, in bytes
	// Marks is what each service's marks command printed just before.
	Marks map[string]string `json:"marks,omitempty"`
	// Notes are of what was asked for before and did not work, a sentence each.
	Notes []string      `json:"notes,omitempty"`
	Store SnapshotStore `json:"store"`
	// Continuity is where the disk was in its history; nil of one without.
	Continuity *Continuity `json:"continuity,omitempty"`
}

// SnapshotStore is the room that old content takes, in bytes.
type SnapshotStore struct {
	Used int64 `json:"used"`
	Size int64 `json:"size"`
	// Invalid says why the snapshot is of no use any more; empty where it is.
	Invalid string `json:"invalid,omitempty"`
}

// A Snapshotter is a Backend that can have its data disk read from outside. The
// endpoints for it are absent (404) where a Backend is none.
type Snapshotter interface {
	// TakeSnapshot takes the one snapshot that there may be at a time.
	TakeSnapshot(ctx context.Context) (Snapshot, error)
	// Snapshot is the one that is held; fs.ErrNotExist where none is.
	Snapshot() (Snapshot, error)
	// ReleaseSnapshot releases it; without one of that ID it does nothing.
	ReleaseSnapshot(id string) error
}

// snapshotBeat is how often the host is told of a snapshot that it holds. A host
// that is gone is noticed by it, and the snapshot released.
const snapshotBeat = time.Second

// snapshots adds the endpoints of a Snapshotter.
func (h *handler) snapshots(mux *http.ServeMux, s Snapshotter) {
	mux.HandleFunc("POST /v1/snapshot", func(w http.ResponseWriter, r *http.Request) { h.holdSnapshot(w, r, s) })
	mux.HandleFunc("GET /v1/snapshot", h.short(quickLimit, func(w http.ResponseWriter, _ *http.Request) {
		held, err := s.Snapshot()
		if err != nil {
			fail(w, err)
			return
		}
		answer(w, held)
	}))
	mux.HandleFunc("DELETE /v1/snapshot/{id}", h.short(quickLimit, func(w http.ResponseWriter, r *http.Request) {
		done(w, s.ReleaseSnapshot(r.PathValue("id")), http.StatusNoContent)
	}))
}

// holdSnapshot takes a snapshot and holds it for as long as the host reads: a
// line of JSON at every beat. The end of the request, whatever the reason, is
// the snapshot's.
func (h *handler) holdSnapshot(w http.ResponseWriter, r *http.Request, s Snapshotter) {
	limit, cancel := context.WithTimeout(r.Context(), reloadLimit)
	defer cancel()
	held, err := s.TakeSnapshot(limit)
	if err != nil {
		fail(w, err)
		return
	}
	defer s.ReleaseSnapshot(held.ID) //nolint:errcheck // it is told by the log
	w.Header().Set("Content-Type", follows)
	c := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	for {
		if c.SetWriteDeadline(time.Now().Add(bodyLimit)) != nil || enc.Encode(held) != nil || c.Flush() != nil {
			panic(http.ErrAbortHandler) // the host is gone
		}
		if !waitFor(r, nil, snapshotBeat) {
			return
		}
		now, err := s.Snapshot()
		if err != nil || now.ID != held.ID {
			return // released
		}
		held = now
	}
}

// HeldSnapshot is a snapshot that is held until Close, or until the session or
// the guest ends. Its methods may be called from several goroutines.
type HeldSnapshot struct {
	Snapshot // as it was taken

	client *Client
	cancel context.CancelFunc
	once   sync.Once
	done   chan struct{}
	err    error // once done is closed
}

// TakeSnapshot takes a snapshot of the data disk, of which there is one at a
// time, and holds it. ctx is for taking it only.
func (c *Client) TakeSnapshot(ctx context.Context) (*HeldSnapshot, error) {
	held, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	resp, err := c.do(held, http.MethodPost, "/v1/snapshot", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxAnswer)
	s := &HeldSnapshot{client: c, cancel: cancel, done: make(chan struct{})}
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &s.Snapshot) != nil || !stop() {
		cancel()
		resp.Body.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fault.Errorf(fault.Device, "guest agent: the snapshot was lost as it was taken").Hintf("see whether the guest still runs")
	}
	go func() {
		defer resp.Body.Close()
		for lines.Scan() {
			var now Snapshot
			if err := json.Unmarshal(bytes.TrimSpace(lines.Bytes()), &now); err != nil {
				s.end(fault.Errorf(fault.Device, "guest agent: snapshot: %w", err))
				return
			}
			if now.Store.Invalid != "" {
				s.end(invalid(now))
				return
			}
		}
		s.end(fault.Errorf(fault.Device, "the guest has released its snapshot: it was shut down, or the session with it was lost"))
	}()
	return s, nil
}

func invalid(s Snapshot) error {
	return fault.Errorf(fault.Device, "the guest's snapshot is of no use any more: %s", s.Store.Invalid).
		Hintf("see that there is room where the machine's scratch disk lies, and do it again")
}

func (s *HeldSnapshot) end(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.done)
		s.cancel()
	})
}

// Done is closed when the snapshot is not held any more, or of no use.
func (s *HeldSnapshot) Done() <-chan struct{} { return s.done }

// Err says why, once Done is closed; nil before, and after Close.
func (s *HeldSnapshot) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Check asks the guest whether the snapshot is still good: what was read until
// now is right only then.
func (s *HeldSnapshot) Check(ctx context.Context) error {
	if err := s.Err(); err != nil {
		return err
	}
	body, err := s.client.call(ctx, http.MethodGet, "/v1/snapshot")
	if err != nil {
		return err
	}
	var now Snapshot
	if err := json.Unmarshal(body, &now); err != nil {
		return fault.Errorf(fault.Device, "guest agent: snapshot: %w", err)
	}
	switch {
	case now.ID != s.ID:
		return fault.Errorf(fault.Device, "the guest has another snapshot than the one that was read")
	case now.Store.Invalid != "":
		return invalid(now)
	}
	return nil
}

// Close releases the snapshot, and waits for the guest to say so until ctx ends.
// The guest does it in any case.
func (s *HeldSnapshot) Close(ctx context.Context) error {
	select {
	case <-s.done:
		return nil // and so the guest releases it
	default:
	}
	_, err := s.client.call(ctx, http.MethodDelete, "/v1/snapshot/"+url.PathEscape(s.ID))
	s.end(nil)
	return err
}
