package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Dial connects to a socket file. Its path may be longer than the 107 bytes of
// a socket's address.
func Dial(ctx context.Context, path string) (net.Conn, error) { return dial(ctx, "unix", path) }

// DialPackets is Dial for a socket of packets (SOCK_SEQPACKET).
func DialPackets(ctx context.Context, path string) (net.Conn, error) {
	return dial(ctx, "unixpacket", path)
}

func dial(ctx context.Context, network, path string) (net.Conn, error) {
	var dialer net.Dialer
	if len(path) <= 100 {
		return dialer.DialContext(ctx, network, path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	return dialer.DialContext(ctx, network, short)
}

// Listener returns the process that listens on a socket file; ok is false when
// nobody does.
func Listener(ctx context.Context, path string) (p Process, ok bool, err error) {
	return listener(ctx, "unix", path)
}

// PacketListener is Listener for a socket of packets.
func PacketListener(ctx context.Context, path string) (p Process, ok bool, err error) {
	return listener(ctx, "unixpacket", path)
}

func listener(ctx context.Context, network, path string) (p Process, ok bool, err error) {
	conn, err := dial(ctx, network, path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return p, false, nil
	}
	if err != nil {
		return p, false, fault.Wrap(fault.Environment, err)
	}
	defer conn.Close()
	uc, isUnix := conn.(*net.UnixConn)
	if !isUnix {
		return p, false, fault.Errorf(fault.Internal, "%s gave a %T", path, conn)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return p, false, fault.Wrap(fault.Environment, err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return p, false, fault.Wrap(fault.Environment, errors.Join(err, credErr))
	}
	return running(int(cred.Pid)) // none: it ended a moment ago
}
