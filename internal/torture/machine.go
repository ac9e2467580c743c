package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	engine "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/nbd"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/qmp"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// bootLimit is how long a boot may take before it has failed. An emulated
	// first boot took more than ten minutes on two cores with twenty other jobs.
	bootLimit = 30 * time.Minute
	// healLimit likewise for a service that was hurt.
	healLimit = 10 * time.Minute
	// A lossy disk is cut in one of its next maxWritesToCut writes, or after
	// cutWait where so many do not come.
	maxWritesToCut = 64
	cutWait        = time.Second
	// imageFile is the data disk in an instance's directory.
	imageFile = "data.img"
)

// content is what a machine's data disk begins with.
type content int

const (
	blank content = iota
	copied
)

// machine is one instance under torture. It is for one goroutine.
type machine struct {
	l    *lab
	name string
	dir  string
	inst *engine.Instance                             // nil while it does not run
	ask  func(context.Context) (engine.Status, error) // how it is; nil: inst says it

	// What is different about it, set before the start.
	extra  []string // arguments to QEMU
	bounce bool     // bounce buffers, as a protected VM has
	lossy  bool     // what was not flushed is lost at a cut
	lies   bool     // and flushes do nothing

	disk    *nbd.Disk // while it runs, when lossy
	endDisk func() error
	ending  atomic.Bool // it is being killed
	dsn     string
	begun   time.Time
	took    time.Duration // its last boot that became ready

	log   *commitLog // of its writers, once there were any
	round int        // of its writers
}

// newMachine makes an instance's directory and data disk.
func (l *lab) newMachine(ctx context.Context, name string, c content) (*machine, error) {
	m := &machine{l: l, name: name, dir: filepath.Join(l.dir, "instances", name)}
	if err := m.makeData(ctx, c); err != nil {
		return nil, err
	}
	l.machines = append(l.machines, m)
	return m, nil
}

// makeData makes the instance's directory and the data disk in it.
func (m *machine) makeData(ctx context.Context, c content) error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if c == blank {
		return makeImage(m.image(), m.l.manifest.VM.Data.Size)
	}
	out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", m.l.template, m.image()).CombinedOutput()
	if err != nil {
		return fault.Errorf(fault.Environment, "copying the data disk: %w: %s", err, out)
	}
	return nil
}

// makeImage makes a blank image, in the place of one that is there.
func makeImage(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return fault.Wrap(fault.Environment, errors.Join(f.Truncate(size), f.Close()))
}

// drop removes a machine that was stopped or cut, with all it has.
func (l *lab) drop(ctx context.Context, m *machine) error {
	l.machines = slices.DeleteFunc(l.machines, func(o *machine) bool { return o == m })
	i, err := l.rt.Instance(ctx, m.name)
	if err == nil {
		_, err = i.Stop(ctx, 0) // one that was cut is still wanted up
	}
	if err == nil {
		_, err = l.rt.Remove(ctx, m.name, true)
	}
	return errors.Join(m.closeLog(), err)
}

// cutAll ends every machine that still runs. What they have stays.
func (l *lab) cutAll(ctx context.Context) error {
	var errs []error
	for _, m := range l.machines {
		_, err := m.cut(ctx, nil)
		errs = append(errs, err, m.closeLog())
	}
	l.machines = nil
	return errors.Join(errs...)
}

func (m *machine) image() string { return filepath.Join(m.dir, imageFile) }

// start starts QEMU.
func (m *machine) start(ctx context.Context) error {
	if m.lossy {
		if err := m.startDisk(ctx); err != nil {
			return err
		}
	}
	m.l.seam.set(m.dir, func(args []string) ([]string, error) {
		if m.lossy {
			var err error
			if args, err = overNBD(args); err != nil {
				return nil, err
			}
		}
		return append(args, m.extra...), nil
	})
	m.begun = time.Now()
	m.ending.Store(false)
	o := engine.UpOptions{Accel: m.l.Accel, Bounce: &m.bounce, Restart: engine.RestartNever}
	if _, err := m.l.rt.Install(ctx, m.l.Bundle, m.name, o, nil); err != nil {
		return err
	}
	var err error
	m.inst, err = m.l.rt.Settle(ctx, m.name)
	return err
}

// startDisk serves the image as a disk that can lose.
func (m *machine) startDisk(ctx context.Context) error {
	f, err := os.OpenFile(m.image(), os.O_RDWR, 0)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if m.disk, err = nbd.NewDisk(f, info.Size()); err != nil {
		return errors.Join(err, f.Close())
	}
	m.disk.IgnoreFlush = m.lies
	path := filepath.Join(m.dir, nbdSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, f.Close())
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fault.Errorf(fault.Environment, "torture: %w", errors.Join(err, f.Close())).
			Hintf("choose a scratch directory with a shorter path")
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wrong []error
	var server sync.WaitGroup
	var mu sync.Mutex
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		// A client that is killed goes in the middle of a message.
		if !m.ending.Load() {
			wrong = append(wrong, err)
		}
	}
	server.Go(func() {
		if err := nbd.Serve(ctx, l, m.disk, note); err != nil {
			note(err)
		}
	})
	m.endDisk = func() error {
		cancel()
		server.Wait()
		return errors.Join(append(wrong, f.Close())...)
	}
	return nil
}

// ready waits until every service is healthy and returns the time since the
// start.
func (m *machine) ready(ctx context.Context, report engine.Report) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := m.inst.WaitReady(ctx, report); err != nil {
		return 0, err
	}
	m.took = time.Since(m.begun)
	var err error
	m.dsn, err = m.findDSN(ctx)
	return m.took, err
}

// boot is start and ready.
func (m *machine) boot(ctx context.Context) (time.Duration, error) {
	if err := m.start(ctx); err != nil {
		return 0, err
	}
	return m.ready(ctx, nil)
}

// serve starts the machine and waits until its database answers, whatever the
// guest says of the rest.
func (m *machine) serve(ctx context.Context) (time.Duration, error) {
	if err := m.start(ctx); err != nil {
		return 0, err
	}
	limit, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		var err error
		if m.dsn, err = m.findDSN(limit); err == nil {
			break
		}
		if pause.For(limit, 50*time.Millisecond) != nil {
			return 0, fmt.Errorf("waiting for the database's password: %w", err)
		}
	}
	err := m.answers(limit, selects)
	return time.Since(m.begun), err
}

// stop stops the machine in order; a power cut in its place is an error.
func (m *machine) stop(ctx context.Context) error {
	res, err := m.inst.Stop(ctx, 0)
	m.inst = nil
	if err != nil {
		return err
	}
	if res.Forced {
		return fault.Errorf(fault.Device, "torture: %s did not stop in order: %s", m.name, res.Why)
	}
	if m.disk == nil {
		return nil
	}
	// A machine that ends in order flushes; what it did not is lost here too.
	if _, err := m.disk.Cut(rand.New(rand.NewPCG(0, 0))); err != nil {
		return err
	}
	_, err = m.cut(ctx, nil)
	return err
}

// cut takes the power away: QEMU is killed at once, and of a lossy disk
// whatever was not flushed is lost by rng's choice, in one of its next writes. A
// nil rng only ends the machine.
func (m *machine) cut(ctx context.Context, rng *rand.Rand) (nbd.Loss, error) {
	m.ending.Store(true)
	var loss nbd.Loss
	var errs []error
	if m.disk != nil && rng != nil {
		select {
		case <-m.disk.CutAfter(1+rng.IntN(maxWritesToCut), rng):
		case <-time.After(cutWait):
		case <-ctx.Done():
		}
		var err error
		loss, err = m.disk.Cut(rng)
		errs = append(errs, err)
	}
	if p, ok := m.l.seam.process(m.dir); ok {
		errs = append(errs, kill(ctx, p))
	}
	if m.disk != nil {
		errs = append(errs, m.endDisk())
		m.disk, m.endDisk = nil, nil
	}
	m.inst = nil
	return loss, errors.Join(errs...)
}

// kill ends exactly that process and waits for its end.
func kill(ctx context.Context, p vm.Process) error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return p.Wait(ctx)
}

// qmp runs one command of QEMU's.
func (m *machine) qmp(ctx context.Context, command string, args any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := process.Dial(ctx, filepath.Join(m.dir, "qmp.sock"))
	if err != nil {
		return fault.Wrap(fault.Device, err)
	}
	c, err := qmp.New(ctx, conn)
	if err != nil {
		return err
	}
	return errors.Join(c.Execute(ctx, command, args, nil), c.Close())
}

// statusWait is how long the guest may take to say how it is. One request of
// internal/machine's has 5 s, which a guest that recovers on a busy machine may miss.
const statusWait = time.Minute

// status asks the guest, more than once if need be.
func (m *machine) status(ctx context.Context) (*agent.Status, error) {
	for end := time.Now().Add(statusWait); ; {
		s, err := m.statusOnce(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return s, err
		}
		if err := pause.For(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func (m *machine) statusOnce(ctx context.Context) (*agent.Status, error) {
	ask := m.ask
	if ask == nil {
		ask = m.inst.Status
	}
	s, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	if s.Guest == nil {
		return nil, fault.Errorf(fault.Device, "the machine is %s, and its guest says nothing: %s", s.State, s.GuestError)
	}
	return s.Guest, nil
}
