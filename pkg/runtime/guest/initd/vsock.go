package initd

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/mdlayher/vsock"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/blockdev"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/machinekey"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/tap"
)

const (
	vsockRetry = 5 * time.Second
	// proofLimit is how long a connection may take to prove that it comes from
	// this machine's host, and maxUnproven how many may be about to: further ones
	// are closed.
	proofLimit  = 10 * time.Second
	maxUnproven = 16
	maxConns    = 4 // those that are served at a time, of a port; more wait
)

// machineKey reads the machine's key from its disk, which it waits for.
func (g *guest) machineKey(ctx context.Context) (machinekey.Key, error) {
	find, cancel := context.WithTimeout(ctx, deviceDeadline)
	defer cancel()
	disk, err := blockdev.Find(find, blockdev.Sysfs, g.line.KeySerial)
	if err != nil {
		return machinekey.Key{}, fmt.Errorf("machine key: %w", err)
	}
	f, err := os.Open(disk.Device())
	if err != nil {
		return machinekey.Key{}, fmt.Errorf("machine key: %w", err)
	}
	defer f.Close()
	return machinekey.ReadDisk(f)
}

// serveTap makes the network card whose frames come over vsock, and returns once
// it is there: the network's setup finds it.
func (g *guest) serveTap(ctx context.Context) error {
	t := g.line.Tap
	if t == nil {
		return nil
	}
	card, err := tap.Open(t.Device, t.MAC, t.MTU)
	if err != nil {
		return err
	}
	go func() {
		defer card.Close()
		g.serveVsock(ctx, agent.NetworkPort, func(conn net.Conn) error { return card.Carry(conn) })
	}()
	return nil
}

// serveVsock serves the connections to a port of vsock whose other end is the
// host, by its number and by the machine's key, until ctx ends.
func (g *guest) serveVsock(ctx context.Context, port uint32, serve func(net.Conn) error) {
	for ctx.Err() == nil {
		g.c.note("vsock port %d: %v", port, g.acceptVsock(ctx, port, serve))
		select {
		case <-ctx.Done():
		case <-time.After(vsockRetry):
		}
	}
}

// acceptVsock returns when the listener fails, or there is no key to trust
// anybody by.
func (g *guest) acceptVsock(ctx context.Context, port uint32, serve func(net.Conn) error) error {
	key, err := g.machineKey(ctx)
	if err != nil {
		return err
	}
	l, err := vsock.Listen(port, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	unproven, served := make(chan struct{}, maxUnproven), make(chan struct{}, maxConns)
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
		select {
		case unproven <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		go func() {
			limit, cancel := context.WithTimeout(ctx, proofLimit)
			err := key.Guest(limit, conn, port)
			cancel()
			<-unproven
			if err == nil {
				served <- struct{}{}
				err = serve(conn)
				<-served
			}
			if err != nil && ctx.Err() == nil {
				g.c.note("vsock port %d: %v", port, err)
			}
		}()
	}
}
