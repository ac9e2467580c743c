package initd

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	// portDeadline is how long a virtio-serial port may take to appear.
	portDeadline = 30 * time.Second
	portEvery    = 20 * time.Millisecond
	portRetry    = time.Second
	// agentPatience is how long the agent waits for the services to start.
	agentPatience = time.Second
)

// serveAgent answers the agent until ctx ends: on vsock where the command line
// names the machine's key, else on the virtio-serial port. It begins
// when booted is closed: before that there is hardly anything to tell, and the
// boot would wait for it. A boot that takes long is not waited for.
func (g *guest) serveAgent(ctx context.Context, booted <-chan struct{}) {
	select {
	case <-booted:
	case <-time.After(agentPatience):
	}
	h := agent.NewHandler(g)
	if g.line.KeySerial == "" {
		g.serveSerial(ctx, h)
		return
	}
	g.serveVsock(ctx, agent.VsockPort, func(conn net.Conn) error { return agent.ServePort(ctx, conn, false, h) })
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
