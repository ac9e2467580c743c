package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

const (
	startTimeout = 60 * time.Second // a cold start takes 0.3 s; recovering a large cache takes longer
	probeTimeout = 10 * time.Second // for a daemon that runs already
	stopGrace    = 15 * time.Second
	busyPatience = 5 * time.Minute // for one that others use and that does not answer
	busyPause    = 500 * time.Millisecond
	maxDaemonLog = 8 << 20 // bytes, then the log is moved to .1
	maxSocket    = 100     // bytes; the kernel's limit of sun_path is 108
)

// daemon is the private buildkitd of one state directory, shared by all
// engines of all processes that name it.
//
// Two flocks keep that right. "engine.lock" is held, exclusively, while the
// daemon is looked at, started or stopped. "users.lock" counts: every user
// holds it shared for as long as it may use the daemon, and who can get it
// exclusively is alone. A process that dies gives both up by dying; the daemon
// it leaves is taken over by the next user, and stopped by the last. What runs
// is recorded in daemon.json, by pid and start time, before anybody can depend
// on it. All files are of this user alone (the directory has mode 0700).
type daemon struct {
	state      string // directory
	buildkitd  string
	cacheLimit int64
	host       host
	// Tests give their own of these.
	answers  func(ctx context.Context, socket string) bool
	patience time.Duration
}

func newDaemon(o *options, buildkitd string) *daemon {
	return &daemon{state: o.stateDir, buildkitd: buildkitd, cacheLimit: o.cacheLimit, host: o.host, answers: answers, patience: busyPatience}
}

// errBusy is the error for a daemon that others use and that does not answer.
var errBusy = errors.New("the build engine does not answer")

// record is daemon.json.
type record struct {
	process
	Config string `json:"config"` // digest of what it was started with
}

// lease is one user's hold on the running daemon.
type lease struct {
	d      *daemon
	users  *flock.Lock
	proc   process
	socket string
}

func (d *daemon) file(name string) string { return filepath.Join(d.state, name) }

// acquire returns a lease on a daemon that answers, starting one if need be.
// For one that others use and that is too busy to answer it waits: it may be
// an hour into a compile.
func (d *daemon) acquire(ctx context.Context) (*lease, error) {
	if err := os.MkdirAll(d.state, 0o700); err != nil {
		return nil, fault.Errorf(fault.Environment, "the engine's state directory: %w", err)
	}
	patient, cancel := context.WithTimeoutCause(ctx, d.patience, errBusy)
	defer cancel()
	var l *lease
	var err error
	// The lock is given back between two tries, so that others can leave.
	waitErr := until(patient, busyPause, func() bool {
		l, err = d.tryAcquire(ctx)
		return !errors.Is(err, errBusy)
	})
	if errors.Is(waitErr, errBusy) {
		return nil, remedy.By(remedy.Remedy{Kind: remedy.ChooseCacheDir},
			fault.Errorf(fault.Environment, "the build engine of %s is used by another process and did not answer for %v", d.state, d.patience).
				Hintf("wait for that process, or end it; a build with another cache directory has an engine of its own"))
	}
	if errors.Is(err, errBusy) {
		return nil, waitErr // ctx ended
	}
	return l, err
}

// tryAcquire is acquire without waiting for a daemon that others use: then the
// error is errBusy.
func (d *daemon) tryAcquire(ctx context.Context) (_ *lease, err error) {
	lock, err := flock.Acquire(ctx, d.file("engine.lock"), flock.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("the engine's state directory: %w", err)
	}
	defer lock.Close()
	users, err := flock.Open(d.file("users.lock"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, users.Close())
		}
	}()
	alone, err := users.Try(flock.Exclusive)
	if err != nil {
		return nil, err
	}

	socket, err := d.socket()
	if err != nil {
		return nil, err
	}
	runc, err := d.host.runtime()
	if err != nil {
		return nil, err
	}
	config := daemonConfig{root: d.file("buildkit"), socket: socket, runc: runc, rootless: d.host.uid != 0, cacheLimit: d.cacheLimit}.toml()
	want := sha256.Sum256([]byte(config + d.buildkitd))
	key := hex.EncodeToString(want[:])

	running, err := d.load()
	if err != nil {
		return nil, err
	}
	proc := running.process
	// A daemon with another configuration is replaced, and one that does not
	// answer, but neither under somebody's hands: on an overloaded machine
	// one may be too busy with another's steps.
	alive := proc.alive()
	usable := alive && (running.Config == key || !alone) && d.answers(ctx, socket)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	switch {
	case usable:
	case alive && !alone:
		return nil, errBusy
	default:
		if err := d.clear(proc, socket); err != nil {
			return nil, err
		}
		if proc, err = d.start(ctx, config, key, socket); err != nil {
			return nil, err
		}
	}
	if _, err := users.Try(flock.Shared); err != nil {
		return nil, err
	}
	return &lease{d: d, users: users, proc: proc, socket: socket}, nil
}

// release gives the lease up and stops the daemon if it was the last.
func (l *lease) release() error {
	defer l.users.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout+stopGrace)
	defer cancel()
	lock, err := flock.Acquire(ctx, l.d.file("engine.lock"), flock.Exclusive)
	if err != nil {
		return err
	}
	defer lock.Close()
	last, err := l.users.Try(flock.Exclusive)
	if err != nil || !last {
		return err
	}
	running, err := l.d.load()
	if err != nil {
		return err
	}
	return l.d.clear(running.process, l.socket)
}

// clear stops the daemon, if it runs, and removes its traces.
func (d *daemon) clear(p process, socket string) error {
	if err := p.stop(stopGrace); err != nil {
		return fault.Errorf(fault.Environment, "stop the build engine: %w", err)
	}
	for _, f := range []string{socket, filepath.Join(filepath.Dir(socket), "otel.sock"), d.file("daemon.json")} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Nothing is mounted there: the daemon's mounts were in its own namespace.
	return os.RemoveAll(d.file(temporary))
}

// load reads daemon.json; a missing or torn one is nobody's record.
func (d *daemon) load() (record, error) {
	text, err := os.ReadFile(d.file("daemon.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, err
	}
	var r record
	if json.Unmarshal(text, &r) != nil {
		return record{}, nil
	}
	return r, nil
}

// start launches buildkitd and waits until it answers.
func (d *daemon) start(ctx context.Context, config, key, socket string) (process, error) {
	cmd, err := d.host.command(d.buildkitd, d.file("buildkitd.toml"), d.state, filepath.Dir(socket))
	if err != nil {
		return process{}, err
	}
	if err := atomicfile.Write(d.file("buildkitd.toml"), []byte(config), 0o600); err != nil {
		return process{}, err
	}
	if err := os.MkdirAll(d.file(temporary), 0o700); err != nil {
		return process{}, err
	}
	log, err := d.openLog()
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	begin, err := log.Seek(0, 2)
	if err != nil {
		return process{}, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return process{}, elsewhere(fault.Errorf(fault.Environment, "start the build engine %s: %w", d.buildkitd, err).
			Hintf("build it with make"))
	}
	ended := make(chan struct{})
	go func() {
		// Reaps the child whenever it ends; how it ended is in its log.
		_ = cmd.Wait()
		close(ended)
	}()
	proc, err := identify(cmd.Process.Pid)
	if err == nil {
		var text []byte
		if text, err = json.Marshal(record{proc, key}); err == nil {
			err = atomicfile.Write(d.file("daemon.json"), text, 0o600)
		}
	}
	if err != nil {
		return process{}, errors.Join(err, cmd.Process.Kill())
	}

	ready, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	dead := false
	err = until(ready, 20*time.Millisecond, func() bool {
		select {
		case <-ended:
			dead = true
			return true
		default:
		}
		if _, err := os.Stat(socket); err != nil {
			return false
		}
		return answers(ready, socket)
	})
	if err == nil && !dead {
		return proc, nil
	}
	if clearErr := d.clear(proc, socket); clearErr != nil {
		return process{}, clearErr
	}
	if err := context.Cause(ctx); err != nil {
		return process{}, err
	}
	what := "did not answer within " + startTimeout.String()
	if dead {
		what = "ended at once"
	}
	return process{}, elsewhere(fault.Errorf(fault.Environment, "the build engine %s %s: %s; its whole log is %s",
		d.buildkitd, what, lastWords(log.Name(), begin), log.Name()).Hintf("see the log"))
}

// openLog opens buildkitd.log for appending; a long one is moved aside first.
func (d *daemon) openLog() (*os.File, error) {
	name := d.file("buildkitd.log")
	if fi, err := os.Stat(name); err == nil && fi.Size() > maxDaemonLog {
		if err := atomicfile.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
}

// lastWords is the last line of a log after an offset.
func lastWords(name string, from int64) string {
	text, err := os.ReadFile(name)
	if err != nil || int64(len(text)) <= from {
		return "no message"
	}
	lines := strings.Split(strings.TrimSpace(string(text[from:])), "\n")
	return lines[len(lines)-1]
}

// socket is where the daemon listens: in the state directory, or where that
// path is too long for a socket, in a directory of this user's in the system's
// temporary one, named after the state directory.
func (d *daemon) socket() (string, error) {
	if s := d.file("buildkitd.sock"); len(s) <= maxSocket {
		return s, nil
	}
	sum := sha256.Sum256([]byte(d.state))
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("sovereign-engine-%d-%x", d.host.uid, sum[:6]))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.IsDir() || int(st.Uid) != d.host.uid || fi.Mode().Perm() != 0o700 {
		return "", fault.Errorf(fault.Environment, "%s is not a private directory of this user", dir).Hintf("remove it, or choose a shorter cache directory")
	}
	return filepath.Join(dir, "buildkitd.sock"), nil
}

// answers tells whether a BuildKit answers on the socket.
func answers(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := client.New(ctx, "unix://"+socket)
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = c.Info(ctx)
	return err == nil
}
