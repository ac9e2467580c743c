// Package sovereignd is the way to the sovereignd of a state directory on this
// machine: where its socket is, who may be at its other end, and how the program
// is started when none runs.
//
// A connection goes out. Everything that is said over it is package control's.
package sovereignd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
)

const (
	// Program is sovereignd's name as a program.
	Program = "sovereignd"
	// Socket is its socket's name in the state directory.
	Socket = "sovereignd.sock"
	// LogFile is its log there; LogFile.1 is the older half of it.
	LogFile = "sovereignd.log"
)

// pollEvery is how often a socket is tried that a new sovereignd is about to
// open.
const pollEvery = 20 * time.Millisecond

// Find returns the path of sovereignd: beside this program, else in PATH.
func Find() (string, error) {
	path, err := process.FindProgram(Program)
	if err != nil {
		return "", fault.Errorf(fault.Environment, "%s is neither beside this program nor in PATH", Program).
			Hintf("build it with make")
	}
	return path, nil
}

// MakeStateDir makes a state directory for this user alone, where there is
// none, and checks it as CheckStateDir does.
func MakeStateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Errorf(fault.Environment, "the state directory: %w", err).
			Hintf("set XDG_STATE_HOME to a directory you may write to")
	}
	return CheckStateDir(dir)
}

// CheckStateDir refuses a directory in which somebody else may put a socket of
// his own in the place of sovereignd's: one that is another user's, or that
// others may write to.
func CheckStateDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fault.Wrap(fault.Environment, &fs.PathError{Op: "stat", Path: dir, Err: err})
	}
	switch uid := os.Geteuid(); {
	case !info.IsDir():
		return fault.Errorf(fault.Environment, "the state directory %s is no directory", dir)
	case !Trusted(st.Uid):
		return fault.Errorf(fault.Environment, "the state directory %s belongs to user %d, and this program runs as user %d", dir, st.Uid, uid).
			Hintf("run it as that user, or choose another directory")
	case info.Mode().Perm()&0o022 != 0:
		return fault.Errorf(fault.Environment, "others may write into the state directory %s (mode %03o): who reaches sovereignd there cannot be known", dir, info.Mode().Perm()).
			Hintf("chmod 700 %s, if nobody else is to have a part in it", dir)
	}
	return nil
}

// Trusted says whether a user may be at the other end: this one, or root.
func Trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// Peer is who is at the other end of a unix socket.
func Peer(conn net.Conn) (*unix.Ucred, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fault.Errorf(fault.Internal, "a %T is no unix socket", conn)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return nil, fault.Wrap(fault.Environment, errors.Join(err, credErr))
	}
	return cred, nil
}

// Connect connects to the sovereignd that runs for a state directory. Where
// none does, the error is one of Absent.
func Connect(ctx context.Context, stateDir string) (net.Conn, error) {
	if err := CheckStateDir(stateDir); err != nil {
		return nil, err
	}
	conn, err := process.Dial(ctx, filepath.Join(stateDir, Socket))
	if err != nil {
		return nil, err
	}
	cred, err := Peer(conn)
	if err == nil && !Trusted(cred.Uid) {
		err = fault.Errorf(fault.Environment, "process %d of user %d listens at the socket in %s, which is not its business", cred.Pid, cred.Uid, stateDir)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Absent says whether a connection failed as no sovereignd runs.
func Absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

// Dial connects to the sovereignd of a state directory. Where none runs, program
// ("": Find's) is started in the background, with flags; without any, until
// nothing is wanted up and nobody is connected any more.
func Dial(ctx context.Context, stateDir, program string, flags ...string) (net.Conn, error) {
	conn, err := Connect(ctx, stateDir)
	if err == nil || !Absent(err) {
		return conn, fault.Wrap(fault.Environment, err)
	}
	if program == "" {
		if program, err = Find(); err != nil {
			return nil, err
		}
	}
	if len(flags) == 0 {
		flags = []string{"--exit-when-idle"}
	}
	log := filepath.Join(stateDir, LogFile)
	p, err := process.Start(process.Command{
		Path: program, Args: append([]string{"--state-dir", stateDir}, flags...), Dir: stateDir, Log: log,
	})
	if err != nil {
		return nil, err
	}
	for {
		alive, err := p.Alive()
		if err != nil {
			return nil, err
		}
		// Another one may have been quicker; this one then ends.
		if conn, err = Connect(ctx, stateDir); err == nil || !Absent(err) {
			return conn, fault.Wrap(fault.Environment, err)
		}
		if !alive {
			return nil, fault.Errorf(fault.Environment, "%s ended at once: %s", Program, tail.Lines(3, log)).Hintf("read %s", log)
		}
		t := time.NewTimer(pollEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("waiting for %s: %w", Program, context.Cause(ctx))
		case <-t.C:
		}
	}
}
