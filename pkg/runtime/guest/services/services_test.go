package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// TestMain makes the test a subreaper, as PID 1 is one by nature.
func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "subreaper:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// running is a manager at work.
type running struct {
	*Manager
	t    *testing.T
	data string
	stop func() // ends it in order and waits

	mu     sync.Mutex
	notes  []string
	phases []string // their begins and ends
}

// start runs services with real processes, seconds that last 50 ms, and a
// back-off of at most 20 ms.
func start(t *testing.T, cgroups string, services ...spec.Service) *running {
	t.Helper()
	return startWith(t, cgroups, func(*Options) {}, services...)
}

// startWith changes some of the options.
func startWith(t *testing.T, cgroups string, change func(*Options), services ...spec.Service) *running {
	t.Helper()
	procs, err := proc.New()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, data: t.TempDir()}
	o := Options{
		Spec:    spec.Spec{Schema: 1, Name: "test", Data: spec.Data{FileSystem: "ext4", Mount: r.data}, Services: services},
		Procs:   procs,
		Cgroups: cgroups,
		Lookup: func(string) (*user.User, []string, error) {
			return &user.User{Uid: strconv.Itoa(os.Getuid()), Gid: strconv.Itoa(os.Getgid()), HomeDir: "/"}, nil, nil
		},
		Note: func(s string) { r.mu.Lock(); r.notes = append(r.notes, s); r.mu.Unlock() },
		Phase: func(name string) func() {
			note := func(what string) { r.mu.Lock(); r.phases = append(r.phases, name+" "+what); r.mu.Unlock() }
			note("begins")
			return func() { note("ends") }
		},
		Machine: func() map[string]string {
			return map[string]string{"SOVEREIGN_MEMORY_MIB": "512", "FOO": "the machine's"}
		},
		Timing: Timing{BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond,
			FirstCheck: time.Millisecond, Drain: 100 * time.Millisecond, Second: 50 * time.Millisecond},
	}
	change(&o)
	if r.Manager, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		r.stop()
		if err := procs.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// lastNotes returns the last few notes.
func (r *running) lastNotes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.notes[max(0, len(r.notes)-5):])
}

// until waits for a condition.
func (r *running) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			state, msg := r.State()
			r.t.Fatalf("%s did not happen; state %s (%s); services %+v; notes %q", what, state, msg, r.Services(), r.lastNotes())
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *running) state(want agent.State) {
	r.t.Helper()
	r.until("state "+string(want), func() bool { s, _ := r.State(); return s == want })
}

func (r *running) text(service string) string {
	l, err := r.Log(service)
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := io.ReadAll(l.Reader(r.t.Context(), false))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func svc(name, script string, change ...func(*spec.Service)) spec.Service {
	s := spec.Service{Name: name, User: "me", Command: []string{"/bin/sh", "-c", script},
		Stop:   spec.Stop{Signal: "TERM", Seconds: 20},
		Health: spec.Health{IntervalSeconds: 1, TimeoutSeconds: 40, Failures: 3}}
	for _, c := range change {
		c(&s)
	}
	return s
}

// The first start goes on until the service is healthy, whatever ended before.
func TestPhases(t *testing.T) {
	mark := t.TempDir() + "/second"
	r := start(t, "", svc("db", "[ -e "+mark+" ] || { : >"+mark+"; exit 1; }; exec sleep 1000", health("[ -e "+mark+" ]")))
	r.state(agent.StateReady)
	r.mu.Lock()
	defer r.mu.Unlock()
	if want := []string{"db: setup begins", "db: setup ends", "db: start begins", "db: start ends"}; !slices.Equal(r.phases, want) {
		t.Errorf("phases %q, want %q", r.phases, want)
	}
}

func health(script string, starting ...int) func(*spec.Service) {
	return func(s *spec.Service) {
		s.Health.Command, s.Health.Starting = []string{"/bin/sh", "-c", script}, starting
	}
}

func after(names ...string) func(*spec.Service) { return func(s *spec.Service) { s.After = names } }

const forever = "echo up; exec sleep 1000"

func TestSetupSecretsAndEnvironment(t *testing.T) {
	var dir string
	v := svc("db", `echo "$HOME $USER $FOO $SOVEREIGN_MEMORY_MIB $(cat $SOVEREIGN_SECRETS/password)"; exec sleep 1000`, func(s *spec.Service) {
		s.Environment = map[string]string{"FOO": "bar"}
		s.Secrets = []spec.Secret{{Name: "password", Bytes: 16}}
		s.Setup = [][]string{{"/bin/sh", "-c", "echo first"}, {"/bin/sh", "-c", "echo second"}}
		dir = filepath.Join(t.TempDir(), "a", "b")
		s.Directories = []spec.Directory{{Path: dir, Mode: "0750"}}
	})
	r := start(t, "", v)
	r.state(agent.StateReady)
	want := regexp.MustCompile(`^first\nsecond\n/ me bar 512 ([A-Za-z0-9_-]{22})\n$`)
	r.until("output", func() bool { return want.MatchString(r.text("db")) })
	secret, err := r.Secret(t.Context(), "db", "password")
	if err != nil || secret != want.FindStringSubmatch(r.text("db"))[1] {
		t.Errorf("secret: got %q, %v", secret, err)
	}
	if i, err := os.Stat(filepath.Join(r.data, "secrets/db/password")); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("secret file: %v, %v", i, err)
	}
	if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o750 {
		t.Errorf("directory: %v, %v", i, err)
	}
	for _, c := range [][2]string{{"db", "other"}, {"nope", "password"}, {"db", "../password"}} {
		if _, err := r.Secret(t.Context(), c[0], c[1]); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("secret %q: got %v", c, err)
		}
	}
	// A restart keeps the secret.
	s := r.Services()[0]
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("restart", func() bool { v := r.Services()[0]; return v.Healthy && v.Restarts == 1 && v.PID != s.PID })
	if again, err := r.Secret(t.Context(), "db", "password"); err != nil || again != secret {
		t.Errorf("secret after a restart: got %q, %v", again, err)
	}
}

func TestCrashLoopIsReported(t *testing.T) {
	r := start(t, "", svc("bad", "echo oops >&2; exit 3"), svc("good", forever))
	r.state(agent.StateDegraded)
	_, msg := r.State()
	if !strings.Contains(msg, "bad: ended: exit status 3; start again in") {
		t.Errorf("message: %q", msg)
	}
	r.until("its log", func() bool { return strings.Contains(r.text("bad"), "oops\noops\n") })
	r.until("good runs", func() bool { return r.Services()[1].Healthy })
}

// The setup does not wait for what the program waits for, and runs again where
// the machine is another then than it was told.
func TestSettle(t *testing.T) {
	setup := func(s *spec.Service) { s.Setup = [][]string{{"/bin/sh", "-c", "echo setup $SOVEREIGN_ADDRESSES"}} }
	settles := func(t *testing.T, addresses, want string) {
		settled := make(chan struct{})
		r := startWith(t, "", func(o *Options) {
			o.Machine = func() map[string]string {
				select {
				case <-settled:
					return map[string]string{"SOVEREIGN_ADDRESSES": addresses}
				default:
					return map[string]string{"SOVEREIGN_ADDRESSES": "10.0.2.15"}
				}
			}
			o.Settle = func(context.Context) { <-settled }
		}, svc("db", "echo up $SOVEREIGN_ADDRESSES; exec sleep 1000", setup))
		r.until("setup", func() bool { return r.text("db") == "setup 10.0.2.15\n" })
		close(settled)
		r.state(agent.StateReady)
		r.until("program", func() bool { return r.text("db") == want })
	}
	t.Run("as described", func(t *testing.T) { settles(t, "10.0.2.15", "setup 10.0.2.15\nup 10.0.2.15\n") })
	t.Run("otherwise", func(t *testing.T) { settles(t, "", "setup 10.0.2.15\nsetup\nup\n") })
	t.Run("stopped", func(t *testing.T) {
		r := startWith(t, "", func(o *Options) { o.Settle = func(ctx context.Context) { <-ctx.Done() } }, svc("db", forever, setup))
		r.until("setup", func() bool { return r.text("db") == "setup\n" })
		r.stop()
		if text := r.text("db"); text != "setup\n" {
			t.Errorf("it was started: %q", text)
		}
	})
}

func TestSetupThatFails(t *testing.T) {
	r := start(t, "", svc("db", forever, func(s *spec.Service) { s.Setup = [][]string{{"/bin/false"}} }))
	r.state(agent.StateDegraded)
	if _, msg := r.State(); !strings.Contains(msg, "setup /bin/false: exit status 1") {
		t.Errorf("message: %q", msg)
	}
}

func TestHealthDecides(t *testing.T) {
	file := filepath.Join(t.TempDir(), "code")
	set := func(code string) {
		if err := os.WriteFile(file+".new", []byte(code), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	set("1")
	r := start(t, "", svc("db", forever, health("echo says $(cat "+file+"); exit $(cat "+file+")", 1)),
		svc("late", forever, after("db")))
	r.until("rejecting", func() bool { return r.Services()[0].Message == "says 1" })
	if s := r.Services(); s[0].State != agent.ServiceStarting || s[1].State != agent.ServiceWaiting {
		t.Errorf("got %+v", s)
	}
	set("0")
	r.state(agent.StateReady)
	pid := r.Services()[0].PID
	set("1") // crash recovery: never a restart
	r.state(agent.StateDegraded)
	set("0")
	r.state(agent.StateReady)
	if s := r.Services()[0]; s.PID != pid || s.Restarts != 0 {
		t.Errorf("restarted while alive: %+v", s)
	}
	set("2")
	r.until("restart", func() bool { return r.Services()[0].Restarts > 0 })
	set("0")
	r.state(agent.StateReady)
	if s := r.Services()[0]; s.PID == pid {
		t.Errorf("not restarted: %+v", s)
	}
}

// A program that is slow to answer for the first time is given time, and a
// check that fails is no reason to begin anew.
func TestSlowStartIsNoFailure(t *testing.T) {
	checks := filepath.Join(t.TempDir(), "checks")
	r := start(t, "", svc("db", forever, health("echo >>"+checks+"; [ $(wc -l <"+checks+") -gt 12 ] || { echo silence; exit 2; }")))
	r.until("silence", func() bool { return r.Services()[0].Message == "silence" })
	pid := r.Services()[0].PID
	r.state(agent.StateReady)
	if s := r.Services()[0]; s.PID != pid || s.Restarts != 0 {
		t.Errorf("restarted: %+v", s)
	}
}

func TestStopsInReverseOrder(t *testing.T) {
	trap := func(name string) string {
		return "trap 'echo " + name + " $(date +%s%N); exit 0' TERM; echo up; while :; do sleep 0.01; done"
	}
	r := start(t, "", svc("a", trap("a")), svc("b", trap("b"), after("a")), svc("c", trap("c"), after("b")))
	r.state(agent.StateReady)
	for _, n := range []string{"a", "b", "c"} { // the trap is set before "up"
		r.until(n+" up", func() bool { return strings.Contains(r.text(n), "up") })
	}
	r.stop()
	var at []int64
	for _, n := range []string{"c", "b", "a"} {
		f := strings.Fields(r.text(n))
		v, err := strconv.ParseInt(f[len(f)-1], 10, 64)
		if err != nil {
			t.Fatalf("%s was not ended in order: %q", n, f)
		}
		at = append(at, v)
	}
	if at[0] >= at[1] || at[1] >= at[2] {
		t.Errorf("order: %v", at)
	}
	for _, s := range r.Services() {
		if s.State != agent.ServiceStopped || s.PID != 0 {
			t.Errorf("got %+v", s)
		}
	}
}

func TestStopKillsAfterItsSeconds(t *testing.T) {
	r := start(t, "", svc("deaf", "trap '' TERM; echo up; while :; do sleep 0.01; done", func(s *spec.Service) { s.Stop.Seconds = 1 }))
	r.until("up", func() bool { return strings.Contains(r.text("deaf"), "up") })
	r.stop()
	if n := strings.Join(r.lastNotes(), "\n"); !strings.Contains(n, "did not end within 1 s of TERM: killed") {
		t.Errorf("notes: %q", n)
	}
}

// A service whose main process is killed leaves children; they must be gone
// before the next start.
func TestLeftoversEndBeforeTheNextStart(t *testing.T) {
	root := cgroups(t)
	script := `setsid sh -c 'trap "" TERM; while :; do sleep 0.01; done' & echo "child $!"; wait`
	r := start(t, root, svc("db", script))
	r.state(agent.StateReady)
	r.until("child", func() bool { return strings.Contains(r.text("db"), "child") })
	var child int
	if _, err := fmt.Sscanf(r.text("db"), "child %d", &child); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(r.Services()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("second start", func() bool { return strings.Count(r.text("db"), "child") == 2 })
	if err := syscall.Kill(child, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("child %d is still there at the second start: %v", child, err)
	}
}

// cgroups returns a directory of the machine's cgroup2 for a test.
func cgroups(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		root = "/sys/fs/cgroup/unified"
	}
	dir, err := os.MkdirTemp(root, "sovereign-test-")
	if err != nil {
		t.Skipf("no writable cgroup2 on this machine: %v", err)
	}
	t.Cleanup(func() { // fails when a service's group is left
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestBackoff(t *testing.T) {
	b := backoff{timing: Timing{}.withDefaults()}
	for i, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000} {
		if got := b.ended(0); got != want*time.Millisecond || b.row != i+1 {
			t.Errorf("end %d: got %v, row %d", i, got, b.row)
		}
	}
	if got := b.ended(time.Millisecond); got != time.Second {
		t.Errorf("after a moment of health: got %v", got)
	}
	for b.row < loopRow-1 {
		b.ended(0)
	}
	if got := b.ended(0); got != 5*time.Minute {
		t.Errorf("end %d: got %v", b.row, got)
	}
	if got := b.ended(time.Minute); got != 100*time.Millisecond || b.row != 1 {
		t.Errorf("after a minute of health: got %v, row %d", got, b.row)
	}
}

func TestCheck(t *testing.T) {
	good := func() spec.Spec {
		return spec.Spec{Schema: 1, Data: spec.Data{FileSystem: "ext4", Mount: "/data"}, Services: []spec.Service{svc("a", "true")}}
	}
	if err := Check(good()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*spec.Spec)
		want   string
	}{
		{func(s *spec.Spec) { s.Schema = 2 }, "schema 2"},
		{func(s *spec.Spec) { s.Data.Mount = "/" }, "data.mount"},
		{func(s *spec.Spec) { s.Data.FileSystem = "xfs" }, "want ext4"},
		{func(s *spec.Spec) { s.Services[0].Name = "../x" }, "name"},
		{func(s *spec.Spec) { s.Services[0].Name = "init" }, "name"},
		{func(s *spec.Spec) { s.Services = append(s.Services, s.Services[0]) }, "two of that name"},
		{func(s *spec.Spec) { s.Services[0].Command = nil }, "command is empty"},
		{func(s *spec.Spec) { s.Services[0].Setup = [][]string{{"initdb"}} }, "absolute path"},
		{func(s *spec.Spec) { s.Services[0].User = "" }, "user"},
		{func(s *spec.Spec) { s.Services[0].Stop.Signal = "KILL" }, "stop.signal"},
		{func(s *spec.Spec) { s.Services[0].Stop.Seconds = 0 }, "stop.seconds"},
		{func(s *spec.Spec) { s.Services[0].Directories = []spec.Directory{{Path: "/a", Mode: "rwx"}} }, "octal"},
		{func(s *spec.Spec) { s.Services[0].Secrets = []spec.Secret{{Name: "a/b", Bytes: 16}} }, "secret"},
		{func(s *spec.Spec) { s.Services[0].Secrets = []spec.Secret{{Name: "a", Bytes: 8}} }, "16 to 64"},
		{func(s *spec.Spec) { s.Services[0].Health = spec.Health{Command: []string{"/x"}} }, "health.interval"},
		{func(s *spec.Spec) { s.Services[0].Health.Watch = "state" }, "health.watch"},
		{func(s *spec.Spec) { s.Services[0].Limits.OOMScoreAdj = 1001 }, "oom_score_adj"},
		{func(s *spec.Spec) { s.Services[0].After = []string{"b"} }, `"b", which is not there`},
		{func(s *spec.Spec) { s.Services[0].After = []string{"a"} }, "after itself"},
	} {
		s := good()
		c.change(&s)
		if err := Check(s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.want, err)
		}
	}
}
