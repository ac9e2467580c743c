package machine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// The test binary is a sovereignd over fake machines when it is called with
// the arguments that runtime.Local gives, and with those of startDaemon.
func init() {
	if len(os.Args) < 3 || os.Args[1] != "--state-dir" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	r, err := machine.OpenFake(os.Args[2])
	if err == nil {
		o := daemon.Options{Report: func(instance, text string) { fmt.Println(instance, text) }}
		for _, a := range os.Args[3:] {
			o.ExitWhenIdle = o.ExitWhenIdle || a == "--exit-when-idle"
			o.StopMachines = o.StopMachines || a == "--stop-machines"
		}
		err = daemon.RunMachines(ctx, r, o)
	}
	stop()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// startDaemon starts a sovereignd and returns its process.
func startDaemon(t *testing.T, f *machine.Fake, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(self(t), append([]string{"--state-dir", f.Dir()}, args...)...)
	log, err := os.OpenFile(filepath.Join(f.Dir(), sovereignd.LogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			kill(t, cmd)
		}
		if t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("sovereignd.log:\n%s", text)
			}
		}
	})
	// Else who waits for the machine would start another.
	until(t, "sovereignd listens", func() bool {
		_, ok, err := process.Listener(t.Context(), filepath.Join(f.Dir(), sovereignd.Socket))
		return ok && err == nil
	})
	return cmd
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // says that it was killed
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// up installs the bundle and waits until it is ready.
func up(t *testing.T, f *machine.Fake, o machine.UpOptions) *machine.Instance {
	t.Helper()
	if _, err := f.Install(t.Context(), f.Bundle, "", o, nil); err != nil {
		t.Fatal(err)
	}
	return ready(t, f)
}

// wait waits for the machine by sovereignd, and starts one where none runs.
func wait(t *testing.T, f *machine.Fake, report machine.Report) error {
	t.Helper()
	h, err := runtime.Local(f.Dir(), runtime.WithProgram(self(t)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Machine("sql").WaitReady(deadline(t), report)
	return errors.Join(err, h.Close())
}

func ready(t *testing.T, f *machine.Fake) *machine.Instance {
	t.Helper()
	if err := wait(t, f, nil); err != nil {
		t.Fatal(err)
	}
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func processOf(t *testing.T, i *machine.Instance) vm.Process {
	t.Helper()
	p, alive, err := i.Process(t.Context())
	if err != nil || !alive {
		t.Fatalf("the machine does not run: %v", err)
	}
	return p
}

func supervision(t *testing.T, f *machine.Fake) *machine.Supervision {
	t.Helper()
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	s, err := i.Supervision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within 5 minutes: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// Up starts a sovereignd where none runs; an end that nobody asked for is
// healed; down ends the machine, and the sovereignd that up started.
func TestUpHealDown(t *testing.T) {
	f := machine.SetupFake(t)
	i := up(t, f, machine.UpOptions{})
	first := processOf(t, i)
	if s, err := i.Status(t.Context()); err != nil || s.State != machine.Running || s.Guest == nil || !s.Supervision.Supervisor || s.Supervision.Wanted != machine.Up {
		t.Errorf("status %+v, %v", s, err)
	}
	if err := first.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "another process", func() bool {
		i, err := f.Instance(t.Context(), "sql")
		if err != nil {
			return false
		}
		p, alive, err := i.Process(t.Context())
		return err == nil && alive && p != first
	})
	i = ready(t, f)
	if s := supervision(t, f); s.Ends.Total != 1 || s.Ends.InARow != 1 || !strings.Contains(s.Ends.Last.Why, "ready") {
		t.Errorf("ends %+v", s.Ends)
	}
	f.Intact(t)

	other := f.Bundle + "-other"
	f.WriteBundle(t, other, "two", "quick")
	if _, err := f.Install(t.Context(), other, "", machine.UpOptions{Replace: true}, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("run of another bundle: %v", err)
	}
	if _, err := f.Remove(t.Context(), "sql", true); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "wanted up") {
		t.Errorf("remove: %v", err)
	}
	res, err := i.Stop(t.Context(), 0)
	if err != nil || !res.WasRunning || res.Forced {
		t.Fatalf("stop: %+v, %v", res, err)
	}
	s := supervision(t, f)
	if s.Wanted != machine.Down {
		t.Errorf("wanted %q after stop", s.Wanted)
	}
	until(t, "the sovereignd of up ends", func() bool { return !supervision(t, f).Supervisor })
	if i, err := f.Instance(t.Context(), "sql"); err != nil || i.Runs() {
		t.Errorf("runs after down: %v", err)
	}
}

// A sovereignd that is killed leaves the machine running, and the next one
// has it; a machine that ends between the two is healed.
func TestKilledSovereignd(t *testing.T) {
	f := machine.SetupFake(t)
	d := startDaemon(t, f)
	i := up(t, f, machine.UpOptions{})
	first := processOf(t, i)
	kill(t, d)
	a, err := i.Agent(deadline(t))
	if err != nil {
		t.Fatalf("without a sovereignd: %v", err)
	}
	if s, err := a.Status(deadline(t)); err != nil || s.Name != "sql" {
		t.Errorf("without a sovereignd: %+v, %v", s, err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	d = startDaemon(t, f)
	if got := processOf(t, ready(t, f)); got != first {
		t.Errorf("process %+v, was %+v", got, first)
	}
	kill(t, d)
	if err := first.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	startDaemon(t, f)
	if got := processOf(t, ready(t, f)); got == first {
		t.Error("the dead process was taken for the machine")
	}
	if s := supervision(t, f); s.Ends.Total != 1 {
		t.Errorf("ends %+v", s.Ends)
	}
	f.Intact(t)
}

// Sovereignd is killed at moments nobody chose, under starts, ends and
// updates: in the end the machine runs, and there was never a second one.
func TestKilledAnywhere(t *testing.T) {
	f := machine.SetupFake(t)
	second := f.Bundle + "-2"
	f.WriteBundle(t, second, "two", "quick")
	if _, err := f.Install(t.Context(), f.Bundle, "", machine.UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	for n := range rounds {
		d := startDaemon(t, f)
		switch n % 4 {
		case 1:
			i, err := f.Instance(t.Context(), "sql")
			if err != nil {
				t.Fatal(err)
			}
			if p, alive, err := i.Process(t.Context()); err == nil && alive {
				if err := p.Signal(unix.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		case 2:
			if _, err := f.Update(t.Context(), "sql", second, 0, nil); err != nil && fault.ClassOf(err) != fault.Usage {
				t.Error(err)
			}
		case 3:
			if _, err := f.Rollback(t.Context(), "sql", 0); err != nil && fault.ClassOf(err) != fault.Usage {
				t.Error(err)
			}
		}
		<-time.After(time.Duration(random.IntN(300)) * time.Millisecond)
		kill(t, d)
		f.Intact(t)
	}
	startDaemon(t, f)
	i := ready(t, f)
	if s := supervision(t, f); s.Trial != nil || s.Ends.InARow > rounds {
		t.Errorf("%+v", s)
	}
	if _, err := i.ActiveRoot(); err != nil {
		t.Error(err)
	}
	f.Intact(t)
}

func TestUpdateAndRollback(t *testing.T) {
	f := machine.SetupFake(t)
	startDaemon(t, f)
	i := up(t, f, machine.UpOptions{})
	port, _ := i.HostPort(5432)
	root := func() string {
		t.Helper()
		i, err := f.Instance(t.Context(), "sql")
		if err != nil {
			t.Fatal(err)
		}
		text, err := i.ActiveRoot()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(text, "root")
	}
	update := func(dir string, limit time.Duration) *machine.Outcome {
		t.Helper()
		if changed, err := f.Update(t.Context(), "sql", dir, limit, nil); err != nil || !changed {
			t.Fatalf("update: %v, %v", changed, err)
		}
		ready(t, f)
		f.Intact(t)
		return supervision(t, f).LastUpdate
	}
	if changed, err := f.Update(t.Context(), "sql", f.Bundle, 0, nil); changed || err != nil {
		t.Errorf("the same bundle: %v, %v", changed, err)
	}
	if _, err := f.Rollback(t.Context(), "sql", 0); fault.ClassOf(err) != fault.Usage {
		t.Errorf("rollback to nothing: %v", err)
	}

	two := f.Bundle + "-2"
	f.WriteBundle(t, two, "two", "quick")
	if o := update(two, 0); !o.Committed || root() != "two" {
		t.Errorf("outcome %+v, root %s", o, root())
	}
	if now, _ := ready(t, f).HostPort(5432); now != port {
		t.Errorf("port %d, was %d", now, port)
	}
	for _, tt := range []struct {
		mode, want string
		limit      time.Duration
	}{
		{"panics", "Kernel panic - not syncing: VFS", 0},
		{"fails", "the data disk does not mount", 0},
		{"dead", "does not start: the fake ended", 0},
		{"slow", "not healthy within 2s: it", 2 * time.Second},
		{"mute", "not healthy within 2s: its agent does not answer", 2 * time.Second},
	} {
		bad := f.Bundle + "-" + tt.mode
		f.WriteBundle(t, bad, tt.mode, tt.mode)
		if o := update(bad, tt.limit); o.Committed || !strings.Contains(o.Why, tt.want) || root() != "two" {
			t.Errorf("%s: outcome %+v, root %s", tt.mode, o, root())
		}
		if _, err := f.Rollback(t.Context(), "sql", 0); fault.ClassOf(err) != fault.Usage {
			t.Errorf("rollback to what failed: %v", err)
		}
	}
	three := f.Bundle + "-3"
	f.WriteBundle(t, three, "three", "quick")
	if o := update(three, 0); !o.Committed || root() != "three" {
		t.Errorf("outcome %+v, root %s", o, root())
	}
	if _, err := f.Rollback(t.Context(), "sql", 0); err != nil {
		t.Fatal(err)
	}
	ready(t, f)
	if o := supervision(t, f).LastUpdate; o.Kind != "rollback" || !o.Committed || root() != "two" {
		t.Errorf("rollback: %+v, root %s", o, root())
	}
	if s := supervision(t, f); s.Ends.Total != 0 {
		t.Errorf("ends %+v", s.Ends)
	}
}

// An update of what is down is tried when it is wanted up again.
func TestUpdateWhileDown(t *testing.T) {
	f := machine.SetupFake(t)
	startDaemon(t, f)
	i := up(t, f, machine.UpOptions{})
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"two", "three"} { // the second takes the first's place
		f.WriteBundle(t, f.Bundle+root, root, "quick")
		if changed, err := f.Update(t.Context(), "sql", f.Bundle+root, 0, nil); err != nil || !changed {
			t.Fatal(changed, err)
		}
	}
	if s := supervision(t, f); s.Trial == nil || s.Trial.Attempt != 0 {
		t.Errorf("trial %+v", s.Trial)
	}
	if _, err := f.Up(t.Context(), "sql", machine.UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	i = ready(t, f)
	if root, err := i.ActiveRoot(); err != nil || root != "threeroot" {
		t.Error(root, err)
	}
	f.Intact(t)
}

// What was not tried yet is taken back.
func TestRollbackOfWhatIsStaged(t *testing.T) {
	f := machine.SetupFake(t)
	startDaemon(t, f)
	i := up(t, f, machine.UpOptions{})
	first, err := i.ActiveRoot()
	if err != nil {
		t.Fatal(err)
	}
	rollback := func(cancelled bool) {
		t.Helper()
		if got, err := f.Rollback(t.Context(), "sql", 0); err != nil || got != cancelled {
			t.Fatalf("cancelled: %v, %v", got, err)
		}
	}
	runs := func(want string) {
		t.Helper()
		if _, err := f.Up(t.Context(), "sql", machine.UpOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		i = ready(t, f)
		if root, err := i.ActiveRoot(); err != nil || root != want {
			t.Errorf("root %q, %v, want %q", root, err, want)
		}
		f.Intact(t)
	}
	stop := func() {
		t.Helper()
		if _, err := i.Stop(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	stage := func(root string) {
		t.Helper()
		f.WriteBundle(t, f.Bundle+root, root, "quick")
		if changed, err := f.Update(t.Context(), "sql", f.Bundle+root, 0, nil); err != nil || !changed {
			t.Fatal(changed, err)
		}
	}

	stop()
	stage("two")
	rollback(true)
	if s := supervision(t, f); s.Trial != nil || len(s.Slots) != 1 {
		t.Errorf("trial %+v, slots %+v", s.Trial, s.Slots)
	}
	if _, err := f.Rollback(t.Context(), "sql", 0); fault.ClassOf(err) != fault.Usage {
		t.Errorf("there is nothing left to take back: %v", err)
	}
	runs(first)

	stage("three")
	ready(t, f)
	runs("threeroot")
	// A rollback is taken back too, and can still be made.
	stop()
	rollback(false)
	rollback(true)
	runs("threeroot")
	rollback(false)
	ready(t, f)
	if o := supervision(t, f).LastUpdate; o == nil || o.Kind != "rollback" || !o.Committed {
		t.Errorf("outcome %+v", o)
	}
}

func TestCrashLoop(t *testing.T) {
	f := machine.SetupFake(t)
	f.WriteBundle(t, f.Bundle, "one", "panics")
	startDaemon(t, f)
	limit := 3
	if _, err := f.Install(t.Context(), f.Bundle, "", machine.UpOptions{Limit: &limit}, nil); err != nil {
		t.Fatal(err)
	}
	err := wait(t, f, nil)
	if fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "3 times in a row") || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("got %v", err)
	}
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	s, err := i.Status(t.Context())
	if err != nil || s.State != machine.GaveUp || !strings.Contains(s.Message, "Kernel panic") || !s.Supervision.GaveUp || s.Supervision.Ends.Total != 3 {
		t.Errorf("status %+v, %v", s, err)
	}
	// Up tries again.
	if _, err := f.Up(t.Context(), "sql", machine.UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "more ends", func() bool { s := supervision(t, f); return s.Ends.Total == 6 && s.GaveUp })
	// And an update mends it.
	f.WriteBundle(t, f.Bundle+"-2", "two", "quick")
	if _, err := f.Update(t.Context(), "sql", f.Bundle+"-2", 0, nil); err != nil {
		t.Fatal(err)
	}
	if root, err := ready(t, f).ActiveRoot(); err != nil || root != "tworoot" {
		t.Error(root, err)
	}
}

func TestRestartNever(t *testing.T) {
	f := machine.SetupFake(t)
	startDaemon(t, f)
	i := up(t, f, machine.UpOptions{Restart: machine.RestartNever})
	if err := processOf(t, i).Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "given up", func() bool { return supervision(t, f).GaveUp })
	if _, err := f.Up(t.Context(), "sql", machine.UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	i = ready(t, f)
	// A restart that was asked for is none of its business.
	before := processOf(t, i)
	if res, err := i.Restart(t.Context(), 0); err != nil || res.Forced || !res.WasRunning {
		t.Fatalf("%+v, %v", res, err)
	}
	if processOf(t, ready(t, f)) == before {
		t.Error("the same process after a restart")
	}
}

// What keeps a machine from starting reaches the one who waits, with class and
// hint.
func TestStartErrorIsTold(t *testing.T) {
	f := machine.SetupFake(t)
	startDaemon(t, f)
	i := up(t, f, machine.UpOptions{})
	port, _ := i.HostPort(5432)
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	l := takePort(t, port)
	once := 1 // what its host lacks is no end of the machine
	if _, err := f.Up(t.Context(), "sql", machine.UpOptions{Ports: map[int]int{5432: port}, Limit: &once}, nil); err != nil {
		t.Fatal(err)
	}
	err := wait(t, f, nil)
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), fmt.Sprint(port)) || !strings.Contains(fault.HintOf(err), "goes on trying") {
		t.Errorf("class %d, %v, hint %s", fault.ClassOf(err), err, fault.HintOf(err))
	}
	until(t, "more tries", func() bool { s := supervision(t, f); return s.Waiting != nil && s.Waiting.Tries >= 2 })
	now, err := i.Status(t.Context())
	if s := now.Supervision; err != nil || now.State != machine.Restarting || !strings.Contains(now.Message, fmt.Sprint(port)) || s.GaveUp || s.Ends.Total != 0 {
		t.Errorf("status %+v, %v", now, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "it runs", func() bool { i, err := f.Instance(t.Context(), "sql"); return err == nil && i.Runs() })
	if s := supervision(t, f); s.Waiting != nil || s.Ends.Total != 0 {
		t.Errorf("%+v", s)
	}
}

// A trial whose host keeps it from starting ends at its limit, and the former
// bundle is back as soon as the host lets it.
func TestTrialWaitsForItsHost(t *testing.T) {
	f := machine.SetupFake(t)
	startDaemon(t, f)
	i := up(t, f, machine.UpOptions{})
	port, _ := i.HostPort(5432)
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	l := takePort(t, port)
	f.WriteBundle(t, f.Bundle+"-2", "two", "quick")
	if _, err := f.Update(t.Context(), "sql", f.Bundle+"-2", 2*time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Up(t.Context(), "sql", machine.UpOptions{Ports: map[int]int{5432: port}}, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "the trial is over", func() bool { return supervision(t, f).Trial == nil })
	if o := supervision(t, f).LastUpdate; o == nil || o.Committed || !strings.Contains(o.Why, "it could not be started for 2s") {
		t.Errorf("outcome %+v", o)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "it runs", func() bool { i, err := f.Instance(t.Context(), "sql"); return err == nil && i.Runs() })
}

// A trial is judged by what the services do for a while, each that was healthy
// before, and by nothing else.
func TestTrialIsJudgedByServices(t *testing.T) {
	f := machine.SetupFake(t)
	f.WriteBundle(t, f.Bundle, "one", "vpn")
	startDaemon(t, f)
	up(t, f, machine.UpOptions{})
	f.SetSoak(time.Second)
	const short = 8 * time.Second // for a busy machine, to hear of its guest
	for _, tt := range []struct {
		mode, why string
		limit     time.Duration
	}{
		{"brief", "it was fine a moment ago", 0},
		{"sick", "it fell ill", short},
		{"no-vpn", "vpn: running", short},
		{"degraded", "", 0},
		{"no-vpn", "", 0}, // the last one had none
		{"vpn", "", 0},
	} {
		dir := f.Bundle + "-" + tt.mode
		f.WriteBundle(t, dir, tt.mode+tt.why, tt.mode)
		if changed, err := f.Update(t.Context(), "sql", dir, tt.limit, nil); err != nil || !changed {
			t.Fatalf("%s: %v, %v", tt.mode, changed, err)
		}
		begin := time.Now()
		ready(t, f)
		if o := supervision(t, f).LastUpdate; o == nil || o.Committed != (tt.why == "") || !strings.Contains(o.Why, tt.why) {
			t.Errorf("%s: outcome %+v", tt.mode, o)
		} else if o.Committed && time.Since(begin) < time.Second {
			t.Errorf("%s: committed after %v", tt.mode, time.Since(begin))
		}
		f.Intact(t)
	}
}

// A guest that prints without end does not fill its host.
func TestConsoleFlood(t *testing.T) {
	f := machine.SetupFake(t)
	startDaemon(t, f)
	i := up(t, f, machine.UpOptions{})
	log, err := os.OpenFile(i.ConsoleFile(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = log.Write(make([]byte, 9<<20))
	if err := errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
	until(t, "the log is short", func() bool {
		info, err := os.Stat(i.ConsoleFile())
		return err == nil && info.Size() < 1<<20
	})
	if info, err := os.Stat(i.ConsoleFile() + ".0"); err != nil || info.Size() < 3<<20 || info.Size() > 5<<20 {
		t.Errorf("the older part: %v, %v", info, err)
	}
}

// Who waits for a machine waits for its services, and is told of the rest.
func TestReadyThoughDegraded(t *testing.T) {
	f := machine.SetupFake(t)
	f.WriteBundle(t, f.Bundle, "one", "degraded")
	startDaemon(t, f)
	if _, err := f.Install(t.Context(), f.Bundle, "", machine.UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	var last string
	if err := wait(t, f, func(e machine.Event) { last = e.Text }); err != nil || !strings.HasSuffix(last, "but: network eth0: nobody gives an address") {
		t.Errorf("%q, %v", last, err)
	}
}

// One who holds a connection to the guest keeps nobody else from it.
func TestSharedSession(t *testing.T) {
	f := machine.SetupFake(t)
	startDaemon(t, f)
	i := up(t, f, machine.UpOptions{})
	until(t, "the shared socket", func() bool {
		_, err := os.Stat(filepath.Join(i.Dir(), machine.GuestSocket))
		return err == nil
	})
	if info, err := os.Stat(filepath.Join(i.Dir(), machine.GuestSocket)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for range 5 {
		a, err := i.Agent(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if s, err := a.Status(deadline(t)); err != nil || s.Name != "sql" {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

// Told to, a sovereignd takes its machines down with it, and the next brings
// them back.
func TestStopMachines(t *testing.T) {
	f := machine.SetupFake(t)
	d := startDaemon(t, f, "--stop-machines")
	i := up(t, f, machine.UpOptions{})
	p := processOf(t, i)
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.Wait(); err != nil {
		t.Fatal(err)
	}
	if alive, err := p.Alive(); err != nil || alive {
		t.Errorf("the machine outlives it: %v", err)
	}
	if s := supervision(t, f); s.Wanted != machine.Up || s.Ends.Total != 0 {
		t.Errorf("%+v", s)
	}
	d = startDaemon(t, f)
	p = processOf(t, ready(t, f))
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.Wait(); err != nil {
		t.Fatal(err)
	}
	if alive, err := p.Alive(); err != nil || !alive {
		t.Errorf("SIGTERM without the flag ended the machine: %v", err)
	}
}

// A machine that an older version's run has started is taken over without a
// restart, and so it is by up.
func TestUpOfWhatRuns(t *testing.T) {
	f := machine.SetupFake(t)
	p := processOf(t, f.RunByOldVersion(t))
	startDaemon(t, f)
	until(t, "it is taken over", func() bool {
		s := supervision(t, f)
		return s.Wanted == machine.Up && s.Policy.Restart == machine.RestartNever && s.Active == ""
	})
	f.WriteBundle(t, f.Bundle+"-2", "two", "quick")
	if _, err := f.Install(t.Context(), f.Bundle+"-2", "", machine.UpOptions{}, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("another bundle: %v", err)
	}
	if _, err := f.Up(t.Context(), "sql", machine.UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if processOf(t, ready(t, f)) != p {
		t.Error("it was restarted")
	}
	if _, err := f.Install(t.Context(), f.Bundle+"-2", "", machine.UpOptions{}, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "update") {
		t.Errorf("another bundle: %v", err)
	}
	if _, err := f.Update(t.Context(), "sql", f.Bundle+"-2", 0, nil); err != nil {
		t.Fatal(err)
	}
	if root, err := ready(t, f).ActiveRoot(); err != nil || root != "tworoot" {
		t.Error(root, err)
	}
}

func TestOneSovereignd(t *testing.T) {
	f := machine.SetupFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := f.Keep(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := f.Keep(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a second one: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// One whose directory goes away ends.
	done := make(chan error, 1)
	go func() {
		done <- daemon.RunMachines(t.Context(), f.Runtime, daemon.Options{Report: func(string, string) {}})
	}()
	socket := filepath.Join(f.Dir(), sovereignd.Socket)
	until(t, "its socket", func() bool { _, err := os.Stat(socket); return err == nil })
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := <-done; fault.ClassOf(err) != fault.Environment {
		t.Errorf("got %v", err)
	}
}

func takePort(t *testing.T, port int) net.Listener {
	t.Helper()
	var l net.Listener
	until(t, "the port is free", func() bool {
		var err error
		l, err = net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		return err == nil
	})
	t.Cleanup(func() { l.Close() })
	return l
}
