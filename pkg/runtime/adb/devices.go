package adb

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A Phone is a device as the server lists it.
type Phone struct {
	Serial string
	// State is "device" for one that can be spoken to, else "unauthorized",
	// "offline", "no permissions", "recovery", …
	State string
	// Product, Model and Device are the phone's own words; "" where it has said
	// none. Model has underscores for spaces.
	Product, Model, Device string
}

// Ready says whether services of it can be opened.
func (p Phone) Ready() bool { return p.State == "device" }

// Trouble is why it is not Ready, as an error that says what to do; nil where it
// is.
func (p Phone) Trouble() error {
	if p.Ready() {
		return nil
	}
	r := &Refusal{Kind: kindOf(p.State), Text: p.Serial + " is " + p.State}
	class := fault.Device
	if r.Kind == NoPermissions {
		class = fault.Environment
	}
	e := fault.Errorf(class, "%w", r)
	if hint := r.Kind.mend(); hint != "" {
		return e.Hintf("%s", hint)
	}
	return e
}

// maxPhones bounds a list of phones.
const maxPhones = 1000

// Phones lists the phones that the server knows, in its order.
func (s *Server) Phones(ctx context.Context) ([]Phone, error) {
	text, err := s.host(ctx, "host:devices-l")
	if err != nil {
		return nil, err
	}
	return parsePhones(text)
}

// parsePhones reads a line a phone: the serial number, spaces or a tab, the
// state, and words key:value. A state is a word, but for "no permissions", which
// a reason follows.
func parsePhones(text string) ([]Phone, error) {
	var phones []Phone
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if len(phones) == maxPhones {
			return nil, fault.Errorf(fault.Environment, "the adb server lists more than %d devices", maxPhones)
		}
		words := strings.Fields(line)
		if len(words) < 2 || oneLine(words[1]) == "" {
			return nil, fault.Errorf(fault.Environment, "the adb server lists %q without a state", oneLine(line))
		}
		p := Phone{Serial: words[0], State: oneLine(words[1])}
		if p.State == "no" { // "no permissions", its reason, and where to read more
			p.State = string(NoPermissions)
		}
		for _, word := range words[2:] {
			switch key, value, _ := strings.Cut(word, ":"); key {
			case "product":
				p.Product = value
			case "model":
				p.Model = value
			case "device":
				p.Device = value
			}
		}
		phones = append(phones, p)
	}
	return phones, nil
}

// Track calls each with the phones that there are, at once and whenever one
// comes, goes or changes its state. Their Product, Model and Device are not
// told. It ends with ctx's cause, each's error, or that of the server.
func (s *Server) Track(ctx context.Context, each func([]Phone) error) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer bound(ctx, conn, 0)()
	if err := writeRequest(conn, "host:track-devices"); err != nil {
		return because(ctx, fault.Wrap(fault.Device, err))
	}
	if err := readStatus(conn); err != nil {
		return because(ctx, err)
	}
	for {
		text, err := readText(conn)
		if err != nil {
			return because(ctx, fault.Wrap(fault.Device, err))
		}
		phones, err := parsePhones(text)
		if err != nil {
			return err
		}
		if err := each(phones); err != nil {
			return err
		}
	}
}

// WaitReady waits until a phone is ready, or ctx ends; then its error says what
// the phone was last.
func (s *Server) WaitReady(ctx context.Context, serial string) error {
	errReady := errors.New("ready")
	var last error = fault.Errorf(fault.Device, "%w", &Refusal{NotThere, serial + " is not there"}).Hintf("%s", NotThere.mend())
	err := s.Track(ctx, func(phones []Phone) error {
		for _, p := range phones {
			if p.Serial == serial {
				if last = p.Trouble(); last == nil {
					return errReady
				}
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, errReady):
		return nil
	case ctx.Err() != nil:
		return last
	case errors.Is(err, io.EOF):
		return lost(io.EOF)
	}
	return err
}
