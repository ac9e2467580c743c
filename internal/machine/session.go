package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// GuestSocket is where a supervisor shares its session with the guest's agent:
// each connection is one stream to the guest's HTTP server.
const GuestSocket = "guest.sock"

// session is a talk with the guest's agent: streams of the supervisor's
// session, or one of its own. The port carries one session at a time, so that
// those without a supervisor take turns by a lock file.
type session struct {
	*agent.Client
	unlock func()
}

func (s *session) Close() error {
	defer s.unlock()
	return s.Client.Close()
}

// Agent connects to the guest's agent, waiting until it answers or ctx ends:
// give ctx a deadline. Without a supervisor no other command reaches the guest
// while the caller holds the client; Close it soon.
func (i *Instance) Agent(ctx context.Context) (Agent, error) {
	if err := i.mustRun(ctx); err != nil {
		return nil, err
	}
	s, err := i.session(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Agent is a connection to a guest; see package agent for the methods.
type Agent interface {
	Status(ctx context.Context) (*agent.Status, error)
	Secret(ctx context.Context, service, name string) (string, error)
	Logs(ctx context.Context, service string, follow bool) (io.ReadCloser, error)
	Freeze(ctx context.Context, limit time.Duration) error
	Thaw(ctx context.Context) error
	Shutdown(ctx context.Context) error
	Close() error
}

func (i *Instance) session(ctx context.Context) (*session, error) {
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
		return &session{c, func() {
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
	return &session{c, release}, nil
}

// sharedLimit is how long a supervisor may take to share its session with a
// machine that has just been started.
const sharedLimit = 2 * time.Second

// shared opens a stream of the supervisor's session. Where there is a
// supervisor, its socket is waited for: a session of one's own would keep the
// supervisor from the guest.
func (i *Instance) shared(ctx context.Context) (net.Conn, error) {
	conn, err := i.dialGuest(ctx)
	if err == nil || i.rec.Wanted != Up {
		return conn, err
	}
	if _, ok, err := i.r.device.Listener(ctx, filepath.Join(i.r.dir, SupervisorSocket)); err != nil || !ok {
		return nil, errors.Join(err, net.ErrClosed)
	}
	limit, cancel := context.WithTimeout(ctx, sharedLimit)
	defer cancel()
	for {
		if err := sleep(limit, lockPoll); err != nil {
			return nil, err
		}
		if conn, err := i.dialGuest(limit); err == nil {
			return conn, nil
		}
	}
}

// dialGuest opens a stream of the supervisor's session.
func (i *Instance) dialGuest(ctx context.Context) (net.Conn, error) {
	return i.r.device.Dial(ctx, "unix", filepath.Join(i.dir, GuestSocket))
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

// dialAgent opens the socket. A former session that the hypervisor has not
// done away with yet shows as EAGAIN.
func (i *Instance) dialAgent(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := i.r.device.Dial(ctx, "unix", filepath.Join(i.dir, vm.AgentSocket))
		if !errors.Is(err, unix.EAGAIN) {
			if err != nil {
				return nil, fault.Errorf(fault.Device, "connecting to the guest's agent: %w", err).
					Hintf("see whether it runs: sovereign-build status %s", i.Name())
			}
			return conn, nil
		}
		if err := sleep(ctx, lockPoll); err != nil {
			return nil, fault.Wrap(fault.Device, fmt.Errorf("connecting to the guest's agent: %w", err))
		}
	}
}
