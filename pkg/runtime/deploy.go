package runtime

import (
	"context"
	"net/http"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Deploy has a machine of the host run the bundle in bundleDir, under a name
// ("": the manifest's), and keeps it up: where there is none it is installed,
// and else updated, with the former bundle back by itself if the new one is not
// healthy within limit (0: DefaultTrialLimit). A machine that is down is wanted
// up. What options there are hold from the machine's next start, which an update
// is. Only what the host lacks is sent, and a link that breaks costs nothing but
// time.
func (h *Host) Deploy(ctx context.Context, bundleDir, name string, o UpOptions, limit time.Duration, report Report) (UpdateResult, error) {
	begin := time.Now()
	p, m, err := h.lookAt(ctx, bundleDir, name)
	if err != nil {
		return UpdateResult{}, err
	}
	machine := h.Machine(p.Name)
	if p.Kind == "update" {
		// Who is being updated shall not be sent it all first.
		if err := h.ask(ctx, http.MethodPost, machinePath(p.Name, "updatable"), nil, nil); err != nil {
			return UpdateResult{}, err
		}
	}
	if err := h.admit(ctx, p.Name, p.dir); err != nil {
		return UpdateResult{}, err
	}
	report.tell(PhaseInstall, "installing "+p.dir)
	digest, err := h.send(ctx, p.dir, m, report)
	if err != nil {
		return UpdateResult{}, err
	}
	b, err := signedBundle(p.dir, digest)
	if err != nil {
		return UpdateResult{}, err
	}
	if p.Kind == "install" {
		return machine.deployNew(ctx, begin, b, o, limit, report)
	}
	if p.Wanted == Up {
		if err := machine.Up(ctx, o, report); err != nil {
			return UpdateResult{}, err
		}
	}
	r, err := machine.try(ctx, begin, "update", requests.Update{Bundle: &b, LimitMS: limit.Milliseconds()}, report)
	if err != nil || p.Wanted == Up && r.Result != UpdateUnchanged {
		return r, err
	}
	if p.Wanted != Up {
		if err := machine.Up(ctx, o, report); err != nil {
			return r, err
		}
	}
	if r.Result == UpdateStaged {
		return machine.outcome(ctx, begin, r, report)
	}
	r.Status, err = machine.waitWithin(ctx, limit, report)
	r.Seconds = time.Since(begin).Seconds()
	return r, err
}

// deployNew installs a machine whose bundle is there, and waits for it.
func (m *Machine) deployNew(ctx context.Context, begin time.Time, b requests.Bundle, o UpOptions, limit time.Duration, report Report) (UpdateResult, error) {
	r := UpdateResult{Kind: "install", To: b.Digest}
	err := m.h.ask(ctx, http.MethodPut, machinePath(m.name), requests.Install[UpOptions]{Bundle: b, Options: o}, nil)
	if err == nil {
		r.Status, err = m.waitWithin(ctx, limit, report)
	}
	if err == nil {
		r.Result = UpdateInstalled
	}
	r.Seconds = time.Since(begin).Seconds()
	return r, err
}

// waitWithin is WaitReady within a limit, 0 being DefaultTrialLimit.
func (m *Machine) waitWithin(ctx context.Context, limit time.Duration, report Report) (Status, error) {
	if limit == 0 {
		limit = DefaultTrialLimit
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return m.WaitReady(limited, report)
}

// Deployment is what Deploy would do.
type Deployment struct {
	Name string `json:"name"` // of the machine
	// Kind is "install" where there is no such machine, else "update".
	Kind string `json:"kind"`
	// From is the digest of the bundle that the machine has, "" for none. Where
	// it is that of Transfer, nothing is changed.
	From string `json:"from,omitempty"`
	// Wanted is what is wanted of the machine so far; "" where there is none.
	Wanted   Wanted   `json:"wanted,omitempty"`
	Transfer Transfer `json:"transfer"`

	dir string
}

// PlanDeploy says what Deploy would do, and changes nothing.
func (h *Host) PlanDeploy(ctx context.Context, bundleDir, name string) (*Deployment, error) {
	p, m, err := h.lookAt(ctx, bundleDir, name)
	if err != nil {
		return nil, err
	}
	t, err := newTransfer(p.dir, m)
	if err != nil {
		return nil, err
	}
	if err = h.compare(ctx, t); err == nil {
		err = h.room(ctx, t)
	}
	if err == nil {
		err = h.plan(ctx, t)
	}
	p.Transfer = *t
	return p, err
}

// PlanFirst is what Deploy does on a host that has no sovereignd yet.
func PlanFirst(bundleDir, name string) (*Deployment, error) {
	dir, m, err := loadBundle(bundleDir)
	if err != nil {
		return nil, err
	}
	t, err := newTransfer(dir, m)
	if err != nil {
		return nil, err
	}
	for n := range t.Files {
		t.Files[n].Bytes = t.Files[n].Size
	}
	t.Bytes = t.Size
	if name == "" {
		name = m.Name
	}
	return &Deployment{Name: name, Kind: "install", Transfer: *t, dir: dir}, nil
}

// lookAt finds out which machine a bundle is for, and what there is of it.
func (h *Host) lookAt(ctx context.Context, bundleDir, name string) (*Deployment, *bundle.Manifest, error) {
	dir, m, err := loadBundle(bundleDir)
	if err != nil {
		return nil, nil, err
	}
	if name == "" {
		name = m.Name
	}
	all, err := h.Machines(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := &Deployment{Name: name, Kind: "install", dir: dir}
	for _, s := range all {
		switch v := s.Supervision; {
		case s.Name != name:
		case s.State == Unreadable:
			return nil, nil, h.said(ctx, fault.Errorf(fault.Environment, "nothing is known of the machine %s: %s", name, s.Message).
				Hintf("see to its directory there first"))
		case v != nil && v.Active != "":
			p.Kind, p.From, p.Wanted = "update", v.Slots[v.Active].Digest, v.Wanted
		}
	}
	return p, m, nil
}
