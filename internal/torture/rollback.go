package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// runRollback puts older copies of the data disk back, each of which has to be
// found, and cuts the power around the writing of the disk's history, which must
// alarm nobody.
func runRollback(ctx context.Context, l *lab) (results []Result, err error) {
	planted := Result{Fault: "an older copy of the data disk put back: the services are held"}
	cuts := Result{Fault: "power cuts, and records that never reached the host: no false alarm"}
	if l.Programs == "" {
		planted.Skipped, cuts.Skipped = "no programs given", "no programs given"
		return []Result{planted, cuts}, nil
	}
	s, err := l.keep(ctx, "rollback")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	rng := l.random("rollback")
	r := &rollback{kept: s, newest: filepath.Join(l.dir, "newest.img"), copies: filepath.Join(l.dir, "copies")}
	if err := os.MkdirAll(r.copies, 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	for round := range 1 + max(1, l.Rounds/5) {
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
		problem, err := r.plant(ctx, round, rng.IntN(min(max(round, 1), maxCopies)))
		if err != nil {
			return nil, err
		}
		if round == 0 {
			continue // there was nothing older yet
		}
		if planted.Times++; problem != "" {
			planted.Problems = append(planted.Problems, fmt.Sprintf("rollback %d: %s", planted.Times, problem))
		}
	}
	cuts.Heal = heal(r.back)
	return []Result{planted, cuts}, nil
}

// maxCopies is how many older disks are kept to be put back.
const maxCopies = 4

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

// plant takes the machine down, puts an older copy in the place of its disk, and
// then the newest back. The error is of the experiment.
func (r *rollback) plant(ctx context.Context, round, which int) (problem string, err error) {
	if _, err := r.api.Down(ctx, 0); err != nil {
		return "", err
	}
	disk := filepath.Join(r.dir, "data.img")
	if err := copySparse(ctx, r.newest, disk); err != nil {
		return "", err
	}
	if old := r.copy(which); round > 0 {
		if err := copySparse(ctx, disk, old); err != nil {
			return "", err
		}
		problem, err = r.found(ctx)
		if err != nil {
			return "", err
		}
		if err := copySparse(ctx, disk, r.newest); err != nil {
			return "", err
		}
	}
	if err := copySparse(ctx, r.copy(round%maxCopies), r.newest); err != nil {
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

func (r *rollback) copy(n int) string { return filepath.Join(r.copies, fmt.Sprintf("%d.img", n)) }

// found starts the machine with an older disk.
func (r *rollback) found(ctx context.Context) (problem string, err error) {
	if err := r.api.Up(ctx, runtime.UpOptions{}, nil); err != nil {
		return "", err
	}
	limit, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	_, err = r.api.WaitReady(limit, nil)
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
