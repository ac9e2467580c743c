package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// killsPerBoot is how many kills of each kind one boot takes. The guest waits
// longer before each restart of a service that does not stay healthy for a
// minute, as it must; a new boot begins anew.
const killsPerBoot = 3

// killKind is one kind of process to kill.
type killKind struct {
	fault string
	// strike kills, and returns when all is well again.
	strike func(ctx context.Context, m *machine, rng *rand.Rand) error
	// skip says why it cannot be tried on this machine; empty: it can.
	skip func(m *machine) string
}

func killKinds() []killKind {
	always := func(*machine) string { return "" }
	return []killKind{
		{"postmaster killed (SIGKILL), under load", killPostmaster, always},
		{"one of its processes killed (SIGKILL), under load", killBackend, always},
		{"tailscaled killed (SIGKILL)", killTailscaled, func(m *machine) string {
			if tailscaled(m) == "" {
				return "the bundle has no such service"
			}
			return ""
		}},
		{"agent's connection dropped in a message", dropAgent, always},
	}
}

// runKills kills each kind as often as half the rounds.
func runKills(ctx context.Context, l *lab) ([]Result, error) {
	rng := l.random("kills")
	want := max(1, l.Rounds/2)
	kinds := killKinds()
	results := make([]Result, len(kinds))
	heals := make([][]time.Duration, len(kinds))
	rows := Result{Fault: "commits after the kills"}
	acks, doubt := 0, 0
	for boot := 1; results[0].Times < want; boot++ {
		m, err := l.newMachine(ctx, fmt.Sprintf("kill%d", boot), copied)
		if err != nil {
			return nil, err
		}
		if _, err := m.boot(ctx); err != nil {
			return nil, err
		}
		f, err := m.checked(ctx, false, func(*commitLog) error {
			for range min(killsPerBoot, want-results[0].Times) {
				for i, k := range kinds {
					results[i].Fault = k.fault
					if results[i].Skipped = k.skip(m); results[i].Skipped != "" {
						continue
					}
					begin := time.Now()
					err := k.strike(ctx, m, rng)
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					results[i].Times++
					if err != nil {
						results[i].Problems = append(results[i].Problems, err.Error())
						continue
					}
					heals[i] = append(heals[i], time.Since(begin))
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		rows.Times++
		rows.Problems = append(rows.Problems, f.Problems...)
		acks, doubt = acks+f.Acks, doubt+f.Doubt
		l.say("kills: %d of %d", results[0].Times, want)
		if err := m.stop(ctx); err != nil {
			return nil, err
		}
		if err := l.drop(ctx, m); err != nil {
			return nil, err
		}
	}
	for i := range results {
		results[i].Heal = heal(heals[i])
	}
	rows.Figures = []Figure{figure("acknowledged", "%d", acks), figure("in doubt", "%d", doubt)}
	return append(results, rows), nil
}

// killPostmaster has the superuser's own shell in the guest do it. Well is a
// new postmaster that answers, and a guest that says it is ready.
func killPostmaster(ctx context.Context, m *machine, _ *rand.Rand) error {
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(c)
	var was time.Time
	var data string
	const about = `SELECT pg_postmaster_start_time(), current_setting('data_directory')`
	if err := c.QueryRow(ctx, about).Scan(&was, &data); err != nil {
		return err
	}
	if err := shell(ctx, c, fmt.Sprintf(`kill -9 $(head -n 1 %s/postmaster.pid)`, data)); err != nil {
		return err
	}
	err = m.answers(ctx, func(ctx context.Context, c *pgx.Conn) (bool, error) {
		var now time.Time
		err := c.QueryRow(ctx, `SELECT pg_postmaster_start_time()`).Scan(&now)
		return now.After(was), err
	})
	if err != nil {
		return err
	}
	return m.guestReady(ctx, anyStatus)
}

// killBackend kills a process of the server by chance, but for workers, which
// may be gone before they are hit. The postmaster then
// ends the others and recovers, as after a crash.
func killBackend(ctx context.Context, m *machine, rng *rand.Rand) error {
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(c)
	rows, err := c.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type !~ 'worker' ORDER BY backend_type, pid`)
	if err != nil {
		return err
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return errors.New("the server has no processes")
	}
	if err := shell(ctx, c, fmt.Sprintf(`kill -9 %d`, pids[rng.IntN(len(pids))])); err != nil {
		return err
	}
	// This connection ends with the others: then the recovery has begun.
	limited, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	for {
		if _, err := selects(limited, c); err != nil {
			break
		}
	}
	if limited.Err() != nil {
		return errors.New("the other processes were not ended")
	}
	if err := m.answers(ctx, selects); err != nil {
		return err
	}
	return m.guestReady(ctx, anyStatus)
}

// shell runs a command in the guest as the server's user. The connection may
// well be gone before it answers.
func shell(ctx context.Context, c *pgx.Conn, command string) error {
	_, err := c.Exec(ctx, `COPY (SELECT 1) TO PROGRAM '`+strings.ReplaceAll(command, `'`, `''`)+`'`)
	if err != nil && !c.IsClosed() {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// tailscaled is the name of the service, if the bundle has it.
func tailscaled(m *machine) string {
	i := slices.IndexFunc(m.l.manifest.Services, func(s string) bool { return strings.HasPrefix(s, "tailscale") })
	if i < 0 {
		return ""
	}
	return m.l.manifest.Services[i]
}

// killTailscaled kills the daemon. Well is another process in its place, as
// far as the first was, and a database that never noticed.
func killTailscaled(ctx context.Context, m *machine, _ *rand.Rand) error {
	name := tailscaled(m)
	s, err := m.status(ctx)
	if err != nil {
		return err
	}
	was, ok := s.Service(name)
	if !ok || was.PID == 0 {
		return fmt.Errorf("%s does not run: %s", name, was.Message)
	}
	code, err := m.exec(ctx, []string{"kill", "-9", fmt.Sprint(was.PID)}, agent.ExecIO{})
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("kill -9 %d: exit status %d", was.PID, code)
	}
	return m.guestReady(ctx, func(s *agent.Status) bool {
		now, ok := s.Service(name)
		return ok && now.PID != 0 && now.PID != was.PID && now.State == was.State && now.Healthy == was.Healthy
	})
}

// dropAgent breaks the agent's connection in the middle of a request. Well is
// an answer on a new one.
func dropAgent(ctx context.Context, m *machine, rng *rand.Rand) error {
	line, err := m.agentLine(ctx)
	if err != nil {
		return err
	}
	stream, err := openStream(line)
	if err != nil {
		return errors.Join(err, line.Close())
	}
	request := "GET /v1/logs/init?follow=true HTTP/1.1\r\nHost: guest\r\n\r\n"
	_, err = stream.Write([]byte(request[:1+rng.IntN(len(request))]))
	if err := errors.Join(err, line.Close()); err != nil {
		return err
	}
	return m.guestReady(ctx, anyStatus)
}
