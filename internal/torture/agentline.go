package torture

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/local"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// agentLine is the bare serial line to the guest's agent, on which this
// program says what pkg/runtime never would.
type agentLine struct {
	net.Conn
	r io.Reader
}

// rawLine opens the line and says nothing. QEMU serves one at a time.
func (m *machine) rawLine(ctx context.Context) (*agentLine, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		c, err := local.Device{}.Dial(ctx, "unix", filepath.Join(m.dir, vm.AgentSocket))
		if err == nil {
			// A guest that does not read must not hold this program up.
			return &agentLine{Conn: c, r: c}, c.SetDeadline(time.Now().Add(30 * time.Second))
		}
		if !errors.Is(err, unix.EAGAIN) || pause(ctx, 5*time.Millisecond) != nil {
			return nil, fmt.Errorf("the agent's line: %w", err)
		}
	}
}

// agentLine opens the line and says hello, as package agent describes it.
func (m *machine) agentLine(ctx context.Context) (*agentLine, error) {
	l, err := m.rawLine(ctx)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, 16)
	rand.Read(nonce) //nolint:errcheck // never fails: it ends the program instead
	hello := []byte("SOVEREIGN-AGENT 1 " + hex.EncodeToString(nonce) + "\n")
	if _, err := l.Write(hello); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	r := bufio.NewReader(l.Conn)
	l.r = r
	for {
		line, err := r.ReadSlice('\n')
		if bytes.HasSuffix(line, hello) {
			return l, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, errors.Join(fmt.Errorf("no answer to hello: %w", err), l.Close())
		}
	}
}

// Read reads behind the hello.
func (l *agentLine) Read(p []byte) (int, error) { return l.r.Read(p) }

// stream opens one stream of yamux's on the line.
func (l *agentLine) stream() (net.Conn, error) {
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	cfg.EnableKeepAlive = false
	s, err := yamux.Client(l, cfg)
	if err != nil {
		return nil, err
	}
	return s.Open()
}
