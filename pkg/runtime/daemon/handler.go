package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

const (
	// maxTail bounds the lines of a console that are given at once.
	maxTail = 10_000
	// maxWait bounds a limit or a grace that a request has.
	maxWait = 24 * time.Hour
	// dialLimit bounds the connection to a port on this machine.
	dialLimit = 10 * time.Second
)

// handler answers the requests of docs/protocol.md. What a request does ends
// with its connection where it can be ended.
func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) { control.Answer(w, d.info()) })
	mux.HandleFunc("GET /v1/processes", d.getProcesses)
	mux.HandleFunc("GET /v1/machines", d.getMachines)
	mux.HandleFunc("GET /v1/events", d.getEvents)
	mux.HandleFunc("HEAD /v1/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) { d.blobs.Head(w, r, r.PathValue("digest")) })
	mux.HandleFunc("PUT /v1/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) { d.blobs.Put(w, r, r.PathValue("digest")) })
	mux.HandleFunc("POST /v1/phone", d.postPhone)
	mux.HandleFunc("POST /v1/blobs/{digest}/chunks", func(w http.ResponseWriter, r *http.Request) { d.blobs.Chunks(w, r, r.PathValue("digest")) })
	const m = " /v1/machines/{name}"
	mux.HandleFunc("GET"+m, d.getMachine)
	mux.HandleFunc("PUT"+m, d.putMachine)
	mux.HandleFunc("DELETE"+m, d.deleteMachine)
	mux.HandleFunc("GET"+m+"/manifest", d.getManifest)
	mux.HandleFunc("GET"+m+"/events", d.getEvents)
	mux.HandleFunc("GET"+m+"/memory", d.getMemory)
	mux.HandleFunc("GET"+m+"/console", d.getConsole)
	mux.HandleFunc("POST"+m+"/up", d.postUp)
	mux.HandleFunc("POST"+m+"/down", d.postStop((*machine.Instance).Stop))
	mux.HandleFunc("POST"+m+"/restart", d.postStop((*machine.Instance).Restart))
	mux.HandleFunc("POST"+m+"/updatable", d.postUpdatable)
	mux.HandleFunc("POST"+m+"/update", d.postUpdate)
	mux.HandleFunc("POST"+m+"/rollback", d.postRollback)
	mux.HandleFunc("DELETE"+m+"/kept-data", func(w http.ResponseWriter, r *http.Request) {
		size, err := d.r.ForgetKept(r.Context(), r.PathValue("name"))
		d.look()
		answer(w, requests.Size{Size: size}, err)
	})
	mux.HandleFunc("POST"+m+"/balloon", d.postBalloon)
	mux.HandleFunc("POST"+m+"/grow", d.postGrow)
	mux.HandleFunc("POST"+m+"/accept-rollback", d.postAcceptRollback)
	mux.HandleFunc("POST"+m+"/clone", d.postClone)
	mux.HandleFunc("POST"+m+"/export", d.postExport)
	mux.HandleFunc("POST"+m+"/rename", d.postRename)
	mux.HandleFunc("POST /v1/import", d.postImport)
	mux.HandleFunc("POST"+m+"/agent", d.postAgent)
	mux.HandleFunc("POST"+m+"/console", d.postConsole)
	mux.HandleFunc("POST"+m+"/ports/{port}", d.postPort)
	d.backupHandlers(mux)
	d.witnessHandlers(mux)
	return mux
}

// answer sends a value, or the error.
func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		control.WriteError(w, err)
		return
	}
	control.Answer(w, v)
}

// instance is the machine of the request, running or not, or has answered why
// there is none.
func (d *daemon) instance(w http.ResponseWriter, r *http.Request) *machine.Instance {
	i, err := d.r.Instance(r.Context(), r.PathValue("name"))
	if err != nil {
		control.WriteError(w, err)
		return nil
	}
	return i
}

// running is that of a machine that runs.
func (d *daemon) running(w http.ResponseWriter, r *http.Request) *machine.Instance {
	i := d.instance(w, r)
	if i != nil && !i.Runs() {
		control.WriteError(w, fault.Errorf(fault.Device, "%s is not running", i.Name()).
			Hintf("start it: sovereign-build up %s", i.Name()))
		return nil
	}
	return i
}

func (d *daemon) getMachines(w http.ResponseWriter, r *http.Request) {
	all, err := d.statuses(r.Context())
	answer(w, all, err)
}

func (d *daemon) getMachine(w http.ResponseWriter, r *http.Request) {
	ask, err := boolean(r, "guest", true)
	if err != nil {
		control.WriteError(w, err)
		return
	}
	s, err := d.status(r.Context(), r.PathValue("name"), ask)
	answer(w, s, err)
}

// boolean is a value of the request's query, true or false.
func boolean(r *http.Request, name string, absent bool) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return absent, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, fault.Errorf(fault.Usage, "%s=%.20q: want true or false", name, text)
	}
	return v, nil
}

func (d *daemon) getManifest(w http.ResponseWriter, r *http.Request) {
	i := d.instance(w, r)
	if i == nil {
		return
	}
	text, err := bundle.Marshal(i.Manifest())
	if err != nil {
		control.WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(text) //nolint:errcheck // a write error means that the peer is gone
}

// getEvents gives the status of the machine, or of each, and then what changes.
func (d *daemon) getEvents(w http.ResponseWriter, r *http.Request) {
	ctx, name := r.Context(), r.PathValue("name")
	if name != "" && d.instance(w, r) == nil {
		return
	}
	reader := d.hub.read(name)
	defer reader.close()
	at := d.hub.look()
	var first []runtime.Status
	var err error
	if name == "" {
		first, err = d.statuses(ctx)
	} else {
		var s *runtime.Status
		if s, err = d.status(ctx, name, false); err == nil {
			first = []runtime.Status{*s}
		}
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	events, err := control.NewEvents(w)
	if err != nil {
		return // the peer is gone
	}
	for n := range first {
		reader.put(at, runtime.Event{Phase: runtime.PhaseStatus, Machine: first[n].Name, Status: &first[n]})
	}
	for {
		for _, q := range reader.next() {
			if events.Send(q.event) != nil {
				return // the peer is gone
			}
		}
		select {
		case <-reader.poked:
		case <-ctx.Done():
			return
		}
	}
}

func (d *daemon) getMemory(w http.ResponseWriter, r *http.Request) {
	if i := d.running(w, r); i != nil {
		m, err := i.Memory(r.Context())
		answer(w, m, err)
	}
}

func (d *daemon) getConsole(w http.ResponseWriter, r *http.Request) {
	i := d.instance(w, r)
	if i == nil {
		return
	}
	lines, err := strconv.Atoi(r.URL.Query().Get("lines"))
	if err != nil || lines < 1 || lines > maxTail {
		control.WriteError(w, fault.Errorf(fault.Usage, "lines=%.20q: want 1 to %d", r.URL.Query().Get("lines"), maxTail))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, i.ConsoleTail(lines)) //nolint:errcheck // a write error means that the peer is gone
}

func (d *daemon) postUp(w http.ResponseWriter, r *http.Request) {
	var o runtime.UpOptions
	if !control.ReadRequest(w, r, &o) {
		return
	}
	_, err := d.r.Up(r.Context(), r.PathValue("name"), o, nil)
	d.look()
	answer(w, struct{}{}, err)
}

// wait checks a time of a request, in milliseconds.
func wait(ms int64) (time.Duration, error) {
	if ms < 0 || ms > maxWait.Milliseconds() {
		return 0, fault.Errorf(fault.Usage, "%d ms are not a time from 0 to a day", ms)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

type stopVerb = func(*machine.Instance, context.Context, time.Duration) (machine.StopResult, error)

func (d *daemon) postStop(verb stopVerb) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q requests.Stop
		if !control.ReadRequest(w, r, &q) {
			return
		}
		grace, err := wait(q.GraceMS)
		if err != nil {
			control.WriteError(w, err)
			return
		}
		i := d.instance(w, r)
		if i == nil {
			return
		}
		res, err := verb(i, r.Context(), grace)
		d.look()
		answer(w, res, err)
	}
}

func (d *daemon) deleteMachine(w http.ResponseWriter, r *http.Request) {
	data, err := boolean(r, "data", false)
	if err != nil {
		control.WriteError(w, err)
		return
	}
	name := r.PathValue("name")
	kept, err := d.r.Remove(r.Context(), name, data)
	if err == nil {
		d.hub.tell(0, runtime.Event{Phase: runtime.PhaseRemoved, Machine: name})
	}
	d.look()
	answer(w, requests.Removed{Kept: kept}, err)
}

func (d *daemon) postBalloon(w http.ResponseWriter, r *http.Request) {
	var q requests.Size
	if !control.ReadRequest(w, r, &q) {
		return
	}
	if i := d.running(w, r); i != nil {
		m, err := i.Balloon(r.Context(), q.Size)
		answer(w, m, err)
	}
}

func (d *daemon) postGrow(w http.ResponseWriter, r *http.Request) {
	var q requests.Size
	if !control.ReadRequest(w, r, &q) {
		return
	}
	if i := d.instance(w, r); i != nil {
		g, err := i.Grow(r.Context(), q.Size)
		answer(w, g, err)
	}
}

func (d *daemon) postAcceptRollback(w http.ResponseWriter, r *http.Request) {
	var q requests.Reason
	if !control.ReadRequest(w, r, &q) {
		return
	}
	if i := d.running(w, r); i != nil {
		c, err := i.AcceptRollback(r.Context(), q.Reason)
		d.look()
		answer(w, c, err)
	}
}

// postAgent joins the connection to the guest's agent: a stream of the session
// that its keeper has with it.
func (d *daemon) postAgent(w http.ResponseWriter, r *http.Request) {
	i := d.running(w, r)
	if i == nil {
		return
	}
	k, err := d.keeperOf(r.Context(), i.Name())
	if err != nil {
		control.WriteError(w, err)
		return
	}
	guest, err := k.guest.open(r.Context())
	if err != nil {
		control.WriteError(w, err)
		return
	}
	d.join(w, r, guest, guest.Close)
}

// keeperOf is the keeper of a machine that runs. One that was installed a moment
// ago has none yet; nor have those that an earlier sovereignd has left, while the
// guard of this one looks whether machines may run: that is waited for.
func (d *daemon) keeperOf(ctx context.Context, name string) (*keeper, error) {
	ctx, cancel := context.WithTimeout(ctx, streamLimit)
	defer cancel()
	for {
		d.mu.Lock()
		held, changed := d.held, d.followed
		d.mu.Unlock()
		if _, err := d.lookForNew(); err != nil {
			return nil, err
		}
		if k := d.keeper(name); k != nil {
			return k, nil
		}
		if held == "" {
			return nil, fault.Errorf(fault.Device, "nobody has a session with the guest of %s", name).
				Hintf("take it over: sovereign-build up %s", name)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fault.Errorf(fault.Device, "nobody has a session with the guest of %s: machines are held: %s", name, held).
				Hintf("it is taken over when that has passed: sovereign-build device status")
		}
	}
}

func (d *daemon) postConsole(w http.ResponseWriter, r *http.Request) {
	i := d.running(w, r)
	if i == nil {
		return
	}
	c, err := i.Console(r.Context())
	if err != nil {
		control.WriteError(w, err)
		return
	}
	// Who types no more still reads.
	d.join(w, r, c, func() error { return nil })
}

func (d *daemon) postPort(w http.ResponseWriter, r *http.Request) {
	i := d.running(w, r)
	if i == nil {
		return
	}
	port, err := strconv.Atoi(r.PathValue("port"))
	host, ok := i.HostPort(port)
	if err != nil || !ok {
		control.WriteError(w, fault.Errorf(fault.Usage, "%s has no port %.20q", i.Name(), r.PathValue("port")).
			Hintf("see its ports: sovereign-build status %s", i.Name()))
		return
	}
	dialer := net.Dialer{Timeout: dialLimit}
	c, err := dialer.DialContext(r.Context(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(host)))
	if err != nil {
		control.WriteError(w, fault.Errorf(fault.Device, "port %d of %s: %w", port, i.Name(), err).
			Hintf("see whether its service runs: sovereign-build status %s", i.Name()))
		return
	}
	d.join(w, r, c, c.(*net.TCPConn).CloseWrite)
}

// join makes a raw stream of the request and joins it to a connection, until
// both directions have ended, one of them has failed, or the session ends.
func (d *daemon) join(w http.ResponseWriter, r *http.Request, c io.ReadWriteCloser, closeWrite func() error) {
	s, err := control.Accept(w, r)
	if err != nil {
		c.Close() // it has been answered
		return
	}
	control.Join(s, halfClosed{c, closeWrite})
}

type halfClosed struct {
	io.ReadWriteCloser
	closeWrite func() error
}

func (h halfClosed) CloseWrite() error { return h.closeWrite() }

// change runs what changes a machine's bundle, one at a time: whoever comes
// second is told, and does not wait to undo what the first has done.
func (d *daemon) change(name string, f func() error) error {
	d.mu.Lock()
	busy := d.changing[name]
	d.changing[name] = true
	d.mu.Unlock()
	if busy {
		return fault.Errorf(fault.Usage, "another program changes the bundle of %s at this moment", name).
			Hintf("see what comes of it: sovereign-build status %s", name)
	}
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.changing, name)
	}()
	return f()
}

func (d *daemon) putMachine(w http.ResponseWriter, r *http.Request) {
	var q requests.Install[runtime.UpOptions]
	if !control.ReadRequest(w, r, &q) {
		return
	}
	name := r.PathValue("name")
	err := d.change(name, func() error {
		return d.withBundle(r.Context(), q.Bundle, func(from machine.Source) error {
			_, err := d.r.InstallFrom(r.Context(), from, name, q.Options, nil)
			return err
		})
	})
	d.look()
	answer(w, struct{}{}, err)
}

// updatable says whether an update may begin.
func (d *daemon) updatable(ctx context.Context, name string) error {
	s, err := d.r.HostStatus(ctx, name)
	switch {
	case err != nil:
		return err
	case s.Supervision == nil:
		return fault.Errorf(fault.Usage, "%s is not installed", name).
			Hintf("install it with sovereign-build up %s", name)
	case s.Supervision.Trial != nil && s.Supervision.Wanted == runtime.Up:
		return fault.Errorf(fault.Usage, "the %s of %s is not over yet", s.Supervision.Trial.Kind, name).
			Hintf("see sovereign-build status %s", name)
	}
	return nil
}

func (d *daemon) postUpdatable(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	answer(w, struct{}{}, d.change(name, func() error { return d.updatable(r.Context(), name) }))
}

func (d *daemon) postUpdate(w http.ResponseWriter, r *http.Request) {
	var q requests.Update
	if !control.ReadRequest(w, r, &q) {
		return
	}
	limit, err := wait(q.LimitMS)
	if err == nil && (q.Bundle == nil || q.WithData) {
		err = fault.Errorf(fault.Usage, "an update has a bundle, and goes back to no data")
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	name := r.PathValue("name")
	begun := requests.Begun[*runtime.Status]{To: q.Bundle.Digest}
	err = d.change(name, func() error {
		if err := d.updatable(r.Context(), name); err != nil {
			return err
		}
		return d.withBundle(r.Context(), *q.Bundle, func(from machine.Source) error {
			from.AllowRollback, from.KeepData = q.AllowRollback, q.KeepData
			changed, err := d.r.UpdateFrom(r.Context(), name, from, limit, func(e runtime.Event) { begun.Notes = append(begun.Notes, e.Text) })
			if err != nil {
				return err
			}
			if !changed {
				begun.Result = runtime.UpdateUnchanged
			}
			begun.Status, err = d.status(r.Context(), name, false)
			return err
		})
	})
	d.look()
	answer(w, begun, err)
}

func (d *daemon) postRollback(w http.ResponseWriter, r *http.Request) {
	var q requests.Update
	if !control.ReadRequest(w, r, &q) {
		return
	}
	limit, err := wait(q.LimitMS)
	if err == nil && (q.Bundle != nil || q.KeepData) {
		err = fault.Errorf(fault.Usage, "a rollback has no bundle of its own, and keeps no data")
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	name := r.PathValue("name")
	var begun requests.Begun[*runtime.Status]
	err = d.change(name, func() error {
		var options []runtime.UpdateOption
		if q.AllowRollback {
			options = append(options, runtime.AllowRollback)
		}
		if q.WithData {
			options = append(options, runtime.WithData)
		}
		cancelled, err := d.r.Rollback(r.Context(), name, limit, options...)
		if err != nil {
			return err
		}
		if begun.Status, err = d.status(r.Context(), name, false); err != nil {
			return err
		}
		s := begun.Status.Supervision
		switch {
		case s == nil:
			return errors.New("the rollback left no trace")
		case cancelled:
			begun.Result, begun.To = runtime.UpdateCancelled, s.Slots[s.Active].Digest
		case s.Trial != nil:
			begun.To = s.Slots[s.Trial.Slot].Digest
		}
		return nil
	})
	d.look()
	answer(w, begun, err)
}
