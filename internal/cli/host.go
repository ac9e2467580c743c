package cli

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// A Dialer opens the byte stream to a device's sovereignd; Wire sets the real
// one. quietly is for where nobody can be asked for a password.
type Dialer func(ctx context.Context, d device.Device, quietly bool) (net.Conn, error)

// link is the conversation with a device, of one run of the program.
type link struct {
	device device.Device
	host   *runtime.Host

	mu   sync.Mutex
	conn *device.Conn // the newest
}

// host is the device that the command is about. It is opened when it is first
// used, and closed at the command's end.
func (s *session) host() (*runtime.Host, error) {
	if s.link == nil {
		d, err := s.theDevice()
		if err != nil {
			return nil, err
		}
		if s.link, err = s.open(d); err != nil {
			return nil, err
		}
	}
	return s.link.host, nil
}

func (s *session) open(d device.Device) (*link, error) {
	l := &link{device: d}
	options := []runtime.Option{runtime.WithVersion(readVersion().Version)}
	if !d.Local() {
		options = append(options, runtime.WithName(d.Short()))
	}
	if d.Local() && s.Dial == nil {
		var err error
		l.host, err = runtime.Local("", options...)
		return l, err
	}
	dial := s.Dial
	if dial == nil {
		dial = dialDevice
	}
	l.host = runtime.Over(func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx, d, s.quiet)
		if c, ok := conn.(*device.Conn); ok && err == nil {
			l.mu.Lock()
			l.conn = c
			l.mu.Unlock()
		}
		return conn, err
	}, options...)
	return l, nil
}

func dialDevice(ctx context.Context, d device.Device, quietly bool) (net.Conn, error) {
	dial := d.Dial
	if quietly {
		dial = d.DialQuietly
	}
	c, err := dial(ctx)
	if err != nil {
		return nil, err // not a net.Conn that holds nil
	}
	return c, nil
}

func (s *session) machine(name string) (*runtime.Machine, error) {
	h, err := s.host()
	if err != nil {
		return nil, err
	}
	return h.Machine(name), nil
}

// remote says whether the device is another computer: its loopback ports and
// its files are not here.
func (s *session) remote() bool { return s.link != nil && !s.link.device.Local() }

// there is " of DEVICE" for what is on another computer.
func (s *session) there() string {
	if !s.remote() {
		return ""
	}
	return " of " + s.link.device.Short()
}

// place is where machines are, for people.
func (s *session) place() string {
	if s.remote() {
		return "on " + s.link.device.Short()
	}
	return "here"
}

// shellWord is a word as a shell reads it.
func shellWord(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./-_", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// command is a command line of this program about the same device, for people.
func (s *session) command(words string) string {
	if s.device != "" && s.remote() {
		words += " --device " + shellWord(s.link.device.String())
	}
	return "sovereign-build " + words
}

// close ends the conversation. The error of a command whose connection broke is
// told with what the transport itself had to say.
func (l *link) close(err error) error {
	if l == nil || l.host == nil {
		return err
	}
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if err != nil && conn != nil {
		err = l.explain(err, conn)
	}
	// What there is to say about the conversation is in err.
	_ = l.host.Close()
	return err
}

// transportLimit is how long a transport whose stream has ended may take to end
// itself.
const transportLimit = 2 * time.Second

func (l *link) explain(err error, conn *device.Conn) error {
	limit := time.Duration(0)
	if errors.Is(err, control.ErrLost) {
		limit = transportLimit
	}
	why := conn.Why(limit)
	if why == nil || strings.Contains(err.Error(), why.Error()) {
		return err
	}
	return fault.Errorf(fault.ClassOf(err), "%w\n%s: %v", err, l.device.Short(), why).Hintf("%s", fault.HintOf(err))
}
