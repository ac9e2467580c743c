package backups

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/replication"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// logged is a machine whose log is kept, as far as a test goes.
type logged struct {
	*fixture
	t *testing.T
	k *logKeeper
}

func newLogged(t *testing.T) *logged {
	t.Helper()
	f := newFixture(t)
	f.machine(t, "sql")
	if _, err := f.AddRepository(t.Context(), backup.Repository{Name: "home", URL: "/backups/good"}, backup.Secrets{}, true); err != nil {
		t.Fatal(err)
	}
	if err := f.SetPolicy(t.Context(), "sql", &backup.Policy{Repository: "home", LogS: 60}); err != nil {
		t.Fatal(err)
	}
	k := &logKeeper{m: f.Manager, name: "sql", dir: filepath.Join(f.r.Dir(), "instances", "sql", logDir), more: make(chan struct{}, 1), soon: make(chan struct{}, 1), since: time.Now()}
	f.logs.keepers["sql"] = k
	return &logged{f, t, k}
}

// begin begins a branch, as a connection to a server does.
func (l *logged) begin() *wal.Spool {
	l.t.Helper()
	s, err := wal.CreateSpool(l.k.spoolDir(), wal.NewBranch(1, 1<<20, 1, 1<<20, "it was switched on"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { s.Close() })
	l.k.opened("postgresql", s)
	return s
}

// goOn goes on with a branch by a new connection, and receives something.
func (l *logged) goOn(s *wal.Spool) {
	l.k.opened("postgresql", s)
	l.hear(s)
}

func (l *logged) hear(s *wal.Spool) {
	e := s.Extent()
	e.To++
	l.k.hear(replication.News{Branch: s.Branch(), Extent: e})
}

func (l *logged) breakOff() runtime.LogBreak {
	l.t.Helper()
	if err := l.k.breakOff("it ends", true); err != nil {
		l.t.Fatal(err)
	}
	breaks := l.state().Breaks
	return breaks[len(breaks)-1]
}

func (l *logged) state() *LogState {
	l.t.Helper()
	s, err := l.State("sql")
	if err != nil || s.Log == nil {
		l.t.Fatalf("%+v, %v", s, err)
	}
	return s.Log
}

// lost is whether status says that the disk went back.
func (l *logged) lost() bool {
	l.t.Helper()
	s := l.Status("sql", time.Now())
	return s != nil && strings.Contains(strings.Join(s.Alarms, "\n"), "went back")
}

// giveUp writes into the machine's record what accept-rollback and its like do.
func (l *logged) giveUp(hash string) {
	l.t.Helper()
	path := filepath.Join(l.r.Dir(), "instances", "sql", "instance.json")
	text, err := os.ReadFile(path)
	var rec map[string]any
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	if err == nil {
		rec["given_up"] = map[string]any{"lineage": strings.Repeat("1", 32), "epoch": 7, "hash": strings.Repeat(hash, 64), "time": time.Now()}
		text, err = json.Marshal(rec)
	}
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// A log that breaks is an alarm, until its owner has given up what is lost; and a
// break for which he has given his word is none, but the next one is again.
func TestBreaks(t *testing.T) {
	t.Run("lost, then accepted", func(t *testing.T) {
		l := newLogged(t)
		l.goOn(l.begin())
		if b := l.breakOff(); !b.Lost || !l.lost() {
			t.Fatalf("%+v", b)
		}
		s := l.begin() // the server runs on for a moment, before a witness holds it
		if !l.lost() {
			t.Error("it is forgotten")
		}
		l.giveUp("a")
		l.goOn(s)
		if l.lost() {
			t.Error("it is not forgotten, though its owner has given it up")
		}
		if b := l.breakOff(); !b.Lost || !l.lost() {
			t.Errorf("the next one: %+v", b)
		}
	})
	t.Run("accepted, then broken", func(t *testing.T) {
		l := newLogged(t)
		l.goOn(l.begin())
		l.giveUp("a")
		if b := l.breakOff(); b.Lost || l.lost() || !strings.Contains(b.Why, "gave up") {
			t.Errorf("%+v", b)
		}
		l.goOn(l.begin())
		if b := l.breakOff(); !b.Lost || !l.lost() {
			t.Errorf("the next one: %+v", b)
		}
	})
	t.Run("restored", func(t *testing.T) {
		l := newLogged(t)
		s := l.begin()
		l.k.opened("postgresql", s)
		if err := l.expectBreak("sql", "restored from it"); err != nil {
			t.Fatal(err)
		}
		l.hear(s) // the former disk's last words
		if b := l.breakOff(); b.Lost || b.Why != "restored from it" {
			t.Errorf("%+v", b)
		}
	})
	t.Run("restored, without a break", func(t *testing.T) {
		l := newLogged(t)
		s := l.begin()
		if err := l.expectBreak("sql", "restored from it"); err != nil {
			t.Fatal(err)
		}
		l.goOn(s)
		if b := l.breakOff(); !b.Lost {
			t.Errorf("a later one: %+v", b)
		}
	})
}

// serving is what a guest says whose service with a log is healthy.
func serving(pid int) machine.Seen {
	return machine.Seen{Process: vm.Process{PID: pid}, Guest: &agent.Status{Services: []agent.Service{{Name: "postgresql", Log: spec.LogPostgreSQL, Healthy: true}}}}
}

// A server that comes up is held to its policy; what cannot be done is said and
// tried again, until the policy is another or the server is not up any more.
func TestAgree(t *testing.T) {
	l := newLogged(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer func() {
		cancel()
		l.logs.work.Wait()
	}()
	sees := func(what string, holds func(agreement) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			a := l.agreedOn("sql")
			if holds(a) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("not seen: %s: %+v", what, a)
			}
			l.agree(ctx)
		}
	}
	policy := &backup.Policy{Repository: "home", LogS: 60, Synchronous: true}
	if err := l.SetPolicy(ctx, "sql", policy); err != nil {
		t.Fatal(err)
	}
	l.Seen("sql", serving(1))
	if l.agree(ctx); l.agreedOn("sql").busy {
		t.Error("it is to wait for what nobody receives")
	}
	l.k.setReceiving(true, nil)
	sees("what keeps it", func(a agreement) bool { return a.busy && a.policy.synchronous && a.why == errDown.Error() })
	if s := l.synchronous("sql", State{Policy: policy}); s == nil || s.On || s.Why == "" {
		t.Errorf("%+v", s)
	}
	if err := l.SetPolicy(ctx, "sql", &backup.Policy{Repository: "home", LogS: 60}); err != nil {
		t.Fatal(err)
	}
	sees("the other policy", func(a agreement) bool { return a.busy && !a.policy.synchronous })
	if s := l.synchronous("sql", State{Policy: &backup.Policy{Repository: "home", LogS: 60}}); s != nil {
		t.Errorf("%+v", s)
	}
	l.Seen("sql", machine.Seen{})
	sees("nothing", func(a agreement) bool { return !a.busy && a.process == vm.Process{} && a.stop == nil })
	if l.isUp("sql") {
		t.Error("it is up")
	}
}

// Which backups' log a drill may miss.
func TestPromises(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	state := State{Policy: &backup.Policy{Repository: "home", LogS: 60, RecoverForS: 7 * 86400}, Log: &LogState{Branch: "b"}}
	made := func(branch string, days int) *backup.Manifest {
		return &backup.Manifest{Taken: at.AddDate(0, 0, -days), Log: &backup.LogPosition{Branch: branch}}
	}
	for name, tt := range map[string]struct {
		state      State
		repository string
		b          *backup.Manifest
		want       bool
	}{
		"the newest":             {state, "home", made("b", 1), true},
		"without a log":          {state, "home", &backup.Manifest{Taken: at}, false},
		"elsewhere":              {state, "away", made("b", 1), false},
		"of a log that ended":    {state, "home", made("a", 1), false},
		"longer ago than wanted": {state, "home", made("b", 8), false},
		"no log is kept":         {State{Policy: &backup.Policy{Repository: "home"}}, "home", made("b", 1), false},
		"no policy":              {State{}, "home", made("b", 1), false},
	} {
		if got := tt.state.promises(tt.repository, tt.b, at); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A machine that serves a disk with all of its log has nothing to recover; one whose
// disk went back has, while it serves.
func TestRecoverServing(t *testing.T) {
	const nothing = "nothing to recover"
	l := newLogged(t)
	s := l.begin()
	if _, err := l.Recover(t.Context(), "sql", ""); err == nil || strings.Contains(err.Error(), nothing) {
		t.Errorf("down: %v", err)
	}
	l.Seen("sql", serving(1))
	if _, err := l.Recover(t.Context(), "sql", ""); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), nothing) {
		t.Errorf("it serves: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l.breakOff()
	if _, err := l.Recover(t.Context(), "sql", ""); err == nil || strings.Contains(err.Error(), nothing) {
		t.Errorf("its disk went back: %v", err)
	}
}

// What is said of commits that wait.
func TestLogAlarms(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	plain, waits := State{Policy: &backup.Policy{LogS: 60}}, State{Policy: &backup.Policy{LogS: 60, Synchronous: true}}
	ago := func(d time.Duration) time.Time { return at.Add(-d) }
	for name, tt := range map[string]struct {
		s    State
		l    runtime.LogStatus
		down bool
		want []string
	}{
		"well":                       {s: plain, l: runtime.LogStatus{Receiving: true}},
		"not received for a moment":  {s: plain, l: runtime.LogStatus{Since: ago(time.Minute)}},
		"not received for long":      {s: plain, l: runtime.LogStatus{Since: ago(time.Hour)}, want: []string{"has not been received"}},
		"the machine is down":        {s: waits, l: runtime.LogStatus{Since: ago(time.Hour), Synchronous: &runtime.Synchronous{}}, down: true},
		"commits wait":               {s: waits, l: runtime.LogStatus{Since: ago(waitAlarm), Synchronous: &runtime.Synchronous{On: true}}, want: []string{"commits wait"}},
		"and for long":               {s: waits, l: runtime.LogStatus{Since: ago(time.Hour), Synchronous: &runtime.Synchronous{On: true}}, want: []string{"commits wait", "has not been received"}},
		"they wait for a moment":     {s: waits, l: runtime.LogStatus{Since: ago(time.Second), Synchronous: &runtime.Synchronous{On: true}}},
		"they do not wait":           {s: waits, l: runtime.LogStatus{Receiving: true, Synchronous: &runtime.Synchronous{Why: "it is another's"}}, want: []string{"it is another's"}},
		"nothing wants it any more":  {s: State{}, l: runtime.LogStatus{Since: ago(time.Hour)}},
		"the repository has it late": {s: plain, l: runtime.LogStatus{Receiving: true, Kept: 9, Stored: 1, StoredAt: ago(time.Hour)}, want: []string{"not come to the repository"}},
	} {
		got := logAlarms(&tt.l, tt.s, !tt.down, at)
		ok := len(got) == len(tt.want)
		for n := 0; ok && n < len(got); n++ {
			ok = strings.Contains(got[n], tt.want[n])
		}
		if !ok {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// What is wanted of a database reaches pg_dump as that, and as nothing else.
func TestTables(t *testing.T) {
	for _, bad := range []Tables{{Names: []string{""}}, {Names: []string{"a\x00b"}}, {Database: strings.Repeat("x", maxTable+1)}, {Names: make([]string, maxTables+1)}} {
		if err := bad.check(); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	for database, want := range map[string]string{
		"":                   `--dbname=dbname='postgres'`,
		"shop":               `--dbname=dbname='shop'`,
		`host=evil user='x'`: `--dbname=dbname='host=evil user=\'x\''`,
		`back\`:              `--dbname=dbname='back\\'`,
	} {
		q := Tables{Database: database, Names: []string{"public.orders", "--file=/data/x"}}.dump("--schema-only")
		if q.Argv[3] != want || q.User != postgresUser {
			t.Errorf("%q: %q as %q", database, q.Argv[3], q.User)
		}
		if got := strings.Join(q.Argv[4:], " "); got != "--schema-only --table=public.orders --table=--file=/data/x" {
			t.Errorf("%q", got)
		}
	}
	if got := temporaryName(tablesPrefix, strings.Repeat("x", 32)); len(got) != 32 || !strings.HasPrefix(got, tablesPrefix) {
		t.Errorf("%q", got)
	}
}
