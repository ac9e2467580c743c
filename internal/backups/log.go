package backups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/replication"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// logDir has a machine's logs, in its directory: spoolDir is the branch that
	// goes on, the others are named by their branch and have ended.
	logDir   = "log"
	spoolDir = "spool"
	// The pauses between two tries to reach a service.
	logRetry    = time.Second
	logMaxRetry = 15 * time.Second
	// reachLog is how long a guest may take to let itself be asked.
	reachLog = 30 * time.Second
	// maxBreaks bounds those that are remembered.
	maxBreaks = 20
	// logLate is for how long a log may not be received, or not have come to the
	// repository, before that is an alarm; of the latter the policy's interval
	// comes on top.
	logLate = 2 * time.Minute
)

// LogState is what became of a machine's log.
type LogState struct {
	Service string `json:"service"`
	Branch  string `json:"branch"`
	// Wanted: there is no backup yet that the branch goes on from. Tried is when
	// the last one was made that was to be one and is none.
	Wanted bool      `json:"wanted,omitempty"`
	Tried  time.Time `json:"tried,omitzero"`
	// Stored is until where the repository has it.
	Stored   wal.LSN   `json:"stored"`
	StoredAt time.Time `json:"stored_at,omitzero"`
	// Expected is why the log is going to break: a restore. GivenUp is the newest
	// history of the disk that its owner had given up when this branch went on last:
	// where there is a newer one, a break is by the owner's word. Both are over when
	// the branch goes on.
	Expected string             `json:"expected,omitempty"`
	GivenUp  string             `json:"given_up,omitempty"`
	Breaks   []runtime.LogBreak `json:"breaks,omitempty"`
}

// logs are the keepers of logs.
type logs struct {
	poked chan struct{}

	mu      sync.Mutex
	keepers map[string]*logKeeper
	up      map[string]vm.Process // machines whose service with a log is healthy
	agreed  map[string]agreement  // what their servers have been held to
	work    sync.WaitGroup        // that holds them to it
}

// logKeeper has the log of one machine come to the device's disk, and from there
// to the repository.
type logKeeper struct {
	m    *Manager
	name string
	dir  string
	stop context.CancelFunc
	done chan struct{}
	more chan struct{} // there is something new
	soon chan struct{} // there is something to receive

	storing sync.Mutex // one has it come to the repository at a time

	mu        sync.Mutex
	spool     *wal.Spool // while it is received
	receiving bool
	since     time.Time // when receiving has changed
	prompt    bool      // commits wait for what is received
	// unsettled: it is not known yet whether the branch goes on from what was kept,
	// until resumed.
	unsettled bool
	resumed   wal.LSN
	news      replication.News
	failed    string // why the log does not come to the repository
}

// RunLogs has logs kept as policies ask for, until ctx ends.
func (m *Manager) RunLogs(ctx context.Context) {
	defer m.logs.work.Wait()
	defer m.stopLogs(nil)
	for ctx.Err() == nil {
		m.lookForLogs(ctx)
		m.agree(ctx)
		timer := time.NewTimer(lookEvery)
		select {
		case <-ctx.Done():
		case <-m.logs.poked:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// lookForLogs starts and stops keepers.
func (m *Manager) lookForLogs(ctx context.Context) {
	names, err := m.r.Names()
	if err != nil {
		return // Run says so
	}
	wanted := map[string]wish{}
	for _, name := range names {
		if s, err := m.State(name); err == nil && wishOf(s).log {
			wanted[name] = wishOf(s)
		}
	}
	m.stopLogs(func(name string) bool { return wanted[name].log })
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	for name, want := range wanted {
		if k := m.logs.keepers[name]; k != nil {
			k.setPrompt(want.synchronous)
			continue
		}
		k := &logKeeper{m: m, name: name, dir: filepath.Join(m.r.Dir(), "instances", name, logDir),
			done: make(chan struct{}), more: make(chan struct{}, 1), soon: make(chan struct{}, 1), since: time.Now(), prompt: want.synchronous}
		var work context.Context
		work, k.stop = context.WithCancel(ctx)
		m.logs.keepers[name] = k
		go func() {
			defer close(k.done)
			var storing sync.WaitGroup
			storing.Go(func() { k.store(work) })
			k.receive(work)
			storing.Wait()
		}()
	}
}

// stopLogs stops keepers but for some, and returns when they have ended.
func (m *Manager) stopLogs(but func(name string) bool) {
	m.logs.mu.Lock()
	var ended []*logKeeper
	for name, k := range m.logs.keepers {
		if but == nil || !but(name) {
			k.stop()
			ended = append(ended, k)
			delete(m.logs.keepers, name)
		}
	}
	m.logs.mu.Unlock()
	for _, k := range ended {
		<-k.done
	}
}

func (m *Manager) logKeeper(name string) *logKeeper {
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	return m.logs.keepers[name]
}

func (k *logKeeper) spoolDir() string { return filepath.Join(k.dir, spoolDir) }

// receive receives for as long as it is wanted.
func (k *logKeeper) receive(ctx context.Context) {
	wait, told, waits := logRetry, "", false
	for ctx.Err() == nil {
		begin := time.Now()
		err := k.once(ctx)
		k.setReceiving(false, nil)
		if ctx.Err() != nil {
			return
		}
		var fork *wal.ForkError
		var gap *wal.GapError
		switch {
		case errors.As(err, &fork):
			err = k.breakOff(fork.Error(), true)
		case errors.As(err, &gap):
			err = k.breakOff(gap.Error(), false)
		}
		if time.Since(begin) > logMaxRetry {
			wait = logRetry
		}
		if err != nil && !errors.Is(err, errDown) && err.Error() != told {
			told = err.Error()
			k.m.o.Report(k.name, "its log is not received: "+told)
		}
		if errors.Is(err, errDown) {
			told = ""
		}
		if now := k.commitsWait(); now != waits {
			if waits = now; waits {
				k.m.o.Report(k.name, "its commits wait until its log is received again; to let them go: sovereign-build backup policy "+k.name+" --synchronous=false")
			}
			k.m.o.Changed(k.name)
		}
		select {
		case <-ctx.Done():
		case <-k.soon:
			wait = logRetry
			continue
		case <-time.After(wait):
		}
		wait = min(2*wait, logMaxRetry)
	}
}

// commitsWait says whether commits wait for a log that is not received.
func (k *logKeeper) commitsWait() bool {
	up := k.m.isUp(k.name)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.prompt && up && !k.receiving && time.Since(k.since) >= waitAlarm
}

// hurry has it receive at once.
func (k *logKeeper) hurry() { poked(k.soon) }

func (k *logKeeper) setPrompt(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prompt = on
}

func (k *logKeeper) isPrompt() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.prompt
}

func (k *logKeeper) isReceiving() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.receiving
}

// errDown: there is nothing to receive now.
var errDown = errors.New("the service does not run")

// logService is the service of a guest that gives its log away.
func logService(s *agent.Status) (name string, healthy bool) {
	for _, v := range s.Services {
		if v.Log == spec.LogPostgreSQL {
			return v.Name, v.Healthy
		}
	}
	return "", false
}

// dialLog opens a way to the log of a machine that runs.
func (m *Manager) dialLog(ctx context.Context, name string) (conn *logConn, service string, err error) {
	i, err := m.r.Instance(ctx, name)
	if err != nil {
		return nil, "", err
	}
	if !i.Runs() {
		return nil, "", errDown
	}
	limit, cancel := context.WithTimeout(ctx, reachLog)
	defer cancel()
	a, err := i.Agent(limit)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	status, err := a.Status(limit)
	if err != nil {
		return nil, "", err
	}
	service, healthy := logService(status)
	switch {
	case service == "" && status.Healthy():
		return nil, "", fault.Errorf(fault.Device, "no service of %s gives its log away", name).
			Hintf("update it to an image whose recipe has backup.log")
	case service == "" || !healthy:
		return nil, "", errDown
	}
	stream, err := a.DialLog(limit, service)
	if err != nil {
		return nil, "", err
	}
	return &logConn{stream, sync.OnceValue(func() error { return errors.Join(stream.Close(), a.Close()) })}, service, nil
}

// logConn is a stream to a service, and the talk that it is of.
type logConn struct {
	io.ReadWriteCloser
	end func() error // of both, once
}

func (c *logConn) Close() error { return c.end() }

// once receives until the connection is lost.
func (k *logKeeper) once(ctx context.Context) error {
	conn, service, err := k.m.dialLog(ctx, k.name)
	if err != nil {
		return err
	}
	r := &replication.Receiver{Dir: k.spoolDir(), News: k.hear, Prompt: k.isPrompt, Opened: func(s *wal.Spool) { k.opened(service, s) }}
	_, err = wal.ReadBranch(k.spoolDir())
	switch {
	case err == nil:
		return r.Run(ctx, conn)
	case !errors.Is(err, fs.ErrNotExist):
		return errors.Join(err, conn.Close())
	}
	why := "the log was switched on"
	state, err := k.m.State(k.name)
	if err == nil && state.Log != nil {
		if n := len(state.Log.Breaks); n > 0 {
			why = state.Log.Breaks[n-1].Why
		}
	}
	if err == nil {
		if err = os.MkdirAll(k.dir, 0o700); err == nil {
			// One that was killed as it began has nothing in it.
			err = os.RemoveAll(k.spoolDir())
		}
		err = fault.Wrap(fault.Environment, err)
	}
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	return r.Fresh(ctx, conn, why[:min(len(why), 1000)])
}

// opened is told of the spool before anything is received.
func (k *logKeeper) opened(service string, s *wal.Spool) {
	k.setReceiving(true, s)
	b := s.Branch()
	state, err := k.m.State(k.name)
	goesOn := err == nil && state.Log != nil && state.Log.Branch == b.ID && state.Log.Service == service
	given, givenErr := k.m.givenUp(k.name)
	if givenErr != nil {
		k.m.o.Report(k.name, "its log: "+givenErr.Error())
	}
	k.mu.Lock()
	k.unsettled, k.resumed = goesOn && givenErr == nil, s.Extent().To
	k.mu.Unlock()
	made := false
	if goesOn && givenErr == nil && state.Log.GivenUp != given {
		for _, b := range state.Log.Breaks {
			made = made || b.Lost
		}
	}
	if goesOn && !made {
		return
	}
	err = k.m.change(k.name, func(state *State) {
		if state.Log == nil {
			state.Log = &LogState{}
		}
		l := state.Log
		if made {
			l.madeGood()
			return
		}
		if l.Branch != b.ID {
			l.Wanted, l.Tried, l.Stored, l.StoredAt = true, time.Time{}, 0, time.Time{}
		}
		l.Service, l.Branch, l.Expected, l.GivenUp = service, b.ID, "", given
	})
	if err != nil {
		k.m.o.Report(k.name, "its log: "+err.Error())
	}
	if made {
		k.m.o.Report(k.name, "what its log had lost is given up by its owner")
		return
	}
	k.m.o.Report(k.name, fmt.Sprintf("the log of %s is kept from %v on: %s", service, b.Start, b.Why))
}

func (k *logKeeper) setReceiving(on bool, s *wal.Spool) {
	k.mu.Lock()
	changed := k.receiving != on
	if changed {
		k.since = time.Now()
	}
	k.receiving, k.spool = on, s
	k.mu.Unlock()
	if changed {
		k.m.o.Changed(k.name)
		poked(k.m.logs.poked)
	}
	k.wake()
}

func (k *logKeeper) wake() { poked(k.more) }

func (k *logKeeper) hear(n replication.News) {
	k.mu.Lock()
	k.news = n
	settled := k.unsettled && n.Extent.To > k.resumed
	if settled {
		k.unsettled = false
	}
	k.mu.Unlock()
	k.wake()
	if settled {
		k.settle(n.Branch.ID)
	}
}

// settle notes that a branch goes on: a break that is still to come has nothing to
// do with what was expected before.
func (k *logKeeper) settle(branch string) {
	given, err := k.m.givenUp(k.name)
	var state State
	if err == nil {
		state, err = k.m.State(k.name)
	}
	if l := state.Log; err == nil && l != nil && l.Branch == branch && (l.Expected != "" || l.GivenUp != given) {
		err = k.m.change(k.name, func(s *State) {
			if l := s.Log; l != nil && l.Branch == branch {
				l.Expected, l.GivenUp = "", given
			}
		})
	}
	if err != nil {
		k.m.o.Report(k.name, "its log: "+err.Error())
	}
}

// madeGood notes that nothing of what was lost is missed any more.
func (l *LogState) madeGood() {
	for n := range l.Breaks {
		l.Breaks[n].Lost = false
	}
}

// givenUp tells the newest history that a machine's owner has given up from
// another; "" for none.
func (m *Manager) givenUp(name string) (string, error) {
	h, err := m.r.History(context.Background(), name)
	if err != nil || h.GivenUp == nil {
		return "", err
	}
	return h.GivenUp.Hash, nil
}

// breakOff puts a branch away that does not go on.
func (k *logKeeper) breakOff(why string, lost bool) error {
	b, err := wal.ReadBranch(k.spoolDir())
	if err != nil {
		return err
	}
	kept, err := wal.OpenSpoolReadOnly(k.spoolDir())
	if err != nil {
		return err
	}
	given, err := k.m.givenUp(k.name)
	if err != nil {
		return err
	}
	// First what is known, then the disk: killed between the two, it is broken
	// off once more.
	err = k.m.change(k.name, func(s *State) {
		if s.Log == nil {
			s.Log = &LogState{Branch: b.ID}
		}
		l := s.Log
		if n := len(l.Breaks); n > 0 && l.Breaks[n-1].Branch == b.ID {
			return
		}
		br := runtime.LogBreak{At: now(), Branch: b.ID, Kept: kept.Extent.To, Why: why, Lost: lost}
		switch {
		case l.Expected != "":
			br.Why, br.Lost, l.Expected = l.Expected, false, ""
		case l.GivenUp != given:
			br.Why, br.Lost = "its owner gave up what the disk had: "+why, false
			l.madeGood()
		}
		l.Breaks = append(l.Breaks, br)
		l.Breaks = l.Breaks[max(0, len(l.Breaks)-maxBreaks):]
	})
	if err != nil {
		return err
	}
	if err := atomicfile.Rename(k.spoolDir(), filepath.Join(k.dir, b.ID)); err != nil {
		return err
	}
	k.m.o.Report(k.name, "its log has a break: "+why)
	k.wake()
	return nil
}

// store has what is kept come to the repository, at the policy's interval.
func (k *logKeeper) store(ctx context.Context) {
	for ctx.Err() == nil {
		state, err := k.m.State(k.name)
		if err != nil || state.Policy == nil || state.Policy.LogS == 0 {
			return // it is stopped
		}
		err = k.storeAll(ctx, state)
		k.mu.Lock()
		was := k.failed
		k.failed = ""
		if err != nil && ctx.Err() == nil {
			k.failed = err.Error()
		}
		changed := was != k.failed
		text := k.failed
		k.mu.Unlock()
		if changed {
			if text != "" {
				k.m.o.Report(k.name, "its log does not come to the repository: "+text)
			} else {
				k.m.o.Report(k.name, "its log comes to the repository again")
			}
			k.m.o.Changed(k.name)
		}
		pause.For(ctx, state.Policy.Log())
		select {
		case <-ctx.Done():
		case <-k.more:
		case <-time.After(lookEvery):
		}
	}
}

// storeNow is store for what is there now.
func (k *logKeeper) storeNow(ctx context.Context) error {
	state, err := k.m.State(k.name)
	if err != nil {
		return err
	}
	return k.storeAll(ctx, state)
}

// storeAll stores the branches that have ended, and what is new of the one that
// goes on.
func (k *logKeeper) storeAll(ctx context.Context, state State) error {
	k.storing.Lock()
	defer k.storing.Unlock()
	entries, err := os.ReadDir(k.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, e := range entries {
		dir := filepath.Join(k.dir, e.Name())
		if e.Name() == spoolDir || !e.IsDir() {
			continue
		}
		kept, err := wal.OpenSpoolReadOnly(dir)
		if err != nil {
			return err
		}
		if _, err := k.put(ctx, state, dir, kept, time.Time{}); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
	}
	k.mu.Lock()
	spool, news := k.spool, k.news
	k.mu.Unlock()
	var kept wal.Kept
	var asOf time.Time
	if spool != nil {
		kept = wal.Kept{Branch: spool.Branch(), Extent: spool.Extent()}
		if news.Branch.ID == kept.Branch.ID && news.Server <= kept.Extent.To {
			asOf = news.At.UTC().Truncate(time.Second)
		}
	} else if kept, err = wal.OpenSpoolReadOnly(k.spoolDir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if state.Log != nil && state.Log.Branch == kept.Branch.ID && state.Log.Stored >= kept.Extent.To || kept.Extent.To == kept.Extent.From {
		return nil
	}
	l, err := k.put(ctx, state, k.spoolDir(), kept, asOf)
	if err != nil {
		return err
	}
	if err := k.m.change(k.name, func(s *State) {
		if s.Log != nil && s.Log.Branch == l.Branch.ID {
			s.Log.Stored, s.Log.StoredAt = l.Extent.To, now()
		}
	}); err != nil {
		return err
	}
	if spool != nil {
		return spool.Trim(l.Extent.To.Floor(l.Branch.Segment))
	}
	return nil
}

func (k *logKeeper) put(ctx context.Context, state State, spool string, kept wal.Kept, asOf time.Time) (*backup.Log, error) {
	k.m.jobs.add(1)
	defer k.m.jobs.add(-1)
	repository, where, err := k.m.choose("", state)
	if err != nil {
		return nil, err
	}
	service := "postgresql"
	if state.Log != nil && state.Log.Service != "" {
		service = state.Log.Service
	}
	j := k.m.job(repository, where, backupjob.PutLog)
	j.Machine, j.Spool = k.name, spool
	j.Log = &backup.Log{Machine: k.name, Service: service, Branch: kept.Branch, Extent: kept.Extent, AsOf: asOf}
	res, err := k.m.run(ctx, j, talk{})
	if err != nil {
		return nil, err
	}
	if len(res.Logs) != 1 {
		return nil, fault.Errorf(fault.Internal, "%s told of %d logs", backupjob.Program, len(res.Logs))
	}
	return &res.Logs[0], nil
}

// logPosition is where the machine's service is in the log that is kept of it;
// nil where none is.
func (m *Manager) logPosition(ctx context.Context, name string) (*backup.LogPosition, error) {
	k := m.logKeeper(name)
	if k == nil {
		return nil, nil
	}
	k.mu.Lock()
	spool := k.spool
	k.mu.Unlock()
	if spool == nil {
		return nil, nil
	}
	b := spool.Branch()
	conn, service, err := m.dialLog(ctx, name)
	if err != nil {
		return nil, err
	}
	at, err := replication.AskPosition(ctx, conn)
	if err != nil || at.System != b.System || at.Timeline != b.Timeline {
		return nil, err
	}
	return &backup.LogPosition{Service: service, Branch: b.ID, Timeline: at.Timeline, Before: at.Flushed, After: at.Flushed}, nil
}

// logStatus is what status says of a machine's log.
func (m *Manager) logStatus(name string, s State) *runtime.LogStatus {
	if s.Log == nil {
		return nil
	}
	l := &runtime.LogStatus{Service: s.Log.Service, Branch: s.Log.Branch, Stored: s.Log.Stored, StoredAt: s.Log.StoredAt, Breaks: s.Log.Breaks}
	l.Synchronous = m.synchronous(name, s)
	k := m.logKeeper(name)
	if k == nil {
		return l
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	l.Receiving, l.Since = k.receiving, k.since.UTC().Truncate(time.Second)
	if k.receiving {
		l.Since = time.Time{}
	}
	if k.news.Branch.ID == l.Branch {
		l.Kept, l.Newest = k.news.Extent.To, k.news.Extent.Newest
		l.Lag = max(0, int64(k.news.Server)-int64(l.Kept))
	}
	return l
}

// logAlarms says what is wrong with a log; up: the service that has it is healthy.
func logAlarms(l *runtime.LogStatus, s State, up bool, now time.Time) []string {
	if l == nil || !wishOf(s).log {
		return nil
	}
	var list []string
	if text := waiting(l, up, now); text != "" {
		list = append(list, text)
	}
	if v := l.Synchronous; v != nil && up && l.Receiving && v.Why != "" {
		list = append(list, "commits may be lost with the device's guest: "+v.Why)
	}
	for _, b := range l.Breaks {
		if b.Lost {
			list = append(list, fmt.Sprintf("the data disk went back: at %s the log did not go on from %v, until where it was kept (%s)", b.At.Format(time.RFC3339), b.Kept, b.Why))
		}
	}
	if !l.Receiving && up && !l.Since.IsZero() && now.Sub(l.Since) > logLate {
		list = append(list, fmt.Sprintf("the log has not been received since %s", l.Since.Format(time.RFC3339)))
	}
	if late := s.Policy.Log() + logLate; l.Kept > l.Stored && !l.StoredAt.IsZero() && now.Sub(l.StoredAt) > late {
		list = append(list, fmt.Sprintf("the log has not come to the repository since %s: %d MiB wait on the device", l.StoredAt.Format(time.RFC3339), (l.Kept-l.Stored)>>20))
	}
	return list
}
