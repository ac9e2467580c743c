package supervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// askEvery is how often a guest that is not healthy is asked, and
	// healthyEvery one that is.
	askEvery     = 200 * time.Millisecond
	healthyEvery = 2 * time.Second
	// answerLimit bounds one answer. A busy guest without KVM may take long.
	answerLimit = 15 * time.Second
	// streamLimit is how long a connection to the guest's socket may wait for
	// a guest that does not answer yet.
	streamLimit = 30 * time.Second
	// maxConnections bounds those connections; further ones wait. Each is a
	// stream of the session, of which some are left for asking.
	maxConnections = agent.MaxStreams - 8
)

// guest holds the session with one guest's agent: it asks how the guest is and
// gives streams to whoever connects to the instance's socket.
type guest struct {
	r    *runtime.Runtime
	name string
	news chan struct{} // poked when the guest's state has changed

	process *vm.Process // of the machine that is followed
	stop    func()      // ends the following

	mu     sync.Mutex
	last   *agent.Status
	health health
	silent time.Duration // spent asking since its last answer
	// client is the session's, nil without one; changed is closed when that
	// changes.
	client  *agent.Client
	changed chan struct{}
}

func newGuest(r *runtime.Runtime, name string, news chan struct{}) *guest {
	return &guest{r: r, name: name, news: news, changed: make(chan struct{})}
}

// seen is what is known of the machine that is followed.
func (g *guest) seen() runtime.Seen {
	if g.process == nil {
		return runtime.Seen{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := runtime.Seen{Process: *g.process, Guest: g.last, Silent: g.silent}
	s.Healthy, s.Services = g.health.spans()
	return s
}

// follow turns to another machine, or to none.
func (g *guest) follow(ctx context.Context, p *vm.Process) {
	if p != nil && g.process != nil && *p == *g.process {
		return
	}
	if g.stop != nil {
		g.stop()
		g.stop = nil
	}
	g.process = nil
	if p == nil {
		return
	}
	process := *p
	i, err := g.r.Instance(ctx, g.name)
	if err != nil {
		return // the next step says it
	}
	l, err := i.ListenGuest()
	if err != nil {
		return // and so with this: the caller tries again
	}
	g.begin()
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { g.serve(ctx, l, &work) })
	work.Go(func() { g.hold(ctx, i) })
	g.process = &process
	g.stop = func() {
		cancel()
		// Its file may have gone with the instance.
		_ = l.Close()
		work.Wait()
	}
}

// hold keeps a session open and asks, until ctx ends.
func (g *guest) hold(ctx context.Context, i *runtime.Instance) {
	defer g.set(nil, nil)
	for ctx.Err() == nil {
		begin := time.Now()
		limit, cancel := context.WithTimeout(ctx, answerLimit)
		c, release, err := i.HoldAgent(limit)
		cancel()
		if err != nil {
			// Not up yet, or gone: the keeper sees that by the process.
			sleep(ctx, askEvery)
			switch {
			case errors.Is(err, agent.ErrVersion):
				g.heard() // an older guest works on, and its power is not cut
			case !errors.Is(err, runtime.ErrAgentBusy):
				g.missed(begin)
			}
			continue
		}
		g.set(c, nil)
		g.ask(ctx, c)
		g.set(nil, nil)
		// Nothing can be done about a session that does not end in order.
		_ = c.Close()
		release()
	}
}

// ask asks until the session is lost.
func (g *guest) ask(ctx context.Context, c *agent.Client) {
	for {
		begin := time.Now()
		limit, cancel := context.WithTimeout(ctx, answerLimit)
		s, err := c.Status(limit)
		cancel()
		if err != nil {
			g.missed(begin)
			return
		}
		g.set(c, s)
		g.heard()
		pause := askEvery
		if runtime.Healthy(s) {
			pause = healthyEvery
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-c.Done():
		case <-t.C:
			continue
		}
		t.Stop()
		return
	}
}

// begin forgets the machine that was followed before.
func (g *guest) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.silent, g.health = 0, health{}
}

// heard begins a silence of no length.
func (g *guest) heard() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.silent = 0
}

// missed adds a question without an answer to the silence. One question counts
// for little: who asks may have been held still himself.
func (g *guest) missed(begin time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.silent += min(time.Since(begin), answerLimit)
}

// set notes the session and what the guest said.
func (g *guest) set(c *agent.Client, s *agent.Status) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c != g.client {
		g.client = c
		close(g.changed)
		g.changed = make(chan struct{})
	}
	if before := g.last; s == nil || before == nil || before.State != s.State || runtime.Healthy(before) != runtime.Healthy(s) {
		poke(g.news)
	}
	g.last = s
	if s != nil {
		g.health.note(s, time.Now())
	}
}

// serve makes each connection a stream to the guest.
func (g *guest) serve(ctx context.Context, l net.Listener, work *sync.WaitGroup) {
	places := make(chan struct{}, maxConnections)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		work.Go(func() {
			g.pipe(ctx, conn)
			<-places
		})
	}
}

// pipe copies both ways until either end is closed. Errors are the ends' own:
// each sees its connection close.
func (g *guest) pipe(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stream, err := g.open(ctx)
	if err != nil {
		return
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() {
		conn.Close()
		stream.Close()
	})
	defer stop()
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = io.Copy(stream, conn)
		stream.Close() // what comes back may go on
	})
	_, _ = io.Copy(conn, stream)
	conn.Close()
	sending.Wait()
}

// open opens a stream, waiting for a session.
func (g *guest) open(ctx context.Context) (net.Conn, error) {
	limit, cancel := context.WithTimeout(ctx, streamLimit)
	defer cancel()
	for {
		g.mu.Lock()
		c, changed := g.client, g.changed
		g.mu.Unlock()
		if c != nil {
			stream, err := c.Open(limit)
			if err == nil {
				return stream, nil
			}
			if limit.Err() != nil {
				return nil, err
			}
		}
		select {
		case <-limit.Done():
			return nil, errors.New("the guest does not answer")
		case <-changed:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
