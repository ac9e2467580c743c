package device

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func dial(t *testing.T, name string) *Conn {
	t.Helper()
	d, err := Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Each direction ends by itself, and everything arrives.
func TestConn(t *testing.T) {
	c := dial(t, "exec:cat; echo and more")
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, strings.Repeat("x", 1<<20))
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err != nil || len(got) != 1<<20+len("and more\n") || !strings.HasSuffix(string(got), "xand more\n") {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	<-c.done
	if err := c.Err(); err != nil {
		t.Errorf("it ended in order: %v", err)
	}
}

// A program that fails says why, at every end of the stream.
func TestConnFails(t *testing.T) {
	fakeSSH(t)
	for _, tt := range []struct {
		name, want string
		class      fault.Class
		hint       string
	}{
		{"exec:echo no link >&2; exit 4", "exit status 4: no link", fault.Device, ""},
		{"exec:exit 1", "exit status 1", fault.Device, ""},
		{"exec:exec /nowhere/sovereignd", "there is no sovereignd: ", fault.Environment, "sovereignd connect"},
		{"exec:kill -9 $$", "signal: killed", fault.Device, ""},
		{"ssh:refuses", "ssh: ssh: connect to host refuses port 22: Connection refused", fault.Device, "ssh refuses true"},
		{"ssh:empty", "there is no sovereignd: ", fault.Environment, "sovereign-build device install ssh:empty"},
		{"ssh:broken", "sovereignd: the socket's directory has wrong rights", fault.Environment, "chmod 700 it"},
	} {
		c := dial(t, tt.name)
		_, err := io.ReadAll(c)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || fault.ClassOf(err) != tt.class || !strings.Contains(fault.HintOf(err), tt.hint) {
			t.Errorf("%s: %v (class %d, hint %q)", tt.name, err, fault.ClassOf(err), fault.HintOf(err))
		}
		if own := c.Err(); own == nil || own.Error() != err.Error() {
			t.Errorf("%s: Err is %v", tt.name, own)
		}
		// There is nobody to write to; what is in the pipe's buffer may be lost.
		for range 100 {
			if _, err = c.Write(make([]byte, 4<<10)); err != nil {
				break
			}
		}
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: written: %v", tt.name, err)
		}
	}
}

// Close ends a program that does not end by itself, and leaves no process.
func TestConnClose(t *testing.T) {
	c := dial(t, `exec:trap "" TERM; echo up; while :; do sleep 1; done`)
	if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	c.Close()
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a read that Close ended: %v", err)
	}
	if err := c.end(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the program is not reaped: %v", err)
	}
	if err := c.Err(); err != nil {
		t.Errorf("closed: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// A program that others keep the standard error of has ended all the same.
func TestConnHeld(t *testing.T) {
	held := filepath.Join(t.TempDir(), "held")
	if err := syscall.Mkfifo(held, 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, "exec:cat "+held+" >/dev/null & echo bad >&2; exit 9")
	if _, err := io.ReadAll(c); err == nil || !strings.Contains(err.Error(), "exit status 9: bad") {
		t.Errorf("%v", err)
	}
	f, err := os.OpenFile(held, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // cat ends
}

func TestConnDeadline(t *testing.T) {
	c := dial(t, "exec:cat")
	if err := c.SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// Ctrl-C reaches every process of the terminal's foreground; a transport that
// obeyed it would end before this program has said its last words to the far
// side.
func TestConnInterrupt(t *testing.T) {
	fakeSSH(t)
	for _, name := range []string{"exec:echo up; cat", "ssh:cats"} {
		c := dial(t, name)
		if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		if err := c.end(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "last words"); err != nil {
			t.Error(err)
		}
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "last words" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestTail(t *testing.T) {
	var said tail
	for range 1000 {
		io.WriteString(&said, "0123456789\n")
	}
	if got := said.String(); len(got) > maxSaid || len(got) < maxSaid-20 || !strings.HasPrefix(got, "0") || !strings.HasSuffix(got, "9\n") {
		t.Errorf("%d bytes, %.20q", len(got), got)
	}
}
