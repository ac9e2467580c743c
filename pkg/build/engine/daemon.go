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

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	startTimeout = 60 * time.Second // a cold start takes 0.3 s; recovering a large cache takes longer
	probeTimeout = 10 * time.Second // for a daemon that runs already
	stopGrace    = 15 * time.Second
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
}

// record is daemon.json.
type record struct {
	process
	Config string `json:"config"` // digest of what it was started with
}

// lease is one user's hold on the running daemon.
type lease struct {
	d      *daemon
	users  *fileLock
	proc   process
	socket string
}

func (d *daemon) file(name string) string { return filepath.Join(d.state, name) }

// acquire returns a lease on a daemon that answers, starting one if need be.
func (d *daemon) acquire(ctx context.Context) (_ *lease, err error) {
	if err := os.MkdirAll(d.state, 0o700); err != nil {
		return nil, fault.Errorf(fault.Environment, "the engine's state directory: %w", err)
	}
	lock, err := openLock(d.file("engine.lock"))
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "the engine's state directory: %w", err)
	}
	defer lock.close()
	if err := lock.wait(ctx, syscall.LOCK_EX); err != nil {
		return nil, err
	}
	users, err := openLock(d.file("users.lock"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			users.close()
		}
	}()
	alone, err := users.try(syscall.LOCK_EX)
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
	// A daemon with another configuration is replaced, but never under
	// somebody's hands. One that does not answer is of no use to anybody.
	usable := proc.alive() && (running.Config == key || !alone) && answers(ctx, socket)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if !usable {
		if err := d.clear(proc, socket); err != nil {
			return nil, err
		}
		if proc, err = d.start(ctx, config, key, socket); err != nil {
			return nil, err
		}
	}
	if _, err := users.try(syscall.LOCK_SH); err != nil {
		return nil, err
	}
	return &lease{d: d, users: users, proc: proc, socket: socket}, nil
}

// release gives the lease up and stops the daemon if it was the last.
func (l *lease) release() error {
	defer l.users.close()
	lock, err := openLock(l.d.file("engine.lock"))
	if err != nil {
		return err
	}
	defer lock.close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout+stopGrace)
	defer cancel()
	if err := lock.wait(ctx, syscall.LOCK_EX); err != nil {
		return err
	}
	last, err := l.users.try(syscall.LOCK_EX)
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
	if err := writeFile(d.file("buildkitd.toml"), []byte(config)); err != nil {
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
		return process{}, fault.Errorf(fault.Environment, "start the build engine %s: %w", d.buildkitd, err).
			Hintf("build it with make, %s", remoteHint)
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
			err = writeFile(d.file("daemon.json"), text)
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
	return process{}, fault.Errorf(fault.Environment, "the build engine %s %s: %s; its whole log is %s",
		d.buildkitd, what, lastWords(log.Name(), begin), log.Name()).Hintf("see the log, %s", remoteHint)
}

// openLog opens buildkitd.log for appending; a long one is moved aside first.
func (d *daemon) openLog() (*os.File, error) {
	name := d.file("buildkitd.log")
	if fi, err := os.Stat(name); err == nil && fi.Size() > maxDaemonLog {
		if err := os.Rename(name, name+".1"); err != nil {
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

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
