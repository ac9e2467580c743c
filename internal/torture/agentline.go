package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/local"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// rawLine opens the bare serial line to the guest's agent, on which this
// program says what internal/machine never would, and says nothing. QEMU serves one
// at a time.
func (m *machine) rawLine(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		c, err := local.Device{}.Dial(ctx, "unix", filepath.Join(m.dir, vm.AgentSocket))
		if err == nil {
			// A guest that does not read must not hold this program up.
			return c, c.SetDeadline(time.Now().Add(30 * time.Second))
		}
		if !errors.Is(err, unix.EAGAIN) || pause(ctx, 5*time.Millisecond) != nil {
			return nil, fmt.Errorf("the agent's line: %w", err)
		}
	}
}

// agentLine opens the line and begins a session, in which nothing was said yet.
func (m *machine) agentLine(ctx context.Context) (io.ReadWriteCloser, error) {
	l, err := m.rawLine(ctx)
	if err != nil {
		return nil, err
	}
	return agent.Connect(ctx, l)
}

// openStream opens one stream of yamux's in a session.
func openStream(session io.ReadWriteCloser) (net.Conn, error) {
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	cfg.EnableKeepAlive = false
	s, err := yamux.Client(session, cfg)
	if err != nil {
		return nil, err
	}
	return s.Open()
}
