package crosvm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"

	"github.com/mdlayher/vsock"

	"github.com/sovereign-build/sovereign/internal/process"
)

// CIDs of machines are chosen from these: Android's own service gives out 2048
// to 65535, and those below 200 to machines of its boot.
const (
	minCID = 1 << 16
	maxCID = 1<<31 - 1
)

// chooseCID chooses one that hardly anybody has.
func chooseCID() uint32 {
	var b [4]byte
	rand.Read(b[:]) //nolint:errcheck // never fails: crypto/rand ends the program instead
	return minCID + binary.NativeEndian.Uint32(b[:])%(maxCID-minCID)
}

// A Dialer opens a connection to a port of the machine with a number.
type Dialer func(ctx context.Context, cid, port uint32) (net.Conn, error)

// DialKernel dials by the kernel's vsock (AF_VSOCK).
func DialKernel(ctx context.Context, cid, port uint32) (net.Conn, error) {
	type result struct {
		conn *vsock.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() { // the kernel gives up by itself after 2 seconds
		conn, err := vsock.Dial(cid, port, nil)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return r.conn, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// DialDirectory dials by unix sockets in a directory, CID.sock for each machine,
// as vhost-device-vsock and Firecracker have it: "CONNECT PORT" and a line feed
// go in, "OK" and a number come out, and the stream follows.
func DialDirectory(dir string) Dialer {
	return func(ctx context.Context, cid, port uint32) (net.Conn, error) {
		conn, err := process.Dial(ctx, filepath.Join(dir, fmt.Sprintf("%d.sock", cid)))
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		err = connectLine(conn, port)
		if !stop() || err != nil {
			return nil, errors.Join(err, context.Cause(ctx), conn.Close())
		}
		return conn, nil
	}
}

// connectLine asks for a port. It reads no byte more than the answer's line: the
// stream begins behind it.
func connectLine(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	line, err := ReadLine(conn, 32)
	if err != nil {
		return fmt.Errorf("port %d of the guest: nobody listens: %w", port, err)
	}
	if !strings.HasPrefix(line, "OK ") {
		return fmt.Errorf("port %d of the guest: %q", port, line)
	}
	return nil
}

// ReadLine reads a line of at most limit bytes, byte by byte.
func ReadLine(r io.Reader, limit int) (string, error) {
	line := make([]byte, 0, limit)
	for len(line) < limit {
		next := line[len(line) : len(line)+1]
		if _, err := io.ReadFull(r, next); err != nil {
			return "", err
		}
		if next[0] == '\n' {
			return string(line), nil
		}
		line = line[:len(line)+1]
	}
	return "", fmt.Errorf("a line of more than %d bytes", limit)
}
