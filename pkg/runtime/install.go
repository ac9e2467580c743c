package runtime

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Install makes a machine of the bundle in bundleDir, under a name ("": the
// manifest's), and writes down that it is wanted up; it does not wait for that.
// The bundle is copied to the host, but for what that has already. A machine
// that has that very bundle stays as it is; one that has another is an error
// (fault.Usage): that is an Update.
func (h *Host) Install(ctx context.Context, bundleDir, name string, o UpOptions, report Report) (*Machine, error) {
	dir, manifest, err := loadBundle(bundleDir)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = manifest.Name
	}
	if err := h.admit(ctx, name, dir); err != nil {
		return nil, err
	}
	report.tell(PhaseInstall, "installing "+dir)
	digest, err := h.send(ctx, dir, manifest, report)
	if err != nil {
		return nil, err
	}
	sent, err := signedBundle(dir, digest)
	if err != nil {
		return nil, err
	}
	m := h.Machine(name)
	return m, h.ask(ctx, http.MethodPut, machinePath(name), requests.Install[UpOptions]{Bundle: sent, Options: o}, nil)
}

// Ways in which an update or a rollback ends.
const (
	UpdateInstalled = "installed" // of Deploy: there was no machine, and it runs
	UpdateCommitted = "committed" // the new bundle runs
	UpdateReverted  = "reverted"  // the former one is back
	UpdateStaged    = "staged"    // the machine is down; it is tried at the next up
	UpdateUnchanged = "unchanged" // that very bundle ran already
	UpdateCancelled = "cancelled" // one that was staged is given up
)

// UpdateResult is how an update, a rollback or a deployment ended.
type UpdateResult struct {
	Kind   string `json:"kind"`          // "update", "rollback" or, of a new machine, "install"
	Result string `json:"result"`        // UpdateCommitted, …
	Why    string `json:"why,omitempty"` // it was reverted
	// From and To are digests of bundles; From is empty where nothing was
	// tried.
	From    string  `json:"from,omitempty"`
	To      string  `json:"to,omitempty"`
	Seconds float64 `json:"seconds"`
	// Disk is where, on its host, the data disk is whose place another has taken
	// with it; "" where none has.
	Disk string `json:"disk,omitempty"`
	// Status is the machine afterwards.
	Status Status `json:"status"`
}

// Update tries the bundle in bundleDir in the place of the one that the machine
// has, and returns when it is committed, as its services became healthy within
// limit (0: DefaultTrialLimit, at most a day) and stayed so, or when the former
// one is back. On a machine that is down it is only staged. While one update
// is under way, another is an error (fault.Usage). The data disk is not touched, but for KeepData.
//
// A bundle that is not signed as those of the machine are is an error of class
// fault.Verification.
func (m *Machine) Update(ctx context.Context, bundleDir string, limit time.Duration, report Report, options ...UpdateOption) (UpdateResult, error) {
	begin := time.Now()
	dir, manifest, err := loadBundle(bundleDir)
	if err != nil {
		return UpdateResult{}, err
	}
	// Who updates what is not there, or is being updated, shall not send it all
	// first.
	if err := m.h.ask(ctx, http.MethodPost, machinePath(m.name, "updatable"), nil, nil); err != nil {
		return UpdateResult{}, err
	}
	if err := m.h.admit(ctx, m.name, dir, options...); err != nil {
		return UpdateResult{}, err
	}
	report.tell(PhaseInstall, "installing "+dir)
	digest, err := m.h.send(ctx, dir, manifest, report)
	if err != nil {
		return UpdateResult{}, err
	}
	sent, err := signedBundle(dir, digest)
	if err != nil {
		return UpdateResult{}, err
	}
	return m.try(ctx, begin, "update", requests.Update{Bundle: &sent, LimitMS: limit.Milliseconds(), AllowRollback: slices.Contains(options, AllowRollback),
		KeepData: slices.Contains(options, KeepData)}, report)
}

// Rollback tries the bundle before the last update, as Update does. What a
// machine that is down is yet to try is taken back instead (UpdateCancelled).
func (m *Machine) Rollback(ctx context.Context, limit time.Duration, report Report, options ...UpdateOption) (UpdateResult, error) {
	return m.try(ctx, time.Now(), "rollback", requests.Update{LimitMS: limit.Milliseconds(), AllowRollback: slices.Contains(options, AllowRollback),
		WithData: slices.Contains(options, WithData)}, report)
}

// ForgetKeptData removes the copy of the data disk from before the last update,
// and returns what it took, in bytes; 0 where there was none.
func (m *Machine) ForgetKeptData(ctx context.Context) (int64, error) {
	var r requests.Size
	err := m.h.call(ctx, http.MethodDelete, machinePath(m.name, "kept-data"), nil, &r)
	return r.Size, err
}

// try begins a trial and waits for its end.
func (m *Machine) try(ctx context.Context, begin time.Time, kind string, request requests.Update, report Report) (UpdateResult, error) {
	var b requests.Begun[Status]
	if err := m.h.call(ctx, http.MethodPost, machinePath(m.name, kind), request, &b); err != nil {
		return UpdateResult{}, err
	}
	for _, text := range b.Notes {
		report.tell(PhaseInstall, text)
	}
	r := UpdateResult{Kind: kind, Result: b.Result, To: b.To, Status: b.Status}
	switch v := b.Status.Supervision; {
	case b.Result != "":
		return r, nil
	case v == nil:
		return r, fault.Errorf(fault.Internal, "the %s of %s left no trace", kind, m.name)
	case v.Wanted != Up:
		r.Result = UpdateStaged
		return r, nil
	}
	return m.outcome(ctx, begin, r, report)
}

// outcome waits for the end of a trial that has begun: it has a limit of its
// own, and so has the policy.
func (m *Machine) outcome(ctx context.Context, begin time.Time, r UpdateResult, report Report) (UpdateResult, error) {
	s, err := m.WaitReady(ctx, report)
	r.Status = s
	if err != nil {
		return r, err
	}
	last := s.Supervision.LastUpdate
	switch {
	case last == nil:
		return r, fault.Errorf(fault.Internal, "the %s of %s left no trace", r.Kind, m.name)
	case last.Kind != r.Kind || last.To != r.To:
		return r, fault.Errorf(fault.Device, "somebody else changed %s meanwhile, by the %s to %.19s…", m.name, last.Kind, last.To).
			Hintf("see sovereign-build status %s", m.name)
	}
	r.Result, r.Why, r.From, r.To, r.Disk = UpdateReverted, last.Why, last.From, last.To, last.Disk
	if last.Committed {
		r.Result = UpdateCommitted
	}
	r.Seconds = time.Since(begin).Seconds()
	return r, nil
}

func loadBundle(dir string) (string, *bundle.Manifest, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, fault.Wrap(fault.Environment, err)
	}
	m, err := bundle.Load(dir)
	return dir, m, err
}
