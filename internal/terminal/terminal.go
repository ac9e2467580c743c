// Package terminal puts the user's terminal into raw mode for a talk with a
// guest's, and back.
//
// A stream comes in, and what can be said of the terminal behind it goes out.
// The package writes nothing to it and reads nothing from it.
package terminal

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Of returns the terminal behind a stream; ok is false when it is none.
func Of(stream any) (f *os.File, ok bool) {
	f, ok = stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// Raw has every key go to whoever reads f, Ctrl-C too, and returns the way
// back, which does no harm a second time.
func Raw(f *os.File) (restore func() error, err error) {
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "the terminal: %w", err)
	}
	return func() error { return fault.Wrap(fault.Environment, term.Restore(int(f.Fd()), state)) }, nil
}

// Size is the terminal's, in characters; 0 where it does not tell.
func Size(f *os.File) (rows, cols uint16) {
	w, h, err := term.GetSize(int(f.Fd()))
	if err != nil || w < 0 || h < 0 || w > 1<<15 || h > 1<<15 {
		return 0, 0
	}
	return uint16(h), uint16(w)
}

// Resized has a value whenever the terminal's size has changed, until ctx
// ends; then it is closed.
func Resized(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGWINCH)
	go func() {
		defer close(changed)
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
			case <-ctx.Done():
				return
			}
			select {
			case changed <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return changed
}

// Password reads a line without showing it.
func Password(f *os.File) (string, error) {
	b, err := term.ReadPassword(int(f.Fd()))
	return string(b), fault.Wrap(fault.Environment, err)
}
