package backups

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// fakeName is the test binary's as sovereign-backup.
const fakeName = "fake-sovereign-backup"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == fakeName {
		os.Exit(fakeProgram())
	}
	machinetest.Main()
	os.Exit(m.Run())
}

// fakeProgram writes down all that can be seen of it from outside, and answers
// as the last word of the repository's path says.
func fakeProgram() int {
	dir := filepath.Dir(os.Args[0])
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	var j backupjob.Job
	if err != nil || json.Unmarshal(line, &j) != nil {
		return 1
	}
	seen := strings.Join(os.Args, "\n") + "\n" + strings.Join(os.Environ(), "\n")
	if os.WriteFile(filepath.Join(dir, "seen"), []byte(seen), 0o600) != nil || os.WriteFile(filepath.Join(dir, "job"), line, 0o600) != nil {
		return 1
	}
	out := json.NewEncoder(os.Stdout)
	switch filepath.Base(j.Repository) {
	case "dies":
		fmt.Fprintln(os.Stderr, "panic: \x1b[31mit is broken")
		return 2
	case "hangs":
		if os.WriteFile(filepath.Join(dir, "hanging"), nil, 0o600) != nil {
			return 1
		}
		select {}
	case "babbles":
		fmt.Println("this is not JSON")
		return 0
	case "away":
		_ = out.Encode(backupjob.Said{Error: backupjob.NewError(fault.Errorf(fault.Source, "the repository cannot be reached: no route").Hintf("try again"))})
		return int(fault.Source)
	}
	if j.Verb == backupjob.Backup {
		_ = out.Encode(backupjob.Said{Done: 5, Total: 10})
		_ = out.Encode(backupjob.Said{Read: true})
		line, err := in.ReadBytes('\n')
		var a backupjob.Answer
		if err != nil || json.Unmarshal(line, &a) != nil || a.Abort != "" {
			_ = out.Encode(backupjob.Said{Error: &backupjob.Error{Class: fault.Device, Text: "aborted: " + a.Abort}})
			return int(fault.Device)
		}
		s := backup.Snapshot{ID: "abc", Machine: j.Machine, At: j.Manifest.Taken, Read: j.Manifest.Disk.Size}
		_ = out.Encode(backupjob.Said{Result: &backupjob.Result{Snapshots: []backup.Snapshot{s}}})
		return 0
	}
	_ = out.Encode(backupjob.Said{Result: &backupjob.Result{}})
	return 0
}

type fixture struct {
	*Manager
	dir     string // of the program, and of what it wrote down
	reports []string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	r, err := machine.Open(filepath.Join(t.TempDir(), "state"), machine.WithHypervisor(machinetest.New("quick")))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{dir: t.TempDir()}
	program := filepath.Join(f.dir, fakeName)
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	f.Manager, err = New(t.Context(), r, Options{
		Program: program, Changed: func(string) {}, Progress: func(string, runtime.Progress) {},
		Report: func(name, text string) { f.reports = append(f.reports, name+": "+text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// machine installs one that is down and has a disk.
func (f *fixture) machine(t *testing.T, name string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	machinetest.WriteBundle(t, dir, "root", "fake=quick")
	i, err := f.r.Install(t.Context(), dir, name, machine.UpOptions{}, nil)
	if err == nil {
		_, err = i.Stop(t.Context(), 0)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(i.Dir(), "data.img"), make([]byte, 4096), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// No argument and no variable of the program has a secret, and no other user may
// read a file with one.
func TestNoSecretSeen(t *testing.T) {
	f := newFixture(t)
	secrets := backup.Secrets{Key: "the key of the repository", Secret: "the password of the store", Identity: "a private key", KnownHosts: "a host"}
	key, err := f.AddRepository(t.Context(), backup.Repository{Name: "home", URL: "sftp://me@nas/backups/good"}, secrets, true)
	if err != nil || key != secrets.Key {
		t.Fatalf("%q, %v", key, err)
	}
	seen, err := os.ReadFile(filepath.Join(f.dir, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	job, err := os.ReadFile(filepath.Join(f.dir, "job"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{secrets.Key, secrets.Secret, secrets.Identity} {
		if strings.Contains(string(seen), s) {
			t.Errorf("%q stands in the program's arguments or environment", s)
		}
		if !strings.Contains(string(job), s) {
			t.Errorf("%q was not handed over", s)
		}
	}
	info, err := os.Stat(f.repositoryFile("home"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	list, err := f.Repositories()
	if err != nil || len(list) != 1 || list[0] != (backup.Repository{Name: "home", URL: "sftp://me@nas/backups/good"}) {
		t.Errorf("%+v, %v", list, err)
	}
	for _, r := range f.reports {
		if strings.Contains(r, secrets.Key) {
			t.Errorf("told: %s", r)
		}
	}
}

// A key that is made has 160 bits, and is another each time.
func TestNewKey(t *testing.T) {
	a, b := newKey(), newKey()
	if len(a) != 39 || strings.Count(a, "-") != 7 || a == b {
		t.Errorf("%q, %q", a, b)
	}
}

// A program that does not do its part is told of as that, and ends with ctx.
func TestProgramGoesWrong(t *testing.T) {
	for name, class := range map[string]fault.Class{"dies": fault.Environment, "babbles": fault.Internal, "away": fault.Source} {
		f := newFixture(t)
		_, err := f.AddRepository(t.Context(), backup.Repository{Name: "home", URL: "/backups/" + name}, backup.Secrets{}, true)
		if fault.ClassOf(err) != class || strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("%s: %v (class %v)", name, err, fault.ClassOf(err))
		}
		if list, err := f.Repositories(); err != nil || len(list) != 0 {
			t.Errorf("%s: it is known: %v, %v", name, list, err)
		}
		if f.Busy() {
			t.Errorf("%s: something goes on", name)
		}
	}
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(f.dir, "hanging")); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	begin := time.Now()
	_, err := f.AddRepository(ctx, backup.Repository{Name: "home", URL: "/backups/hangs"}, backup.Secrets{}, true)
	if !errors.Is(err, context.Canceled) || time.Since(begin) > time.Minute {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

// A backup of a machine that is down; what failed is an alarm until one works.
func TestBackupState(t *testing.T) {
	f := newFixture(t)
	f.machine(t, "sql")
	for _, r := range []backup.Repository{{Name: "good", URL: "/backups/good"}, {Name: "away", URL: "/backups/good"}} {
		if _, err := f.AddRepository(t.Context(), r, backup.Secrets{}, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Backup(t.Context(), "sql", "", false); fault.ClassOf(err) != fault.Usage {
		t.Errorf("two repositories, and none was named: %v", err)
	}
	if s := f.Status("sql", time.Now()); s != nil {
		t.Errorf("a wrong call is %+v", s)
	}
	// It goes away.
	file, err := f.load("away")
	if err != nil {
		t.Fatal(err)
	}
	file.URL = "/backups/away"
	if err := os.WriteFile(f.repositoryFile("away"), encode(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := f.Backup(t.Context(), "sql", "away", false); fault.ClassOf(err) != fault.Source {
			t.Errorf("away: %v", err)
		}
	}
	s := f.Status("sql", time.Now())
	if s == nil || len(s.Alarms) != 1 || !strings.Contains(s.Alarms[0], "the repository is away (2 tries") || s.Last != nil {
		t.Errorf("%+v", s)
	}
	made, err := f.Backup(t.Context(), "sql", "good", false)
	if err != nil || made.ID != "abc" {
		t.Fatalf("%+v, %v", made, err)
	}
	if s := f.Status("sql", time.Now()); s == nil || len(s.Alarms) != 0 || s.Last == nil || s.Last.Snapshot != "abc" {
		t.Errorf("%+v", s)
	}
	if err := f.ForgetRepository("away"); err != nil {
		t.Error(err)
	}
	if err := f.SetPolicy(t.Context(), "sql", &backup.Policy{Repository: "good", EveryS: 3600}); err != nil {
		t.Error(err)
	}
	if err := f.ForgetRepository("good"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("one that is in use: %v", err)
	}
}

// A policy whose repository is forgotten behind its back fails, is said, and is
// not tried again and again.
func TestScheduledFails(t *testing.T) {
	f := newFixture(t)
	f.machine(t, "sql")
	if _, err := f.AddRepository(t.Context(), backup.Repository{Name: "home", URL: "/backups/good"}, backup.Secrets{}, true); err != nil {
		t.Fatal(err)
	}
	if err := f.SetPolicy(t.Context(), "sql", &backup.Policy{Repository: "home", EveryS: 3600, DrillS: 3600}); err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for range 2 { // a backup, and then there is something to drill
		if wait := f.round(t.Context(), told); wait < time.Second {
			t.Errorf("again in %v", wait)
		}
	}
	s, err := f.State("sql")
	if err != nil || s.Last == nil || s.DrillFailed == nil {
		t.Fatalf("%+v, %v", s, err) // the fake restores nothing
	}
	if err := os.Remove(f.repositoryFile("home")); err != nil {
		t.Fatal(err)
	}
	long := now().Add(-3 * time.Hour)
	if err := f.change("sql", func(s *State) { s.Last.At, s.DrillFailed.At = long, long }); err != nil {
		t.Fatal(err)
	}
	f.round(t.Context(), told)
	if s, err = f.State("sql"); err != nil || s.Failed == nil || s.Failed.Tries != 1 || s.DrillFailed.Tries != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if f.round(t.Context(), told); told["sql"] == "" {
		t.Error("nobody was told")
	}
	if s, err = f.State("sql"); err != nil || s.Failed.Tries != 1 {
		t.Errorf("tried again at once: %+v, %v", s, err)
	}
}

// What is due, by the clock of a device that anybody may set.
// What is due waits for its conditions, and no longer than for twice its time.
func TestConditions(t *testing.T) {
	f := newFixture(t)
	f.machine(t, "sql")
	if _, err := f.AddRepository(t.Context(), backup.Repository{Name: "home", URL: "/backups/good"}, backup.Secrets{}, true); err != nil {
		t.Fatal(err)
	}
	lacks := "charging"
	f.o.Lacks = func(_ context.Context, when []backup.Condition) string {
		if len(when) != 1 || when[0] != backup.Charging {
			t.Errorf("asked for %q", when)
		}
		return lacks
	}
	if err := f.SetPolicy(t.Context(), "sql", &backup.Policy{Repository: "home", EveryS: 3600, When: []backup.Condition{backup.Charging}}); err != nil {
		t.Fatal(err)
	}
	last := func(want bool, waiting string) {
		t.Helper()
		f.round(t.Context(), map[string]string{})
		s, err := f.State("sql")
		if err != nil || (s.Last != nil) != want {
			t.Errorf("%+v, %v", s, err)
		}
		if b := f.Status("sql", now()); b == nil || b.Waiting != waiting {
			t.Errorf("%+v", b)
		}
	}
	last(false, "charging")
	if err := f.change("sql", func(s *State) { s.Since = now().Add(-3 * time.Hour) }); err != nil {
		t.Fatal(err)
	}
	last(true, "") // overdue
	if err := f.change("sql", func(s *State) { s.Last = nil; s.Since = now() }); err != nil {
		t.Fatal(err)
	}
	last(false, "charging")
	lacks = ""
	last(true, "")
}

func TestDue(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) *Done { return &Done{At: at.Add(-d)} }
	policy := &backup.Policy{EveryS: 3600, DrillS: 86400}
	logged := &backup.Policy{EveryS: 86400, LogS: 60}
	for name, test := range map[string]struct {
		s             State
		backup, drill bool
		wait          time.Duration
	}{
		"no policy":               {s: State{}, wait: lookEvery},
		"none yet":                {s: State{Policy: policy, Since: at}, backup: true, wait: lookEvery},
		"soon":                    {s: State{Policy: policy, Since: at, Last: ago(58 * time.Minute), Drill: ago(0)}, wait: 2 * time.Minute},
		"late":                    {s: State{Policy: policy, Since: at, Last: ago(2 * time.Hour), Drill: ago(0)}, backup: true, wait: lookEvery},
		"never drilled":           {s: State{Policy: policy, Since: at, Last: ago(0)}, drill: true, wait: lookEvery},
		"nothing to drill":        {s: State{Policy: policy, Since: at.Add(-48 * time.Hour), Failed: &Failure{At: at, Tries: 1}}, wait: time.Minute},
		"it failed just now":      {s: State{Policy: policy, Since: at, Last: ago(2 * time.Hour), Drill: ago(0), Failed: &Failure{At: at.Add(-30 * time.Second), Tries: 1}}, wait: 30 * time.Second},
		"it failed a while ago":   {s: State{Policy: policy, Since: at, Last: ago(2 * time.Hour), Drill: ago(0), Failed: &Failure{At: at.Add(-2 * time.Minute), Tries: 1}}, backup: true, wait: lookEvery},
		"it failed for days":      {s: State{Policy: policy, Since: at, Last: ago(99 * time.Hour), Drill: ago(0), Failed: &Failure{At: at.Add(-61 * time.Minute), Tries: 1000}}, backup: true, wait: lookEvery},
		"the clock was set back":  {s: State{Policy: policy, Since: at.Add(-time.Hour), Last: ago(-24 * 365 * time.Hour), Drill: ago(0)}, backup: true, wait: lookEvery},
		"failed, clock set back":  {s: State{Policy: policy, Since: at, Last: ago(2 * time.Hour), Drill: ago(0), Failed: &Failure{At: at.Add(time.Hour), Tries: 9}}, backup: true, wait: lookEvery},
		"drills alone, not due":   {s: State{Policy: &backup.Policy{DrillS: 3600}, Last: ago(0), Drill: ago(0)}, wait: lookEvery},
		"a log without a backup":  {s: State{Policy: logged, Last: ago(0), Drill: ago(0), Log: &LogState{Wanted: true}}, backup: true, wait: lookEvery},
		"one was tried":           {s: State{Policy: logged, Last: ago(0), Drill: ago(0), Log: &LogState{Wanted: true, Tried: at.Add(-59 * time.Minute)}}, wait: time.Minute},
		"tried an hour ago":       {s: State{Policy: logged, Last: ago(0), Drill: ago(0), Log: &LogState{Wanted: true, Tried: at.Add(-time.Hour)}}, backup: true, wait: lookEvery},
		"nothing by itself at al": {s: State{Policy: &backup.Policy{}, Since: at}, wait: lookEvery},
	} {
		d := test.s.decide(at, 0)
		if d.backup != test.backup || d.drill != test.drill || d.wait != test.wait {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// Another device is later, by less than a part of the time.
	s := State{Policy: policy, Since: at, Last: ago(time.Hour), Drill: ago(0)}
	for lag := time.Duration(1); lag < 1<<62; lag *= 7 {
		if d := s.decide(at, lag); !d.backup && d.wait > time.Hour/spread {
			t.Errorf("lag %v: %+v", lag, d)
		}
	}
}

func TestAlarms(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	policy := &backup.Policy{EveryS: 3600, DrillS: 7 * 86400}
	for name, test := range map[string]struct {
		s    State
		want []string
	}{
		"well":          {State{Policy: policy, Last: &Done{At: at.Add(-time.Hour)}, Drill: &Done{At: at.Add(-time.Hour)}}, nil},
		"late":          {State{Policy: policy, Last: &Done{At: at.Add(-3 * time.Hour)}, Drill: &Done{At: at}}, []string{"no backup for 3h"}},
		"never":         {State{Policy: policy, Since: at.Add(-30 * 24 * time.Hour)}, []string{"there is none", "no drill that passed"}},
		"just begun":    {State{Policy: policy, Since: at}, nil},
		"a bad drill":   {State{Policy: policy, Since: at, DrillFailed: &Failure{At: at, Why: "no rows"}}, []string{"no rows"}},
		"without hours": {State{Failed: &Failure{At: at, Tries: 1, Class: fault.Environment, Why: "full"}}, []string{"the last backup failed"}},
	} {
		got := test.s.alarms(at)
		ok := len(got) == len(test.want)
		for n := range test.want {
			ok = ok && strings.Contains(got[n], test.want[n])
		}
		if !ok {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A file that is not ours in its place is said, and stops nothing else.
func TestBrokenState(t *testing.T) {
	f := newFixture(t)
	f.machine(t, "sql")
	if err := os.WriteFile(f.statePath("sql"), []byte(`{"schema":1,"new_wish":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := f.Status("sql", time.Now()); s == nil || len(s.Alarms) != 1 {
		t.Errorf("%+v", s)
	}
	if _, err := f.Backup(t.Context(), "sql", "", false); fault.ClassOf(err) != fault.Environment {
		t.Errorf("got %v", err)
	}
}

// A service that ends again and again ends a replay, which waits for hours else.
func TestCrashes(t *testing.T) {
	status := func(s agent.Service) *runtime.Status {
		return &runtime.Status{Guest: &agent.Status{Services: []agent.Service{s}}}
	}
	for _, tt := range []struct {
		s    *runtime.Status
		want string
	}{
		{nil, ""},
		{&runtime.Status{}, ""},
		{status(agent.Service{Name: "postgresql", Restarts: replayRestarts - 1}), ""},
		{status(agent.Service{Name: "postgresql", Restarts: replayRestarts, Healthy: true}), ""},
		{status(agent.Service{Name: "tailscale", Restarts: replayRestarts, Optional: true}), ""},
		{status(agent.Service{Name: "postgresql", State: agent.ServiceStarting, Restarts: replayRestarts, Message: "exit status 1"}), "postgresql: starting, 3 restarts (exit status 1)"},
	} {
		err := crashes(tt.s)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want || fault.ClassOf(err) != fault.Device) {
			t.Errorf("%+v: %v, want %q", tt.s, err, tt.want)
		}
	}
}
