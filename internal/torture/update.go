package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// updater is the family's state.
type updater struct {
	*kept
	rng *rand.Rand
	// target is each bundle by what it is.
	one, two, broken target
	whole            time.Duration // an update that nothing disturbs
}

type target struct{ dir, digest string }

// runUpdate cuts the power in the middle of updates: the command that copies,
// sovereignd and QEMU are killed at a random moment, alone or together. What
// comes up must be healthy, with the old bundle or the new one; after an update
// to a bundle that cannot boot, the old one.
func runUpdate(ctx context.Context, l *lab) (results []Result, err error) {
	res := Result{Fault: "killed in the middle of an update"}
	bad := Result{Fault: "killed in the middle of an update to a bundle that does not boot"}
	if why := l.noUpdate(ctx); why != "" {
		res.Skipped, bad.Skipped = why, why
		return []Result{res, bad}, nil
	}
	u, err := newUpdater(ctx, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, u.close(context.WithoutCancel(ctx))) }()
	var good, back []time.Duration
	outcomes := map[string]int{}
	f, err := u.checked(ctx, false, func(*commitLog) error {
		for i := range max(2, l.Rounds/5) {
			row, heals, to := &res, &good, u.two
			if i%2 == 1 {
				row, heals, to = &bad, &back, u.broken
			}
			took, now, err := u.cutUpdate(ctx, to)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			row.Times++
			if err == nil && now != u.one && (now != to || to == u.broken) {
				err = fmt.Errorf("the bundle is %.19s", now.digest)
			}
			if err != nil {
				row.Problems = append(row.Problems, fmt.Sprintf("round %d: %v", i+1, err))
				return nil
			}
			*heals = append(*heals, took)
			if to == u.two && now == u.two {
				outcomes["new"]++
				u.one, u.two = u.two, u.one
			} else if to == u.two {
				outcomes["old"]++
			}
			l.say("update %d: %s after %.1f s", i+1, now.dir, took.Seconds())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	res.Problems = append(res.Problems, f.Problems...)
	res.Heal, bad.Heal = heal(good), heal(back)
	res.Figures = []Figure{
		figure("came up with the new bundle", "%d", outcomes["new"]), figure("with the old one", "%d", outcomes["old"]),
		figure("undisturbed", "%.1f s", u.whole.Seconds()),
		figure("commits acknowledged", "%d", f.Acks), figure("in doubt", "%d", f.Doubt),
	}
	return []Result{res, bad}, nil
}

// noUpdate says why updates cannot be tried; empty: they can.
func (l *lab) noUpdate(ctx context.Context) string {
	if l.Programs == "" {
		return "no programs given"
	}
	if err := exec.CommandContext(ctx, l.command(), "update", "--help").Run(); err != nil {
		return "sovereign-build has no update"
	}
	return ""
}

func (l *lab) command() string { return filepath.Join(l.Programs, "sovereign-build") }

func newUpdater(ctx context.Context, l *lab) (*updater, error) {
	u := &updater{rng: l.random("update"), one: target{l.Bundle, l.digest}}
	var err error
	u.two.dir, u.two.digest, err = l.variant(ctx, "two", func(m *bundle.Manifest) { m.VM.Cmdline += " torture=two" })
	if err != nil {
		return nil, err
	}
	u.broken.dir, u.broken.digest, err = l.variant(ctx, "broken", func(m *bundle.Manifest) {
		wrong := strings.Repeat("5a", len(m.Root.Hash)/2)
		m.VM.Cmdline = strings.ReplaceAll(m.VM.Cmdline, m.Root.Hash, wrong)
		m.Root.Hash = wrong
	})
	if err != nil {
		return nil, err
	}
	if u.kept, err = l.keep(ctx, "update"); err != nil {
		return nil, err
	}
	begin := time.Now()
	out, err := u.updateCommand(ctx, u.two).CombinedOutput()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("an update that nothing disturbs: %w: %s", err, out), u.close(context.WithoutCancel(ctx)))
	}
	if err := u.settled(ctx); err != nil {
		return nil, errors.Join(err, u.close(context.WithoutCancel(ctx)))
	}
	u.whole = time.Since(begin)
	u.one, u.two = u.two, u.one
	return u, nil
}

func (u *updater) updateCommand(ctx context.Context, t target) *exec.Cmd {
	cmd := exec.CommandContext(ctx, u.l.command(), "update", keptName, t.dir)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+u.home)
	return cmd
}

// cutUpdate begins an update, kills at a random moment, waits until all is
// settled again and says how long that took and which bundle it is.
func (u *updater) cutUpdate(ctx context.Context, to target) (took time.Duration, now target, err error) {
	cmd := u.updateCommand(ctx, to)
	if err := cmd.Start(); err != nil {
		return 0, now, err
	}
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		waitProgram(cmd)
	}()
	waitErr := pause.For(ctx, between(u.rng, 0, u.whole*11/10))
	// All three is a power cut of the host, as far as killing can be one.
	daemon, machine := u.rng.IntN(3) > 0, u.rng.IntN(3) > 0
	killErr := cmd.Process.Kill()
	if errors.Is(killErr, os.ErrProcessDone) {
		killErr = nil
	}
	<-waited
	if err := errors.Join(waitErr, killErr, u.killBoth(ctx, daemon, machine)); err != nil {
		return 0, now, err
	}
	begin := time.Now()
	if err := u.settled(ctx); err != nil {
		return 0, now, err
	}
	if err := u.answers(ctx, selects); err != nil {
		return 0, now, err
	}
	took = time.Since(begin)
	s, err := u.api.Status(ctx)
	if err != nil {
		return took, now, err
	}
	digest := s.Supervision.Slots[s.Supervision.Active].Digest
	for _, t := range []target{u.one, u.two, u.broken} {
		if t.digest == digest {
			now = t
		}
	}
	if now == (target{}) {
		return took, now, fmt.Errorf("the active bundle is %.19s, which is none of those that were given", digest)
	}
	if ran := s.Bundle.Digest; ran != digest {
		return took, now, fmt.Errorf("the machine runs %.19s, and %.19s is active", ran, digest)
	}
	return took, now, nil
}
