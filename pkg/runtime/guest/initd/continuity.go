package initd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/blockdev"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/datadisk"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/services"
)

// noteWritten is what has to be written to the disk for its history to be worth
// a further record, in sectors: 256 KiB, several times what a record itself
// writes.
const noteWritten = 512

// history keeps the data disk's record of continuity. Its methods may be called
// from several goroutines.
type history struct {
	mu      sync.Mutex
	looked  bool
	device  string
	record  *continuity.Record // nil: there is none, or it cannot be read
	verdict continuity.Verdict
	// at is what had been written to the disk when the last record was made, in
	// sectors; -1 before the first one of this boot.
	at int64
}

// lookBack decides whether the disk at mount is the one that the host remembers.
// The error is of one that is not: no service may be started on it.
func (g *guest) lookBack(device, mount string) error {
	h := &g.history
	h.mu.Lock()
	defer h.mu.Unlock()
	record, err := continuity.Load(mount)
	if id := g.line.Clone; id != "" && (record == nil || record.Clone != id) {
		if record, err = g.becomeClone(mount, id); err != nil {
			return fmt.Errorf("data disk: making it a machine of its own: %w", err)
		}
	}
	h.looked, h.device, h.record, h.at = true, device, record, -1
	if err != nil {
		h.verdict = continuity.Unreadable
	} else {
		h.verdict = continuity.Decide(record, g.line.Witness)
	}
	switch {
	case h.verdict == continuity.First:
		first := continuity.Begin("boot", time.Now().UTC())
		if err := first.Save(mount); err != nil {
			return fmt.Errorf("data disk: %w", err)
		}
		h.record = first
	case h.verdict == continuity.Unwitnessed:
		g.c.note("continuity: nobody remembers this data disk: epoch %d is taken as it is", record.Epoch)
	}
	if !h.verdict.Held() {
		return nil
	}
	if ro := datadisk.ReadOnly(mount); ro != nil {
		g.c.note("%v", ro)
	}
	return heldError(h.verdict, record, g.line.Witness, err)
}

// becomeClone makes the copy of another machine's disk one of its own: what that
// machine is known by is removed, before any service is started, and made anew
// as each service does at its first start. The record comes last: until it is
// there, all of it is done again.
func (g *guest) becomeClone(mount, id string) (*continuity.Record, error) {
	paths := []string{services.SecretsDir(mount)}
	for _, s := range g.identities {
		paths = append(paths, s...)
	}
	for _, path := range paths {
		if !strings.HasPrefix(filepath.Clean(path), filepath.Clean(mount)+"/") {
			return nil, fmt.Errorf("%s is not on the data disk", path)
		}
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	unix.Sync() // what was removed is not there again after a power cut
	r := continuity.BeginClone(id, time.Now().UTC())
	if err := r.Save(mount); err != nil {
		return nil, err
	}
	g.c.note("continuity: a copy of another machine's data disk, with a lineage and secrets of its own from now on")
	return r, nil
}

// heldError says in words why a disk is held.
func heldError(v continuity.Verdict, r *continuity.Record, w *continuity.Witness, err error) error {
	switch v {
	case continuity.Unreadable:
		return fmt.Errorf("the data disk is held: its record of continuity cannot be read: %w", err)
	case continuity.Blank:
		return fmt.Errorf("the data disk is held: it is a new one, or a copy of very long ago, where the one that was last used had epoch %d", w.Epoch)
	case continuity.Foreign:
		return fmt.Errorf("the data disk is held: it is another machine's, of epoch %d of %s", r.Epoch, r.At.Format(time.RFC3339))
	case continuity.Behind:
		return fmt.Errorf("the data disk is held: it is an older copy, of epoch %d of %s, where the one that was last used had epoch %d", r.Epoch, r.At.Format(time.RFC3339), w.Epoch)
	}
	return fmt.Errorf("the data disk is held: it went another way than the one that was last used, which had epoch %d; this one has %d of %s", w.Epoch, r.Epoch, r.At.Format(time.RFC3339))
}

// state is what the status says; nil before lookBack.
func (h *history) state() *agent.Continuity {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.looked {
		return nil
	}
	return h.now()
}

// now is state for who has the lock.
func (h *history) now() *agent.Continuity {
	c := &agent.Continuity{Verdict: string(h.verdict), Held: h.verdict.Held()}
	if r := h.record; r != nil {
		c.Lineage, c.Epoch, c.Hash, c.At = r.Lineage, r.Epoch, r.Hash, r.At
	}
	if !c.Held {
		n, err := sectorsWritten(h.device)
		c.Written = h.at < 0 || err != nil || n-h.at >= noteWritten
	}
	return c
}

// Record implements agent.Historian.
func (g *guest) Record(context.Context) (agent.Continuity, error) {
	_, mount, err := g.data()
	if err != nil {
		return agent.Continuity{}, fmt.Errorf("continuity: %w", err)
	}
	h := &g.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.looked || h.verdict.Held() {
		return agent.Continuity{}, errors.New("continuity: the data disk is held, or not looked at yet")
	}
	next := h.record.Next("written", time.Now().UTC())
	if err := next.Save(mount); err != nil {
		return agent.Continuity{}, err
	}
	h.record = next
	if h.at, err = sectorsWritten(h.device); err != nil {
		return agent.Continuity{}, err
	}
	return *h.now(), nil
}

// AcceptRollback implements agent.Historian.
func (g *guest) AcceptRollback(_ context.Context, reason string, given *continuity.Witness) (agent.Continuity, error) {
	_, mount, err := g.data()
	if err != nil {
		return agent.Continuity{}, fmt.Errorf("continuity: %w", err)
	}
	h := &g.history
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.verdict.Held()
	switch {
	case !h.looked || !held && given == nil:
		return agent.Continuity{}, fmt.Errorf("continuity: the data disk is not held: there is nothing to accept: %w", fs.ErrInvalid)
	case !held && given.Lineage != h.record.Lineage:
		return agent.Continuity{}, fmt.Errorf("continuity: a disk that is used does not change its lineage: %w", fs.ErrInvalid)
	}
	w := given
	if w == nil {
		w = g.line.Witness
	}
	if w == nil { // what was there cannot be read, and nobody remembers it
		w = &continuity.Witness{Lineage: continuity.Begin("", time.Time{}).Lineage}
	}
	next, err := continuity.Accept(h.record, *w, reason, time.Now().UTC())
	if err != nil {
		return agent.Continuity{}, fmt.Errorf("continuity: %w: %w", err, fs.ErrInvalid)
	}
	if held {
		err = datadisk.ReadWrite(mount)
	}
	if err == nil {
		err = next.Save(mount)
	}
	if held {
		err = errors.Join(err, datadisk.ReadOnly(mount))
	}
	if err != nil {
		return agent.Continuity{}, err
	}
	h.record = next
	g.c.note("continuity: epoch %d: %s", next.Epoch, next.Reason)
	c := *h.now()
	return c, nil
}

// Compare implements agent.Historian.
func (g *guest) Compare(_ context.Context, w continuity.Witness) (agent.Compared, error) {
	h := &g.history
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.looked:
		return agent.Compared{}, errors.New("continuity: the data disk is not looked at yet")
	case h.verdict == continuity.Unreadable:
		return agent.Compared{Verdict: h.verdict}, nil
	}
	c := agent.Compared{Verdict: continuity.Decide(h.record, &w)}
	if h.record != nil {
		c.Oldest = h.record.Oldest()
	}
	return c, nil
}

// sectorsWritten is how much was written to a device since the boot.
func sectorsWritten(device string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(blockdev.Sysfs, "class/block", filepath.Base(device), "stat")) // it may be a partition
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b)) // Documentation/block/stat.rst
	if len(fields) < 7 {
		return 0, fmt.Errorf("%s: %d fields", device, len(fields))
	}
	return strconv.ParseInt(fields[6], 10, 64)
}
