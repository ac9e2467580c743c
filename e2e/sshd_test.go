package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Another computer, as far as ssh can tell: Debian's sshd in a network
// namespace with nothing else in it, with a user and a home of its own. Between
// it and the command line is a link that can break.

const (
	sshdPort   = 2022
	deviceUser = "ann"
	deviceUID  = 12345
	// namespaceEnv is set in the namespace.
	namespaceEnv = "SOVEREIGN_E2E_NAMESPACE"
)

// inNamespace runs the test again in a network namespace of its own, and says
// whether this is that run.
func inNamespace(t testing.TB) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return true
	}
	args := []string{"--net", os.Args[0], "-test.v"}
	switch t := t.(type) {
	case *testing.T:
		args = append(args, "-test.run=^"+t.Name()+"$")
		if deadline, ok := t.Deadline(); ok {
			args = append(args, "-test.timeout="+time.Until(deadline).String())
		}
	case *testing.B:
		args = append(args, "-test.run=^$", "-test.bench=^"+t.Name()+"$", "-test.benchtime="+flag.Lookup("test.benchtime").Value.String())
	}
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	// It ends with this test, whatever ends this one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("in a network namespace: %v", err)
	}
	return false
}

// remote is the other computer, and the command line that reaches it as ssh:nas.
type remote struct {
	t    testing.TB
	home string // the user's home there, seen from here
	link *link
	env  []string // of the command line
	keys string   // directory of keys and configuration
	ssh  string   // the program, with that configuration
	cli  string   // sovereign-build
}

// newRemote starts sshd. fakes are shell scripts that come first in PATH there,
// by their names; with any, systemd is there as far as a directory shows it.
func newRemote(t testing.TB, fakes map[string]string) *remote {
	t.Helper()
	sshd, err := filepath.Abs("../bin/debian-sshd")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &remote{t: t, home: filepath.Join(dir, "home"), keys: filepath.Join(dir, "keys"), cli: "../bin/sovereign-build"}
	for _, d := range []string{r.home, r.keys} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(r.home, deviceUID, deviceUID); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"host", "other", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(r.keys, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	if err := os.Mkdir(filepath.Join(r.keys, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range fakes {
		if err := os.WriteFile(filepath.Join(r.keys, "bin", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.file("sshd_config", fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s/host
AuthorizedKeysFile /run/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PrintMotd no
SetEnv PATH=/run/bin:/usr/local/bin:/usr/bin:/bin
`, sshdPort, r.keys))
	r.file("passwd", fmt.Sprintf("root:x:0:0::/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n%s:x:%d:%[2]d::/home/%[1]s:/bin/bash\n", deviceUser, deviceUID))
	r.file("shadow", "root:*:19000::::::\nsshd:*:19000::::::\n"+deviceUser+":*:19000::::::\n")
	marks := "/run/sshd"
	if len(fakes) > 0 {
		marks += " /run/systemd/system"
	}
	script := fmt.Sprintf(`set -e
mount --make-rprivate /
mount -t tmpfs none /run; mkdir -p %s; chmod 755 /run; cp -r %s/user.pub %[2]s/bin /run; mkdir -m 777 /run/fake
mount --bind %[2]s/passwd /etc/passwd
mount --bind %[2]s/shadow /etc/shadow
mount --bind %[3]s /mnt
mount -t tmpfs none /home; mkdir /home/%[4]s
mount --move /mnt /home/%[4]s
! test -d %[5]s/usr/lib/openssh || mount --bind %[5]s/usr/lib/openssh /usr/lib/openssh
lib=$(echo %[5]s/usr/lib/*-linux-gnu)
LD_LIBRARY_PATH=$lib exec %[5]s/usr/sbin/sshd -D -e -f %[2]s/sshd_config
`, marks, r.keys, r.home, deviceUser, sshd)
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script)
	var log lockedBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended, as the log says then
		cmd.Wait()                          //nolint:errcheck // by a signal
		if t.Failed() {
			t.Logf("sshd:\n%s", log.tail())
		}
	})
	r.link = newLink(t, fmt.Sprintf("127.0.0.1:%d", sshdPort))

	// The user's own ssh, with a configuration of the test's.
	bins := filepath.Join(dir, "bin")
	if err := os.Mkdir(bins, 0o755); err != nil {
		t.Fatal(err)
	}
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	r.ssh = filepath.Join(bins, "ssh")
	if err := os.WriteFile(r.ssh, []byte(fmt.Sprintf("#!/bin/sh\nexec %s -F %s/ssh_config \"$@\"\n", real, r.keys)), 0o755); err != nil {
		t.Fatal(err)
	}
	r.file("ssh_config", fmt.Sprintf(`Host nas
  HostName 127.0.0.1
  HostKeyAlias nas
  Port %d
  User %s
  IdentityFile %s/user
  IdentitiesOnly yes
  UserKnownHostsFile %[3]s/known_hosts
  GlobalKnownHostsFile none
  LocalForward 127.0.0.1:%[1]d 127.0.0.1:1
  ExitOnForwardFailure yes
  RemoteCommand echo not this
  RequestTTY force
`, r.link.port(), deviceUser, r.keys))
	r.knows("host")
	r.env = append(os.Environ(), "PATH="+bins+":"+os.Getenv("PATH"),
		"XDG_STATE_HOME="+filepath.Join(dir, "state"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))
	r.waitSSH()
	return r
}

func (r *remote) file(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.keys, name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// knows puts a key into known_hosts as the other computer's.
func (r *remote) knows(key string) {
	r.t.Helper()
	public, err := os.ReadFile(filepath.Join(r.keys, key+".pub"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.file("known_hosts", "nas "+string(public))
}

func (r *remote) waitSSH() {
	r.t.Helper()
	waitFor(r.t, "sshd", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", sshdPort))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// waitFor waits for a condition that nothing tells of.
func waitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waiting for %s", what)
		}
	}
}

// call runs the command line.
func (r *remote) call(args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	return r.with("", args...)
}

// with runs it with standard input.
func (r *remote) with(in string, args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(r.cli, args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = r.env, strings.NewReader(in), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatalf("sovereign-build %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (r *remote) ok(args ...string) string {
	r.t.Helper()
	out, errs, code := r.call(args...)
	if code != 0 {
		r.t.Fatalf("sovereign-build %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// files are those of the user's home there.
func (r *remote) files() []string {
	r.t.Helper()
	var names []string
	err := filepath.WalkDir(r.home, func(path string, e fs.DirEntry, err error) error {
		if err == nil && path != r.home {
			names = append(names, strings.TrimPrefix(path, r.home+"/"))
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return names
}

// link is a TCP proxy that breaks when so many bytes have gone through it, both
// ways and all connections together, and then stays broken.
type link struct {
	listener net.Listener
	limit    atomic.Int64 // 0 is none
	passed   atomic.Int64
	rate     atomic.Int64 // bytes a second, both ways together; 0 is none

	pace sync.Mutex
	free time.Time // when what has passed so far is through
}

// wait waits until so many bytes are through, at the link's rate.
func (k *link) wait(n int) {
	rate := k.rate.Load()
	if rate == 0 {
		return
	}
	k.pace.Lock()
	if now := time.Now(); k.free.Before(now) {
		k.free = now
	}
	k.free = k.free.Add(time.Duration(int64(n) * int64(time.Second) / rate))
	until := k.free
	k.pace.Unlock()
	time.Sleep(time.Until(until))
}

func newLink(t testing.TB, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{listener: l}
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { k.carry(conn, to) })
		}
	})
	return k
}

func (k *link) port() int { return k.listener.Addr().(*net.TCPAddr).Port }

// breakAfter breaks it after so many bytes more; 0 mends it.
func (k *link) breakAfter(n int64) {
	k.passed.Store(0)
	k.limit.Store(n)
}

func (k *link) broken() bool {
	limit := k.limit.Load()
	return limit > 0 && k.passed.Load() >= limit
}

func (k *link) carry(conn net.Conn, to string) {
	defer conn.Close()
	if k.broken() {
		return
	}
	peer, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer peer.Close()
	cut := sync.OnceFunc(func() {
		// As a router that has forgotten it: no orderly end, for either side.
		for _, c := range []net.Conn{conn, peer} {
			c.(*net.TCPConn).SetLinger(0) //nolint:errcheck // it may be closed
			c.Close()
		}
	})
	var both sync.WaitGroup
	one := func(to, from net.Conn) {
		buf := make([]byte, 4<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				sum, limit := k.passed.Add(int64(n)), k.limit.Load()
				if limit > 0 && sum >= limit {
					to.Write(buf[:max(0, n-int(sum-limit))]) //nolint:errcheck // it is cut anyway
					cut()
					return
				}
				k.wait(n)
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					to.(*net.TCPConn).CloseWrite() //nolint:errcheck // the other side is gone
				}
				return
			}
		}
	}
	both.Go(func() { one(conn, peer) })
	both.Go(func() { one(peer, conn) })
	both.Wait()
}

// points are random amounts of bytes at which a link that carries most in all is
// to break, from a seed that is printed.
func points(t testing.TB, n int, most int64) []int64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SOVEREIGN_E2E_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SOVEREIGN_E2E_SEED=%d: %d points below %d bytes", seed, n, most)
	random := rand.New(rand.NewPCG(seed, 0))
	out := make([]int64, n)
	for i := range out {
		out[i] = 1 + random.Int64N(most)
	}
	return out
}

// lockedBuffer keeps what several writers write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()[max(0, l.b.Len()-8<<10):]
}
