package daemon

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// statusLimit bounds how long a guest may take to answer for its status.
const statusLimit = 5 * time.Second

// status looks at a machine, and adds what its guest said last, or says now
// when it is asked.
func (d *daemon) status(ctx context.Context, name string, ask bool) (*runtime.Status, error) {
	s, err := d.r.HostStatus(ctx, name)
	if err != nil {
		return nil, err
	}
	d.addGuest(ctx, &s, ask)
	s.Backup, s.Witnesses = d.backups.Status(name, time.Now()), d.witnesses.Status(name)
	return &s, nil
}

func (d *daemon) addGuest(ctx context.Context, s *runtime.Status, ask bool) {
	if why := d.holds(); why != "" && s.PID == 0 && s.Supervision != nil && s.Supervision.Wanted == runtime.Up {
		s.Message = "it is held: " + why
	}
	if s.State != machine.Running {
		return
	}
	k := d.keeper(s.Name)
	if k == nil {
		s.GuestError = "nobody asks it yet"
		return
	}
	if ask {
		limit, cancel := context.WithTimeout(ctx, statusLimit)
		defer cancel()
		var err error
		if s.Guest, err = k.guest.ask(limit); err != nil {
			s.GuestError = err.Error()
		}
		return
	}
	if s.Guest = k.guest.of(s.PID); s.Guest == nil {
		s.GuestError = "it has not answered yet"
	}
}

// statuses looks at all machines.
func (d *daemon) statuses(ctx context.Context) ([]runtime.Status, error) {
	all, err := d.r.List(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		d.addGuest(ctx, &all[i], false)
		all[i].Backup, all[i].Witnesses = d.backups.Status(all[i].Name, time.Now()), d.witnesses.Status(all[i].Name)
	}
	return all, nil
}

// publish tells the readers of a machine what it is now. Where nobody reads,
// nothing is looked at.
func (d *daemon) publish(ctx context.Context, name string) {
	if !d.hub.wanted(name) {
		return
	}
	at := d.hub.look()
	s, err := d.status(ctx, name, false)
	if err != nil {
		return // its keeper says so
	}
	d.hub.tell(at, runtime.Event{Phase: runtime.PhaseStatus, Machine: name, Status: s})
}

// stable is a guest's answer without what changes all the time: its age, and
// less than 16 MiB of room.
func stable(s *agent.Status) string {
	if s == nil {
		return ""
	}
	c := *s
	c.UptimeMS = 0
	if c.Data != nil {
		data := *c.Data
		data.Free &^= 16<<20 - 1
		c.Data = &data
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
