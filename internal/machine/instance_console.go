package machine

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// consoleTurn is how long Console waits for another that has the console: it
// may be about to end.
const consoleTurn = time.Second

// Console opens the serial console of a running machine: what the guest prints
// from now on is read, and what is written is typed. One program has it at a
// time (fault.Device); the console's log has everything in any case. A reader
// that stops reading holds the guest up at its next print.
func (i *Instance) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	if err := i.mustRun(ctx); err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, consoleTurn)
	defer cancel()
	unlock, err := lockFile(limit, filepath.Join(i.r.dir, "locks", i.Name()+".console"))
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if limit.Err() == nil {
			return nil, err
		}
		return nil, fault.Errorf(fault.Device, "another program has the console of %s", i.Name()).
			Hintf("end it, or read %s", i.ConsoleFile())
	}
	conn, err := i.r.device.Dial(ctx, "unix", filepath.Join(i.dir, vm.ConsoleSocket))
	if err != nil {
		unlock()
		return nil, fault.Errorf(fault.Device, "the console of %s: %w", i.Name(), err).
			Hintf("a machine started by an older version has none: stop and start it, or read %s", i.ConsoleFile())
	}
	return &console{conn, unlock}, nil
}

// console gives its turn back when it is closed.
type console struct {
	net.Conn
	unlock func()
}

func (c *console) Close() error {
	defer c.unlock()
	err := c.Conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// ConsoleTail is the last n lines that the guest printed, fit for a terminal.
func (i *Instance) ConsoleTail(n int) string { return tail.Lines(n, i.consoleFiles()...) }
