package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// pty is a terminal, and the end its keys come from.
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

// On a terminal the escape key ends the console, Ctrl-C does not, and the
// terminal is as it was.
func TestConsoleOnTerminal(t *testing.T) {
	keys, tty := pty(t)
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	// Typed when the guest has said hello, and so after the terminal is raw.
	var seen bytes.Buffer
	out := writerFunc(func(p []byte) (int, error) {
		seen.Write(p)
		if strings.Contains(string(p), "hello") {
			if _, err := keys.Write([]byte("x\x03y\x1d")); err != nil {
				t.Error(err)
			}
		}
		return len(p), nil
	})
	var errs bytes.Buffer
	c := &CLI{Args: []string{"console", "sql"}, Stdin: tty, Stdout: out, Stderr: &errs, Dial: (&fake{}).dial}
	if code := c.Run(t.Context()); code != 0 || !strings.Contains(errs.String(), "Ctrl-] ends this") {
		t.Errorf("exit %d, %q, %q", code, seen.String(), errs.String())
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %+v, %v", after, err)
	}
}

func TestExecOnTerminal(t *testing.T) {
	keys, tty := pty(t)
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	c := &CLI{Args: []string{"exec", "sql", "-t", "--", "fails"}, Env: []string{"TERM=xterm"}, Stdin: tty, Stdout: tty, Stderr: io.Discard, Dial: f.dial}
	if code := c.Run(t.Context()); code != 7 {
		t.Errorf("exit %d", code)
	}
	if want := `exec ["fails"] as "" in "" with map[TERM:xterm]`; f.calls[0] != want {
		t.Errorf("got %s", f.calls[0])
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %+v, %v", after, err)
	}
	// A secret typed is not shown.
	if _, err := keys.WriteString("tskey-3\n"); err != nil {
		t.Fatal(err)
	}
	f = &fake{}
	c = &CLI{Args: strings.Fields("secret set sql tailscale/auth-key --from-file -"), Stdin: tty, Stdout: io.Discard, Stderr: io.Discard, Dial: f.dial}
	if code := c.Run(t.Context()); code != 0 || f.calls[0] != `set {tailscale auth-key} "tskey-3"` {
		t.Errorf("exit %d, %v", code, f.calls)
	}
}
