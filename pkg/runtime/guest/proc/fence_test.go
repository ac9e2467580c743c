package proc

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// statusOf are the lines of a process's /proc/PID/status by their names.
func statusOf(t *testing.T, text string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			lines[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return lines
}

// bounding is this process's own bounding set, as /proc has it.
func bounding(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return statusOf(t, string(b))["CapBnd"]
}

func TestFence(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has capabilities to lose")
	}
	tab := table(t)
	if !tab.bound {
		t.Skip("this process may not take capabilities away")
	}
	own := bounding(t)
	const none, raw = "0000000000000000", "0000000000002000"
	somebody := &syscall.Credential{Uid: 12345, Gid: 12345}
	for _, c := range []struct {
		name           string
		a              Attr
		effective, bnd string
		ambient        string
	}{
		{"a user", Attr{Credential: somebody}, none, none, none},
		{"a user with one capability", Attr{Credential: somebody, Capabilities: CapabilitySet(0).With(unix.CAP_NET_RAW)}, raw, raw, raw},
		{"root by default", Attr{}, none, none, none},
		{"root with one capability", Attr{Credential: &syscall.Credential{}, Capabilities: CapabilitySet(0).With(unix.CAP_NET_RAW)}, raw, raw, none},
		{"root with all", Attr{Capabilities: AllCapabilities}, own, own, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := sh("cat /proc/self/status")
			a.Credential, a.Capabilities = c.a.Credential, c.a.Capabilities
			r, err := tab.Output(t.Context(), a)
			if err != nil || r.Status != 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			got := statusOf(t, r.Stdout)
			for k, want := range map[string]string{"NoNewPrivs": "1", "CapEff": c.effective, "CapPrm": c.effective, "CapBnd": c.bnd, "CapAmb": c.ambient} {
				if got[k] != want {
					t.Errorf("%s: %s, want %s", k, got[k], want)
				}
			}
		})
	}
	// The caller, and every thread that it has now or makes later, is as before.
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := tab.Output(t.Context(), sh("exit 0")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	deadline := time.Now().Add(20 * time.Second)
	for fenced := fencedThreads(t, own); len(fenced) > 0; fenced = fencedThreads(t, own) { // the last of them are ending
		if time.Now().After(deadline) {
			t.Fatalf("threads of the caller are fenced: %q", fenced)
		}
		time.Sleep(time.Millisecond)
	}
}

// fencedThreads are this process's threads that have lost something.
func fencedThreads(t *testing.T, own string) (fenced []string) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			continue // it has ended
		}
		if s := statusOf(t, string(b)); s["CapBnd"] != own || s["NoNewPrivs"] != "0" {
			fenced = append(fenced, task.Name())
		}
	}
	return fenced
}

// A program that would gain root by its mode does not.
func TestNothingGainsPrivileges(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make a program that becomes root")
	}
	dir, err := os.MkdirTemp("/tmp", "fence") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile("/usr/bin/id")
	if err != nil {
		t.Skip(err)
	}
	path := dir + "/id"
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chmod(dir, 0o755), os.Chmod(path, 0o755|os.ModeSetuid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a := Attr{Path: path, Args: []string{"id", "-u"}, Dir: "/", Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	if r, err := table(t).Output(t.Context(), a); err != nil || r.Stdout != "12345\n" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A process with a grace ends as it wants to, one that does not is killed.
func TestGrace(t *testing.T) {
	tab := table(t)
	for _, c := range []struct {
		script, want string
	}{
		{"trap 'echo in order; exit 3' TERM; echo up; while :; do sleep 0.01; done", "exit status 3"},
		{"trap '' TERM; echo up; while :; do sleep 0.01; done", "killed (signal 9)"},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		a := sh(c.script)
		a.Stdout, a.Grace = w, 300*time.Millisecond
		if c.want == "exit status 3" {
			a.Grace = time.Minute
		}
		p, err := tab.Start(a)
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fscanln(r, new(string)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		status, err := p.Wait(ctx)
		if err == nil || Describe(status) != c.want {
			t.Errorf("%s: got %s, %v", c.script, Describe(status), err)
		}
	}
}
