package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestLifeOfAnInstance(t *testing.T) {
	f := setup(t, "good")
	var events []string
	report := func(e Event) { events = append(events, string(e.Phase)) }
	i := f.start(t, StartOptions{Report: report})
	if err := i.WaitReady(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	if want := []string{"probe", "start", "kernel", "init"}; !slices.Equal(events[:4], want) || events[len(events)-1] != "ready" {
		t.Errorf("events %v", events)
	}
	for path, mode := range map[string]os.FileMode{i.Dir(): 0o700 | os.ModeDir, filepath.Join(i.Dir(), dataFile): 0o600, filepath.Join(i.Dir(), recordFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	port, ok := i.HostPort(5432)
	url, err := i.URL(t.Context(), 5432)
	if want := fmt.Sprintf("postgres://owner:p%%40ss%%2Fw%%3Ard%%20%%25@127.0.0.1:%d/app", port); err != nil || !ok || url != want {
		t.Errorf("url %q, %v; want %q", url, err, want)
	}
	if _, err := i.URL(t.Context(), 9187); fault.ClassOf(err) != fault.Usage {
		t.Errorf("url of a port without: %v", err)
	}
	record, err := os.ReadFile(filepath.Join(i.Dir(), recordFile))
	if err != nil || strings.Contains(string(record), "p@ss") {
		t.Errorf("record: %v\n%s", err, record)
	}

	// Another program finds it, and starting it again is no work.
	f.open(t)
	again := f.start(t, StartOptions{})
	if again.proc != i.proc || *f.hv.starts != 1 {
		t.Errorf("process %+v after %+v, %d starts", again.proc, i.proc, *f.hv.starts)
	}
	s, err := again.Status(t.Context())
	if err != nil || s.State != Running || s.Guest == nil || s.Guest.BootMS != 1500 || s.PID != i.proc.PID {
		t.Errorf("status %+v, %v", s, err)
	}
	if _, err := f.Remove(t.Context(), "sql", false); fault.ClassOf(err) != fault.Usage {
		t.Errorf("removal while it runs: %v", err)
	}

	res, err := again.Stop(t.Context(), 0)
	if err != nil || !res.WasRunning || res.Forced {
		t.Errorf("stop: %+v, %v", res, err)
	}
	if res, err := again.Stop(t.Context(), 0); err != nil || res.WasRunning {
		t.Errorf("second stop: %+v, %v", res, err)
	}
	if s, err := again.Status(t.Context()); err != nil || s.State != Stopped {
		t.Errorf("status after stop: %+v, %v", s, err)
	}
	if _, err := again.URL(t.Context(), 0); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "not running") {
		t.Errorf("url after stop: %v", err)
	}
	if all, err := f.List(t.Context()); err != nil || len(all) != 1 || all[0].Name != "sql" {
		t.Errorf("list: %+v, %v", all, err)
	}
	if _, err := f.Remove(t.Context(), "sql", true); err != nil {
		t.Error(err)
	}
	if _, err := f.Instance(t.Context(), "sql"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("after removal: %v", err)
	}
}

func TestRebuildKeepsDataAndPort(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	port, _ := i.HostPort(5432)
	data := filepath.Join(i.Dir(), dataFile)
	disk, err := os.OpenFile(data, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.WriteAt([]byte("rows"), 4096); err != nil {
		t.Fatal(err)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(data)
	if err != nil || before.Size() != 1<<30 {
		t.Fatalf("data disk: %v, %v", before, err)
	}

	writeBundle(t, f.bundle, "another")
	if _, err := f.Start(t.Context(), f.bundle, StartOptions{}); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "stop it first") {
		t.Errorf("another bundle while it runs: %v", err)
	}
	// What runs is still described by what it was started from.
	if url, err := i.URL(t.Context(), 0); err != nil || url == "" {
		t.Errorf("url after the rebuild: %v", err)
	}
	if res, err := i.Stop(t.Context(), 0); err != nil || res.Forced {
		t.Fatalf("%+v, %v", res, err)
	}
	i = f.start(t, StartOptions{MemoryMiB: 256, CPUs: 1})
	if again, _ := i.HostPort(5432); again != port {
		t.Errorf("port %d, was %d", again, port)
	}
	if after, err := os.Stat(data); err != nil || !os.SameFile(before, after) || after.Size() != before.Size() {
		t.Errorf("data disk: %v, %v", after, err)
	}
	if m := f.hv.last; m.MemoryMiB != 256 || m.CPUs != 1 || m.Disks[1].Image.Name() != data || !m.Disks[0].ReadOnly || m.Disks[1].ReadOnly {
		t.Errorf("machine %+v", m)
	}
	if _, err := os.Stat(i.ConsoleFile() + ".1"); err != nil {
		t.Errorf("the former boot's console: %v", err)
	}

	// Remove keeps the data, and the next start takes it up.
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context(), "sql", false); err != nil {
		t.Fatal(err)
	}
	f.start(t, StartOptions{})
	if after, err := os.Stat(data); err != nil || !os.SameFile(before, after) {
		t.Errorf("data disk after Remove: %v", err)
	}
}

func TestConcurrentStarts(t *testing.T) {
	f := setup(t, "good")
	var wg sync.WaitGroup
	for range 4 {
		r, err := Open(f.state, WithHypervisor(f.hv.dev, f.hv))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			i, err := r.Start(t.Context(), f.bundle, StartOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := i.WaitReady(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if *f.hv.starts != 1 {
		t.Errorf("%d starts", *f.hv.starts)
	}
}

// A starter that was killed between the start and the record leaves a machine
// that only its socket tells of.
func TestAdoption(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	pid := i.proc.PID
	i.rec.Process = nil
	if err := i.saveRecord(); err != nil {
		t.Fatal(err)
	}
	f.open(t)
	again := f.start(t, StartOptions{})
	if again.proc.PID != pid || *f.hv.starts != 1 {
		t.Errorf("process %d after %d, %d starts", again.proc.PID, pid, *f.hv.starts)
	}
	if res, err := again.Stop(t.Context(), 0); err != nil || !res.WasRunning || res.Forced {
		t.Errorf("stop: %+v, %v", res, err)
	}
}

// A record whose number belongs to another process by now, here this test's,
// must not get that process killed.
func TestStalePID(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	stale := i.proc
	stale.PID = os.Getpid()
	i.rec.Process = &stale
	if err := i.saveRecord(); err != nil {
		t.Fatal(err)
	}
	again, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := again.Status(t.Context()); err != nil || s.State != Exited {
		t.Errorf("status %+v, %v", s, err)
	}
	if res, err := again.Stop(t.Context(), 0); err != nil || res.WasRunning {
		t.Errorf("stop: %+v, %v", res, err)
	}
}

func TestGuestsThatGoWrong(t *testing.T) {
	tests := []struct {
		mode, want string
		limit      time.Duration
	}{
		{"panics", "Kernel panic - not syncing: VFS: [31mno root", time.Minute},
		{"fails", "the data disk does not mount", time.Minute},
		{"slow", "postgresql: starting", 2 * askEvery},
		{"old", "another version of the protocol: 1", time.Minute},
		{"mute", "nothing was heard of its agent; the console's last lines:\n[0.0] Linux version", 500 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.mode, func(t *testing.T) {
			f := setup(t, tt.mode)
			i, err := f.Start(t.Context(), f.bundle, StartOptions{})
			if err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
				defer cancel()
				err = i.WaitReady(ctx, nil)
			}
			if fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), tt.want) || fault.HintOf(err) == "" {
				t.Errorf("class %d, %v", fault.ClassOf(err), err)
			}
		})
	}
}

func TestWaitReadyIsCancelled(t *testing.T) {
	f := setup(t, "slow")
	i := f.start(t, StartOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	err := i.WaitReady(ctx, func(e Event) {
		if e.Phase == PhaseInit {
			cancel()
		}
	})
	if fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("got %v", err)
	}
	cancel()
}

// One Instance is used by several goroutines while its machine starts, serves
// and is stopped: for the race detector.
func TestInstanceIsShared(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := i.WaitReady(t.Context(), nil); err != nil {
				t.Error(err)
			}
			for range 3 {
				if s, err := i.Status(t.Context()); err != nil || s.State != Running || s.PID != i.proc.PID {
					t.Errorf("status %+v, %v", s, err)
				}
				if _, err := i.URL(t.Context(), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range 2 {
		wg.Go(func() {
			if res, err := i.Stop(t.Context(), 0); err != nil || res.Forced {
				t.Errorf("stop: %+v, %v", res, err)
			}
			if s, err := i.Status(t.Context()); err != nil || s.State != Stopped {
				t.Errorf("status after the stop: %+v, %v", s, err)
			}
		})
	}
	wg.Wait()
}

func TestStopByForce(t *testing.T) {
	for _, mode := range []string{"stubborn", "mute"} {
		t.Run(mode, func(t *testing.T) {
			f := setup(t, mode)
			i := f.start(t, StartOptions{})
			res, err := i.Stop(t.Context(), 500*time.Millisecond)
			if err != nil || !res.Forced || res.Why == "" {
				t.Errorf("%+v, %v", res, err)
			}
			if alive, err := f.device.Alive(t.Context(), i.proc); err != nil || alive {
				t.Errorf("alive after a forced stop: %v", err)
			}
		})
	}
}

func TestKilledMachineStartsAgain(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	if err := i.cutPower(t.Context(), i.proc); err != nil {
		t.Fatal(err)
	}
	if s, err := i.Status(t.Context()); err != nil || s.State != Exited || !strings.Contains(s.Message, "Linux version") {
		t.Errorf("status %+v, %v", s, err)
	}
	if err := i.WaitReady(t.Context(), nil); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("waiting for the dead: %v", err)
	}
	i = f.start(t, StartOptions{})
	if err := i.WaitReady(t.Context(), nil); err != nil || *f.hv.starts != 2 {
		t.Errorf("%v, %d starts", err, *f.hv.starts)
	}
}
