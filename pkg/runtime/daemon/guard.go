package daemon

import (
	"context"
	"net/http"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

// phone is what the guard says, nil without one.
func (d *daemon) phone() *runtime.PhoneStatus {
	if d.o.Guard == nil {
		return nil
	}
	return d.o.Guard.Status()
}

// holds is why there are no keepers.
func (d *daemon) holds() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held
}

// follow does what the guard says: without leave there are no keepers, and the
// machines are shut down in order.
func (d *daemon) follow(ctx context.Context) error {
	if d.o.Guard == nil || ctx.Err() != nil {
		return nil
	}
	why := d.o.Guard.Hold()
	d.mu.Lock()
	before := d.held
	d.held = why
	if why != before {
		close(d.followed)
		d.followed = make(chan struct{})
	}
	if before != "" && why == "" {
		d.work, d.stopWork = context.WithCancel(ctx)
	}
	d.mu.Unlock()
	switch {
	case why == before:
		return nil
	case why == "":
		d.report("", "machines may run")
		return nil
	}
	d.report("", "machines are held: "+why)
	d.stopWork()
	all := d.all()
	for _, k := range all {
		<-k.done
	}
	if before != "" || len(all) == 0 {
		// Nobody has started one since; those of an earlier sovereignd run on.
		return nil
	}
	return d.stopMachines(ctx)
}

// processes are those that run machines.
func (d *daemon) processes() []int {
	all, err := d.r.List(context.Background())
	if err != nil {
		return nil // the keepers say so
	}
	var pids []int
	for _, s := range all {
		if s.PID != 0 {
			pids = append(pids, s.PID)
		}
	}
	return pids
}

// postPhone changes the guard's settings.
func (d *daemon) postPhone(w http.ResponseWriter, r *http.Request) {
	var q requests.Phone
	if !control.ReadRequest(w, r, &q) {
		return
	}
	g := d.o.Guard
	if g == nil {
		control.WriteError(w, fault.Errorf(fault.Usage, "this is no phone"))
		return
	}
	var err error
	if q.Floor != nil {
		err = g.SetFloor(runtime.PhoneFloor{Battery: q.Floor.Battery, Celsius: q.Floor.Celsius})
	}
	if err == nil && q.PhantomOff != nil {
		err = g.SetPhantom(r.Context(), *q.PhantomOff)
	}
	answer(w, g.Status(), err)
}
