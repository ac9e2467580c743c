package backups

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/replication"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

const (
	// momentPrefix begins the name of the machine that replays a log.
	momentPrefix = "moment-"
	// replayDir is in a repository's directory: what a replay is made of.
	replayDir = "replay"
	// replayLimit is how long a machine may take to replay a log.
	replayLimit = 12 * time.Hour
	// replayRestarts is how often a service may end while it does: one that cannot
	// replay begins anew for ever.
	replayRestarts = 3
	// downLimit is how long it may take to end in order.
	downLimit = 5 * time.Minute
)

// Moment is what of a log is to be replayed on the disk of a backup.
type Moment struct {
	Target backup.Target
	// Branch is the log; "": that of the newest backup that will do.
	Branch string
	// Stored: what this device has of it beyond the repository is left out.
	Stored bool
}

// tooEarly is the error of a moment that is before all backups that will do.
type tooEarly struct{ text string }

func (e *tooEarly) Error() string { return "no backup is old enough: " + e.text }

// Logs lists what a repository has of a machine's logs, oldest first.
func (m *Manager) Logs(ctx context.Context, name, repository string) ([]backup.Log, error) {
	res, err := m.ask(ctx, name, repository, backupjob.Logs, nil)
	if err != nil {
		return nil, err
	}
	return res.Logs, nil
}

// replayed is a log that is ready to be handed to a machine.
type replayed struct {
	base    backup.Snapshot
	reached backup.Reached
	image   string
	dir     string
}

func (r *replayed) close() error { return fault.Wrap(fault.Environment, os.RemoveAll(r.dir)) }

// prepare finds the backup that a moment is to be reached from, and the log that
// leads there, all of which is read for it: what cannot be had is said before
// anything is touched.
func (m *Manager) prepare(ctx context.Context, q Restore) (_ *replayed, err error) {
	t := q.Moment.Target
	if err := t.Check(); err != nil {
		return nil, err
	}
	where, err := m.load(q.Repository)
	if err != nil {
		return nil, err
	}
	j := m.job(q.Repository, where, backupjob.List)
	j.Machine = q.Machine
	res, err := m.run(ctx, j, talk{})
	if err != nil {
		return nil, err
	}
	bases, err := candidates(res.Snapshots, q)
	if err != nil {
		return nil, err
	}
	parent := filepath.Join(m.jobDir(q.Repository), replayDir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	r := &replayed{}
	if r.dir, err = os.MkdirTemp(parent, q.Machine+"-"); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	id := make([]byte, 8)
	rand.Read(id) //nolint:errcheck // it never fails
	early := ""
	for n, base := range bases {
		work := filepath.Join(r.dir, fmt.Sprint(n))
		if err := os.Mkdir(work, 0o700); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		j := m.job(q.Repository, where, backupjob.Replay)
		j.Machine = q.Machine
		r.image = filepath.Join(r.dir, "recovery.img")
		j.ReplayLog = &backupjob.ReplayLog{Base: *base.Log, Target: t, Image: r.image, Work: work, ID: hex.EncodeToString(id)}
		if !q.Moment.Stored {
			j.Spool, j.ReplayLog.AsOf = m.spoolOf(q.Machine, base.Log.Branch)
		}
		res, err := m.run(ctx, j, talk{progress: m.progress(q.Machine, runtime.ProgressVerify)})
		if err != nil {
			return nil, err
		}
		if err := os.RemoveAll(work); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		if res.TooEarly != "" {
			early = res.TooEarly
			continue
		}
		if res.Reached == nil {
			return nil, fault.Errorf(fault.Internal, "%s told nothing of the log", backupjob.Program)
		}
		r.base, r.reached = base, *res.Reached
		return r, nil
	}
	return nil, fault.Errorf(fault.Usage, "%s: %w", q.Machine, &tooEarly{early}).
		Hintf("see what there is: sovereign-build backups %s", q.Machine)
}

// candidates are the backups that a moment may be reached from, newest first.
func candidates(list []backup.Snapshot, q Restore) ([]backup.Snapshot, error) {
	t := q.Moment.Target
	var bases []backup.Snapshot
	var oldest time.Time
	for _, s := range list {
		switch {
		case s.Log == nil, q.Snapshot != "" && (len(s.ID) < len(q.Snapshot) || s.ID[:len(q.Snapshot)] != q.Snapshot):
			continue
		case q.Moment.Branch != "" && s.Log.Branch != q.Moment.Branch:
			continue
		}
		if oldest.IsZero() || s.At.Before(oldest) {
			oldest = s.At
		}
		if !t.Time.IsZero() && s.At.After(t.Time) {
			continue
		}
		bases = append(bases, s)
	}
	slices.SortFunc(bases, func(a, b backup.Snapshot) int { return b.At.Compare(a.At) })
	switch {
	case len(bases) > 0:
		return bases, nil
	case oldest.IsZero():
		return nil, fault.Errorf(fault.Usage, "the repository has no backup of %s that a log goes on from", q.Machine).
			Hintf("have the log kept: sovereign-build backup policy %s --log; or restore a backup as it is", q.Machine)
	}
	return nil, fault.Errorf(fault.Usage, "%v is before what there is: the oldest moment of %s is that of the backup at %s", t, q.Machine, oldest.UTC().Format(time.RFC3339Nano)).
		Hintf("restore that moment, or a later one")
}

// spoolOf is the directory of this device with a branch's log; "" where it has
// none. asOf is until when nothing more is known to have been done.
func (m *Manager) spoolOf(name, branch string) (dir string, asOf time.Time) {
	parent := filepath.Join(m.r.Dir(), "instances", name, logDir)
	for _, d := range []string{filepath.Join(parent, spoolDir), filepath.Join(parent, branch)} {
		if b, err := wal.ReadBranch(d); err != nil || b.ID != branch {
			continue // a repository has to do
		}
		dir = d
	}
	if k := m.logKeeper(name); k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.news.Branch.ID == branch && k.receiving && k.news.Server <= k.news.Extent.To {
			asOf = k.news.At
		}
	}
	return dir, asOf
}

// restoreMoment restores a machine as it was at a moment. The log is replayed in
// a machine that is nobody's, and has no network; only when that has come to the
// moment, its disk is what is restored.
func (m *Manager) restoreMoment(ctx context.Context, q Restore) (_ *runtime.RestoreResult, err error) {
	inPlace := q.As == ""
	if inPlace {
		if _, err := m.r.Instance(ctx, q.Machine); err != nil {
			return nil, err
		}
	}
	r, err := m.prepare(ctx, q)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	temp := q
	temp.Snapshot = r.base.ID
	if inPlace {
		temp.As = temporaryName(momentPrefix, q.Machine)
	}
	// What an interrupted restore has left goes. A machine of somebody's stays.
	if m.has(temp.As) {
		if err := m.r.Discard(ctx, temp.As); err != nil {
			return nil, fault.Errorf(fault.Usage, "there is a machine %s already", temp.As).Hintf("choose another name with --as")
		}
	}
	res, err := m.replayIn(ctx, temp, r)
	if err != nil {
		return nil, errors.Join(err, m.discard(ctx, temp.As))
	}
	m.addReached(res, r)
	if !inPlace {
		res.New = true
		return res, m.r.KeepTemporary(ctx, temp.As)
	}
	res.Machine = q.Machine
	err = m.takePlace(ctx, q, temp.As, res)
	return res, errors.Join(err, m.discard(ctx, temp.As))
}

func (m *Manager) addReached(res *runtime.RestoreResult, r *replayed) {
	reached := r.reached
	res.Reached = &reached
}

func (m *Manager) discard(ctx context.Context, name string) error {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardLimit)
	defer cancel()
	return m.r.Discard(limit, name)
}

// replayIn restores a backup into a temporary machine, has it replay a log, and
// returns when it has done so and is down again.
func (m *Manager) replayIn(ctx context.Context, q Restore, r *replayed) (*runtime.RestoreResult, error) {
	res, err := m.bootReplay(ctx, q, r)
	if err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, downLimit)
	defer cancel()
	_, err = m.o.Host.Machine(q.As).Down(limit, 0)
	return res, err
}

// bootReplay is replayIn, but leaves it running.
func (m *Manager) bootReplay(ctx context.Context, q Restore, r *replayed) (*runtime.RestoreResult, error) {
	q.Moment = nil
	res, err := m.restoreNew(ctx, q, true)
	if err != nil {
		return nil, err
	}
	_, err = m.boot(ctx, q.As, r)
	return res, err
}

// boot starts a temporary machine that a backup was restored into, and returns
// when its services are healthy, and where there is a log, when that was replayed
// to its end.
func (m *Manager) boot(ctx context.Context, name string, log *replayed) (runtime.Status, error) {
	limit := readyLimit
	if log != nil {
		limit = replayLimit
		if err := m.r.GiveRecovery(ctx, name, log.image); err != nil {
			return runtime.Status{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	guest := m.o.Host.Machine(name)
	if err := guest.Up(ctx, runtime.UpOptions{Restart: runtime.RestartNever}, nil); err != nil {
		return runtime.Status{}, err
	}
	if log == nil {
		return guest.WaitReady(ctx, nil)
	}
	s, err := waitReplayed(ctx, guest)
	if err != nil {
		return s, fault.Errorf(fault.ClassOf(err), "the machine that replays the log until %v did not come there: %w", log.reached.LSN, err)
	}
	return s, m.sawReplayed(ctx, name, log)
}

// waitReplayed waits until a machine is ready, or one of its services ends again
// and again.
func waitReplayed(ctx context.Context, guest *runtime.Machine) (runtime.Status, error) {
	ctx, stop := context.WithCancel(ctx)
	var crashed error
	var watching sync.WaitGroup
	watching.Go(func() {
		// What else ends it, ends the wait beside it too.
		_ = guest.Watch(ctx, func(e runtime.Event) error {
			if crashed = crashes(e.Status); crashed != nil {
				stop()
			}
			return crashed
		})
	})
	s, err := guest.WaitReady(ctx, nil)
	stop()
	watching.Wait()
	return s, cmp.Or(crashed, err)
}

// crashes is an error for a machine one of whose services ends again and again.
func crashes(s *runtime.Status) error {
	if s == nil || s.Guest == nil {
		return nil
	}
	for _, v := range s.Guest.Services {
		if v.Restarts >= replayRestarts && !v.Healthy && !v.Optional {
			return fault.Errorf(fault.Device, "%s", v.Line())
		}
	}
	return nil
}

// sawReplayed sees whether a machine has replayed a log to its end: its server
// has then left the timeline, at that place.
func (m *Manager) sawReplayed(ctx context.Context, name string, r *replayed) error {
	conn, _, err := m.dialLog(ctx, name)
	if err != nil {
		return err
	}
	at, err := replication.AskPosition(ctx, conn)
	if err != nil {
		return err
	}
	if at.Timeline <= r.reached.Timeline || at.Flushed < r.reached.LSN {
		return fault.Errorf(fault.Verification, "the log was not replayed: the service is at %v of timeline %d, and was to come to %v of %d and beyond", at.Flushed, at.Timeline, r.reached.LSN, r.reached.Timeline).
			Hintf("see whether the backup's image is one that replays logs: sovereign-build backups")
	}
	return nil
}

// takePlace puts the disk of a temporary machine in the place of a machine's.
func (m *Manager) takePlace(ctx context.Context, q Restore, temp string, res *runtime.RestoreResult) (err error) {
	s, err := m.r.StageInPlace(ctx, q.Machine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := os.MkdirAll(filepath.Dir(s.Disk()), 0o700); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	fileSystem, c, err := m.r.TakeDisk(ctx, temp, s.Disk())
	if err != nil {
		return err
	}
	if err := m.expectBreak(q.Machine, "restored from "+res.From); err != nil {
		return err
	}
	res.Kept, err = s.Replace(ctx, fileSystem, c, res.From)
	return err
}

// expectBreak notes that the log is going to break for a reason, which makes up
// for what was lost before.
func (m *Manager) expectBreak(name, why string) error {
	state, err := m.State(name)
	if err != nil || state.Log == nil {
		return err
	}
	if k := m.logKeeper(name); k != nil {
		k.mu.Lock()
		k.unsettled = false // what still comes from the disk that goes says nothing
		k.mu.Unlock()
	}
	return m.change(name, func(s *State) {
		s.Log.Expected = why
		s.Log.madeGood()
	})
}

// Recover rolls a machine's disk forward to the end of the log that was kept of
// it: from its newest backup, by what the repository and this device have. It is
// the way out for a disk that is lost, or went back. A machine that serves a disk
// which has all of its log is an error (fault.Usage): what it commits until its
// disk is taken would be on that alone.
func (m *Manager) Recover(ctx context.Context, name, repository string) (*runtime.RestoreResult, error) {
	state, err := m.State(name)
	if err != nil {
		return nil, err
	}
	q := Restore{Machine: name, Repository: repository, Moment: &Moment{}}
	lost := false
	if l := state.Log; l != nil {
		q.Moment.Branch = l.Branch
		for _, b := range l.Breaks { // the first loss has the most
			if lost = b.Lost; lost {
				q.Moment.Branch = b.Branch
				break
			}
		}
	}
	if _, err := os.Lstat(filepath.Join(m.r.Dir(), "instances", name)); errors.Is(err, fs.ErrNotExist) {
		q.As = name // a device that never had it
	}
	if !lost && m.isUp(name) {
		return nil, fault.Errorf(fault.Usage, "%s serves, and its disk has all of its log: there is nothing to recover", name).
			Hintf("if what it serves is damaged all the same, have the log come to its end first: sovereign-build down %s; then recover it", name)
	}
	res, err := m.Restore(ctx, q)
	if err == nil && res.Kept != "" && !lost {
		res.Notes = append(res.Notes, "the log is replayed as far as it was received; what the former disk had committed behind that, if anything, is on it alone")
	}
	return res, err
}
