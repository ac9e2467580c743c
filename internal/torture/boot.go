package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	engine "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// runBoot boots a machine that has its cluster again and again, with nothing
// else to do, and reads the guest's own clock in the first answer of the
// database to a client that knows the password and tries until it is let in.
func runBoot(ctx context.Context, l *lab) ([]Result, error) {
	m, err := l.newMachine(ctx, "boot", copied)
	if err != nil {
		return nil, err
	}
	var selects, ready, wall []time.Duration
	phases := map[string][]time.Duration{}
	var own []time.Duration
	var order []string
	// The first tells the password and the port.
	if _, err := m.boot(ctx); err != nil {
		return nil, err
	}
	if err := m.stop(ctx); err != nil {
		return nil, err
	}
	times := min(max(3, l.Rounds/10), 20)
	for range times {
		took, up, err := m.timedBoot(ctx)
		if err != nil {
			return nil, err
		}
		wall, selects = append(wall, took), append(selects, up)
		s, err := m.status(ctx)
		if err != nil {
			return nil, err
		}
		ready = append(ready, time.Duration(s.BootMS)*time.Millisecond)
		var boot agent.Boot
		err = m.tell(ctx, func(a *engine.Agent) (err error) {
			boot, err = a.Boot(ctx)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("the phases of a boot: %w", err)
		}
		own = append(own, ownShare(boot, s.Services))
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
	results[0].Figures = append(results[0].Figures, figure("init before the services", "%.0f ms", heal(own).Median*1000))
	for _, name := range order {
		results[0].Figures = append(results[0].Figures, figure(name, "%.0f ms", heal(phases[name]).Median*1000))
	}
	return results, nil
}

// ownShare is the time from the end of the kernel's start to the first thing
// that is done for a service.
func ownShare(boot agent.Boot, services []agent.Service) time.Duration {
	var kernel, first float64
	for _, p := range boot.Phases {
		if p.Name == "kernel" {
			kernel = p.EndMS
		}
		of := func(s agent.Service) bool { return strings.HasPrefix(p.Name, s.Name+": ") }
		if first == 0 && slices.ContainsFunc(services, of) {
			first = p.StartMS
		}
	}
	return time.Duration((first - kernel) * float64(time.Millisecond))
}

// timedBoot boots the machine, and asks for the guest's time from the moment at
// which its network is up: of an attempt before that nobody would ever hear, and
// the client would wait for seconds before the next.
func (m *machine) timedBoot(ctx context.Context) (wall, up time.Duration, err error) {
	if err := m.start(ctx); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	asked := make(chan error, 1)
	go func() {
		err := m.untilNetwork(ctx)
		if err == nil {
			up, err = m.uptime(ctx)
		}
		asked <- err
	}()
	err = m.inst.WaitReady(ctx, nil)
	wall = time.Since(m.begun)
	if err != nil {
		cancel()
	}
	return wall, up, errors.Join(err, <-asked)
}

// untilNetwork waits until the console says that the network is up, which it is
// while the services are set up. To ask the guest would take from its boot.
func (m *machine) untilNetwork(ctx context.Context) error {
	for {
		text, err := os.ReadFile(m.inst.ConsoleFile())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if bytes.Contains(text, []byte(" is up: ")) {
			return nil
		}
		if err := pause.For(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// uptime asks the database for the time since the kernel's start.
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
