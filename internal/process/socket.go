package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// abstract: see AbstractSockets.
var abstract atomic.Bool

// AbstractSockets has this program make and reach sockets by an address of their
// path in the kernel's name space (see unix(7)), with an ordinary, empty file at
// the path itself. It is for a user whom SELinux lets make no socket files where
// the rest of its files have to be: Android's shell, in /data/local/tmp. The
// program at the other end has to do the same. Anybody who may connect to this
// user's sockets at all can dial such an address: who listens asks who it is.
func AbstractSockets() { abstract.Store(true) }

// maxAbstract is the most of a path that such an address holds, in bytes.
const maxAbstract = 106

// Listen makes a socket at a path for this user, in the place of one that a
// killed program left. Closing the listener leaves the file.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if abstract.Load() {
		if len(path) > maxAbstract {
			return nil, fmt.Errorf("the path %s of a socket is longer than %d bytes", path, maxAbstract)
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "@" + path})
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return nil, errors.Join(err, l.Close())
		}
		return l, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Its path may be longer than the 107 bytes of a socket's address.
	address := &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))}
	l, err := net.ListenUnix("unix", address)
	if err != nil {
		return nil, err
	}
	// That name is gone with dir.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Dial connects to a socket file. Its path may be longer than the 107 bytes of
// a socket's address.
func Dial(ctx context.Context, path string) (net.Conn, error) { return dial(ctx, "unix", path) }

// DialPackets is Dial for a socket of packets (SOCK_SEQPACKET).
func DialPackets(ctx context.Context, path string) (net.Conn, error) {
	return dial(ctx, "unixpacket", path)
}

func dial(ctx context.Context, network, path string) (net.Conn, error) {
	var dialer net.Dialer
	if abstract.Load() {
		// Where the file is not there, neither is the socket.
		if _, err := os.Lstat(path); err != nil {
			return nil, err
		}
		return dialer.DialContext(ctx, network, "@"+path)
	}
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
