package machinetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

// DiskDir is where a fake in mode "history" keeps its disk's record of
// continuity, in the machine's directory: a copy of it that is put back is an
// older disk.
const DiskDir = "disk"

// historian is a guest that keeps a history, and does as the real one with what
// its host remembers.
type historian struct {
	watched
	mu      sync.Mutex
	record  *continuity.Record
	verdict continuity.Verdict
	witness *continuity.Witness
	written bool // since the last record
}

func newHistorian(g *guest, line string) (*historian, error) {
	h := &historian{watched: watched{g}, written: true}
	if text, ok := strings.CutPrefix(line, "sovereign.continuity="); ok {
		w, err := continuity.ParseWitness(text)
		if err != nil {
			return nil, err
		}
		h.witness = &w
	}
	err := os.MkdirAll(DiskDir, 0o700)
	if err == nil {
		h.record, err = continuity.Load(DiskDir)
	}
	if err != nil {
		return nil, err
	}
	if h.verdict = continuity.Decide(h.record, h.witness); h.verdict == continuity.First {
		h.record = continuity.Begin("boot", time.Now())
		err = h.record.Save(DiskDir)
	}
	return h, err
}

func (h *historian) Status() agent.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.watched.Status()
	s.Continuity = h.now()
	if h.verdict.Held() {
		s.State, s.Message, s.Services = agent.StateFailed, "the data disk is held", nil
	}
	return s
}

func (h *historian) now() *agent.Continuity {
	c := &agent.Continuity{Verdict: string(h.verdict), Held: h.verdict.Held()}
	if r := h.record; r != nil {
		c.Lineage, c.Epoch, c.Hash, c.At = r.Lineage, r.Epoch, r.Hash, r.At
	}
	c.Written = h.written && !c.Held
	return c
}

func (h *historian) Record(context.Context) (agent.Continuity, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.verdict.Held() {
		return agent.Continuity{}, errors.New("held")
	}
	h.record, h.written = h.record.Next("written", time.Now()), false
	return *h.now(), h.record.Save(DiskDir)
}

func (h *historian) AcceptRollback(_ context.Context, reason string, given *continuity.Witness) (agent.Continuity, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := given
	if w == nil {
		w = h.witness
	}
	if w == nil || given == nil && !h.verdict.Held() {
		return agent.Continuity{}, fs.ErrInvalid
	}
	next, err := continuity.Accept(h.record, *w, reason, time.Now())
	if err != nil {
		return agent.Continuity{}, err
	}
	h.record = next
	return *h.now(), next.Save(DiskDir)
}

func (h *historian) Compare(_ context.Context, w continuity.Witness) (agent.Compared, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := agent.Compared{Verdict: continuity.Decide(h.record, &w)}
	if h.record != nil {
		c.Oldest = h.record.Oldest()
	}
	return c, nil
}
