package runtime

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// Machine is one machine of a Host, running or not.
type Machine struct {
	h    *Host
	name string
}

// Name is the machine's name.
func (m *Machine) Name() string { return m.name }

// Up writes down that the machine is wanted up, and forgets former ends in a
// row. It does not wait: WaitReady does.
func (m *Machine) Up(ctx context.Context, o UpOptions, report Report) error {
	return m.h.ask(ctx, http.MethodPost, machinePath(m.name, "up"), o, nil)
}

// Down shuts the machine down in order and keeps it down: its services end, its
// file systems are unmounted, its power goes. Only when that has not happened
// within grace (0: two minutes) is the power cut, and the result says so. One
// that does not run is no error. When ctx ends, Down returns and the guest goes
// on with what it was told.
func (m *Machine) Down(ctx context.Context, grace time.Duration) (StopResult, error) {
	var r StopResult
	err := m.h.ask(ctx, http.MethodPost, machinePath(m.name, "down"), requests.Stop{GraceMS: grace.Milliseconds()}, &r)
	return r, err
}

// Restart shuts a machine that is wanted up down in order, as Down does, to be
// started again at once. It does not wait for that: WaitReady does.
func (m *Machine) Restart(ctx context.Context, grace time.Duration) (StopResult, error) {
	var r StopResult
	err := m.h.call(ctx, http.MethodPost, machinePath(m.name, "restart"), requests.Stop{GraceMS: grace.Milliseconds()}, &r)
	return r, err
}

// Status is the machine as it is now; a guest that runs is asked, for at most
// 5 s.
func (m *Machine) Status(ctx context.Context) (Status, error) {
	var s Status
	err := m.h.ask(ctx, http.MethodGet, machinePath(m.name), nil, &s)
	return s, err
}

// Watch is Host.Watch for this machine alone. It ends, without an error, behind
// the event of PhaseRemoved.
func (m *Machine) Watch(ctx context.Context, each func(Event) error) error {
	removed := errors.New("removed")
	err := m.h.watch(ctx, machinePath(m.name, "events"), func(e Event) error {
		if err := each(e); err != nil || e.Phase != PhaseRemoved {
			return err
		}
		return removed
	})
	if errors.Is(err, removed) {
		return nil
	}
	return err
}

// Manifest is that of the bundle which the machine was last started from, or is
// to be started from.
func (m *Machine) Manifest(ctx context.Context) (*bundle.Manifest, error) {
	var text []byte
	if err := m.h.ask(ctx, http.MethodGet, machinePath(m.name, "manifest"), nil, &text); err != nil {
		return nil, err
	}
	return bundle.Parse("the manifest of "+m.name, text)
}

// Remove forgets a machine that is down and removes what it has. Its data disk
// stays, for the next machine of that name, unless data is true; then one that
// an earlier Remove kept is removed as well. kept is its path on the host.
func (m *Machine) Remove(ctx context.Context, data bool) (kept string, err error) {
	var r requests.Removed
	err = m.h.call(ctx, http.MethodDelete, machinePath(m.name)+"?data="+strconv.FormatBool(data), nil, &r)
	return r.Kept, err
}

// Memory asks the hypervisor how much the guest has.
func (m *Machine) Memory(ctx context.Context) (Memory, error) {
	var r Memory
	err := m.h.ask(ctx, http.MethodGet, machinePath(m.name, "memory"), nil, &r)
	return r, err
}

// Balloon has the guest give memory back until it has size bytes, or take
// again what it gave: from 64 MiB to what it was started with. It waits for the
// guest for at most 10 s, and returns what it has then: a guest that needs its
// memory keeps it.
func (m *Machine) Balloon(ctx context.Context, size int64) (Memory, error) {
	var r Memory
	err := m.h.ask(ctx, http.MethodPost, machinePath(m.name, "balloon"), requests.Size{Size: size}, &r)
	return r, err
}

// Grow makes the data disk size bytes large, a multiple of 1 MiB, and never
// smaller than it is. The image is sparse: it takes room on the host only as
// the guest writes. Growing to the size it has is no error, and finishes a
// growth that was interrupted.
func (m *Machine) Grow(ctx context.Context, size int64) (Grown, error) {
	var r Grown
	err := m.h.ask(ctx, http.MethodPost, machinePath(m.name, "grow"), requests.Size{Size: size}, &r)
	return r, err
}

// Dial connects to a TCP port of the guest, one of its manifest's. The
// connection has CloseWrite, and its read ends with io.EOF only where the
// service ended what it had to say.
func (m *Machine) Dial(ctx context.Context, guestPort int) (net.Conn, error) {
	return m.h.upgrade(ctx, machinePath(m.name, "ports", strconv.Itoa(guestPort)))
}

// Console opens the serial console of a running machine: what the guest prints
// from now on is read, and what is written is typed. One program has it at a
// time (fault.Device); the console's log has everything in any case. A reader
// that stops reading holds the guest up at its next print.
func (m *Machine) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	return m.h.upgrade(ctx, machinePath(m.name, "console"))
}

// ConsoleTail is the last lines that the guest printed, at most 10,000, fit for
// a terminal.
func (m *Machine) ConsoleTail(ctx context.Context, lines int) (string, error) {
	var text []byte
	err := m.h.ask(ctx, http.MethodGet, machinePath(m.name, "console")+"?"+url.Values{"lines": {strconv.Itoa(lines)}}.Encode(), nil, &text)
	return string(text), err
}
