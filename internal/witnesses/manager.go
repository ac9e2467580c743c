package witnesses

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
	"github.com/sovereign-build/sovereign/pkg/witness"
)

const (
	// lookEvery is how often it is looked although nothing has changed.
	lookEvery = 5 * time.Minute
	// firstPause is before a question that failed is asked again, doubled with
	// each to lastPause.
	firstPause = 2 * time.Second
	lastPause  = 5 * time.Minute
	// repositoryAfter is how long a machine must have been seen before its
	// repository is asked, which takes from it.
	repositoryAfter = 30 * time.Second
)

// Options are what a Manager is given.
type Options struct {
	// Report takes what is done, for people.
	Report func(machine, text string)
	// Changed is called when a machine's status may be another.
	Changed func(machine string)
	// Newest is the newest backup of a machine's disk of that lineage, the zero
	// value where there is none or no repository; it may be nil.
	Newest func(ctx context.Context, machine, lineage string) (Backup, error)
}

// Backup is what a repository remembers of a machine's disk.
type Backup struct {
	Continuity *runtime.Continuity
	Time       time.Time
	Repository string
	// Known: this device has made it, and knows of it.
	Known bool
}

// Manager tells the witnesses of the machines of a state directory.
type Manager struct {
	r     *machine.Runtime
	o     Options
	poked chan struct{}
	after time.Duration // repositoryAfter

	mu     sync.Mutex // of machines' files
	asking sync.WaitGroup

	knownMu sync.Mutex
	known   map[string]*known // by machine and witness
	seen    map[string]begun  // by machine; the rounds' alone
}

// known is what was done with one witness, as long as this program runs.
type known struct {
	mu      sync.Mutex
	busy    bool
	process vm.Process // it was asked for; the zero value: for none
	told    point      // and told of this
	tries   int        // that failed in a row
	failed  time.Time  // the last of them
	class   fault.Class
	why     string // "" also of a guest that boots
}

type begun struct {
	process vm.Process
	at      time.Time
}

// New makes one.
func New(r *machine.Runtime, o Options) *Manager {
	return &Manager{r: r, o: o, poked: make(chan struct{}, 1), after: repositoryAfter, known: map[string]*known{}, seen: map[string]begun{}}
}

// Look has it look at the machines: a record has changed.
func (m *Manager) Look() {
	select {
	case m.poked <- struct{}{}:
	default: // it is going to look anyway
	}
}

// Run tells witnesses until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	defer m.asking.Wait()
	for ctx.Err() == nil {
		timer := time.NewTimer(m.round(ctx))
		select {
		case <-ctx.Done():
		case <-m.poked:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round begins what is due, and says how long nothing more is.
func (m *Manager) round(ctx context.Context) (wait time.Duration) {
	wait = lookEvery
	names, err := m.r.Names()
	if err != nil {
		m.o.Report("", "witnesses: "+err.Error())
		return wait
	}
	for _, name := range names {
		s, err := m.load(name)
		if err != nil {
			continue // its status says so
		}
		h, err := m.r.History(ctx, name)
		if err != nil || h.Busy || h.Last == nil {
			continue // its keeper says so, or there is nothing to tell
		}
		down := h.Process == (vm.Process{})
		if down {
			// Its last record is still to be told, as the one that it was.
			h.Process = m.seen[name].process
		} else if m.seen[name].process != h.Process {
			m.seen[name] = begun{h.Process, time.Now()}
		}
		if h.Process == (vm.Process{}) {
			continue
		}
		for _, e := range s.Witnesses {
			at := point{Epoch: h.Last.Epoch, Hash: h.Last.Hash}
			wait = min(wait, m.begin(ctx, name+" "+e.URL, h.Process, at, 0, func(first bool) error { return m.tell(ctx, name, e.URL, h, first) }))
		}
		if m.o.Newest != nil && !down {
			rest := m.after - time.Since(m.seen[name].at)
			wait = min(wait, m.begin(ctx, name, h.Process, point{}, rest, func(bool) error { return m.repository(ctx, name, h) }))
		}
	}
	return wait
}

// begin does something for a machine's process and moment, unless it has been
// done, is being done, failed a moment ago, or is to rest.
func (m *Manager) begin(ctx context.Context, key string, process vm.Process, at point, rest time.Duration, do func(first bool) error) (wait time.Duration) {
	k := m.of(key)
	k.mu.Lock()
	defer k.mu.Unlock()
	first := k.process != process
	if k.tries > 0 {
		rest = max(rest, time.Until(k.failed.Add(min(firstPause<<min(k.tries-1, 16), lastPause))))
	}
	switch {
	case k.busy || !first && k.told == at:
		return lookEvery
	case rest > 0:
		return rest
	}
	k.busy = true
	m.asking.Go(func() {
		err := do(first)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.busy = false; ctx.Err() != nil {
			return
		}
		if err == nil {
			k.process, k.told, k.tries, k.class, k.why = process, at, 0, 0, ""
		} else {
			k.process, k.tries, k.failed, k.class, k.why = vm.Process{}, k.tries+1, time.Now(), fault.ClassOf(err), ""
			if k.class != fault.Device {
				k.why = err.Error()
			}
		}
		m.Look()
	})
	return lookEvery
}

// trouble is what last went wrong with one; "" for nothing.
func (m *Manager) trouble(key string) string {
	k := m.of(key)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.why
}

func (m *Manager) of(key string) *known {
	m.knownMu.Lock()
	defer m.knownMu.Unlock()
	k := m.known[key]
	if k == nil {
		k = &known{}
		m.known[key] = k
	}
	return k
}

// errTold has a witness asked what it keeps, as it did not take what it was told.
var errTold = errors.New("it was told something else meanwhile")

// tell tells a witness of a machine's disk; first asks it before.
func (m *Manager) tell(ctx context.Context, name, url string, h machine.History, first bool) (err error) {
	defer func() { m.say(ctx, name, url, err) }()
	lineage := h.Last.Lineage
	err = m.note(name, url, func(s *state, e *entry) {
		if s.Lineage == "" || s.Lineage != lineage && h.GivenUp != nil && h.GivenUp.Lineage == s.Lineage {
			s.begin(lineage)
		}
	})
	if err != nil {
		return err
	}
	s, err := m.load(name)
	n := s.of(url)
	if err != nil || n < 0 {
		return err
	}
	e := s.Witnesses[n]
	c, err := witness.NewClient(e.URL, e.Token, e.Key)
	if err != nil {
		return err
	}
	defer c.Close()
	if s.Lineage != lineage {
		// The disk is another machine's, or a new one. What the witness has
		// signed before is enough.
		return m.foreign(ctx, name, h, s.Lineage, e)
	}
	from := e.Signed
	if first || from == nil {
		a, err := c.Ask(ctx, lineage)
		if err != nil {
			return err
		}
		goOn, err := m.compare(ctx, name, h, e, a)
		if err != nil || !goOn {
			return err
		}
		from = a.Kept
	}
	to := point{Epoch: h.Last.Epoch, Hash: h.Last.Hash}
	if err := m.note(name, url, func(_ *state, e *entry) { e.Told = &to }); err != nil {
		return err
	}
	v, a, err := c.Tell(ctx, lineage, from, to)
	switch {
	case err != nil:
		return err
	case v != witness.Kept:
		return errTold
	}
	return m.note(name, url, func(_ *state, e *entry) { e.Signed, e.At, e.Told = a.Kept, a.Since, nil })
}

// begin forgets what was told of another lineage.
func (s *state) begin(lineage string) {
	s.Lineage = lineage
	for n := range s.Witnesses {
		e := &s.Witnesses[n]
		e.Signed, e.At, e.Told = nil, time.Time{}, nil
	}
}

func (m *Manager) foreign(ctx context.Context, name string, h machine.History, lineage string, e entry) error {
	if e.Signed == nil {
		return nil
	}
	_, held, err := m.r.Compare(ctx, name, continuity.Witness{Lineage: lineage, Point: *e.Signed})
	if err != nil || held {
		return err
	}
	return m.hold(ctx, name, h, lineage, *e.Signed, e.At, "the witness "+shown(e.URL))
}

// compare holds the disk to what a witness keeps; goOn: it may be told more.
func (m *Manager) compare(ctx context.Context, name string, h machine.History, e entry, a witness.Answer) (goOn bool, err error) {
	var disk agent.Compared
	if a.Kept != nil {
		var held bool
		if disk, held, err = m.r.Compare(ctx, name, continuity.Witness{Lineage: a.Lineage, Point: *a.Kept}); err != nil || held {
			return false, err
		}
		disk = m.ofOldGuest(disk, h, *a.Kept)
	}
	alarm := ""
	j := judge(e.memory(), a.Kept, disk, a.Kept != nil && givenUp(h, a.Lineage, *a.Kept))
	if j == older {
		alarm = "it was put back to what it had been before, or lies: it has signed epoch " + fmt.Sprint(e.Signed.Epoch) + ", and now says " + keeps(a.Kept)
	}
	if alarm != e.Alarm {
		if alarm != "" {
			m.o.Report(name, "the witness "+shown(e.URL)+": "+alarm)
		}
		if err := m.note(name, e.URL, func(_ *state, e *entry) { e.Alarm = alarm }); err != nil {
			return false, err
		}
	}
	by := "the witness " + shown(e.URL)
	switch j {
	case hold:
		return false, m.hold(ctx, name, h, a.Lineage, *a.Kept, a.Since, by)
	case supersede:
		m.o.Report(name, by+" remembers what was given up, at epoch "+fmt.Sprint(a.Kept.Epoch)+": it is told of what goes on instead")
		err := m.r.Supersede(ctx, name, h.Process, continuity.Witness{Lineage: a.Lineage, Point: *a.Kept}, "given up: "+h.GivenUp.Time.UTC().Format(time.RFC3339))
		m.Look() // the record has changed, and is told then
		return false, err
	}
	return true, nil
}

func keeps(k *point) string {
	if k == nil {
		return "nothing"
	}
	return fmt.Sprintf("%d", k.Epoch)
}

// hold has the services of a machine stopped in order, and its disk held.
func (m *Manager) hold(ctx context.Context, name string, h machine.History, lineage string, k point, since time.Time, by string) error {
	m.o.Report(name, fmt.Sprintf("its services are stopped: its data disk is not the one that %s remembers, at epoch %d of %s", by, k.Epoch, since.Format(time.RFC3339)))
	w := machine.Witnessed{Continuity: runtime.Continuity{Lineage: lineage, Epoch: k.Epoch, Hash: k.Hash}, Time: since, By: by}
	err := m.r.Challenge(ctx, name, h.Process, w)
	m.o.Changed(name)
	return err
}

// repository holds a machine's disk to its newest backup.
func (m *Manager) repository(ctx context.Context, name string, h machine.History) error {
	b, err := m.o.Newest(ctx, name, h.Last.Lineage)
	if err != nil || b.Continuity == nil {
		return err
	}
	k := point{Epoch: b.Continuity.Epoch, Hash: b.Continuity.Hash}
	disk, held, err := m.r.Compare(ctx, name, continuity.Witness{Lineage: b.Continuity.Lineage, Point: k})
	if err != nil || held || disk.Verdict == "" {
		return err
	}
	var mem memory
	if b.Known {
		mem.signed = &k
	}
	if judge(mem, &k, disk, givenUp(h, b.Continuity.Lineage, k)) != hold {
		return nil
	}
	return m.hold(ctx, name, h, b.Continuity.Lineage, k, b.Time, "the newest backup in "+b.Repository)
}

// say notes how it went with a witness, where that is news.
func (m *Manager) say(ctx context.Context, name, url string, err error) {
	if ctx.Err() != nil || errors.Is(err, errTold) || errors.Is(err, fs.ErrNotExist) {
		return
	}
	before := m.trouble(name + " " + url)
	switch {
	case err == nil && before != "":
		m.o.Report(name, "the witness "+shown(url)+" answers again")
	case err != nil && before == "" && fault.ClassOf(err) != fault.Device: // a guest that boots
		m.o.Report(name, "the witness "+shown(url)+" is not told: "+err.Error())
	default:
		return
	}
	m.o.Changed(name)
}
