package avf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/crosvm"
)

// A relay is how sovereignd on a phone reaches guests there: adbd may open vsock,
// and opens it for a computer that adb is connected to. So that computer runs
// Relay on the phone, and what is dialled at its socket there comes out at the
// computer's end of the stream (ServeRelay), which asks adbd, and joins the two.
//
// A connection begins with a line, "CONNECT CID PORT", and is answered by one, "OK"
// or "ERR" and why. It is carried by yamux, the phone as its client.

const (
	relayLine  = 128 // bytes of a line at most
	relayLimit = 20 * time.Second
	// maxRelayed is how many connections a relay carries at a time.
	maxRelayed = 64
)

func relayConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput, c.Logger = io.Discard, nil
	c.MaxStreamWindowSize = 1 << 20
	return c
}

// Relay listens in dir, which it makes, and carries what connects there over
// stream, until that or ctx ends.
func Relay(ctx context.Context, dir string, stream io.ReadWriteCloser) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	path := filepath.Join(dir, strconv.Itoa(os.Getpid())+".sock")
	l, err := process.Listen(path)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer os.Remove(path)
	defer l.Close()
	session, err := yamux.Client(stream, relayConfig())
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	defer session.Close()
	defer context.AfterFunc(ctx, func() { session.Close() })()
	go func() {
		<-session.CloseChan()
		l.Close()
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil // the other end is gone
		}
		go func() {
			defer conn.Close()
			carried, err := session.Open()
			if err != nil {
				return
			}
			join(conn, carried)
		}()
	}
}

// join carries both ways until either end is gone, and closes both.
func join(a, b io.ReadWriteCloser) {
	var both sync.WaitGroup
	one := func(to, from io.ReadWriteCloser) {
		_, _ = io.Copy(to, from) // its end is the end of both, whatever it was
		a.Close()
		b.Close()
	}
	both.Go(func() { one(a, b) })
	both.Go(func() { one(b, a) })
	both.Wait()
}

// ServeRelay is the other end of Relay: it opens what is asked for there by open,
// until stream ends.
func ServeRelay(ctx context.Context, stream io.ReadWriteCloser, open func(ctx context.Context, cid, port uint32) (net.Conn, error)) error {
	session, err := yamux.Server(stream, relayConfig())
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	defer session.Close()
	defer context.AfterFunc(ctx, func() { session.Close() })()
	places := make(chan struct{}, maxRelayed)
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := session.Accept()
		if err != nil {
			return nil // it has ended
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close() // who dials again and again, and closes nothing
			continue
		}
		serving.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			serveOne(ctx, conn, open)
		})
	}
}

func serveOne(ctx context.Context, conn net.Conn, open func(ctx context.Context, cid, port uint32) (net.Conn, error)) {
	limit, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	stop := context.AfterFunc(limit, func() { conn.Close() })
	line, err := crosvm.ReadLine(conn, relayLine)
	if err != nil {
		return
	}
	var guest net.Conn
	cid, port, err := parseConnect(line)
	if err == nil {
		guest, err = open(limit, cid, port)
	}
	if err != nil {
		fmt.Fprintf(conn, "ERR %.100s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	defer guest.Close()
	if !stop() {
		return
	}
	if _, err := io.WriteString(conn, "OK\n"); err == nil {
		join(conn, guest)
	}
}

// parseConnect reads a line that asks for a connection.
func parseConnect(line string) (cid, port uint32, err error) {
	words := strings.Split(line, " ")
	if len(words) != 3 || words[0] != "CONNECT" {
		return 0, 0, fmt.Errorf("%.40q asks for no connection", line)
	}
	c, err := strconv.ParseUint(words[1], 10, 32)
	p, err2 := strconv.ParseUint(words[2], 10, 32)
	// Below 3 are the host itself and nobody.
	if err != nil || err2 != nil || c < 3 {
		return 0, 0, fmt.Errorf("%.40q names no port of a machine", line)
	}
	return uint32(c), uint32(p), nil
}

// errNoRelay is for a phone that no computer is connected to.
var errNoRelay = errors.New("no computer is connected that carries the way to this machine")

// DialRelays dials by the relays that listen in dir, the one that is there for the
// longest first: a command that is connected for long goes before one that asks
// something.
func DialRelays(dir string) crosvm.Dialer {
	return func(ctx context.Context, cid, port uint32) (net.Conn, error) {
		paths, err := filepath.Glob(filepath.Join(dir, "*.sock"))
		if err != nil {
			return nil, err
		}
		since := map[string]time.Time{}
		for _, path := range paths {
			if info, err := os.Lstat(path); err == nil {
				since[path] = info.ModTime()
			}
		}
		slices.SortFunc(paths, func(a, b string) int { return since[a].Compare(since[b]) })
		last := errNoRelay
		for _, path := range paths {
			conn, err := process.Dial(ctx, path)
			if err != nil {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if errors.Is(err, unix.ECONNREFUSED) {
					os.Remove(path) // of one that was killed
				}
				continue
			}
			if err = ask(ctx, conn, cid, port); err == nil {
				return conn, nil
			}
			conn.Close()
			if last = err; ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
		}
		return nil, last
	}
}

// ask asks a relay for a connection.
func ask(ctx context.Context, conn net.Conn, cid, port uint32) error {
	limit, cancel := context.WithTimeout(ctx, relayLimit)
	defer cancel()
	stop := context.AfterFunc(limit, func() { conn.Close() })
	_, err := fmt.Fprintf(conn, "CONNECT %d %d\n", cid, port)
	line := ""
	if err == nil {
		line, err = crosvm.ReadLine(conn, relayLine)
	}
	switch {
	case !stop():
		return context.Cause(limit)
	case err != nil:
		return fmt.Errorf("a relay that has ended: %w", err)
	case line != "OK":
		return fmt.Errorf("the computer that is connected says: %s", strings.TrimPrefix(line, "ERR "))
	}
	return nil
}
