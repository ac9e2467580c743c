package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

func (s *session) forwardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forward NAME PORT[:LOCAL]",
		Short: "Reach a port of a machine from here, wherever it runs",
		Long: `Forward listens at a loopback port of this computer, LOCAL or a free one, and
leads each connection to a port of the machine, within the conversation with its
device. It goes on until Ctrl-C. PORT is one of the machine's recipe.

A machine on this computer has its ports at loopback ports already: status shows
them.`,
		Example: `  sovereign-build forward sql 5432:15432 --device ssh:nas
  sovereign-build forward sql 5432 --json`,
		Args: operands("NAME", "PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			guest, at, err := parseForward(args[1])
			if err != nil {
				return err
			}
			return s.runForward(cmd.Context(), args[0], guest, at)
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

// parseForward reads PORT or PORT:LOCAL; 0 is any local port.
func parseForward(word string) (guest, at int, err error) {
	a, b, both := strings.Cut(word, ":")
	guest, err = strconv.Atoi(a)
	if err == nil && both {
		at, err = strconv.Atoi(b)
	}
	if err != nil || guest < 1 || guest > 65535 || at < 0 || at > 65535 || both && at == 0 {
		return 0, 0, fault.Errorf(fault.Usage, "%q is not PORT or PORT:LOCAL, ports from 1 to 65535", word).
			Hintf("write for example 5432:15432")
	}
	return guest, at, nil
}

func (s *session) runForward(ctx context.Context, name string, guest, at int) error {
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	manifest, err := m.Manifest(ctx)
	if err != nil {
		return err
	}
	if _, ok := manifest.Port(guest); !ok {
		var known []string
		for _, p := range manifest.Ports {
			known = append(known, strconv.Itoa(p.Port))
		}
		e := fault.Errorf(fault.Usage, "%s has no port %d", name, guest)
		if len(known) > 0 {
			return e.Hintf("choose one of: %s", strings.Join(known, ", "))
		}
		return e.Hintf("its recipe lists none")
	}
	f, err := s.forward(m, guest, at)
	if err != nil {
		return err
	}
	result := map[string]any{"name": name, "port": guest, "address": f.address}
	err = s.printer().result(result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "port %d of %s is at %s, until Ctrl-C\n", guest, name, f.address)
		return err
	})
	if err == nil {
		err = f.wait(ctx)
	}
	f.close()
	return err
}

// forwarding leads connections at a loopback port to a machine.
type forwarding struct {
	address  string
	listener net.Listener
	machine  *runtime.Machine
	port     int
	note     func(string)
	failed   chan error

	stop context.CancelFunc
	ctx  context.Context
	work sync.WaitGroup
}

// forward listens at a loopback port, 0 being a free one.
func (s *session) forward(m *runtime.Machine, guest, at int) (*forwarding, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(at)))
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "port %d here: %w", at, err).Hintf("choose another one, or none")
	}
	f := &forwarding{address: l.Addr().String(), listener: l, machine: m, port: guest, note: s.printer().note, failed: make(chan error, 1)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					f.failed <- fault.Wrap(fault.Environment, err)
				}
				return
			}
			f.work.Go(func() { f.carry(conn.(*net.TCPConn)) })
		}
	})
	return f, nil
}

func (f *forwarding) carry(conn *net.TCPConn) {
	defer conn.Close()
	there, err := f.machine.Dial(f.ctx, f.port)
	if err != nil {
		if f.ctx.Err() == nil {
			f.note(fmt.Sprintf("sovereign-build: a connection to port %d of %s: %v", f.port, f.machine.Name(), err))
		}
		return
	}
	defer context.AfterFunc(f.ctx, func() {
		conn.Close()
		there.Close()
	})()
	control.Join(conn, there.(control.HalfCloser))
}

// wait returns when ctx ends, which is no error: there is no other way to end
// it.
func (f *forwarding) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-f.failed:
		return err
	}
}

func (f *forwarding) close() {
	f.stop()
	f.listener.Close()
	f.work.Wait()
}
