package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

// Host is a device with machines: a conversation with its sovereignd, which is
// opened when it is first needed and anew when it was lost. Its methods may be
// called from several goroutines.
type Host struct {
	dial    func(context.Context) (net.Conn, error)
	name    string // in front of errors; "" for this machine
	hello   control.Hello
	program string
	// dir is the state directory of Local; "" for a host elsewhere.
	dir string

	session chan *control.Session // holds the one there is, or nil
}

// An Option changes how Local and Over set a Host up.
type Option func(*Host)

// WithProgram names sovereignd's program, for Local to start: by default the
// one beside this program, else the one in PATH.
func WithProgram(path string) Option { return func(h *Host) { h.program = path } }

// WithVersion is what this program calls its own version, for messages. By
// default it is that of its main module.
func WithVersion(version string) Option { return func(h *Host) { h.hello.Version = version } }

// WithName is put in front of errors that come from there: "ssh:nas".
func WithName(name string) Option { return func(h *Host) { h.name = name } }

func newHost(opts []Option) *Host {
	h := &Host{hello: control.NewHello(""), session: make(chan *control.Session, 1)}
	if info, ok := debug.ReadBuildInfo(); ok {
		h.hello.Version = info.Main.Version
	}
	for _, o := range opts {
		o(h)
	}
	h.session <- nil
	return h
}

// Local is the machines of a state directory here; "" is DefaultStateDir. It is
// made when it is not there. Its sovereignd is started when none runs, and ends
// by itself when no machine is wanted up and nobody is connected. Errors are of
// class fault.Environment: a directory in which others may write is one.
func Local(stateDir string, opts ...Option) (*Host, error) {
	if stateDir == "" {
		var err error
		if stateDir, err = DefaultStateDir(); err != nil {
			return nil, err
		}
	}
	stateDir, err := filepath.Abs(stateDir)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if err := sovereignd.MakeStateDir(stateDir); err != nil {
		return nil, err
	}
	h := newHost(opts)
	h.dir = stateDir
	h.dial = func(ctx context.Context) (net.Conn, error) { return sovereignd.Dial(ctx, stateDir, h.program) }
	return h, nil
}

// Over is the machines of whatever sovereignd dial leads to: the standard input
// and output of "sovereignd connect" somewhere else, say. dial is called again
// when a connection was lost.
func Over(dial func(context.Context) (net.Conn, error), opts ...Option) *Host {
	h := newHost(opts)
	h.dial = dial
	return h
}

// Close ends the conversation. What goes on on the host goes on; a Host that is
// used again opens another.
func (h *Host) Close() error {
	s := <-h.session
	h.session <- nil
	if s == nil {
		return nil
	}
	return s.Close()
}

// open returns the session, which may be a new one.
func (h *Host) open(ctx context.Context) (s *control.Session, err error) {
	select {
	case s = <-h.session:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { h.session <- s }()
	if s != nil {
		select {
		case <-s.Done():
			s = nil
		default:
			return s, nil
		}
	}
	for n := 1; ; n++ {
		conn, err := h.dial(ctx)
		if err != nil {
			return nil, h.said(ctx, fault.Wrap(fault.Device, err))
		}
		if s, err = control.Dial(ctx, conn, h.hello); err == nil {
			return s, nil
		}
		s = nil
		if h.dir == "" || !errors.Is(err, control.ErrNoHello) {
			return nil, h.said(ctx, err)
		}
		if n == tries {
			return nil, fault.Errorf(fault.Environment, "the sovereignd that runs for %s is older than this program, and does not speak with it", h.dir).
				Hintf("end it: fuser -k -TERM %s; its machines run on, and the next command starts the new one", filepath.Join(h.dir, sovereignd.Socket))
		}
		// It was about to end as it had nothing to do: the next one is.
		if err := pause.For(ctx, pauseBefore(n)); err != nil {
			return nil, err
		}
	}
}

// said puts the host's name in front of an error, which is not that of ctx.
func (h *Host) said(ctx context.Context, err error) error {
	if err == nil || h.name == "" || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%s: %w", h.name, err)
}

// tries is how often a question is put again whose answer was lost with the
// session: sovereignd was killed, or the link broke.
const tries = 3

// ask makes a request that can be made again: a question, or one that does
// nothing when it is done already.
func (h *Host) ask(ctx context.Context, method, path string, in, out any) error {
	for n := 1; ; n++ {
		err := h.call(ctx, method, path, in, out)
		if n == tries || !errors.Is(err, control.ErrLost) || ctx.Err() != nil {
			return err
		}
	}
}

// call makes a request once.
func (h *Host) call(ctx context.Context, method, path string, in, out any) error {
	s, err := h.open(ctx)
	if err != nil {
		return err
	}
	return h.said(ctx, s.Call(ctx, method, path, in, out))
}

// upgrade opens a raw stream.
func (h *Host) upgrade(ctx context.Context, path string) (net.Conn, error) {
	for n := 1; ; n++ {
		s, err := h.open(ctx)
		if err != nil {
			return nil, err
		}
		c, err := s.Upgrade(ctx, path)
		if err == nil {
			return &conn{c, h}, nil
		}
		if n == tries || !errors.Is(err, control.ErrLost) || ctx.Err() != nil {
			return nil, h.said(ctx, err)
		}
	}
}

// conn is a raw stream whose errors say where they come from.
type conn struct {
	*control.Stream
	h *Host
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	return n, c.said(err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Stream.Write(b)
	return n, c.said(err)
}

// said leaves alone what callers compare.
func (c *conn) said(err error) error {
	if c.h.name == "" || !errors.Is(err, control.ErrLost) {
		return err
	}
	return fmt.Errorf("%s: %w", c.h.name, err)
}

// HostInfo is what a sovereignd says of itself.
type HostInfo struct {
	Version  string `json:"version"`  // of the program
	Protocol int    `json:"protocol"` // the one that is spoken
	// Can has what it can do beyond the protocol's version.
	Can      []string `json:"can,omitempty"`
	Arch     string   `json:"arch"`      // "amd64" or "arm64"
	StateDir string   `json:"state_dir"` // there
	PID      int      `json:"pid"`       // there
	// Phone is nil on everything but a phone.
	Phone *PhoneStatus `json:"phone,omitempty"`
	// Free is the room in the file system of StateDir, bytes; 0 where an older
	// sovereignd does not say.
	Free int64 `json:"free,omitempty"`
}

// Info asks the host's sovereignd about itself.
func (h *Host) Info(ctx context.Context) (HostInfo, error) {
	var info HostInfo
	err := h.ask(ctx, http.MethodGet, "/v1/version", nil, &info)
	if err == nil {
		var s *control.Session
		if s, err = h.open(ctx); err == nil {
			info.Protocol = s.Version
		}
	}
	return info, err
}

// PhoneSettings are changes to a phone's; what is nil stays as it is.
type PhoneSettings struct {
	Floor *PhoneFloor
	// PhantomOff has Android end no "phantom process", of which more than 32 below
	// apps are too many for it, or puts back what was before.
	PhantomOff *bool
}

// SetPhone changes a phone's settings. On another host it is an error
// (fault.Usage).
func (h *Host) SetPhone(ctx context.Context, s PhoneSettings) (PhoneStatus, error) {
	q := requests.Phone{PhantomOff: s.PhantomOff}
	if s.Floor != nil {
		q.Floor = &requests.Floor{Battery: s.Floor.Battery, Celsius: s.Floor.Celsius}
	}
	var status PhoneStatus
	err := h.ask(ctx, http.MethodPost, "/v1/phone", q, &status)
	return status, err
}

// Machines returns the status of every machine, sorted by name, as the host
// knows it: what the guests said last, without asking them. One whose record
// cannot be read is Unreadable, and hides no other.
func (h *Host) Machines(ctx context.Context) ([]Status, error) {
	var all []Status
	err := h.ask(ctx, http.MethodGet, "/v1/machines", nil, &all)
	return all, err
}

// Machine is a machine by its name. It asks nobody whether there is one: its
// methods do, and an unknown name is an error of class fault.Usage.
func (h *Host) Machine(name string) *Machine { return &Machine{h, name} }

// Watch gives events of all machines: first the status of each, then what
// changes. It goes on, over a new conversation where one was lost, with the
// status of each again; until ctx ends, each returns an error, or the host
// cannot be reached any more. A machine whose Status has changed several times
// since each was last called is told of once.
func (h *Host) Watch(ctx context.Context, each func(Event) error) error {
	return h.watch(ctx, "/v1/events", each)
}

// pauseBefore is the time before a lost conversation is opened again, for the
// n-th time without an event in between.
func pauseBefore(n int) time.Duration { return min(100*time.Millisecond<<n, 2*time.Second) }

// watchTries is how often that is tried.
const watchTries = 5

func (h *Host) watch(ctx context.Context, path string, each func(Event) error) error {
	for n := 0; ; n++ {
		s, err := h.open(ctx)
		if err == nil {
			err = s.Events(ctx, path, func(text json.RawMessage) error {
				n = 0
				var e Event
				if err := json.Unmarshal(text, &e); err != nil {
					return fault.Errorf(fault.Device, "an event of sovereignd: %w", err)
				}
				return each(e)
			})
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF) && n == watchTries:
			return h.said(ctx, fault.Errorf(fault.Device, "sovereignd ends again and again").Hintf("read its log, sovereignd.log in the state directory"))
		case errors.Is(err, io.EOF) || errors.Is(err, control.ErrLost) && n < watchTries:
			// It ended, or was killed: another is started.
		default:
			return h.said(ctx, err)
		}
		if err := pause.For(ctx, pauseBefore(n)); err != nil {
			return err
		}
	}
}

// machinePath is the path of a machine, or of something of it.
func machinePath(name string, more ...string) string {
	path := "/v1/machines/" + url.PathEscape(name)
	for _, m := range more {
		path += "/" + m
	}
	return path
}
