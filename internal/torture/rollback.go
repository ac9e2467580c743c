package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/witness"
)

// runRollback puts older copies of the data disk back, alone or with all that its
// host knows of it, each of which has to be found; and cuts the power around the
// writing of the disk's history, which must alarm nobody.
func runRollback(ctx context.Context, l *lab) (results []Result, err error) {
	planted := Result{Fault: "an older copy of the data disk put back: the services are held"}
	whole := Result{Fault: "and with it all that its host knows: a witness elsewhere finds it"}
	cuts := Result{Fault: "power cuts, and records that never reached the host: no false alarm"}
	if l.Programs == "" {
		planted.Skipped, whole.Skipped, cuts.Skipped = "no programs given", "no programs given", "no programs given"
		return []Result{planted, whole, cuts}, nil
	}
	s, err := l.keep(ctx, "rollback")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	stop, err := s.witnessed(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	rng := l.random("rollback")
	r := &rollback{kept: s, newest: filepath.Join(l.dir, "newest"), copies: filepath.Join(l.dir, "copies")}
	for round := range 1 + max(2, l.Rounds/5) {
		for range 2 {
			took, err := r.cut(ctx, between(rng, 0, 4*time.Second), rng.IntN(2) == 0)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if cuts.Times++; err != nil {
				cuts.Problems = append(cuts.Problems, fmt.Sprintf("cut %d: %v", cuts.Times, err))
				if err := r.settled(ctx); err != nil {
					return nil, err
				}
				continue
			}
			r.back = append(r.back, took)
		}
		row, all := &planted, round%2 == 0
		if all {
			row = &whole
		}
		problem, err := r.plant(ctx, round, rng.IntN(min(max(round, 1), maxCopies)), all)
		if err != nil {
			return nil, err
		}
		if round == 0 {
			continue // there was nothing older yet
		}
		if row.Times++; problem != "" {
			row.Problems = append(row.Problems, fmt.Sprintf("rollback %d: %s", round, problem))
		}
		l.say("rollback %d: found: %v", round, problem == "")
	}
	cuts.Heal = heal(r.back)
	return []Result{planted, whole, cuts}, nil
}

// witnessed lets a witness answer, and has the machine's host tell it.
func (s *kept) witnessed(ctx context.Context) (stop func() error, err error) {
	w, err := witness.New(filepath.Join(s.l.dir, "witness"))
	if err != nil {
		return nil, err
	}
	tokens, _, err := w.Tokens("")
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	serving, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- w.Serve(serving, listener, nil, tokens, nil) }()
	stop = func() error {
		cancel()
		return errors.Join(<-served, w.Close())
	}
	if _, err := s.api.AddWitness(ctx, "http://"+listener.Addr().String(), tokens[0], ""); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// maxCopies is how many older disks are kept to be put back.
const maxCopies = 4

// foundLimit bounds how long an older disk may be used by a machine whose host
// knows nothing of it.
const foundLimit = time.Minute

type rollback struct {
	*kept
	newest, copies string
	back           []time.Duration
}

// cut kills the machine after a while. forget also has the host forget what it
// was told of the disk meanwhile, as if its own power had gone before.
func (r *rollback) cut(ctx context.Context, after time.Duration, forget bool) (time.Duration, error) {
	if err := r.api.Up(ctx, runtime.UpOptions{}, nil); err != nil {
		return 0, err
	}
	remembered, err := r.remembered()
	if err != nil {
		return 0, err
	}
	if err := r.answers(ctx, selects); err != nil {
		return 0, err
	}
	if err := pause.For(ctx, after); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := r.killBoth(ctx, forget, true); err != nil {
		return 0, err
	}
	if forget {
		if err := r.remember(remembered); err != nil {
			return 0, err
		}
	}
	if err := r.settled(ctx); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

func (r *rollback) recordFile() string { return filepath.Join(r.dir, "instance.json") }

func (r *rollback) record() (rec map[string]json.RawMessage, err error) {
	text, err := os.ReadFile(r.recordFile())
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	return rec, fault.Wrap(fault.Environment, err)
}

// remembered is what the host remembers of the disk.
func (r *rollback) remembered() (json.RawMessage, error) {
	rec, err := r.record()
	return rec["continuity"], err
}

// remember has it remember that. Nobody else writes the record: sovereignd was
// killed.
func (r *rollback) remember(what json.RawMessage) error {
	rec, err := r.record()
	if err != nil {
		return err
	}
	if rec["continuity"] = what; what == nil {
		delete(rec, "continuity")
	}
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return atomicfile.Write(r.recordFile(), text, 0o600)
}

// plant takes the machine down, puts an older copy of its disk in its place, with
// all also of what its host knows, and then the newest back. The error is of the
// experiment.
func (r *rollback) plant(ctx context.Context, round, which int, all bool) (problem string, err error) {
	if _, err := r.api.Down(ctx, 0); err != nil {
		return "", err
	}
	if err := r.save(ctx, r.newest); err != nil {
		return "", err
	}
	if old := r.copy(which); round > 0 {
		if err := r.put(ctx, old, all); err != nil {
			return "", err
		}
		problem, err = r.found(ctx, all)
		if err != nil {
			return "", err
		}
		if err := r.put(ctx, r.newest, true); err != nil {
			return "", err
		}
	}
	if err := r.save(ctx, r.copy(round%maxCopies)); err != nil {
		return "", err
	}
	if err := r.api.Up(ctx, runtime.UpOptions{}, nil); err != nil {
		return "", err
	}
	if err := r.settled(ctx); err != nil {
		problem += "; with the newest disk: " + err.Error()
	}
	return problem, ctx.Err()
}

func (r *rollback) copy(n int) string { return filepath.Join(r.copies, fmt.Sprint(n)) }

// knownFiles are what a machine's host knows of its disk.
var knownFiles = []string{"instance.json", "witness.json"}

// save copies them to a directory.
func (r *rollback) save(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, name := range append([]string{imageFile}, knownFiles...) {
		if err := copySparse(ctx, filepath.Join(dir, name), filepath.Join(r.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// put puts them back, without all the disk alone.
func (r *rollback) put(ctx context.Context, dir string, all bool) error {
	if err := copySparse(ctx, filepath.Join(r.dir, imageFile), filepath.Join(dir, imageFile)); err != nil || !all {
		return err
	}
	for _, name := range knownFiles {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = atomicfile.Write(filepath.Join(r.dir, name), text, 0o600)
		}
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
	}
	return nil
}

// found starts the machine with an older disk. Where its host knows nothing of
// that, its services may be healthy for a moment.
func (r *rollback) found(ctx context.Context, all bool) (problem string, err error) {
	if err := r.api.Up(ctx, runtime.UpOptions{}, nil); err != nil {
		return "", err
	}
	limit, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	_, err = r.api.WaitReady(limit, nil)
	if err == nil && all {
		late, cancel := context.WithTimeout(ctx, foundLimit)
		defer cancel()
		err = r.api.Watch(late, func(e runtime.Event) error {
			if e.Status == nil {
				return nil
			}
			return e.Status.Stale()
		})
	}
	switch {
	case err == nil:
		problem = "its services were started"
	case fault.ClassOf(err) != fault.Stale:
		problem = err.Error()
	}
	_, err = r.api.Down(ctx, 0)
	return problem, err
}

// copySparse copies an image without its holes.
func copySparse(ctx context.Context, to, from string) error {
	out, err := exec.CommandContext(ctx, "cp", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		return fault.Errorf(fault.Environment, "cp: %w: %s", err, out)
	}
	return nil
}
