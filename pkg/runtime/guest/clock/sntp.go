package clock

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// The packet of RFC 4330, without extensions.
const (
	packetSize = 48 // bytes
	port       = "123"

	modeClient, modeServer = 3, 4
	version                = 4
	leapUnknown            = 3
	maxStratum             = 15
	maxRoot                = 16 << 16 // root delay and dispersion in seconds, 16.16: as RFC 5905, MAXDISP

	// maxDelay is the longest round trip whose answer is worth something.
	maxDelay = 2 * time.Second
	// queryLimit is how long an answer is waited for.
	queryLimit = 5 * time.Second
)

// sample is what one exchange with a server has shown.
type sample struct {
	offset time.Duration // to add to the clock
	delay  time.Duration // round trip without the server's own time
}

// errGoAway is a server's request not to ask again (a "kiss of death").
var errGoAway = errors.New("the server wants not to be asked")

// request makes a packet. Its time is a random number: the server sends it
// back, and who does not see the packet cannot answer it.
func request(cookie [8]byte) []byte {
	b := make([]byte, packetSize)
	b[0] = version<<3 | modeClient
	copy(b[40:], cookie[:])
	return b
}

// parse reads a server's answer. Sent and received are this machine's clock;
// earliest is a time that has passed, which says in which of the format's
// 136-year eras an answer is, and which answers are wrong.
func parse(b []byte, cookie [8]byte, sent, received, earliest time.Time) (sample, error) {
	be := binary.BigEndian
	switch {
	case len(b) < packetSize:
		return sample{}, fmt.Errorf("answer of %d bytes: want %d", len(b), packetSize)
	case b[0]&7 != modeServer:
		return sample{}, fmt.Errorf("answer of mode %d: want a server's", b[0]&7)
	case b[0]>>3&7 < 3 || b[0]>>3&7 > version:
		return sample{}, fmt.Errorf("answer of version %d: want 3 or 4", b[0]>>3&7)
	case !bytes.Equal(b[24:32], cookie[:]):
		return sample{}, errors.New("not an answer to this question")
	case b[1] == 0:
		return sample{}, fmt.Errorf("%w: %q", errGoAway, b[12:16])
	case b[0]>>6 == leapUnknown || b[1] > maxStratum:
		return sample{}, errors.New("the server has no time itself")
	case be.Uint32(b[4:]) > maxRoot || be.Uint32(b[8:]) > maxRoot:
		return sample{}, errors.New("the server is too far from its own source")
	}
	in, out := instant(be.Uint64(b[32:]), earliest), instant(be.Uint64(b[40:]), earliest)
	if be.Uint64(b[32:]) == 0 || be.Uint64(b[40:]) == 0 || out.Before(in) || out.Sub(in) > time.Minute {
		return sample{}, errors.New("answer without its times")
	}
	s := sample{delay: received.Sub(sent) - out.Sub(in)}
	if s.delay > maxDelay {
		return sample{}, fmt.Errorf("answer after %v: want at most %v", s.delay, maxDelay)
	}
	s.delay = max(s.delay, 0)
	// The wall clock of both ends, on which the difference may be decades.
	s.offset = (in.Sub(sent.Round(0)) + out.Sub(received.Round(0))) / 2
	return s, nil
}

// instant is the time of a 32.32 timestamp, the first that is not before
// earliest.
func instant(stamp uint64, earliest time.Time) time.Time {
	const era, from1900 = 1 << 32, 2208988800 // seconds; to 1970
	seconds := int64(stamp>>32) - from1900
	for seconds < earliest.Unix() {
		seconds += era
	}
	return time.Unix(seconds, int64(stamp&0xffffffff*1e9>>32))
}

// query asks one server.
func query(ctx context.Context, server string, earliest time.Time) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryLimit)
	defer cancel()
	var d net.Dialer
	address := server
	if _, _, err := net.SplitHostPort(server); err != nil {
		address = net.JoinHostPort(server, port)
	}
	conn, err := d.DialContext(ctx, "udp", address)
	if err != nil {
		return s, fmt.Errorf("time server %s: %w", server, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var cookie [8]byte
	if _, err := rand.Read(cookie[:]); err != nil {
		return s, err
	}
	sent := time.Now()
	if _, err := conn.Write(request(cookie)); err != nil {
		return s, fmt.Errorf("time server %s: %w", server, err)
	}
	buf := make([]byte, 512)
	for {
		n, readErr := conn.Read(buf)
		// The monotonic reading goes on evenly if somebody sets the clock now.
		received := sent.Add(time.Since(sent))
		if readErr != nil {
			if err == nil {
				err = readErr
			}
			if ctx.Err() != nil && err == readErr {
				err = fmt.Errorf("no answer: %w", ctx.Err())
			}
			return s, fmt.Errorf("time server %s: %w", server, err)
		}
		if s, err = parse(buf[:n], cookie, sent, received, earliest); err == nil {
			return s, nil
		}
		if errors.Is(err, errGoAway) {
			return s, fmt.Errorf("time server %s: %w", server, err)
		}
		// Somebody else's packet may have come before the server's.
	}
}
