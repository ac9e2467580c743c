package torture

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// runBoot boots a machine that has its cluster again and again, with nothing
// else to do, and reads the guest's own clock in the first answer of the
// database.
func runBoot(ctx context.Context, l *lab) ([]Result, error) {
	m, err := l.newMachine(ctx, "boot", copied)
	if err != nil {
		return nil, err
	}
	var selects, ready, wall []time.Duration
	phases := map[string][]time.Duration{}
	var order []string
	times := min(max(3, l.Rounds/10), 20)
	for range times {
		if err := m.start(ctx); err != nil {
			return nil, err
		}
		took, err := m.ready(ctx, nil)
		if err != nil {
			return nil, err
		}
		wall = append(wall, took)
		up, err := m.uptime(ctx)
		if err != nil {
			return nil, err
		}
		selects = append(selects, up)
		s, err := m.status(ctx)
		if err != nil {
			return nil, err
		}
		ready = append(ready, time.Duration(s.BootMS)*time.Millisecond)
		boot, err := m.inst.Boot(ctx)
		if err != nil {
			l.say("the guest does not tell its phases: %v", err)
		}
		for _, p := range boot.Phases {
			if p.EndMS < p.StartMS {
				continue // it goes on
			}
			if !slices.Contains(order, p.Name) {
				order = append(order, p.Name)
			}
			phases[p.Name] = append(phases[p.Name], time.Duration((p.EndMS-p.StartMS)*float64(time.Millisecond)))
		}
		if err := m.stop(ctx); err != nil {
			return nil, err
		}
	}
	row := func(what string, all []time.Duration) Result {
		return Result{Fault: what, Times: times, Heal: heal(all)}
	}
	results := []Result{
		row("second boot: kernel's start to SELECT, guest's time", selects),
		row("second boot: kernel's start to every service healthy, guest's time", ready),
		row("second boot: QEMU's start to ready, this machine's time", wall),
	}
	for _, name := range order {
		results[0].Figures = append(results[0].Figures, figure(name, "%.0f ms", heal(phases[name]).Median*1000))
	}
	return results, nil
}

// uptime asks the database for the time since the kernel's start. The agent's
// word that it is ready, and the password from it, come before.
func (m *machine) uptime(ctx context.Context) (time.Duration, error) {
	var text string
	err := m.answers(ctx, func(ctx context.Context, c *pgx.Conn) (bool, error) {
		err := c.QueryRow(ctx, "SELECT pg_read_file('/proc/uptime')").Scan(&text)
		return true, err
	})
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(text, " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/uptime: %q: %w", text, err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}
