package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
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
	report.tell(PhaseInstall, "installing "+dir)
	digest, err := h.send(ctx, dir, manifest)
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
	UpdateCommitted = "committed" // the new bundle runs
	UpdateReverted  = "reverted"  // the former one is back
	UpdateStaged    = "staged"    // the machine is down; it is tried at the next up
	UpdateUnchanged = "unchanged" // that very bundle ran already
	UpdateCancelled = "cancelled" // one that was staged is given up
)

// UpdateResult is how an update or a rollback ended.
type UpdateResult struct {
	Kind   string `json:"kind"`          // "update" or "rollback"
	Result string `json:"result"`        // UpdateCommitted, …
	Why    string `json:"why,omitempty"` // it was reverted
	// From and To are digests of bundles; From is empty where nothing was
	// tried.
	From    string  `json:"from,omitempty"`
	To      string  `json:"to,omitempty"`
	Seconds float64 `json:"seconds"`
	// Status is the machine afterwards.
	Status Status `json:"status"`
}

// Update tries the bundle in bundleDir in the place of the one that the machine
// has, and returns when it is committed, as its services became healthy within
// limit (0: DefaultTrialLimit, at most a day) and stayed so, or when the former
// one is back. On a machine that is down it is only staged. While one update
// is under way, another is an error (fault.Usage). The data disk is not touched.
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
	report.tell(PhaseInstall, "installing "+dir)
	digest, err := m.h.send(ctx, dir, manifest)
	if err != nil {
		return UpdateResult{}, err
	}
	sent, err := signedBundle(dir, digest)
	if err != nil {
		return UpdateResult{}, err
	}
	return m.try(ctx, begin, "update", requests.Update{Bundle: &sent, LimitMS: limit.Milliseconds(), AllowRollback: slices.Contains(options, AllowRollback)}, report)
}

// Rollback tries the bundle before the last update, as Update does. What a
// machine that is down is yet to try is taken back instead (UpdateCancelled).
func (m *Machine) Rollback(ctx context.Context, limit time.Duration, report Report, options ...UpdateOption) (UpdateResult, error) {
	return m.try(ctx, time.Now(), "rollback", requests.Update{LimitMS: limit.Milliseconds(), AllowRollback: slices.Contains(options, AllowRollback)}, report)
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
	// The trial has a limit of its own, and so has the policy.
	s, err := m.WaitReady(ctx, report)
	r.Status = s
	if err != nil {
		return r, err
	}
	last := s.Supervision.LastUpdate
	switch {
	case last == nil:
		return r, fault.Errorf(fault.Internal, "the %s of %s left no trace", kind, m.name)
	case last.Kind != kind || last.To != b.To:
		return r, fault.Errorf(fault.Device, "somebody else changed %s meanwhile, by the %s to %.19s…", m.name, last.Kind, last.To).
			Hintf("see sovereign-build status %s", m.name)
	}
	r.Result, r.Why, r.From, r.To = UpdateReverted, last.Why, last.From, last.To
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

// send sends what the host does not have of a bundle, the manifest last, and
// returns the bundle's digest.
func (h *Host) send(ctx context.Context, dir string, m *bundle.Manifest) (digest string, err error) {
	for _, a := range m.Artifacts {
		if err := h.sendFile(ctx, filepath.Join(dir, a.File), a.Digest, a.Size); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, bundle.ManifestFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	if _, err := bundle.Parse(path, text); err != nil { // it may have been replaced
		return "", err
	}
	sum := sha256.Sum256(text)
	digest = "sha256:" + hex.EncodeToString(sum[:])
	return digest, h.sendFile(ctx, path, digest, int64(len(text)))
}

// sendFile sends a file by its digest. Where the link breaks it goes on where
// that was, as long as it gets on at all.
func (h *Host) sendFile(ctx context.Context, path, digest string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return unreadable(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return fault.Wrap(fault.Environment, err)
	case !info.Mode().IsRegular():
		return fault.Errorf(fault.Verification, "%s is not a regular file", path).Hintf(bundleHint)
	case info.Size() != size:
		return fault.Errorf(fault.Verification, "%s: expected %d bytes, got %d", path, size, info.Size()).Hintf(bundleHint)
	}
	for lost, best := 0, int64(-1); ; {
		offset, err := h.sendRest(ctx, f, digest, size)
		if err == nil {
			return nil
		}
		if fault.ClassOf(err) == fault.Verification {
			return fault.Errorf(fault.Verification, "%s: %w", path, err).Hintf(bundleHint)
		}
		if !errors.Is(err, control.ErrLost) && !errors.Is(err, errElsewhere) || ctx.Err() != nil {
			return fmt.Errorf("sending %s: %w", path, err)
		}
		lost++
		if offset > best {
			lost, best = 0, offset
		}
		if lost >= tries {
			return fmt.Errorf("sending %s: %w", path, err)
		}
	}
}

const bundleHint = "build the bundle again, or fetch it again from where it came"

func unreadable(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fault.Errorf(fault.Verification, "%s: the manifest names this file and it is not there", path).Hintf(bundleHint)
	case errors.Is(err, unix.ELOOP):
		return fault.Errorf(fault.Verification, "%s is a link, and the files of a bundle are none", path).Hintf("copy the file that it leads to")
	}
	return fault.Wrap(fault.Environment, err)
}

// errElsewhere: another program sends the same blob.
var errElsewhere = errors.New("another program sends it too")

// sendRest asks what is there of a blob and sends the rest. offset is what was
// there.
func (h *Host) sendRest(ctx context.Context, f io.ReaderAt, digest string, size int64) (offset int64, err error) {
	s, err := h.open(ctx)
	if err != nil {
		return 0, err
	}
	whole, offset, err := s.HasBlob(ctx, digest)
	if err != nil || whole {
		return offset, h.said(ctx, err)
	}
	if offset >= size && size > 0 {
		offset = 0 // it is another's of a wrong size, or what is there is wrong
	}
	err = s.PutBlob(ctx, digest, size, offset, f)
	if errors.Is(err, control.ErrOffset) {
		err = fmt.Errorf("%w: %w", errElsewhere, err)
	}
	return offset, h.said(ctx, err)
}
