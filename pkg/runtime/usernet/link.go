package usernet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/buffer"
)

// A Link is a member's place in a network. Its methods may be used by several
// goroutines.
type Link struct {
	network *Network
	member  Member
	mac     mac

	ctx context.Context // of all that belongs to the member
	end context.CancelFunc
	wg  sync.WaitGroup // of the same

	mu      sync.Mutex
	closed  bool // nothing is added to wg any more
	serving bool

	queue    queue
	flows    flows
	outbound slots
	inbound  slots
	pings    slots
	queries  slots
	pace     *rate.Limiter

	stats stats
}

type stats struct{ received, sent, dropped, refused atomic.Uint64 }

// Stats counts since a member has joined.
type Stats struct {
	Received, Sent uint64 // frames from the member, and to it
	// Dropped are frames that were malformed, of another sender, to nobody,
	// or too many for the member to read.
	Dropped uint64
	// Refused are connections, flows and echo requests that the member
	// tried and may not have.
	Refused uint64
}

func newLink(n *Network, m Member, hw mac) *Link {
	l := &Link{network: n, member: m, mac: hw, pace: rate.NewLimiter(queryRate, queryBurst)}
	l.ctx, l.end = context.WithCancel(n.ctx)
	l.outbound.max, l.inbound.max, l.pings.max, l.queries.max = maxOutbound, maxInbound, maxPings, maxQueries
	l.queue.init(maxQueue)
	l.flows.init()
	return l
}

// Member returns what the member has: its addresses also where they were
// chosen.
func (l *Link) Member() Member { return l.member }

// Stats returns the counters.
func (l *Link) Stats() Stats {
	return Stats{l.stats.received.Load(), l.stats.sent.Load(), l.stats.dropped.Load(), l.stats.refused.Load()}
}

// ErrClosed says that a link or its network was closed.
var ErrClosed = errors.New("network: closed")

// Serve carries the frames of one stream until it ends, which is no error,
// until ctx or the link does, or until there is something in it that is no
// frame. It closes conn. A link has one stream at a time; what is sent to the
// member while it has none is dropped.
func (l *Link) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	if l.serving {
		l.mu.Unlock()
		return fmt.Errorf("network: %s has a stream already", l.member.Name)
	}
	l.serving = true
	l.wg.Add(1)
	l.mu.Unlock()
	defer l.wg.Done()
	defer func() { l.mu.Lock(); l.serving = false; l.mu.Unlock() }()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.ctx, func() { cancel(ErrClosed) })()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	l.queue.open()
	written := make(chan struct{})
	go func() {
		defer close(written)
		if err := l.queue.writeTo(conn); err != nil {
			cancel(err)
		}
	}()
	err := l.receive(conn)
	l.queue.close()
	conn.Close() // a writer that waits for the reader of a stuck stream
	<-written
	if err == io.EOF {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("network: %s: %w", l.member.Name, err)
}

// readAhead is how much of a stream is taken at once: many small frames.
const readAhead = 64 << 10

func (l *Link) receive(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, readAhead)
	for {
		v, err := readFrame(r, l.network.config.MTU)
		if err != nil {
			return err
		}
		l.stats.received.Add(1)
		l.switchFrame(v)
	}
}

// send queues a frame made by newFrame, which it takes over.
func (l *Link) send(v *buffer.View) {
	l.stats.sent.Add(1) // before the member can have seen it
	if !l.queue.push(v) {
		l.stats.sent.Add(^uint64(0))
		l.stats.dropped.Add(1)
	}
}

// Close takes the member out of the network: its stream, forwards and
// connections end. It waits until they have.
func (l *Link) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.network.remove(l)
	l.end()
	l.wg.Wait()
	return nil
}

// start runs f as a part of the link, which f has to end with; false where
// the link is closed.
func (l *Link) start(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.wg.Go(f)
	return true
}

// own says whether an address is the member's.
func (l *Link) own(a netip.Addr) bool { return a == l.member.Addr || a == l.member.Addr6 }

// slots counts what there may be only so many of.
type slots struct{ used, max int64 }

func (s *slots) take() bool {
	if atomic.AddInt64(&s.used, 1) > s.max {
		atomic.AddInt64(&s.used, -1)
		return false
	}
	return true
}

func (s *slots) give() { atomic.AddInt64(&s.used, -1) }
