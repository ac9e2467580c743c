package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// kept is a machine and its sovereignd, in a state directory of their own.
type kept struct {
	*machine
	host *runtime.Host
	api  *runtime.Machine
	home string // XDG_STATE_HOME for which host's directory is the state directory
}

const keptName = "sup"

// keep installs the bundle, with a copy of the template as its data, and
// waits until sovereignd has it ready. It is the caller's to close.
func (l *lab) keep(ctx context.Context, name string) (*kept, error) {
	s := &kept{home: filepath.Join(l.dir, name)}
	var err error
	if s.host, err = runtime.Local(s.stateDir(), runtime.WithProgram(filepath.Join(l.Programs, sovereignd.Program))); err != nil {
		return nil, err
	}
	s.machine = &machine{l: l, name: keptName, dir: filepath.Join(s.stateDir(), "instances", keptName)}
	s.ask = func(ctx context.Context) (runtime.Status, error) { return s.api.Status(ctx) }
	if err := s.makeData(ctx, copied); err != nil {
		return nil, err
	}
	never := 0
	o := runtime.UpOptions{Accel: l.accel, Limit: &never}
	if s.api, err = s.host.Install(ctx, l.Bundle, keptName, o, nil); err != nil {
		return nil, errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}
	if err := s.settled(ctx); err != nil {
		return nil, errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *kept) stateDir() string { return filepath.Join(s.home, "sovereign") }

// settled waits until no update is under way and every service is healthy.
// Where no sovereignd runs, it starts one, as every command does.
func (s *kept) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if _, err := s.api.WaitReady(ctx, nil); err != nil {
		return err
	}
	c, err := s.api.Credentials(ctx, 0)
	s.dsn = c.URL
	return err
}

// sovereignd is the process that keeps the machine.
func (s *kept) sovereignd(ctx context.Context) (vm.Process, bool, error) {
	return process.Listener(ctx, filepath.Join(s.stateDir(), sovereignd.Socket))
}

// qemu is the process that runs the machine.
func (s *kept) qemu(ctx context.Context) (vm.Process, bool, error) {
	return process.Listener(ctx, filepath.Join(s.dir, "qmp.sock"))
}

// killBoth kills what runs of the two.
func (s *kept) killBoth(ctx context.Context, daemon, machine bool) error {
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
func (s *kept) close(ctx context.Context) error {
	return errors.Join(s.host.Close(), s.killBoth(ctx, true, false), s.killBoth(ctx, false, true), s.closeLog())
}

// runSovereignd kills sovereignd, which the machine must not notice, and the
// machine, which sovereignd must bring back.
func runSovereignd(ctx context.Context, l *lab) (results []Result, err error) {
	daemon := Result{Fault: "sovereignd killed (SIGKILL): the machine goes on, the next one adopts it"}
	machine := Result{Fault: "QEMU killed (SIGKILL): sovereignd brings the machine back"}
	if l.Programs == "" {
		daemon.Skipped, machine.Skipped = "no programs given", "no programs given"
		return []Result{daemon, machine}, nil
	}
	s, err := l.keep(ctx, "supervisor")
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
func (s *kept) killDaemon(ctx context.Context, rng *rand.Rand) (time.Duration, error) {
	// Some of the kills come while it is still adopting.
	if err := pause.For(ctx, between(rng, 0, 500*time.Millisecond)); err != nil {
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
	// The first question starts another one.
	if err := s.guestReady(ctx, anyStatus); err != nil {
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

// killMachine kills QEMU and returns the time until its services are healthy
// again. The ends in a row are forgotten first: the pauses that grow with them
// are not what is measured.
func (s *kept) killMachine(ctx context.Context) (time.Duration, error) {
	if err := s.api.Up(ctx, runtime.UpOptions{}, nil); err != nil {
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
