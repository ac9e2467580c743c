package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

const (
	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// execOOMScoreAdj makes a program run by hand the first to go when memory
	// runs out: the services were here before.
	execOOMScoreAdj = 500
	// outputLimit is how long output is waited for once all processes ended,
	// and so nobody should be left who could print: it is for one who got the
	// pipe in another way than by birth.
	outputLimit = time.Second
)

// ErrShutdown is Exec's error after Close.
var ErrShutdown = errors.New("the machine is shutting down: no program is started any more")

// A Runner runs programs beside the services, also in a guest whose services
// never start.
type Runner struct {
	Procs *proc.Table
	// Cgroups is as in Options: each program gets a group of its own there.
	Cgroups string
	// Lookup is as in Options.
	Lookup func(name string) (*user.User, []string, error)

	last  atomic.Uint64 // number of the last program
	limit time.Duration // in place of outputLimit; 0 outside of tests

	starting sync.RWMutex // for reading, while a program is being started
	closed   bool
}

// Close refuses further programs; those that run go on. When it returns, none
// is being started.
func (r *Runner) Close() {
	r.starting.Lock()
	defer r.starting.Unlock()
	r.closed = true
}

func (r *Runner) start(a proc.Attr) (*proc.Process, error) {
	r.starting.RLock()
	defer r.starting.RUnlock()
	if r.closed {
		return nil, ErrShutdown
	}
	return r.Procs.Start(a)
}

// Exec runs a program to its end; then, or when ctx ends or an output takes no
// more, what is left of its control group is killed. All that was printed has
// been written when it returns without an error, however long that took. See
// agent.Operator.
func (r *Runner) Exec(ctx context.Context, req agent.ExecRequest, std agent.ExecIO) (code int, err error) {
	a, err := r.attr(req)
	if err != nil {
		return 0, err
	}
	// No service has a name with a colon.
	group, err := newCgroup(r.Cgroups, fmt.Sprintf("exec:%d", r.last.Add(1)), spec.Limits{})
	if err != nil {
		return 0, err
	}
	a.Cgroup = group.file()
	ends, err := connect(req, &a)
	if err != nil {
		_, closeErr := group.close(ctx, 0, func() {})
		return 0, errors.Join(err, closeErr)
	}
	p, err := r.start(a)
	if err != nil {
		ends.closeTheirs()
		_, closeErr := group.close(ctx, 0, func() {})
		return 0, errors.Join(err, closeErr, ends.closeOurs())
	}
	running, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	finish := ends.copy(std, p, kill)
	status, err := p.Wait(running)
	// Its leftovers hold the outputs; they go before the outputs' ends are
	// waited for. A context that has ended has the same effect as this one.
	gone, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
	defer cancel()
	_, closeErr := group.close(gone, 0, cancel)
	if group == nil {
		closeErr = p.KillSession()
	}
	if copyErr := finish(cmp.Or(r.limit, outputLimit)); err == nil {
		err = copyErr
	}
	if err = errors.Join(err, closeErr); err != nil {
		return 0, err
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// attr finds program and user.
func (r *Runner) attr(req agent.ExecRequest) (proc.Attr, error) {
	if req.User == "" {
		req.User = "root"
	}
	user, err := lookupAccount(r.Lookup, req.User)
	if err != nil {
		return proc.Attr{}, err
	}
	env := map[string]string{"PATH": searchPath, "HOME": user.home, "USER": req.User, "LOGNAME": req.User}
	if req.TTY {
		env["TERM"] = "xterm"
	}
	for k, v := range req.Env {
		env[k] = v
	}
	path, err := lookPath(req.Argv[0], env["PATH"])
	if err != nil {
		return proc.Attr{}, err
	}
	dir := req.Dir
	if dir == "" {
		dir = "/"
		if i, err := os.Stat(user.home); err == nil && i.IsDir() {
			dir = user.home
		}
	}
	// Who may execute as root may do everything with the guest, repairs too; a
	// user has what that user's name gives, which is none of root's power.
	var all proc.CapabilitySet
	if user.uid == 0 {
		all = proc.AllCapabilities
	}
	return proc.Attr{Path: path, Args: req.Argv, Env: environ(env), Dir: dir,
		Credential: user.credential(), Capabilities: all, OOMScoreAdj: execOOMScoreAdj, Terminal: req.TTY}, nil
}

// lookPath finds a program as execvp(3) does.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(path, ":") {
		p := filepath.Join(dir, name)
		if i, err := os.Stat(p); err == nil && i.Mode().IsRegular() && i.Mode()&0o111 != 0 && filepath.IsAbs(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: no such program in %s", name, path)
}

func environ(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}

// ends are the files that connect a program: pipes, or a terminal.
type ends struct {
	theirs       []*os.File
	in, out, err *os.File // ours, of pipes
	terminal     *os.File // ours, in place of those
}

// connect makes the ends and puts the program's into a.
func connect(req agent.ExecRequest, a *proc.Attr) (*ends, error) {
	e := &ends{}
	if req.TTY {
		master, slave, err := openTerminal(agent.Size{Rows: req.Rows, Cols: req.Cols}, a.Credential)
		if err != nil {
			return nil, err
		}
		e.terminal, e.theirs = master, []*os.File{slave}
		a.Stdin, a.Stdout, a.Stderr = slave, slave, slave
		return e, nil
	}
	for _, p := range []struct {
		ours, theirs **os.File
		toThem       bool
	}{{&e.in, &a.Stdin, true}, {&e.out, &a.Stdout, false}, {&e.err, &a.Stderr, false}} {
		r, w, err := os.Pipe()
		if err != nil {
			e.closeTheirs()
			return nil, errors.Join(err, e.closeOurs())
		}
		if p.toThem {
			r, w = w, r
		}
		*p.ours, *p.theirs = r, w
		e.theirs = append(e.theirs, w)
	}
	return e, nil
}

func (e *ends) closeTheirs() {
	for _, f := range e.theirs {
		f.Close()
	}
}

func (e *ends) closeOurs() (err error) {
	for _, f := range []*os.File{e.in, e.out, e.err, e.terminal} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// copy moves what is read and written until the returned function is called,
// after the program's end: it waits for all that was printed to be written,
// however slow that is, and closes. An output that fails calls kill with the
// reason, which is also the function's.
func (e *ends) copy(std agent.ExecIO, p *proc.Process, kill func(error)) (finish func(limit time.Duration) error) {
	in, outputs := e.in, map[*os.File]io.Writer{e.out: std.Stdout, e.err: std.Stderr}
	if e.terminal != nil {
		// The program's end stays open here: a terminal that nobody has open
		// for a moment is no terminal that has come to its end.
		in, outputs = e.terminal, map[*os.File]io.Writer{e.terminal: std.Stdout}
	} else {
		e.closeTheirs()
	}
	go func() {
		_, err := io.Copy(in, std.Stdin)
		switch {
		case err != nil:
			// The program has closed its end, or there is more that does not
			// come: it is about to be killed, and until then sees no end.
		case e.terminal != nil:
			_, _ = in.Write([]byte{4}) // a terminal's way to say end of file
		default:
			in.Close()
		}
	}()
	done := make(chan struct{})
	go steer(std, e.terminal, p, done)
	copied := make(chan error, len(outputs))
	for from, to := range outputs {
		go func() {
			_, err := io.Copy(to, proc.PipeReader{File: from})
			if e.terminal != nil && errors.Is(err, unix.EIO) {
				err = nil // a terminal's end
			}
			if err != nil {
				kill(err)
			}
			copied <- err
		}()
	}
	return func(limit time.Duration) (err error) {
		if e.terminal != nil {
			e.closeTheirs()
		}
		// Nobody is left who could print, so that the end comes by itself; it
		// is waited for in the pipe only, and not while an output takes its
		// time.
		for from := range outputs {
			err = errors.Join(err, from.SetReadDeadline(time.Now().Add(limit)))
		}
		if err != nil {
			err = errors.Join(err, e.closeOurs()) // a file without deadlines
		}
		for range outputs {
			err = errors.Join(err, <-copied)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errors.New("the program has ended, and a process that is none of its own still holds its output: it may not be all")
		}
		close(done)
		_ = e.closeOurs() // twice for the input, which may be closed
		return err
	}
}

// steer does what comes beside the data, until done.
func steer(std agent.ExecIO, terminal *os.File, p *proc.Process, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case s := <-std.Resize:
			if terminal != nil {
				_ = resize(terminal, s) // the old size is no reason to end
			}
		case name := <-std.Signals:
			if sig := unix.SignalNum("SIG" + name); sig != 0 {
				_ = p.SignalGroup(sig) // a program that has ended needs none
			}
		}
	}
}

// openTerminal makes a terminal of the user's.
func openTerminal(size agent.Size, c *syscall.Credential) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("terminal: %w: the kernel needs UNIX98_PTYS", err)
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	n, err := ioctlFile(master, func(fd int) (uint32, error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return 0, err
		}
		return unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	if size.Rows == 0 || size.Cols == 0 {
		size = agent.Size{Rows: 24, Cols: 80}
	}
	err = resize(master, size)
	if c != nil {
		err = errors.Join(err, slave.Chown(int(c.Uid), int(c.Gid)))
	}
	if err != nil {
		slave.Close()
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	return master, slave, nil
}

func resize(terminal *os.File, s agent.Size) error {
	_, err := ioctlFile(terminal, func(fd int) (uint32, error) {
		return 0, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols})
	})
	return err
}

// ioctlFile calls f with a file's descriptor and leaves the file non-blocking,
// which Fd does not.
func ioctlFile(file *os.File, f func(fd int) (uint32, error)) (n uint32, err error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) { n, err = f(int(fd)) })
	return n, errors.Join(err, controlErr)
}
