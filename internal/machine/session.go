package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// GuestSocket is where sovereignd shares its session with the guest's agent:
// each connection is one stream to the guest's HTTP server.
const GuestSocket = "guest.sock"

// Agent is a talk with the guest's agent: streams of sovereignd's session, or a
// session of its own. The port carries one at a time, so that those without a
// sovereignd take turns by a lock file.
type Agent struct {
	*agent.Client
	unlock func()
}

// Close ends the talk.
func (a *Agent) Close() error {
	defer a.unlock()
	return a.Client.Close()
}

// Agent connects to the guest's agent, waiting until it answers or ctx ends:
// give ctx a deadline. Without a sovereignd nobody else reaches the guest while
// the caller holds it; Close it soon.
func (i *Instance) Agent(ctx context.Context) (*Agent, error) {
	if err := i.mustRun(ctx); err != nil {
		return nil, err
	}
	return i.session(ctx)
}

func (i *Instance) session(ctx context.Context) (*Agent, error) {
	if first, err := i.shared(ctx); err == nil {
		streams := make(chan net.Conn, 1)
		streams <- first
		c := agent.NewStreams(func(ctx context.Context) (net.Conn, error) {
			select {
			case conn := <-streams:
				return conn, nil
			default:
				return i.dialGuest(ctx)
			}
		})
		return &Agent{c, func() {
			select {
			case conn := <-streams:
				conn.Close() // it was not used
			default:
			}
		}}, nil
	}
	c, release, err := i.HoldAgent(ctx)
	if err != nil {
		return nil, err
	}
	return &Agent{c, release}, nil
}

// sharedLimit is how long sovereignd may take to share its session with a
// machine that has just been started.
const sharedLimit = 2 * time.Second

// shared opens a stream of sovereignd's session. Where there is a
// sovereignd, its socket is waited for: a session of one's own would keep the
// sovereignd from the guest.
func (i *Instance) shared(ctx context.Context) (net.Conn, error) {
	conn, err := i.dialGuest(ctx)
	if err == nil || i.rec.Wanted != Up {
		return conn, err
	}
	if kept, err := i.r.kept(); err != nil || !kept {
		return nil, errors.Join(err, net.ErrClosed)
	}
	limit, cancel := context.WithTimeout(ctx, sharedLimit)
	defer cancel()
	for {
		if err := pause.For(limit, lockPoll); err != nil {
			return nil, err
		}
		if conn, err := i.dialGuest(limit); err == nil {
			return conn, nil
		}
	}
}

// dialGuest opens a stream of sovereignd's session.
func (i *Instance) dialGuest(ctx context.Context) (net.Conn, error) {
	return process.Dial(ctx, filepath.Join(i.dir, GuestSocket))
}

// ErrAgentBusy is HoldAgent's error when it was not the guest that it waited
// for.
var ErrAgentBusy = errors.New("waiting for another command that speaks")

// HoldAgent opens the one session that the agent's port carries, waiting for
// whoever has it and for the guest until ctx ends. After Close of the client,
// release lets the next one have it.
func (i *Instance) HoldAgent(ctx context.Context) (c *agent.Client, release func(), err error) {
	unlock, err := lockFile(ctx, filepath.Join(i.r.dir, "locks", i.Name()+".agent"))
	if err != nil {
		return nil, nil, fault.Wrap(fault.Device, fmt.Errorf("%w to %s: %w", ErrAgentBusy, i.Name(), err))
	}
	conn, err := i.dialAgent(ctx)
	if err == nil {
		c, err = agent.Dial(ctx, conn)
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return c, unlock, nil
}

// dialAgent opens the way to the agent's port.
func (i *Instance) dialAgent(ctx context.Context) (net.Conn, error) {
	conn, err := i.r.hv.DialAgent(ctx, i.dir)
	if err != nil {
		return nil, fault.Errorf(fault.Device, "connecting to the guest's agent: %w", err).
			Hintf("see whether it runs: sovereign-build status %s", i.Name())
	}
	return conn, nil
}
