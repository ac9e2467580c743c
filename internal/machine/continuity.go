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
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
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
	// By is who remembers it; "" is this host.
	By string `json:"by,omitempty"`
}

// witnessed is what the status says of it.
func (w *Witnessed) witnessed() *runtime.Witnessed {
	if w == nil {
		return nil
	}
	return &runtime.Witnessed{Continuity: w.Continuity, Time: w.Time, By: w.By}
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

// History is what is known here of the history of a machine's data disk.
type History struct {
	Process vm.Process // that runs the machine; the zero value for none
	Busy    bool       // a disk is being put in its place, or a bundle tried
	Last    *Witnessed // what the guest said last; nil before its first word
	GivenUp *Witnessed // the newest that its owner has given up; nil for nothing
}

// History looks at the record.
func (r *Runtime) History(ctx context.Context, name string) (History, error) {
	i, err := r.load(name)
	if err != nil {
		return History{}, err
	}
	h := History{Busy: i.rec.Swap != nil || i.rec.Trial != nil || i.rec.Challenge != nil, Last: i.rec.Continuity, GivenUp: i.rec.GivenUp}
	h.Process, _, err = i.running(ctx)
	return h, err
}

func (w *Witnessed) word() continuity.Witness {
	return continuity.Witness{Lineage: w.Lineage, Point: continuity.Point{Epoch: w.Epoch, Hash: w.Hash}}
}

// Compare has the guest of a machine that runs hold its disk to what a witness
// says. held: its services are held already. A guest that is too old to say more
// than that gives no verdict.
func (r *Runtime) Compare(ctx context.Context, name string, w continuity.Witness) (c agent.Compared, held bool, err error) {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return c, false, err
	}
	err = i.ask(ctx, func(s *Agent) error {
		status, err := s.Status(ctx)
		switch {
		case err != nil:
			return err
		case status.Continuity == nil:
			return fault.Errorf(fault.Device, "the guest of %s has not looked at its data disk yet", name)
		case status.Continuity.Held:
			held = true
			return nil
		}
		c, err = s.Compare(ctx, w)
		if noEndpoint(err) {
			return nil
		}
		return err
	})
	return c, held, err
}

// Challenge writes down that a witness knows of a history that the machine's disk
// does not lead to: the machine is shut down in order, and started anew with that
// word, so that its guest judges before any service is started. process is the
// machine that was compared; where another runs, nothing is done.
func (r *Runtime) Challenge(ctx context.Context, name string, process vm.Process, w Witnessed) error {
	return r.changeHistory(ctx, name, process, func(i *Instance) error {
		i.rec.Challenge = &w
		return i.saveRecord()
	})
}

// Supersede has the guest write a record to its disk that goes on behind what a
// witness has of a history that the owner has given up.
func (r *Runtime) Supersede(ctx context.Context, name string, process vm.Process, w continuity.Witness, why string) error {
	return r.changeHistory(ctx, name, process, func(i *Instance) error {
		return i.ask(ctx, func(s *Agent) error {
			c, err := s.AcceptRollback(ctx, why, &w)
			if err != nil {
				return err
			}
			if err := i.witness(c); err != nil {
				return err
			}
			return i.saveRecord()
		})
	})
}

func (r *Runtime) changeHistory(ctx context.Context, name string, process vm.Process, change func(*Instance) error) error {
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	i, err := r.Instance(ctx, name)
	if err != nil || i.proc != process || i.rec.Swap != nil || i.rec.Trial != nil || i.rec.Challenge != nil {
		return err
	}
	return change(i)
}

// historyWord is what the kernel's command line says of the disk.
func (i *Instance) historyWord() string {
	switch c := i.rec.Continuity; {
	case i.rec.Clone != "":
		return " sovereign.clone=" + i.rec.Clone
	case c != nil:
		return " sovereign.continuity=" + c.word().String()
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
		former := now.rec.Continuity
		if err := now.witness(c); err != nil {
			return err
		}
		now.rec.giveUp(former)
		return nil
	})
	if err != nil {
		return none, err
	}
	if err := now.saveRecord(); err != nil {
		return none, fmt.Errorf("the disk of %s has the word, the record has not: say it again: %w", i.Name(), err)
	}
	return now.rec.Continuity.Continuity, nil
}

// giveUp notes that the owner has given up a history as far as it had come.
func (rec *record) giveUp(w *Witnessed) {
	if w != nil {
		rec.GivenUp = w
	}
}

// recordBeforeEnd writes the history on before a shutdown. A guest that is too
// old, or held, has none to write on; one that does not answer is seen when it is
// asked to end.
func (i *Instance) recordBeforeEnd(ctx context.Context, s *Agent) {
	_ = i.writeHistoryOn(ctx, s)
}
