package initd

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/vsock"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	// portDeadline is how long a virtio-serial port may take to appear; a
	// machine without one is served over vsock.
	portDeadline = 30 * time.Second
	portEvery    = 20 * time.Millisecond
	portRetry    = time.Second
	// agentPatience is how long the agent waits for the services to start.
	agentPatience = time.Second
	vsockRetry    = 30 * time.Second
	maxConns      = 4 // vsock connections at a time
)

// serveAgent answers the agent on every way there is, until ctx ends. It begins
// when booted is closed: before that there is hardly anything to tell, and the
// boot would wait for it. A boot that takes long is not waited for.
func (g *guest) serveAgent(ctx context.Context, booted <-chan struct{}) {
	select {
	case <-booted:
	case <-time.After(agentPatience):
	}
	h := agent.NewHandler(g)
	go g.serveSerial(ctx, h)
	go g.serveVsock(ctx, h)
}

// serveSerial answers on the virtio-serial port.
func (g *guest) serveSerial(ctx context.Context, h http.Handler) {
	deadline := time.Now().Add(portDeadline)
	for {
		device, err := findPort("/sys/class/virtio-ports", agent.PortName)
		if err == nil && device == "" {
			if time.Now().After(deadline) {
				return
			}
			time.Sleep(portEvery)
			continue
		}
		if err == nil {
			err = servePort(ctx, device, h)
		}
		if ctx.Err() != nil {
			return
		}
		g.c.note("agent: %v", err)
		time.Sleep(portRetry)
	}
}

func servePort(ctx context.Context, device string, h http.Handler) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return agent.ServePort(ctx, f, true, h)
}

// findPort returns the device of the virtio-serial port with the name, "" if
// it is not there. There is no udev to make links by name.
func findPort(class, name string) (string, error) {
	files, err := filepath.Glob(filepath.Join(class, "*", "name"))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", fmt.Errorf("virtio-serial port: %w", err)
		}
		if strings.TrimSpace(string(b)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(f)), nil
		}
	}
	return "", nil
}

// serveVsock answers on vsock, for the host only: other machines on the same
// host have other context ids.
func (g *guest) serveVsock(ctx context.Context, h http.Handler) {
	if _, err := os.Stat("/dev/vsock"); err != nil {
		return // the kernel has no vsock; there is the serial port
	}
	for ctx.Err() == nil {
		g.c.note("agent: vsock: %v", g.acceptVsock(ctx, h))
		time.Sleep(vsockRetry)
	}
}

// acceptVsock returns when the listener fails.
func (g *guest) acceptVsock(ctx context.Context, h http.Handler) error {
	l, err := vsock.Listen(agent.VsockPort, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		from, ok := conn.RemoteAddr().(*vsock.Addr)
		if !ok || from.ContextID != vsock.Host {
			conn.Close()
			continue
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			if err := agent.ServePort(ctx, conn, false, h); err != nil {
				g.c.note("agent: vsock: %v", err)
			}
		}()
	}
}
