package device

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// programPath is where Install puts sovereignd, below the user's home
// directory: a place that every Linux lets every user write and run programs
// in.
const programPath = ".local/share/sovereign/sovereignd"

//go:embed device.sh
var script string

// Facts is what a device says of itself.
type Facts struct {
	OS      string // "Linux"
	Machine string // as uname -m has it: "x86_64"
	User    string
	Program string // where Install puts sovereignd
	State   string // the directory of its machines
	// Digest is that of the sovereignd that is there, "sha256:…"; "" for none.
	Digest string
	// Service is whose services systemd starts there: "system" for root's,
	// "user", or "" where there is none.
	Service string
	Unit    string // the file of sovereignd's service; "" for none
	Enabled bool   // it is started with the device
	Active  bool
	Linger  bool // the user's services run without a login
	QEMU    bool // of the device's own architecture
	KVM     bool // the user may use it
}

// Arch is the architecture in Go's words, or "" for one that there is no
// sovereignd for.
func (f Facts) Arch() string {
	a, _ := arch.OfUname(f.Machine)
	return a.Go
}

// Boots says whether sovereignd is started with the device.
func (f Facts) Boots() bool {
	return f.Enabled && (f.Service == "system" || f.Service == "user" && f.Linger)
}

// Look asks a device by ssh for its facts.
func Look(ctx context.Context, d Device) (Facts, error) {
	s, err := open(ctx, d)
	if err != nil {
		return Facts{}, err
	}
	defer s.close()
	return s.facts, nil
}

// Installed is what Install has done.
type Installed struct {
	Facts Facts
	// Changed says that another program, or none, was there before.
	Changed bool
}

// Install puts sovereignd on a device that is reached by ssh: the one of the
// programs that is for it, checked by its digest on the far side and there
// whole or not at all. Where systemd starts services for the user, it starts
// sovereignd with the device. A sovereignd that runs is replaced, and its
// machines run on. Interrupted, it can be done again.
//
// report takes lines about what is going on.
func Install(ctx context.Context, d Device, programs Programs, report func(string)) (Installed, error) {
	s, err := open(ctx, d)
	if err != nil {
		return Installed{}, err
	}
	defer s.close()
	f := s.facts
	if f.OS != "Linux" || f.Arch() == "" {
		return Installed{}, fault.Errorf(fault.Environment, "%s is %s on %s, and sovereignd runs on Linux on x86_64 and aarch64", d, f.OS, f.Machine)
	}
	p, err := programs.For(f.Arch())
	if err != nil {
		return Installed{}, err
	}
	defer p.Close()
	result := Installed{Changed: f.Digest != p.Digest}
	if result.Changed {
		report(fmt.Sprintf("%s is %s of %s; sending %s (%.1f MiB)", d, f.Machine, f.User, p.Path, float64(p.Size)/(1<<20)))
		err = s.send("put "+p.bare(), p)
	} else {
		report(fmt.Sprintf("%s has this sovereignd already", d))
		err = s.send("keep", strings.NewReader(""))
	}
	if err == nil {
		err = s.finish()
	}
	if err != nil {
		return Installed{}, err
	}
	// What it says now is what came of it.
	result.Facts, err = Look(ctx, d)
	return result, err
}

// Remove takes sovereignd away from a device that is reached by ssh, its
// service too, and what is empty then; with data also the directory of its
// machines. Machines that run must have been shut down before. Interrupted, it
// can be done again.
func Remove(ctx context.Context, d Device, data bool) (Facts, error) {
	s, err := open(ctx, d)
	if err != nil {
		return Facts{}, err
	}
	defer s.close()
	word := "remove"
	if data {
		word = "remove data"
	}
	if err := s.send(word, strings.NewReader("")); err != nil {
		return s.facts, err
	}
	return s.facts, s.finish()
}

const (
	// maxLine bounds a line of the script, maxLines how many lines are read
	// before the first of them: a login shell may greet at length.
	maxLine  = 4 << 10
	maxLines = 2000
	prefix   = "sovereign: "
)

// session is a run of the script.
type session struct {
	d     Device
	conn  *Conn
	lines *bufio.Scanner
	stop  func() bool // of the context's watch
	ctx   context.Context
	facts Facts
}

// open starts the script, which waits for a word then.
func open(ctx context.Context, d Device) (*session, error) {
	if d.kind != bySSH {
		return nil, fault.Errorf(fault.Usage, "%s is not reached by ssh", d).
			Hintf("only ssh:HOST can be installed to; elsewhere, put sovereignd there by hand")
	}
	// The script comes by standard input: the user's login shell would have to
	// understand it else. It is read a byte at a time, since what follows is
	// not its own, and is run only whole: it is one function call at its end.
	command := fmt.Sprintf(`exec sh -c 'eval "$(dd bs=1 count=%d 2>/dev/null)"'`, len(script))
	conn, err := d.ssh(ctx, command)
	if err != nil {
		return nil, err
	}
	s := newSession(ctx, d, conn)
	if err := s.begin(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func newSession(ctx context.Context, d Device, conn *Conn) *session {
	s := &session{d: d, ctx: ctx, conn: conn, lines: bufio.NewScanner(conn)}
	s.lines.Buffer(make([]byte, 0, maxLine), maxLine)
	s.stop = context.AfterFunc(ctx, func() { conn.Close() })
	return s
}

// begin sends the script and reads the facts.
func (s *session) begin() error {
	if _, err := io.WriteString(s.conn, script); err != nil {
		return s.broken(err)
	}
	facts, err := parseFacts(s.next)
	if err != nil {
		return s.broken(err)
	}
	s.facts = facts
	return nil
}

// parseFacts reads facts until the device is ready for a word.
func parseFacts(next func() (key, value string, err error)) (Facts, error) {
	var f Facts
	for {
		key, value, err := next()
		if err != nil {
			return f, err
		}
		switch key {
		case "os":
			f.OS = value
		case "machine":
			f.Machine = value
		case "user":
			f.User = value
		case "program":
			f.Program = value
		case "state":
			f.State = value
		case "digest":
			if f.Digest = "sha256:" + value; value == "" {
				return f, fault.Errorf(fault.Environment, "there is no sha256sum")
			}
		case "service":
			f.Service = value
		case "unit":
			f.Unit = value
		case "enabled":
			f.Enabled = value == "enabled"
		case "active":
			f.Active = value == "active"
		case "linger":
			f.Linger = true
		case "qemu":
			f.QEMU = true
		case "kvm":
			f.KVM = true
		case "ready":
			return f, nil
		}
	}
}

// next is the next line of the script's own; others are of a login shell.
func (s *session) next() (key, value string, err error) {
	for range maxLines {
		if !s.lines.Scan() {
			err := s.lines.Err()
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return "", "", err
		}
		text, ours := strings.CutPrefix(s.lines.Text(), prefix)
		if !ours {
			continue
		}
		key, value, _ = strings.Cut(printable.Line(text), " ")
		if key == "fail" {
			return "", "", fault.Errorf(fault.Environment, "%s", value)
		}
		return key, strings.TrimSpace(value), nil
	}
	return "", "", fault.Errorf(fault.Device, "it talks of other things")
}

// send says what is to be done and ends what the script reads.
func (s *session) send(word string, data io.Reader) error {
	_, err := io.Copy(struct{ io.Writer }{s.conn}, io.MultiReader(strings.NewReader(word+"\n"), data))
	if err == nil {
		err = s.conn.CloseWrite()
	}
	if err != nil {
		// The script may have said why it does not read on.
		if said := s.finish(); said != nil {
			return said
		}
	}
	return s.broken(err)
}

// finish reads on to the script's end.
func (s *session) finish() error {
	for {
		key, _, err := s.next()
		if err != nil {
			return s.broken(err)
		}
		if key == "finished" {
			return nil
		}
	}
}

// broken says where an error happened.
func (s *session) broken(err error) error {
	var own *fault.Error
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.As(err, &own):
		return fault.Errorf(own.Class, "%s: %w", s.d, err).Hintf("%s", own.Hint)
	case errors.Is(err, os.ErrClosed):
		return fault.Errorf(fault.Device, "%s: the connection was closed", s.d)
	}
	return fault.Errorf(fault.Device, "%s: the connection broke: %w", s.d, err).Hintf("do it again")
}

func (s *session) close() {
	s.stop()
	s.conn.Close()
}
