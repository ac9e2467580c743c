package adb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// defaultPort is where an adb server listens.
	defaultPort = 5037
	// oldest is the oldest version of a server whose words are known here: that
	// of 2017, with which "shell,v2" had settled.
	oldest = 39
	// dialLimit bounds a connection to loopback.
	dialLimit = 5 * time.Second
	// startLimit bounds "adb start-server", which looks for USB devices first.
	startLimit = 30 * time.Second
	// answerLimit bounds an answer of the server's own.
	answerLimit = 15 * time.Second
)

// A Server is the adb server of this computer's user. The zero value is not
// one: see Default.
type Server struct {
	// Address is where it listens, HOST:PORT.
	Address string
	// Program starts it where it does not run; "" leaves that alone.
	Program string

	start sync.Mutex
}

// Default is the server that adb itself would use: at ADB_SERVER_SOCKET
// (tcp:HOST:PORT or tcp:PORT), else at ANDROID_ADB_SERVER_ADDRESS and
// ANDROID_ADB_SERVER_PORT, else at port 5037 of loopback. It is started by the
// adb of PATH.
func Default() (*Server, error) { return fromEnvironment(os.Getenv) }

func fromEnvironment(env func(string) string) (*Server, error) {
	host, port := "127.0.0.1", strconv.Itoa(defaultPort)
	if address := env("ANDROID_ADB_SERVER_ADDRESS"); address != "" {
		host = address
	}
	if p := env("ANDROID_ADB_SERVER_PORT"); p != "" {
		port = p
	}
	if socket := env("ADB_SERVER_SOCKET"); socket != "" {
		rest, ok := strings.CutPrefix(socket, "tcp:")
		if !ok {
			return nil, fault.Errorf(fault.Environment, "ADB_SERVER_SOCKET is %q: want tcp:HOST:PORT or tcp:PORT", socket)
		}
		if host, port = "127.0.0.1", rest; strings.Contains(rest, ":") {
			var err error
			if host, port, err = net.SplitHostPort(rest); err != nil {
				return nil, fault.Errorf(fault.Environment, "ADB_SERVER_SOCKET is %q: %w", socket, err)
			}
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fault.Errorf(fault.Environment, "%q is no port of an adb server", port).
			Hintf("see ADB_SERVER_SOCKET and ANDROID_ADB_SERVER_PORT")
	}
	s := &Server{Address: net.JoinHostPort(host, port)}
	if path, err := exec.LookPath("adb"); err == nil {
		s.Program = path
	}
	return s, nil
}

// Running says whether a server answers, without starting one.
func (s *Server) Running(ctx context.Context) bool {
	conn, err := s.dial(ctx)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func (s *Server) dial(ctx context.Context) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: dialLimit}
	conn, err := d.DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// connect connects to the server, and starts it where none runs.
func (s *Server) connect(ctx context.Context) (*net.TCPConn, error) {
	conn, err := s.dial(ctx)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fault.Errorf(fault.Environment, "the adb server: %w", err)
	}
	if err := s.ensure(ctx); err != nil {
		return nil, err
	}
	if conn, err = s.dial(ctx); err != nil {
		return nil, fault.Errorf(fault.Environment, "the adb server was started, and cannot be reached: %w", err)
	}
	return conn, nil
}

// ensure starts the server. It is not done where one listens, since adb ends a
// server that is of another version than itself.
func (s *Server) ensure(ctx context.Context) error {
	s.start.Lock()
	defer s.start.Unlock()
	if s.Running(ctx) {
		return nil // somebody was quicker
	}
	if s.Program == "" {
		return fault.Errorf(fault.Environment, "no adb server runs at %s, and there is no adb here to start one", s.Address).
			Hintf("on Debian, apt-get install adb")
	}
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fault.Errorf(fault.Environment, "no adb server runs at %s, which is another computer", s.Address).
			Hintf("start it there: adb start-server")
	}
	limit, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	// Not by the context's end alone: what adb has started is to stay.
	cmd := exec.CommandContext(limit, s.Program, "-P", port, "start-server")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	cmd.WaitDelay = time.Second                          // the server may hold its output
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err = cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fault.Errorf(fault.Environment, "%s start-server: %w: %s", s.Program, err, oneLine(strings.TrimSpace(said.String()))).
			Hintf("see what this says: adb start-server")
	}
	return nil
}

// bound ends a connection with ctx, until the function that it returns is
// called, and gives it a deadline where limit is not 0.
func bound(ctx context.Context, conn net.Conn, limit time.Duration) (unbound func()) {
	if limit > 0 {
		conn.SetDeadline(time.Now().Add(limit)) //nolint:errcheck // a connection that has ended says so when it is read
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return func() {
		stop()
		if limit > 0 {
			conn.SetDeadline(time.Time{}) //nolint:errcheck // as above
		}
	}
}

// because is the context's reason where it has ended, and else err.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// host asks the server a question of its own.
func (s *Server) host(ctx context.Context, request string) (string, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer bound(ctx, conn, answerLimit)()
	if err := writeRequest(conn, request); err != nil {
		return "", because(ctx, fault.Wrap(fault.Device, err))
	}
	if err := readStatus(conn); err != nil {
		return "", because(ctx, fault.Wrap(fault.Device, err))
	}
	text, err := readText(conn)
	return text, because(ctx, fault.Wrap(fault.Device, err))
}

// Version is that of the server's protocol: 41 since 2018. One that is older
// than what is spoken here is an error.
func (s *Server) Version(ctx context.Context) (int, error) {
	text, err := s.host(ctx, "host:version")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 16, 31)
	if err != nil {
		return 0, fault.Errorf(fault.Environment, "what listens at %s is no adb server: its version is %q", s.Address, text)
	}
	if n < oldest {
		return int(n), fault.Errorf(fault.Environment, "the adb server at %s is of version %d, and at least %d is needed", s.Address, n, oldest).
			Hintf("install a newer adb, and end the old server: adb kill-server")
	}
	return int(n), nil
}

// Features are what both the server and the phone can do: "shell_v2", "cmd", …
func (s *Server) Features(ctx context.Context, serial string) ([]string, error) {
	text, err := s.host(ctx, "host-serial:"+serial+":features")
	if err != nil || text == "" {
		return nil, err
	}
	return strings.Split(text, ","), nil
}

// Open opens a service of a phone: "tcp:PORT" of its loopback, "vsock:CID:PORT"
// of a machine there, "localabstract:NAME", "exec:COMMAND", … ctx bounds the
// opening alone. An unreachable port is an error of class fault.Device.
func (s *Server) Open(ctx context.Context, serial, service string) (net.Conn, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	unbound := bound(ctx, conn, answerLimit)
	err = func() error {
		if err := writeRequest(conn, "host:transport:"+serial); err != nil {
			return err
		}
		if err := readStatus(conn); err != nil {
			return err
		}
		if err := writeRequest(conn, service); err != nil {
			return err
		}
		return readStatus(conn)
	}()
	unbound()
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var r *Refusal
		if errors.As(err, &r) && r.Kind == Other && r.Text == "closed" {
			// adbd closes what it cannot open, without a word of why.
			kind, _, _ := strings.Cut(service, ":")
			return nil, fault.Errorf(fault.Device, "nothing answers at the phone's %s", reachable(kind, service))
		}
		return nil, fault.Wrap(fault.Device, err)
	}
	return conn, nil
}

// reachable is a service for messages: a command may be long.
func reachable(kind, service string) string {
	switch kind {
	case "tcp", "vsock", "localabstract":
		return oneLine(service)
	}
	kind, _, _ = strings.Cut(kind, ",")
	return fmt.Sprintf("service %q", oneLine(kind))
}

var _ io.ReadWriteCloser = (*net.TCPConn)(nil)
