package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

// maxPeers bounds the connections at a time; further ones wait.
const maxPeers = 64

// connections are those that are open.
type connections struct {
	mu     sync.Mutex
	n      int
	ending bool
}

// add says whether one more is served.
func (c *connections) add() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ending {
		c.n++
	}
	return !c.ending
}

func (c *connections) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
}

func (c *connections) open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// end has no more served from now on, unless one is open. Whoever connects then
// is not greeted, and turns to the next sovereignd.
func (c *connections) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = c.n == 0
	return c.ending
}

// accept serves each connection until ctx ends or l is closed.
func (d *daemon) accept(ctx context.Context, l net.Listener, serving *sync.WaitGroup) {
	handler := d.handler()
	places := make(chan struct{}, maxPeers)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		conn, err := l.Accept()
		if err != nil {
			return // it was closed
		}
		if !d.connections.add() {
			conn.Close()
			<-places
			continue
		}
		serving.Go(func() {
			defer func() {
				conn.Close()
				<-places
				d.connections.done()
				poke(d.poked) // it may be idle now
			}()
			if err := d.serve(ctx, conn, handler); err != nil {
				d.report("", "a connection: "+err.Error())
			}
		})
	}
}

func (d *daemon) serve(ctx context.Context, conn net.Conn, h http.Handler) error {
	peer, err := sovereignd.Peer(conn)
	if err != nil {
		return err
	}
	if !sovereignd.Trusted(peer.Uid) {
		return fmt.Errorf("process %d of user %d is refused", peer.Pid, peer.Uid)
	}
	err = control.Serve(ctx, conn, d.hello, h)
	if !errors.Is(err, control.ErrNoHello) {
		return err
	}
	// The word of an older program, or this one's look who listens here.
	if int(peer.Pid) != os.Getpid() {
		d.look()
	}
	return nil
}
