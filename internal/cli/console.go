package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// escapeKey is Ctrl-], as telnet has it: it ends console, every other key goes
// to the guest.
const escapeKey = 0x1d

func (s *session) consoleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "console NAME",
		Short: "Attach to the serial console of a running machine",
		Long: `Console shows what the guest's kernel and init print, beginning with the last
lines of the log, and sends what is typed. Ctrl-] ends it and leaves the machine
alone; every other key, Ctrl-C too, goes to the guest. Without a terminal it
shows the output until it is ended, and sends standard input.

What the guest prints goes to the terminal as it is. The guest waits while
nobody reads here: do not leave it stopped. One console at a time is served;
console.log in the instance's directory has everything in any case.`,
		Example: `  sovereign-build console sql
  sovereign-build console sql </dev/null | grep -i oom`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGHUP)
			defer stop()
			return s.runConsole(ctx, args[0])
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) runConsole(ctx context.Context, name string) (err error) {
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	tail, err := m.ConsoleTail(ctx, 20)
	if err != nil {
		return err
	}
	conn, err := m.Console(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if tail != "" {
		if _, err := fmt.Fprintln(outputWriter{s.Stdout}, tail); err != nil {
			return err
		}
	}
	p := s.printer()
	tty, ok := terminal.Of(s.Stdin)
	if !ok {
		return attach(ctx, conn, s.Stdin, s.Stdout, false)
	}
	p.note("sovereign-build: the console of " + name + "; Ctrl-] ends this and not the machine")
	restore, err := terminal.Raw(tty)
	if err != nil {
		return err
	}
	err = attach(ctx, conn, tty, s.Stdout, true)
	err = errors.Join(err, restore())
	p.note("")
	return err
}

// attach carries bytes both ways until the machine ends, ctx does, or, with
// escape, its key is typed: none of these is an error. The end of in is not
// the end of the talk. All that a machine printed before its end is shown.
func attach(ctx context.Context, conn io.ReadWriteCloser, in io.Reader, out io.Writer, escape bool) error {
	shown, sent := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(outputWriter{out}, conn)
		shown <- err
	}()
	go func() {
		// A read of in may still be under way when attach returns.
		typed, err := send(conn, in, escape)
		var unread *fault.Error
		if typed || errors.As(err, &unread) {
			sent <- err
		}
		// Else the machine has ended, which shows when all is read, or in has.
	}()
	var err error
	select {
	case err = <-shown:
	case err = <-sent:
	case <-ctx.Done():
		return nil
	}
	var own *fault.Error
	switch {
	case err == nil || errors.As(err, &own):
		return err
	case errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrClosed):
		return nil // the machine ended in the middle
	}
	return fault.Errorf(fault.Device, "the console: %w", err)
}

// outputWriter is standard output, whose errors say so: they are not the
// other side's.
type outputWriter struct{ io.Writer }

func (o outputWriter) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if err != nil {
		return n, fault.Errorf(fault.Environment, "standard output: %w", err)
	}
	return n, nil
}

// send copies in to conn, and returns true at the escape key. An error of in is
// of class fault.Environment; others are conn's.
func send(conn io.Writer, in io.Reader, escape bool) (typed bool, err error) {
	buf := make([]byte, 1024)
	for {
		n, readErr := in.Read(buf)
		keys := buf[:n]
		if at := bytes.IndexByte(keys, escapeKey); escape && at >= 0 {
			keys, typed = keys[:at], true
		}
		if len(keys) > 0 {
			if _, err := conn.Write(keys); err != nil {
				return typed, err
			}
		}
		if typed || errors.Is(readErr, io.EOF) {
			return typed, nil
		}
		if readErr != nil {
			return false, fault.Errorf(fault.Environment, "standard input: %w", readErr)
		}
	}
}
