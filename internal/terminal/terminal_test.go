package terminal

import (
	"context"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pty opens a terminal of the kernel's: what is written to the first end is
// typed on the second.
func pty(t *testing.T) (keys, tty *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { keys.Close() })
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keys, tty
}

func TestRaw(t *testing.T) {
	keys, tty := pty(t)
	if _, ok := Of(tty); !ok {
		t.Fatal("a terminal is not taken for one")
	}
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	restore, err := Raw(tty)
	if err != nil {
		t.Fatal(err)
	}
	// Ctrl-C and no line end: only a raw terminal hands them over.
	if _, err := keys.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1)
	if _, err := tty.Read(got); err != nil || got[0] != 3 {
		t.Errorf("%v, %v", got, err)
	}
	for range 2 {
		if err := restore(); err != nil {
			t.Error(err)
		}
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("not as it was: %+v, %v", after, err)
	}
}

func TestSize(t *testing.T) {
	keys, tty := pty(t)
	if err := unix.IoctlSetWinsize(int(keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 132}); err != nil {
		t.Fatal(err)
	}
	if rows, cols := Size(tty); rows != 40 || cols != 132 {
		t.Errorf("%d rows, %d columns", rows, cols)
	}
}

func TestNoTerminal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := Of(f); ok {
		t.Error("a file is taken for a terminal")
	}
	if _, ok := Of(nil); ok {
		t.Error("nothing is taken for a terminal")
	}
	if _, err := Raw(f); err == nil {
		t.Error("a file went into raw mode")
	}
	if rows, cols := Size(f); rows != 0 || cols != 0 {
		t.Errorf("a file has %d rows, %d columns", rows, cols)
	}
}

func TestResized(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	changed := Resized(ctx)
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	<-changed
	cancel()
	for range changed { // until it is closed
	}
}
