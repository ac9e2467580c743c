package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Versions of the protocol that this package speaks.
const (
	MinVersion = 1
	MaxVersion = 1
)

const (
	helloPrefix = "SOVEREIGN-CONTROL "
	// maxHello bounds the line, maxRubbish what may come before it, in bytes.
	maxHello   = 4 << 10
	maxRubbish = 64 << 10
	// maxCan bounds the abilities of one side.
	maxCan = 64
)

// A Hello is what one side says of itself first.
type Hello struct {
	// Min and Max are the versions of the protocol that it speaks.
	Min int `json:"min"`
	Max int `json:"max"`
	// Version is its program's, for people.
	Version string `json:"version,omitempty"`
	// Can has the names of what it can do beyond the protocol's version.
	Can []string `json:"can,omitempty"`
}

// NewHello is that of a program with this package.
func NewHello(version string, can ...string) Hello {
	return Hello{Min: MinVersion, Max: MaxVersion, Version: version, Can: can}
}

// Has says whether the side has an ability.
func (h Hello) Has(ability string) bool { return slices.Contains(h.Can, ability) }

// String is for messages: the program's version and the protocol's.
func (h Hello) String() string {
	protocol := fmt.Sprintf("protocol %d to %d", h.Min, h.Max)
	if h.Min == h.Max {
		protocol = fmt.Sprintf("protocol %d", h.Max)
	}
	if h.Version == "" {
		return protocol
	}
	return printable.Line(h.Version) + ", " + protocol
}

// send writes the line.
func (h Hello) send(w io.Writer) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	line := helloPrefix + string(text) + "\n"
	if len(line) > maxHello {
		return fmt.Errorf("a greeting of %d bytes is longer than %d", len(line), maxHello)
	}
	_, err = io.WriteString(w, line)
	return err
}

// errOtherWords is for a peer that talks, and not of this.
var errOtherWords = errors.New("it says something else")

// readHello reads up to and including the peer's line. Up to rubbish bytes may
// come before it. What came in its place is in the error.
func readHello(r *bufio.Reader, rubbish int) (Hello, error) {
	var seen strings.Builder
	for {
		line, err := readLine(r, maxHello)
		if err == nil && strings.Contains(line, helloPrefix) && !strings.HasSuffix(line, "\n") {
			return Hello{}, fmt.Errorf("its greeting is longer than %d bytes", maxHello)
		}
		if text, ok := strings.CutPrefix(line, helloPrefix); ok && err == nil {
			return parseHello(text)
		}
		// A shell's prompt may stand on the line before it.
		if i := strings.LastIndex(line, helloPrefix); i > 0 && err == nil && seen.Len()+i <= rubbish {
			return parseHello(line[i+len(helloPrefix):])
		}
		seen.WriteString(line)
		if err == nil && seen.Len() > rubbish {
			err = errOtherWords
		}
		if err != nil && seen.Len() > 0 {
			text := seen.String()
			return Hello{}, fmt.Errorf("%w: %q", err, printable.Line(text[:min(len(text), 200)]))
		}
		if err != nil {
			return Hello{}, err
		}
	}
}

// readLine reads a line with its line feed, or a part of most bytes.
func readLine(r *bufio.Reader, most int) (string, error) {
	var b strings.Builder
	for b.Len() < most {
		c, err := r.ReadByte()
		if err != nil {
			return b.String(), err
		}
		b.WriteByte(c)
		if c == '\n' {
			break
		}
	}
	return b.String(), nil
}

func parseHello(text string) (Hello, error) {
	var h Hello
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return h, fmt.Errorf("its greeting: %w", err)
	}
	switch {
	case h.Min < 1 || h.Max < h.Min || h.Max > 1<<20:
		return h, fmt.Errorf("its greeting: versions %d to %d are none", h.Min, h.Max)
	case len(h.Can) > maxCan:
		return h, fmt.Errorf("its greeting: %d abilities are more than %d", len(h.Can), maxCan)
	}
	return h, nil
}

// ErrVersion is in the error for two sides that have no version in common.
var ErrVersion = errors.New("no version of the protocol in common")

// agree returns the version to be spoken. asks says that own is the side that
// asks.
func agree(own, peer Hello, asks bool) (int, error) {
	v := min(own.Max, peer.Max)
	if v >= own.Min && v >= peer.Min {
		return v, nil
	}
	program, daemon := own, peer
	if !asks {
		program, daemon = peer, own
	}
	e := fault.Errorf(fault.Environment, "%w: this program speaks %v, and the sovereignd there %v", ErrVersion, program, daemon)
	if program.Max < daemon.Min {
		return 0, e.Hintf("this program is too old: use the sovereign-build that belongs to that sovereignd, or a newer one")
	}
	return 0, e.Hintf("the sovereignd there is too old: replace it by the one that belongs to this program, and end the old one")
}
