// Package agent is the way between a host and a running guest: HTTP/1.1 over
// yamux over one byte stream (a virtio-serial port or a vsock connection).
//
// In comes a byte stream; out goes, on the host, a Client with one method per
// endpoint and, in the guest, a Server that answers for a Backend. The package
// opens no device and no socket itself, keeps no state but the session, and
// never writes a log.
//
// # The hello
//
// A serial port has no connections, so that a session must be told from what
// an earlier one left in the pipe. The host sends the greeting
//
//	SOVEREIGN-AGENT 2 HOST
//
// (HOST: 32 lower-case hex digits, new for each Connect) every 200 ms until the
// guest answers with
//
//	SOVEREIGN-AGENT 2 HOST GUEST
//
// (GUEST: as many digits, new for each answer); everything before that answer
// is rubbish. The host sends the answer back, and behind it is the session:
// yamux, the host as its client, and what the host sends masked with a keystream
// from both nonces. So whatever the session carries into the guest, no hello is
// in it.
//
// The guest discards bytes until it sees a greeting, and repetitions of that
// greeting. Whenever one with another nonce arrives, in a session too, it drops
// the session and answers: the older host is gone. A connection that ends with
// its session, as vsock has it, is not searched once that has begun.
//
// The digit is the version. A guest answers with the one it speaks, whatever
// the greeting's; a host that does not speak that says so and ends. Version 1
// had no second nonce and no mask. Its guests answer only greetings of their
// own version, which hosts therefore send too; its hosts accept no other
// answer, and so get one, and then status 426 to every request.
package agent

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
)

// PortName is the name of the virtio-serial port that carries the agent.
const PortName = "org.sovereign.agent"

// Ports of vsock, from 1024 on: Android lets nobody dial lower ones of a guest.
const (
	VsockPort   = 1024 // the agent
	NetworkPort = 1025 // the frames of the guest's network card
)

// State is what the guest as a whole does.
type State string

// States of a guest.
const (
	StateBooting  State = "booting"  // mounting, network, data disk
	StateSetup    State = "setup"    // a service's setup commands run
	StateStarting State = "starting" // services run, not every one was healthy yet
	StateReady    State = "ready"    // every service is healthy
	StateDegraded State = "degraded" // a service that was healthy is not, or one keeps ending
	StateStopping State = "stopping" // orderly shutdown
	StateFailed   State = "failed"   // no service will start: Message says why
)

// ServiceState is what one service does.
type ServiceState string

// States of a service.
const (
	ServiceWaiting  ServiceState = "waiting"  // for the services it comes after
	ServiceSetup    ServiceState = "setup"    // setup commands run
	ServiceStarting ServiceState = "starting" // runs, not healthy yet
	ServiceRunning  ServiceState = "running"  // runs and was healthy since this start
	ServiceBackoff  ServiceState = "backoff"  // ended; will be started again
	ServiceStopping ServiceState = "stopping" // told to end
	ServiceStopped  ServiceState = "stopped"  // ended on request
)

// Status is the answer of GET /v1/status.
type Status struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Message says why the state is not ready; empty when it is.
	Message string `json:"message"`
	// BootMS is the time from the kernel's start until the guest was first
	// ready, in milliseconds; 0 before that.
	BootMS int64 `json:"boot_ms"`
	// UptimeMS is the time since the kernel's start, in milliseconds.
	UptimeMS int64 `json:"uptime_ms"`
	Frozen   bool  `json:"frozen,omitempty"` // the data file system is frozen
	// Data is the data file system; nil before it is mounted.
	Data *Data `json:"data,omitempty"`
	// Clock says where the time comes from.
	Clock Clock `json:"clock,omitempty"`
	// Continuity is where the data disk is in its history; nil before that was
	// looked at.
	Continuity *Continuity `json:"continuity,omitempty"`
	// Troubles are what is wrong with the guest's surroundings (network, clock,
	// addresses, room on the data disk), a sentence each. They say nothing of
	// the services: a guest whose services are all healthy is degraded by them,
	// and no update is to blame.
	Troubles []string  `json:"troubles,omitempty"`
	Services []Service `json:"services"` // in the order of the recipe
}

// Data is the room on the data file system, in bytes.
type Data struct {
	Size int64 `json:"size"`
	Free int64 `json:"free"` // for users other than root
}

// Clock is where the guest's time comes from.
type Clock string

// Sources of the time.
const (
	ClockRTC   Clock = "rtc"   // the machine's own clock, at the start and at pauses
	ClockNTP   Clock = "ntp"   // a time server's, by SNTP
	ClockUnset Clock = "unset" // neither: the clock is before the image was made
)

// Boot is the answer of GET /v1/boot: what the guest did since the kernel's
// start, in the order in which it began.
type Boot struct {
	Phases []Phase `json:"phases"`
}

// Phase is a span of the boot, in milliseconds since the kernel's start.
type Phase struct {
	// Name is a word, or "SERVICE: word" for what belongs to a service.
	Name    string  `json:"name"`
	StartMS float64 `json:"start_ms"`
	EndMS   float64 `json:"end_ms"` // 0 while it goes on
}

// Service is the status of one service.
type Service struct {
	Name    string       `json:"name"`
	State   ServiceState `json:"state"`
	Healthy bool         `json:"healthy"`
	PID     int          `json:"pid"` // in the guest; 0 while it does not run
	// Restarts counts starts after the first one, since boot.
	Restarts int    `json:"restarts"`
	Message  string `json:"message"` // last problem, or the warning; empty when healthy without one
	// Warning is what a healthy service's check had to say.
	Warning string `json:"warning,omitempty"`
	// Optional services do not hold up the guest's readiness nor degrade it.
	Optional bool `json:"optional,omitempty"`
	// Log is the kind of the log of changes that the service gives away; "":
	// none. See Replicator.
	Log string `json:"log,omitempty"`
}

// Line is the status in one line for people: "postgresql: running, healthy".
func (s Service) Line() string {
	line := s.Name + ": " + string(s.State)
	if s.Healthy {
		line += ", healthy"
	}
	if s.Restarts > 0 {
		line += fmt.Sprintf(", %d restarts", s.Restarts)
	}
	if s.Message != "" {
		line += " (" + s.Message + ")"
	}
	return line
}

// Service returns the status of the named service.
func (s *Status) Service(name string) (Service, bool) {
	for _, v := range s.Services {
		if v.Name == name {
			return v, true
		}
	}
	return Service{}, false
}

// A Backend is the guest behind a Server. Its methods are called from several
// goroutines. Errors that wrap fs.ErrNotExist become 404.
type Backend interface {
	Status() Status
	// Secret returns the value of a secret the recipe declares.
	Secret(ctx context.Context, service, name string) (string, error)
	// Logs returns the kept tail of a service's output and, with follow, what
	// comes after it until ctx ends. The service "init" is sovereign-init.
	Logs(ctx context.Context, service string, follow bool) (io.ReadCloser, error)
	// Shutdown starts an orderly shutdown when ctx ends, which is when the
	// request was answered, and returns at once.
	Shutdown(ctx context.Context) error
	// Freeze freezes the data file system; it thaws by itself after limit.
	Freeze(ctx context.Context, limit time.Duration) error
	// Thaw ends a freeze; thawing what is not frozen is no error.
	Thaw(ctx context.Context) error
}

// A Watcher is a Backend that tells when its status may have changed. A status
// cannot be followed where it is none: it is answered once.
type Watcher interface {
	// Changed is closed at the next change.
	Changed() <-chan struct{}
}

// An Operator is a Backend that can also be changed and measured. The
// endpoints for it are absent (404) where a Backend is none.
type Operator interface {
	// Exec runs a program to its end, or until ctx ends. The error is for one
	// that could not be started, or whose output could not all be written. The
	// program's standard input ends only where std.Stdin says io.EOF; after
	// another error it stays open until the program is killed.
	Exec(ctx context.Context, r ExecRequest, io ExecIO) (code int, err error)
	// SetSecret replaces the value of a secret the recipe declares, and has
	// the service take it up.
	SetSecret(ctx context.Context, service, name, value string) error
	// RotateSecret does so with a newly generated value, for a secret that
	// the guest generates.
	RotateSecret(ctx context.Context, service, name string) error
	// RestartService ends a service in order; it starts again by itself.
	RestartService(ctx context.Context, service string) error
	Boot() Boot
	// Metrics writes Prometheus' text format.
	Metrics(w io.Writer) error
	// Grow makes the data file system fill its disk.
	Grow(ctx context.Context) error
}

// sessionOptions are those of both ends. The port itself tells each end that the
// other is gone, and the status that is followed that it hangs; each keep-alive
// wakes both. Patience is enough for a guest emulated without KVM on a busy
// machine.
func sessionOptions() muxhttp.Options {
	return muxhttp.Options{MaxStreams: MaxStreams, KeepAlive: 10 * time.Minute, Patience: 30 * time.Second}
}

// Healthy says whether the guest does what it is there for: every service that
// is not optional is healthy. What is wrong around it (Troubles: the network,
// the clock) degrades it and does not count. nil is not healthy.
func (s *Status) Healthy() bool {
	if s == nil || s.State != StateReady && s.State != StateDegraded {
		return false
	}
	for _, v := range s.Services {
		if !v.Healthy && !v.Optional {
			return false
		}
	}
	return true
}
