package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup/image"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	// scratchFile is where a guest keeps what a snapshot needs of its disk. It
	// is empty but while one is held.
	scratchFile = "scratch.img"
	// snapshotRoom is what has to be free there, in bytes, for a snapshot to be
	// taken and to be held on: the guest's own writes need room as well, and come
	// first.
	snapshotRoom = 256 << 20
	// roomEvery is how often that is looked at while one is held.
	roomEvery = time.Second
	// takeLimit is how long a guest may take for its services' commands, and for
	// the snapshot itself.
	takeLimit = 3 * time.Minute
	// releaseLimit is how long it may take to say that it has released it.
	releaseLimit = 30 * time.Second
)

// Snapshot is the data disk as it was at one instant: of a machine that runs by
// its guest, which goes on, and of one that is down by its lock, which keeps it
// from being started. Close it. Its methods may be called from several
// goroutines.
type Snapshot struct {
	runtime.SnapshotInfo

	data, scratch *os.File
	held          *agent.HeldSnapshot // nil of a machine that is down
	agent         *Agent
	unlock        func()
	watching      sync.WaitGroup

	once sync.Once
	done chan struct{}
	err  error // once done is closed
}

// Snapshot takes one. ctx is for taking it only. A guest that is too old, has
// one already or does not answer is an error of class fault.Device; too little
// room for what it may have to keep, one of fault.Environment.
func (i *Instance) Snapshot(ctx context.Context) (*Snapshot, error) {
	unlock, err := i.r.lock(ctx, i.Name())
	if err != nil {
		return nil, err
	}
	// It may have been started or stopped since i was loaded.
	now, err := i.r.Instance(ctx, i.Name())
	if err != nil || now.Runs() {
		unlock()
	}
	switch {
	case err != nil:
		return nil, err
	case now.Runs():
		return now.liveSnapshot(ctx)
	}
	s, err := now.restingSnapshot()
	if err != nil {
		unlock()
		return nil, err
	}
	s.unlock = unlock
	return s, nil
}

func (i *Instance) newSnapshot() (*Snapshot, error) {
	data, err := os.Open(i.dataPath())
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "the data disk: %w", err).
			Hintf("start the machine once: that makes its data disk")
	}
	return &Snapshot{data: data, done: make(chan struct{}), unlock: func() {},
		SnapshotInfo: i.snapshotInfo()}, nil
}

func (i *Instance) snapshotInfo() runtime.SnapshotInfo {
	s := runtime.SnapshotInfo{Machine: i.Name(), Bundle: i.rec.Bundle.Digest}
	if c := i.rec.Continuity; c != nil {
		s.Continuity = &c.Continuity
	}
	return s
}

// restingSnapshot is that of a machine that is down. The caller has the lock.
func (i *Instance) restingSnapshot() (*Snapshot, error) {
	s, err := i.newSnapshot()
	if err != nil {
		return nil, err
	}
	info, err := s.data.Stat()
	if err == nil && info.Size() == 0 {
		err = i.missingData("%s is empty", s.data.Name())
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, errors.Join(err, s.data.Close()))
	}
	s.At, s.Size = time.Now().UTC(), info.Size()
	return s, nil
}

func (i *Instance) liveSnapshot(ctx context.Context) (*Snapshot, error) {
	path := filepath.Join(i.dir, scratchFile)
	if err := i.snapshotRoom(path); err != nil {
		return nil, err
	}
	s, err := i.newSnapshot()
	if err != nil {
		return nil, err
	}
	if s.scratch, err = os.Open(path); err != nil {
		return nil, fault.Errorf(fault.Device, "the machine of %s was started without a scratch disk: %w", i.Name(), errors.Join(err, s.data.Close())).
			Hintf("start it anew: sovereign-build restart %s", i.Name())
	}
	if err := i.take(ctx, s); err != nil {
		return nil, errors.Join(err, s.data.Close(), s.scratch.Close())
	}
	s.watching.Go(func() { s.watch(func() error { return i.snapshotRoom(path) }) })
	return s, nil
}

func (i *Instance) take(ctx context.Context, s *Snapshot) (err error) {
	ctx, cancel := context.WithTimeout(ctx, takeLimit)
	defer cancel()
	if s.agent, err = i.reach(ctx); err != nil {
		return err
	}
	held, err := s.agent.TakeSnapshot(ctx)
	if err != nil {
		return errors.Join(i.tooOld(err), s.agent.Close())
	}
	s.held, s.Live = held, true
	if c := held.Continuity; c != nil {
		s.Continuity = &runtime.Continuity{Lineage: c.Lineage, Epoch: c.Epoch, Hash: c.Hash}
	}
	s.At, s.HoldMS, s.Size, s.Marks, s.Notes = held.At, held.HoldMS, held.Size, held.Marks, held.Notes
	return nil
}

// snapshotRoom checks that there is room for what a snapshot has to keep.
func (i *Instance) snapshotRoom(path string) error {
	at, free, err := roomAt(path)
	if err != nil || free >= snapshotRoom {
		return err
	}
	return fault.Errorf(fault.Environment, "the file system of %s is nearly full: %d MiB are free, and a snapshot of %s needs %d to be held",
		at, free>>20, i.Name(), snapshotRoom>>20).Hintf("make room there")
}

// watch ends the snapshot when it is of no use any more, or takes the room that
// the machine itself needs.
func (s *Snapshot) watch(room func() error) {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-s.held.Done():
			s.end(s.held.Err())
			return
		case <-tick.C:
			if err := room(); err != nil {
				s.end(err)
				limit, cancel := context.WithTimeout(context.Background(), releaseLimit)
				_ = s.held.Close(limit) // the guest releases it in any case
				cancel()
				return
			}
		}
	}
}

func (s *Snapshot) end(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.done)
	})
}

// Image reads the disk as it was.
func (s *Snapshot) Image() (*image.Image, error) {
	var i *image.Image
	var err error
	if s.scratch == nil {
		i, err = image.Open(s.data, nil, s.Size)
	} else {
		i, err = image.Open(s.data, s.scratch, s.Size)
	}
	return i, fault.Wrap(fault.Device, err)
}

// Files are the disk's image and the store of its old content, for another
// process to read by image.Open; scratch is nil where nothing writes. They are
// closed by Close.
func (s *Snapshot) Files() (data, scratch *os.File) { return s.data, s.scratch }

// Done is closed when the snapshot is of no use any more, before Close or by it.
func (s *Snapshot) Done() <-chan struct{} { return s.done }

// Err says why, once Done is closed.
func (s *Snapshot) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Check says whether what was read by the image is the disk as it was: call it
// behind the last read, and believe nothing before.
func (s *Snapshot) Check(ctx context.Context, i *image.Image) error {
	if err := i.Check(); err != nil {
		return fault.Wrap(fault.Device, err)
	}
	return s.Held(ctx)
}

// Held is Check for an image that another process has read, and checked.
func (s *Snapshot) Held(ctx context.Context) error {
	if err := s.Err(); err != nil {
		return err
	}
	if s.held == nil {
		return nil
	}
	return s.held.Check(ctx)
}

// Close releases the snapshot.
func (s *Snapshot) Close() error {
	s.end(fault.Errorf(fault.Internal, "the snapshot was closed"))
	s.watching.Wait()
	var errs []error
	if s.held != nil {
		limit, cancel := context.WithTimeout(context.Background(), releaseLimit)
		defer cancel()
		errs = append(errs, s.held.Close(limit), s.agent.Close())
	}
	errs = append(errs, s.data.Close())
	if s.scratch != nil {
		errs = append(errs, s.scratch.Close())
	}
	s.unlock()
	return fault.Wrap(fault.Device, errors.Join(errs...))
}

// openScratch makes the file of the scratch disk anew, sparse, large enough for
// all of a data disk and the entries that say what is where.
func (i *Instance) openScratch(dataSize int64) (*os.File, error) {
	const entries = 512 // an entry has 16 bytes, for 16 KiB: half of this share
	path := filepath.Join(i.dir, scratchFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	size := (dataSize + dataSize/entries + 8<<20) >> 20 << 20
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("%s of %d bytes: %w", path, size, err), f.Close(), os.Remove(path))
	}
	return f, nil
}
