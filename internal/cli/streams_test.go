package cli

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// What cannot be written is never code 0, whatever the command and whoever is
// at the other end; nor is what cannot be read.
func TestStreamsThatFail(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r, closed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer closed.Close()
	gone := writerFunc(func([]byte) (int, error) { return 0, unix.EPIPE })
	for _, tt := range []struct {
		args string
		code int
	}{
		{"exec sql -- says", notRun}, {"exec sql -i -- cat", notRun}, {"exec sql --json -- says", notRun},
		{"psql sql", notRun}, {"psql sql --json", notRun},
		{"logs sql", int(fault.Environment)}, {"logs sql -f", int(fault.Environment)}, {"logs sql --json", int(fault.Environment)},
		{"console sql", int(fault.Environment)}, {"--help", int(fault.Environment)}, {"", int(fault.Environment)},
		{"version", 1}, {"dsn sql", 1}, {"status", 1},
	} {
		for name, out := range map[string]io.Writer{"full": full, "closed pipe": closed, "gone": gone} {
			var errs bytes.Buffer
			c := &CLI{Args: strings.Fields(tt.args), Stdin: strings.NewReader("some input"), Stdout: out, Stderr: &errs, Dial: (&fake{}).dial, Builder: &fake{}}
			if code := c.Run(t.Context()); code != tt.code {
				t.Errorf("%s into %s: exit %d, %s", tt.args, name, code, errs.String())
			}
		}
	}
	for _, args := range []string{"exec sql -i -- cat", "psql sql", "console sql"} {
		var errs bytes.Buffer
		c := &CLI{Args: strings.Fields(args), Stdin: iotest.ErrReader(unix.EIO), Stdout: io.Discard, Stderr: &errs, Dial: (&fake{}).dial}
		if code := c.Run(t.Context()); code == 0 || !strings.Contains(errs.String(), "input/output error") {
			t.Errorf("%s from what cannot be read: exit %d, %s", args, code, errs.String())
		}
	}
}

// The last words of a machine are shown, also while something is typed that it
// does not take any more.
func TestConsoleShowsTheEnd(t *testing.T) {
	ours, guests := net.Pipe()
	last := strings.Repeat("reboot: Power down\r\n", 10000)
	refused := make(chan struct{})
	conn := &halfGone{ReadWriteCloser: ours, refused: refused}
	go func() {
		<-refused
		io.WriteString(guests, last) //nolint:errcheck // the reader tells
		guests.Close()
	}()
	var out bytes.Buffer
	if err := attach(t.Context(), conn, strings.NewReader("halt\n"), &out, false); err != nil || out.String() != last {
		t.Errorf("%d of %d bytes, %v", out.Len(), len(last), err)
	}
	ours, guests = net.Pipe()
	guests.Close()
	if err := attach(t.Context(), ours, strings.NewReader(""), &out, false); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// halfGone takes no more, and can still be read.
type halfGone struct {
	io.ReadWriteCloser
	refused chan struct{}
}

func (h *halfGone) Write([]byte) (int, error) {
	close(h.refused)
	return 0, unix.EPIPE
}
