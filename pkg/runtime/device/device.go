// Package device is the way to the sovereignd of another computer: a device is
// named, and a byte stream to it comes out, for runtime.Over. It also puts
// sovereignd there and takes it away.
//
// A device is one of
//
//	local          this computer
//	ssh:HOST       the user's own ssh, with HOST as ssh itself takes it
//	adb:SERIAL     a phone, by the user's own adb server (package adb)
//	exec:COMMAND   anything else: a shell command whose standard input and
//	               output lead to "sovereignd connect"
//
// Who may connect is for the transport to say: ssh's keys, host keys and
// configuration are the user's, and so is whom a phone lets its adb and its root
// have; nothing here changes them. The package
// listens nowhere, and knows nothing of machines.
package device

import (
	"context"
	"os/exec"
	"strings"
	"unicode"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A Device is a computer that machines run on. The zero value is this one.
type Device struct {
	kind kind
	to   string // ssh's destination, a phone's serial number, or a shell command
}

type kind int

const (
	local kind = iota
	bySSH
	byCommand
	byADB
)

// maxName bounds a device's name, in bytes.
const maxName = 4 << 10

// Parse reads a device's name: "local", "ssh:HOST", "adb:SERIAL" or
// "exec:COMMAND"; "" is local. HOST is a host or an alias of the user's ssh configuration, with or
// without USER@, or ssh://USER@HOST:PORT. Errors are of class fault.Usage.
func Parse(name string) (Device, error) {
	scheme, to, _ := strings.Cut(name, ":")
	switch {
	case len(name) > maxName:
		return Device{}, fault.Errorf(fault.Usage, "a device's name of %d bytes is longer than %d", len(name), maxName)
	case name == "" || name == "local":
		return Device{}, nil
	case scheme == "exec" && strings.TrimSpace(to) != "" && !strings.ContainsRune(to, 0):
		return Device{byCommand, to}, nil
	case scheme == "ssh" && destination(to):
		return Device{bySSH, to}, nil
	case scheme == "adb" && destination(to):
		return Device{byADB, to}, nil
	case scheme == "adb":
		return Device{}, fault.Errorf(fault.Usage, "%q is no phone's serial number", to).
			Hintf("write adb:SERIAL, with a serial number that adb devices lists")
	case scheme == "ssh" && to != "":
		return Device{}, fault.Errorf(fault.Usage, "%q is no host for ssh", to).
			Hintf("write ssh:HOST, ssh:USER@HOST or ssh:ssh://USER@HOST:PORT; other options go into ~/.ssh/config")
	}
	return Device{}, fault.Errorf(fault.Usage, "%q is not a device", name).
		Hintf("write local, ssh:HOST, adb:SERIAL or exec:COMMAND")
}

// destination says whether a word is one that ssh takes as its destination, and
// not as an option; adb takes the same ones.
func destination(to string) bool {
	if to == "" || strings.HasPrefix(to, "-") || printable.Line(to) != to {
		return false
	}
	return !strings.ContainsFunc(to, unicode.IsSpace)
}

// String is the name that Parse reads.
func (d Device) String() string {
	switch d.kind {
	case bySSH:
		return "ssh:" + d.to
	case byADB:
		return "adb:" + d.to
	case byCommand:
		return "exec:" + d.to
	}
	return "local"
}

// Short is the name for messages: a command may be long, and hold what is
// nobody's business.
func (d Device) Short() string {
	if d.kind == byCommand {
		return "exec"
	}
	return d.String()
}

// Local says whether the device is this computer.
func (d Device) Local() bool { return d.kind == local }

// Installs says whether Install puts a sovereignd on the device: elsewhere that
// is its owner's to do.
func (d Device) Installs() bool { return d.kind == bySSH || d.kind == byADB }

// SSH is the destination of a device that is reached by ssh.
func (d Device) SSH() (destination string, ok bool) { return d.to, d.kind == bySSH }

// connect is what ssh runs on a device: the sovereignd that Install has put
// there, or else that of PATH. The user's login shell reads it, whichever that
// is, so that it is one line, and has no quotes or backslashes inside.
const connect = `exec sh -c 'p=$HOME/` + programPath + `; test -x "$p" || p=sovereignd; exec "$p" connect'`

// Dial starts what leads to the device's sovereignd, and returns at once: what
// goes wrong on the way is an error of the first Read. ctx does not end the
// connection.
func (d Device) Dial(ctx context.Context) (*Conn, error) { return d.dial(ctx) }

// DialQuietly is Dial for where nobody can be asked: ssh asks for no password
// and no host key, and fails instead.
func (d Device) DialQuietly(ctx context.Context) (*Conn, error) {
	return d.dial(ctx, "-o", "BatchMode=yes")
}

func (d Device) dial(ctx context.Context, options ...string) (*Conn, error) {
	switch d.kind {
	case bySSH:
		return d.ssh(ctx, connect, options...)
	case byADB:
		return d.phoneConnect(ctx)
	case byCommand:
		// Ctrl-C is for this program to understand: it has words to say to the
		// other side first. What a shell ignores, its commands ignore.
		return start(ctx, d, exec.Command("sh", "-c", "trap '' INT\n"+d.to))
	}
	return nil, fault.Errorf(fault.Internal, "this computer is reached without a transport")
}

// sshOptions are for a stream of bytes and nothing else, whatever the user's
// configuration has for a shell on that host: no terminal, no forwarded ports
// that may be taken, agent or display, and no other command. A link that is
// silent for a minute is an end and not a wait.
var sshOptions = []string{"-T", "-a", "-x",
	"-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none",
	"-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=3"}

// ssh runs a command on the device. It asks at the terminal, as ssh does, so
// that it stays in the terminal's foreground; it does not see Ctrl-C all the
// same.
func (d Device) ssh(ctx context.Context, command string, options ...string) (*Conn, error) {
	if _, err := exec.LookPath("ssh"); err != nil {
		return nil, fault.Errorf(fault.Environment, "there is no ssh here: %w", err).
			Hintf("on Debian, apt-get install openssh-client")
	}
	args := append([]string{"-c", `trap '' INT; exec ssh "$@"`, "ssh"}, sshOptions...)
	args = append(append(args, options...), "--", d.to, command)
	return start(ctx, d, exec.Command("sh", args...))
}
