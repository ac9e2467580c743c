package initd

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/blockdev"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// mountRecovery shows the services the logs that they are to replay, where the
// host has given the machine a disk with them. Without that disk a machine would
// serve an older state than it was asked for: so no service starts.
func (g *guest) mountRecovery(ctx context.Context) error {
	if g.line.Recovery == "" {
		return nil
	}
	find, cancel := context.WithTimeout(ctx, deviceDeadline)
	defer cancel()
	disk, err := blockdev.Find(find, blockdev.Sysfs, g.line.Recovery)
	if err != nil {
		return fmt.Errorf("the log to be replayed: %w", err)
	}
	m := mount{disk.Device(), spec.Recovery, "erofs", unix.MS_RDONLY | safe, "", true}
	if err := m.do(); err != nil {
		return fmt.Errorf("the log to be replayed: %w", err)
	}
	g.c.note("the log that services replay is mounted at %s", spec.Recovery)
	return nil
}

// DialLog implements agent.Replicator.
func (g *guest) DialLog(ctx context.Context, service string) (net.Conn, error) {
	manager, err := g.services()
	if err != nil {
		return nil, err
	}
	return manager.DialLog(ctx, service)
}
