package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childWord makes the test binary end its first thread and live on in another
// one until its input ends.
const childWord = "sovereign-headless"

func init() {
	if len(os.Args) != 2 || os.Args[1] != childWord {
		return
	}
	runtime.LockOSThread() // init runs on the first thread
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Stat
		ok   bool
	}{
		{"7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 100 5", Stat{4711, false}, true},
		{"7 (z) Z 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 12 0 0", Stat{12, true}, true},
		{"7 (z) Z 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 3 0 12 0 0", Stat{12, false}, true},
		{"7 (z) Z 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 x 100 5", Stat{}, false},
		{"7 (z) Z 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 x 0 1 100 5", Stat{}, false},
		{"7 (a) S 1", Stat{}, false},
		{"", Stat{}, false},
	} {
		got, err := parse(tt.in)
		if (err == nil) != tt.ok || err == nil && got != tt.want {
			t.Errorf("%q: %+v %v", tt.in, got, err)
		}
	}
}

// TestHeadless checks a process whose first thread has ended, as a
// hypervisor's does when it is still closing its disks.
func TestHeadless(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, childWord)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	s, err := ReadStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	alive := func() bool {
		ok, err := Alive(cmd.Process.Pid, s.Start)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	until(t, "the first thread's end", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		return err == nil && strings.Contains(string(b), ") Z ")
	})
	if !alive() {
		t.Error("over while a thread still runs")
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the end", func() bool { return !alive() })
	// Not waited for: it is a zombie, and over.
	if s, err := ReadStat(cmd.Process.Pid); err != nil || !s.Over {
		t.Errorf("%+v, %v", s, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := ReadStat(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
	if ok, err := Alive(os.Getpid(), 1); ok || err != nil {
		t.Errorf("another start time: %v, %v", ok, err)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// FuzzParse checks that no text makes the parser panic.
func FuzzParse(f *testing.F) {
	f.Add("7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 100 5")
	f.Add(")")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := parse(s); err == nil && len(strings.Fields(s)) < 20 {
			t.Errorf("accepted %q", s)
		}
	})
}
