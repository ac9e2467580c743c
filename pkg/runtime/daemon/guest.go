package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// A guest says how it is whenever that changes, and beside that every
	// soonBeat, so that for how long it has been so is known; when it has been
	// healthy for restAfter, which is more than anybody waits for, every restBeat.
	soonBeat  = 2 * time.Second
	restBeat  = time.Minute
	restAfter = 90 * time.Second
	// askEvery is how often a guest is asked that is not healthy and whose image
	// is too old to tell its changes, and healthyEvery one that is.
	askEvery     = 200 * time.Millisecond
	healthyEvery = 2 * time.Second
	// answerLimit bounds one answer. A busy guest without KVM may take long.
	answerLimit = 15 * time.Second
	// streamLimit is how long a stream to the guest may wait for one that does
	// not answer yet.
	streamLimit = 30 * time.Second
	// maxConnections bounds the streams of others; further ones wait. Some of
	// the session's are left for asking.
	maxConnections = agent.MaxStreams - 8
)

// guest holds the session with one guest's agent: it asks how the guest is and
// gives streams to whoever wants to speak with it.
type guest struct {
	r       *machine.Runtime
	name    string
	news    func()                // called when what the guest says has changed, or its machine has ended
	word    func()                // called when it has said the same again
	console func(context.Context) // called to keep its console's log, until ctx ends
	kernel  func()                // called when its console first says something
	places  chan struct{}         // of others' streams
	process *vm.Process           // of the machine that is followed; the keeper's alone
	stop    func()                // ends the following; the keeper's alone

	mu     sync.Mutex
	pid    int // of the machine that is followed; 0: none
	last   *agent.Status
	stable string // last, without what changes all the time
	health health
	silent time.Duration // spent asking since its last answer
	// client is the session's, nil without one; changed is closed when that
	// changes.
	client  *agent.Client
	changed chan struct{}
}

func newGuest(r *machine.Runtime, name string, news, word, kernel func(), console func(context.Context)) *guest {
	return &guest{r: r, name: name, news: news, word: word, kernel: kernel, console: console,
		places: make(chan struct{}, maxConnections), changed: make(chan struct{})}
}

// seen is what is known of the machine that is followed.
func (g *guest) seen() machine.Seen {
	if g.process == nil {
		return machine.Seen{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := machine.Seen{Process: *g.process, Guest: g.last, Silent: g.silent}
	s.Healthy, s.Services = g.health.spans()
	return s
}

// of is the last answer of the guest of a process; nil where that is another's.
func (g *guest) of(pid int) *agent.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pid != pid {
		return nil
	}
	return g.last
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
		g.begin(0)
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
	g.begin(process.PID)
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { g.serve(ctx, l, &work) })
	work.Go(func() { g.hold(ctx, i) })
	work.Go(func() { g.console(ctx) })
	work.Go(func() {
		// An error is that of ctx, or of a kernel that cannot wait: then the end
		// is seen when it is looked at.
		_ = process.Wait(ctx)
		g.news()
	})
	g.process = &process
	g.stop = func() {
		cancel()
		// Its file may have gone with the instance.
		_ = l.Close()
		work.Wait()
	}
}

// hold keeps a session open and asks, until ctx ends.
func (g *guest) hold(ctx context.Context, i *machine.Instance) {
	defer g.set(nil, nil)
	spoken := false
	for ctx.Err() == nil {
		if info, err := os.Stat(i.ConsoleFile()); !spoken && err == nil && info.Size() > 0 {
			spoken = true
			g.kernel()
		}
		begin := time.Now()
		limit, cancel := context.WithTimeout(ctx, answerLimit)
		c, release, err := i.HoldAgent(limit)
		cancel()
		if err != nil {
			// Not up yet, or gone: the keeper sees that by the process.
			pause.For(ctx, askEvery)
			switch {
			case errors.Is(err, agent.ErrVersion):
				g.heard() // an older guest works on, and its power is not cut
			case !errors.Is(err, machine.ErrAgentBusy):
				g.missed(begin)
			}
			continue
		}
		if !spoken {
			spoken = true
			g.kernel()
		}
		g.set(c, nil)
		g.hear(ctx, c)
		g.set(nil, nil)
		// Nothing can be done about a session that does not end in order.
		_ = c.Close()
		release()
	}
}

// errOtherBeat ends the following of a guest that is to say how it is more often,
// or less.
var errOtherBeat = errors.New("another beat")

// hear hears the guest until the session is lost.
func (g *guest) hear(ctx context.Context, c *agent.Client) {
	for {
		beat := g.beat()
		err := c.FollowStatus(ctx, beat, answerLimit, func(s *agent.Status) error {
			g.set(c, s)
			g.heard()
			if g.beat() != beat {
				return errOtherBeat
			}
			return nil
		})
		switch {
		case errors.Is(err, errOtherBeat):
			continue
		case errors.Is(err, agent.ErrAnsweredOnce):
			g.askOn(ctx, c)
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			g.missed(time.Now().Add(-answerLimit))
		}
		return
	}
}

// beat is how often the guest is to say how it is.
func (g *guest) beat() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if span, _ := g.health.spans(); span > restAfter {
		return restBeat
	}
	return soonBeat
}

// askOn asks until the session is lost.
func (g *guest) askOn(ctx context.Context, c *agent.Client) {
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
		if s.Healthy() {
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

// ask asks how the guest is now.
func (g *guest) ask(ctx context.Context) (*agent.Status, error) {
	c := agent.NewStreams(g.open)
	return c.Status(ctx)
}

// begin forgets the machine that was followed before.
func (g *guest) begin(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pid, g.silent, g.health = pid, 0, health{}
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
	g.news() // the hypervisor may hold it
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
	text := stable(s)
	changed := text != g.stable || s == nil
	g.last, g.stable = s, text
	if s != nil {
		g.health.note(s, time.Now())
	}
	if changed {
		g.news()
	} else {
		g.word() // it has been so for longer
	}
}

// serve makes each connection to the instance's socket a stream to the guest:
// the way of older programs.
func (g *guest) serve(ctx context.Context, l net.Listener, work *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		work.Go(func() {
			defer conn.Close()
			stream, err := g.open(ctx)
			if err != nil {
				return // whose connection closes
			}
			g.join(ctx, halfCloser{conn}, stream)
		})
	}
}

// join copies both ways until either end is closed, or ctx ends.
func (g *guest) join(ctx context.Context, conn io.ReadWriteCloser, stream net.Conn) {
	defer stream.Close()
	defer context.AfterFunc(ctx, func() {
		conn.Close()
		stream.Close()
	})()
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = io.Copy(stream, conn) // an error is the end's own, whose connection closes
		stream.Close()
	})
	_, err := io.Copy(conn, stream)
	if c, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
		_ = c.CloseWrite() // or it is gone
	}
	conn.Close()
	sending.Wait()
}

type halfCloser struct{ net.Conn }

// open opens a stream to the guest, waiting for a session.
func (g *guest) open(ctx context.Context) (net.Conn, error) {
	limit, cancel := context.WithTimeout(ctx, streamLimit)
	defer cancel()
	select {
	case g.places <- struct{}{}:
	case <-limit.Done():
		return nil, g.silence(ctx, errors.New("others have all its streams"))
	}
	for {
		g.mu.Lock()
		c, changed := g.client, g.changed
		g.mu.Unlock()
		if c != nil {
			stream, err := c.Open(limit)
			if err == nil {
				return &placed{Conn: stream, release: sync.OnceFunc(func() { <-g.places })}, nil
			}
			if limit.Err() != nil {
				<-g.places
				return nil, g.silence(ctx, err)
			}
		}
		select {
		case <-limit.Done():
			<-g.places
			return nil, g.silence(ctx, errors.New("there is no session with its agent"))
		case <-changed:
		}
	}
}

// silence is the error of a guest that does not answer.
func (g *guest) silence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fault.Errorf(fault.Device, "the guest of %s does not answer within %v: %w", g.name, streamLimit, err).
		Hintf("see what it does: sovereign-build console %s", g.name)
}

// placed gives its place back.
type placed struct {
	net.Conn
	release func()
}

func (p *placed) Close() error {
	defer p.release()
	return p.Conn.Close()
}
