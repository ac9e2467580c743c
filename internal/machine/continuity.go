package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

const (
	// recordEvery is how often the history of a disk that is written to is
	// written on.
	recordEvery = time.Minute
	// recordLimit is how long a guest may take for that.
	recordLimit = 10 * time.Second
)

// Witnessed is what is remembered of a disk's history, and since when.
type Witnessed struct {
	runtime.Continuity
	Time time.Time `json:"time"` // of this host's clock, for people
	At   Moment    `json:"at"`
}

// witnessed is what the status says of it.
func (w *Witnessed) witnessed() *runtime.Witnessed {
	if w == nil {
		return nil
	}
	return &runtime.Witnessed{Continuity: w.Continuity, Time: w.Time}
}

// dueRecord says whether the history of the disk is to be written on: each minute
// in which it was written to, first when its guest has started; and at once where
// the disk is ahead of what is remembered, or a copy of before that would pass.
func dueRecord(rec *record, w world) bool {
	if w.guest == nil || w.silent >= silentMoment || w.unrecorded {
		return false
	}
	c, last := w.guest.Continuity, rec.Continuity
	if c == nil || c.Held || c.Lineage == "" {
		return false
	}
	if last != nil && c.Lineage == last.Lineage && c.Epoch > last.Epoch {
		return true
	}
	if !c.Written {
		return false
	}
	passed := time.Duration(0)
	if last != nil {
		passed = w.awake - time.Duration(last.At.Awake)
	}
	return last == nil || last.At.Boot != w.boot || passed < 0 || passed >= recordEvery
}

// writeHistoryOn has the guest make a new record of continuity, on its disk first,
// and puts it into the instance's, second. The caller saves that.
func (i *Instance) writeHistoryOn(ctx context.Context, s *Agent) error {
	limit, cancel := context.WithTimeout(ctx, recordLimit)
	defer cancel()
	c, err := s.Record(limit)
	if err != nil {
		return i.tooOld(err)
	}
	return i.witness(c)
}

// witness remembers what the guest says of its disk.
func (i *Instance) witness(c agent.Continuity) error {
	text := continuity.Witness{Lineage: c.Lineage, Point: continuity.Point{Epoch: c.Epoch, Hash: c.Hash}}.String()
	if _, err := continuity.ParseWitness(text); err != nil {
		return fault.Errorf(fault.Device, "the guest of %s says of its disk: %.200q: %w", i.Name(), text, err)
	}
	w := world{}
	var err error
	if w.awake, err = awake(); err == nil {
		w.boot, err = process.Boot()
	}
	if err != nil {
		return err
	}
	i.rec.Continuity = &Witnessed{Continuity: runtime.Continuity{Lineage: c.Lineage, Epoch: c.Epoch, Hash: c.Hash},
		Time: time.Now().UTC().Truncate(time.Second), At: w.moment()}
	i.rec.Clone = ""
	return nil
}

// historyWord is what the kernel's command line says of the disk.
func (i *Instance) historyWord() string {
	switch c := i.rec.Continuity; {
	case i.rec.Clone != "":
		return " sovereign.clone=" + i.rec.Clone
	case c != nil:
		return " sovereign.continuity=" + continuity.Witness{Lineage: c.Lineage, Point: continuity.Point{Epoch: c.Epoch, Hash: c.Hash}}.String()
	}
	return ""
}

// AcceptRollback is the owner's word that a machine whose services are held is
// to go on with the data disk that it has. The disk gets a record that says so,
// and the machine is started anew. A machine that is not held is an error of
// class fault.Usage.
func (i *Instance) AcceptRollback(ctx context.Context, reason string) (runtime.Continuity, error) {
	c, err := i.accept(ctx, reason)
	if err != nil {
		return c, err
	}
	_, err = i.Restart(ctx, 0)
	return c, err
}

func (i *Instance) accept(ctx context.Context, reason string) (runtime.Continuity, error) {
	none := runtime.Continuity{}
	unlock, err := i.r.lock(ctx, i.Name())
	if err != nil {
		return none, err
	}
	defer unlock()
	now, err := i.r.Instance(ctx, i.Name())
	if err != nil {
		return none, err
	}
	err = now.ask(ctx, func(s *Agent) error {
		status, err := s.Status(ctx)
		if err != nil {
			return err
		}
		if status.Continuity == nil || !status.Continuity.Held {
			return fault.Errorf(fault.Usage, "the services of %s are not held: there is nothing to accept", i.Name())
		}
		c, err := s.AcceptRollback(ctx, reason, nil)
		if err != nil {
			return err
		}
		return now.witness(c)
	})
	if err != nil {
		return none, err
	}
	if err := now.saveRecord(); err != nil {
		return none, fmt.Errorf("the disk of %s has the word, the record has not: say it again: %w", i.Name(), err)
	}
	return now.rec.Continuity.Continuity, nil
}

// recordBeforeEnd writes the history on before a shutdown. A guest that is too
// old, or held, has none to write on; one that does not answer is seen when it is
// asked to end.
func (i *Instance) recordBeforeEnd(ctx context.Context, s *Agent) {
	_ = i.writeHistoryOn(ctx, s)
}
