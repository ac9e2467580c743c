package runtime

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// guest has a question answered by the guest's agent, over streams of the
// session that sovereignd has with it. The first is opened before, so that an
// error of the host is not taken for the guest's.
func (m *Machine) guest(ctx context.Context, question func(*agent.Client) error) error {
	open := func(ctx context.Context) (net.Conn, error) { return m.h.upgrade(ctx, machinePath(m.name, "agent")) }
	conn, err := open(ctx)
	if err != nil {
		return err
	}
	first := make(chan net.Conn, 1)
	first <- conn
	defer func() {
		select {
		case conn := <-first:
			conn.Close() // it was not used
		default:
		}
	}()
	c := agent.NewStreams(func(ctx context.Context) (net.Conn, error) {
		select {
		case conn := <-first:
			return conn, nil
		default:
			return open(ctx)
		}
	})
	return m.tooOld(question(c))
}

// ErrTooOld is of a guest whose agent has no such endpoint.
var ErrTooOld = errors.New("its image is too old")

// tooOld explains the answer of a guest whose agent has no such endpoint: its
// HTTP server's own words, where an endpoint would have words of its own.
func (m *Machine) tooOld(err error) error {
	if err == nil || !strings.HasSuffix(err.Error(), ": 404 page not found") && !strings.HasSuffix(err.Error(), ": Method Not Allowed") {
		return err
	}
	return fault.Errorf(fault.Device, "the guest of %s cannot do this, %w: %w", m.name, ErrTooOld, err).
		Hintf("build the image anew, stop the machine and start it with that")
}

// Exec runs a program in the guest and returns its exit code; see
// agent.Client. A program that runs to its end is no error, whatever its code.
func (m *Machine) Exec(ctx context.Context, r agent.ExecRequest, std agent.ExecIO) (code int, err error) {
	err = m.guest(ctx, func(c *agent.Client) (err error) {
		code, err = c.Exec(ctx, r, std)
		return err
	})
	return code, err
}

// Boot returns the phases of the guest's boot.
func (m *Machine) Boot(ctx context.Context) (boot agent.Boot, err error) {
	err = m.guest(ctx, func(c *agent.Client) (err error) {
		boot, err = c.Boot(ctx)
		return err
	})
	return boot, err
}

// Metrics returns memory, load, pressure, the data disk and the services, in
// Prometheus' text format.
func (m *Machine) Metrics(ctx context.Context) (text []byte, err error) {
	err = m.guest(ctx, func(c *agent.Client) (err error) {
		text, err = c.Metrics(ctx)
		return err
	})
	return text, err
}

// RestartService ends a service in order, and returns when the guest has begun
// it; the service starts again by itself.
func (m *Machine) RestartService(ctx context.Context, service string) error {
	return m.guest(ctx, func(c *agent.Client) error { return c.RestartService(ctx, service) })
}

// Freeze freezes the guest's data file system, for a copy of its disk; the
// guest thaws it by itself after limit (1 s to 10 min).
func (m *Machine) Freeze(ctx context.Context, limit time.Duration) error {
	return m.guest(ctx, func(c *agent.Client) error { return c.Freeze(ctx, limit) })
}

// Thaw ends a freeze.
func (m *Machine) Thaw(ctx context.Context) error {
	return m.guest(ctx, func(c *agent.Client) error { return c.Thaw(ctx) })
}

const (
	// initLog is the name under which sovereign-init keeps its own log.
	initLog = "init"
	// maxLog bounds what the guest keeps of a log, in bytes: 512 KiB, and more
	// in a later version.
	maxLog = 16 << 20
	// maxLogLine bounds a line of a log, in bytes; a longer one comes in parts.
	maxLogLine = 64 << 10
)

// LogNames are what Logs takes: sovereign-init's own log, and the services.
func (m *Machine) LogNames(ctx context.Context) ([]string, error) {
	manifest, err := m.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	return append([]string{initLog}, manifest.Services...), nil
}

// Logs gives the newest lines of the services (of all when none is named) to
// line, one service after the other. With follow the services come as they
// write, until ctx ends, which is no error, or the guest does. line is called
// by one goroutine at a time; its error ends Logs.
func (m *Machine) Logs(ctx context.Context, services []string, follow bool, line func(LogLine) error) error {
	known, err := m.LogNames(ctx)
	if err != nil {
		return err
	}
	if len(services) == 0 {
		services = known
	} else if err := m.checkServices(known, services...); err != nil {
		return err
	}
	err = m.guest(ctx, func(c *agent.Client) error {
		if !follow {
			for _, service := range services {
				if err := readLog(ctx, c, service, false, line); err != nil {
					return err
				}
			}
			return nil
		}
		var mu sync.Mutex
		group, ctx := errgroup.WithContext(ctx)
		for _, service := range services {
			group.Go(func() error {
				return readLog(ctx, c, service, true, func(l LogLine) error {
					mu.Lock()
					defer mu.Unlock()
					return line(l)
				})
			})
		}
		return group.Wait()
	})
	if follow && ctx.Err() != nil {
		return nil
	}
	return err
}

// readLog gives a service's lines to line. Without follow it has read all
// before the first: the guest gives up on one who takes it slowly, as a pager
// does.
func readLog(ctx context.Context, c *agent.Client, service string, follow bool, line func(LogLine) error) error {
	body, err := c.Logs(ctx, service, follow)
	if err != nil {
		return err
	}
	defer body.Close()
	log := io.Reader(body)
	if !follow {
		text, err := io.ReadAll(io.LimitReader(body, maxLog+1))
		if err != nil {
			return brokenLog(ctx, service, err)
		}
		if len(text) > maxLog {
			return fault.Errorf(fault.Device, "the log of %s: the guest sends more than %d bytes", service, maxLog)
		}
		log = bytes.NewReader(text)
	}
	r := bufio.NewReaderSize(log, maxLogLine)
	for {
		text, err := r.ReadSlice('\n')
		over := errors.Is(err, io.EOF)
		if err != nil && !over && !errors.Is(err, bufio.ErrBufferFull) {
			return brokenLog(ctx, service, err) // half a line is not given
		}
		if len(text) > 0 {
			if err := line(LogLine{service, strings.TrimSuffix(string(text), "\n")}); err != nil {
				return err
			}
		}
		if over {
			return nil
		}
	}
}

// brokenLog is the error of a log that ends in the middle.
func brokenLog(ctx context.Context, service string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fault.Wrap(fault.Device, fmt.Errorf("the log of %s: %w", service, err))
}

// checkServices finds the name of no service, and says which there are.
func (m *Machine) checkServices(known []string, names ...string) error {
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fault.Errorf(fault.Usage, "%s has no service %q", m.name, name).
				Hintf("choose one of: %s", strings.Join(known, ", "))
		}
	}
	return nil
}

// Secrets are the secrets that the URLs of the ports name, in their order. A
// service may have others, which the bundle's manifest does not tell.
func (m *Machine) Secrets(ctx context.Context) ([]SecretRef, error) {
	manifest, err := m.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	var refs []SecretRef
	for _, p := range manifest.Ports {
		for _, r := range references(p.URL) {
			ref := SecretRef{p.Service, r.name}
			if r.kind == secretReference && !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
	}
	return refs, nil
}

// Secret asks the guest for a secret's value: do not log it.
func (m *Machine) Secret(ctx context.Context, ref SecretRef) (value string, err error) {
	err = m.secret(ctx, ref, func(c *agent.Client) (err error) {
		value, err = c.Secret(ctx, ref.Service, ref.Name)
		return err
	})
	return value, err
}

// SetSecret hands a secret's value over; the service takes it up at once.
func (m *Machine) SetSecret(ctx context.Context, ref SecretRef, value string) error {
	return m.secret(ctx, ref, func(c *agent.Client) error { return c.SetSecret(ctx, ref.Service, ref.Name, value) })
}

// RotateSecret has the guest generate a new value; the service takes it up at
// once.
func (m *Machine) RotateSecret(ctx context.Context, ref SecretRef) error {
	return m.secret(ctx, ref, func(c *agent.Client) error { return c.RotateSecret(ctx, ref.Service, ref.Name) })
}

// secret asks about a secret of a service that the machine has; only the guest
// knows all its secrets.
func (m *Machine) secret(ctx context.Context, ref SecretRef, question func(*agent.Client) error) error {
	if ref.Name == "" {
		return fault.Errorf(fault.Usage, "a secret has a name")
	}
	known, err := m.LogNames(ctx)
	if err == nil {
		err = m.checkServices(known, ref.Service)
	}
	if err != nil {
		return err
	}
	return m.guest(ctx, question)
}
