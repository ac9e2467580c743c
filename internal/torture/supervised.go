package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	engine "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/local"
	"github.com/sovereign-build/sovereign/pkg/runtime/supervisor"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// supervised is an installed instance and its sovereignd, in a state directory
// of their own.
type supervised struct {
	*machine
	rt     *engine.Runtime
	client supervisor.Client
	home   string // XDG_STATE_HOME for which rt's directory is the state directory
}

const supervisedName = "sup"

// supervise installs the bundle, with a copy of the template as its data, and
// waits until sovereignd has it ready. It is the caller's to close.
func (l *lab) supervise(ctx context.Context, name string) (*supervised, error) {
	home := filepath.Join(l.dir, name)
	rt, err := engine.Open(filepath.Join(home, "sovereign"))
	if err != nil {
		return nil, err
	}
	s := &supervised{rt: rt, home: home, client: supervisor.Client{Runtime: rt, Program: filepath.Join(l.Programs, "sovereignd")}}
	s.machine = &machine{l: l, name: supervisedName, dir: filepath.Join(rt.Dir(), "instances", supervisedName)}
	if err := s.makeData(ctx, copied); err != nil {
		return nil, err
	}
	never := 0
	o := engine.UpOptions{Accel: l.accel, Limit: &never}
	if _, err := rt.Install(ctx, l.Bundle, supervisedName, o, nil); err != nil {
		return nil, err
	}
	if err := s.settled(ctx); err != nil {
		return nil, errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// settled waits until no update is under way and every service is healthy.
// Where no sovereignd runs, it starts one, as every command does.
func (s *supervised) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	i, err := s.client.WaitReady(ctx, supervisedName)
	if err != nil {
		return err
	}
	s.inst = i
	s.dsn, err = i.DSN(ctx)
	return err
}

// sovereignd is the process that supervises.
func (s *supervised) sovereignd(ctx context.Context) (vm.Process, bool, error) {
	return local.Device{}.Listener(ctx, filepath.Join(s.rt.Dir(), engine.SupervisorSocket))
}

// qemu is the process that runs the machine.
func (s *supervised) qemu(ctx context.Context) (vm.Process, bool, error) {
	return local.Device{}.Listener(ctx, filepath.Join(s.dir, "qmp.sock"))
}

// killBoth kills what runs of the two.
func (s *supervised) killBoth(ctx context.Context, daemon, machine bool) error {
	var victims []vm.Process
	for _, find := range []struct {
		wanted bool
		find   func(context.Context) (vm.Process, bool, error)
	}{{daemon, s.sovereignd}, {machine, s.qemu}} {
		if !find.wanted {
			continue
		}
		p, ok, err := find.find(ctx)
		if err != nil {
			return err
		}
		if ok {
			victims = append(victims, p)
		}
	}
	var errs []error
	for _, p := range victims {
		errs = append(errs, kill(ctx, p))
	}
	return errors.Join(errs...)
}

// close ends sovereignd first, so that it does not heal what ends next.
func (s *supervised) close(ctx context.Context) error {
	return errors.Join(s.killBoth(ctx, true, false), s.killBoth(ctx, false, true), s.closeLog())
}

// runSupervisor kills sovereignd, which the machine must not notice, and the
// machine, which sovereignd must bring back.
func runSupervisor(ctx context.Context, l *lab) (results []Result, err error) {
	daemon := Result{Fault: "sovereignd killed (SIGKILL): the machine goes on, the next one adopts it"}
	machine := Result{Fault: "QEMU killed (SIGKILL): sovereignd brings the machine back"}
	if l.Programs == "" {
		daemon.Skipped, machine.Skipped = "no programs given", "no programs given"
		return []Result{daemon, machine}, nil
	}
	s, err := l.supervise(ctx, "supervisor")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	rng := l.random("supervisor")
	var adopted, back []time.Duration
	f, err := s.checked(ctx, false, func(*commitLog) error {
		for range max(1, l.Rounds/2) {
			took, err := s.killDaemon(ctx, rng)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			daemon.Times++
			if err != nil {
				daemon.Problems = append(daemon.Problems, err.Error())
				continue
			}
			adopted = append(adopted, took)
		}
		for range max(1, l.Rounds/10) {
			took, err := s.killMachine(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			machine.Times++
			if err != nil {
				machine.Problems = append(machine.Problems, err.Error())
				return nil
			}
			back = append(back, took)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	daemon.Heal, machine.Heal = heal(adopted), heal(back)
	machine.Problems = append(machine.Problems, f.Problems...)
	machine.Figures = []Figure{figure("commits acknowledged", "%d", f.Acks), figure("in doubt", "%d", f.Doubt)}
	return []Result{daemon, machine}, nil
}

// killDaemon kills sovereignd and returns the time until another one has the
// guest's session. The machine must be the same, and a connection to its
// database must not have noticed.
func (s *supervised) killDaemon(ctx context.Context, rng *rand.Rand) (time.Duration, error) {
	// Some of the kills come while it is still adopting.
	if err := pause(ctx, between(rng, 0, 500*time.Millisecond)); err != nil {
		return 0, err
	}
	before, ok, err := s.qemu(ctx)
	if err != nil || !ok {
		return 0, errors.Join(errors.New("no machine runs"), err)
	}
	c, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer closeConn(c)
	if err := s.killBoth(ctx, true, false); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := supervisor.Ensure(ctx, s.rt.Dir(), s.client.Program); err != nil {
		return 0, err
	}
	if err := s.guestReady(ctx, func(*agent.Status) bool { return s.shared(ctx) }); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	if _, err := selects(ctx, c); err != nil {
		return took, fmt.Errorf("a connection to the database did not outlive sovereignd: %w", err)
	}
	after, ok, err := s.qemu(ctx)
	if err != nil || !ok || after != before {
		return took, fmt.Errorf("another machine runs: process %d, it was %d: %w", after.PID, before.PID, err)
	}
	return took, nil
}

// shared says whether sovereignd gives streams to the guest.
func (s *supervised) shared(ctx context.Context) bool {
	c, err := local.Device{}.Dial(ctx, "unix", filepath.Join(s.dir, engine.GuestSocket))
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// killMachine kills QEMU and returns the time until its services are healthy
// again. The ends in a row are forgotten first: the pauses that grow with them
// are not what is measured.
func (s *supervised) killMachine(ctx context.Context) (time.Duration, error) {
	if _, err := s.rt.Up(ctx, supervisedName, engine.UpOptions{}, nil); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := s.killBoth(ctx, false, true); err != nil {
		return 0, err
	}
	err := s.settled(ctx)
	took := time.Since(begin)
	if err != nil {
		return took, err
	}
	return took, s.answers(ctx, selects)
}

// variant writes a bundle that differs from the one under test in its
// manifest.
func (l *lab) variant(ctx context.Context, name string, edit func(*bundle.Manifest)) (dir, digest string, err error) {
	dir = filepath.Join(l.dir, name)
	w, err := bundle.Create(dir)
	if err != nil {
		return "", "", err
	}
	for _, a := range l.manifest.Artifacts {
		if err := addFile(ctx, w, filepath.Join(l.Bundle, a.File), a); err != nil {
			return "", "", errors.Join(err, w.Abort())
		}
	}
	m := *l.manifest
	m.Artifacts = nil
	edit(&m)
	if _, err := w.Commit(ctx, m); err != nil {
		return "", "", errors.Join(err, w.Abort())
	}
	digest, err = bundle.Digest(dir)
	return dir, digest, err
}

func addFile(ctx context.Context, w *bundle.Writer, path string, a bundle.Artifact) error {
	f, err := os.Open(path)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	return w.Add(ctx, a.File, a.Role, f)
}
