package usernet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside names the variable that says that the test runs in a network namespace
// of its own, where it may be host and world.
const inside = "SOVEREIGN_TEST_NAMESPACE"

// TestMain runs the tests again in a network namespace, and in a user namespace
// where that needs one. Without, those that need one are skipped.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	for _, user := range []bool{false, true} {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
		if user {
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		runtime.LockOSThread() // the child ends with this thread
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case err == nil:
			os.Exit(0)
		case errors.As(err, &exit):
			os.Exit(exit.ExitCode())
		}
	}
	os.Exit(m.Run())
}

// namespace is a network namespace of its own, with a kernel's TCP/IP.
type namespace struct {
	t   testing.TB
	do  chan func()
	tid int
}

// newNamespace makes one with its loopback up. It ends with the test.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	needNamespace(t)
	s := &namespace{t: t, do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never let go: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		s.tid = unix.Gettid()
		ready <- err
		for f := range s.do {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(s.do)
		t.Skipf("no network namespace: %v", err)
	}
	t.Cleanup(func() { close(s.do) })
	s.run(func() error { return ip("link set lo up") })
	return s
}

// run runs f in the namespace: the sockets that it makes stay there.
func (s *namespace) run(f func() error) {
	s.t.Helper()
	done := make(chan error)
	s.do <- func() { done <- f() }
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

func needNamespace(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("no network namespace for this user")
	}
}

// ip runs the program of that name, in the thread's namespace.
func ip(args string) error {
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}
