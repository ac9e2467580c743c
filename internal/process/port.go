package process

import (
	"context"
	"errors"
	"net"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// PortFree takes a TCP port of 127.0.0.1 for a moment, 0 for any, and returns
// the one it could take. One that is in use, or needs more rights, is an error
// of class fault.Environment.
func PortFree(ctx context.Context, port int) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return 0, fault.Errorf(fault.Environment, "port %d of 127.0.0.1 is in use by another program", port).
			Hintf("end that program (ss -ltnp 'sport = :%d' names it) or choose another port", port)
	case errors.Is(err, unix.EACCES):
		return 0, fault.Errorf(fault.Environment, "port %d of 127.0.0.1 needs more rights than this user has", port).
			Hintf("choose a port from 1024 up")
	case err != nil:
		return 0, fault.Errorf(fault.Environment, "port %d of 127.0.0.1: %w", port, err)
	}
	got := l.Addr().(*net.TCPAddr).Port
	return got, l.Close()
}
