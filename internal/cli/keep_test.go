package cli

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func TestUp(t *testing.T) {
	f := &fake{}
	code, out, errs := call(t, t.Context(), f, "up", "sql")
	want := "sql is ready, port 80 at 127.0.0.1:40002, port 5432 at 127.0.0.1:40001\nconnect: psql \"$(sovereign-build dsn sql)\"\nstop:    sovereign-build down sql\n"
	if code != 0 || out != want || !strings.HasPrefix(errs, "the guest's init answers\n") {
		t.Errorf("exit %d\ngot  %s\nwant %s\nstderr %q", code, out, want, errs)
	}
	if r := f.up; strings.Join(f.calls, ",") != "up" || r.Accel != "" || r.Outbound != nil || r.Limit != nil || r.Restart != "" {
		t.Errorf("what was not given is changed: %+v", r)
	}
	code, out, _ = call(t, t.Context(), f, "up", newBundle(t), "--accel", "tcg", "--outbound=false", "--restart", "never", "--restart-limit", "0", "--memory", "1GiB", "--port", "5432:15432", "--json")
	if want := `{"name":"sql","ports":{"5432":40001,"80":40002},"accel":"tcg"}` + "\n"; code != 0 || out != want {
		t.Errorf("exit %d\ngot  %s\nwant %s", code, out, want)
	}
	if r := f.up; r.Accel != "tcg" || r.Outbound == nil || *r.Outbound || r.Limit == nil || *r.Limit != 0 || r.Restart != "never" || r.MemoryMiB != 1024 || r.Ports[5432] != 15432 {
		t.Errorf("request %+v", r)
	}
	for _, args := range []string{"up sql --restart sometimes", "up sql --restart-limit -1", "up sql --memory 1", "restart sql --timeout 0s", "update sql " + newBundle(t) + " --timeout 1ms", "rollback sql --timeout 25h", "down sql --timeout 0s", "update sql"} {
		if code, _, _ := call(t, t.Context(), f, strings.Fields(args)...); code != int(fault.Usage) {
			t.Errorf("%s: exit %d", args, code)
		}
	}
}

// seconds are those that were measured.
var seconds = regexp.MustCompile(`(again, after |222, after |111 again, after |_seconds":|80":40002},"seconds":)[0-9.]+`)

func TestTrials(t *testing.T) {
	dir := newBundle(t)
	tests := []struct {
		args, result, why string
		code              int
		want              string
	}{
		{"update sql " + dir, runtime.UpdateCommitted, "", 0, "sql runs sha256:222222222222, after N s\n"},
		{"update sql " + dir, runtime.UpdateReverted, "no root", 8, "sql runs sha256:111111111111 again, after N s; the update failed: no root\n"},
		{"update sql " + dir, runtime.UpdateStaged, "", 0, "sql is down and tries the bundle at the next up\n"},
		{"update sql " + dir, runtime.UpdateUnchanged, "", 0, "sql has that bundle already\n"},
		{"rollback sql", runtime.UpdateCancelled, "", 0, "sql keeps sha256:222222222222, and tries nothing else\n"},
		{"rollback sql", runtime.UpdateCommitted, "", 0, "sql runs sha256:222222222222, after N s\n"},
		{"rollback sql --json", runtime.UpdateReverted, "no root", 8, `{"name":"sql","kind":"rollback","result":"reverted","why":"no root","from":"sha256:111111111111aa","to":"sha256:222222222222bb","ports":{"5432":40001,"80":40002},"seconds":N}` + "\n"},
		{"restart sql", "", "", 0, "sql is ready again, after N s\n"},
		{"restart sql --json", "", "", 0, `{"name":"sql","was_running":true,"forced":false,"seconds":1.5,"ports":{"5432":40001,"80":40002},"ready_seconds":N}` + "\n"},
		{"down sql", "", "", 0, "sql is stopped, after 1.5 s\n"},
	}
	for _, tt := range tests {
		f := &fake{fakeHost: fakeHost{result: tt.result, why: tt.why}}
		code, out, errs := call(t, t.Context(), f, strings.Fields(tt.args)...)
		if out = seconds.ReplaceAllString(out, "${1}N"); code != tt.code || out != tt.want {
			t.Errorf("%s: exit %d, stderr %q\ngot  %q\nwant %q", tt.args, code, errs, out, tt.want)
		}
	}
}

func TestStatusOfSupervised(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &runtime.Supervision{
		Wanted: runtime.Up, Policy: runtime.DefaultPolicy(), Active: "a", Previous: "b",
		Slots:      map[runtime.SlotName]runtime.Slot{"a": {Digest: "sha256:1111111111112", Source: "/x"}, "b": {Digest: "sha256:2222222222223", Source: "/y"}},
		Ends:       runtime.Ends{Total: 3, InARow: 2, Last: &runtime.End{Time: at, Why: "Kernel panic\nnot syncing"}},
		Waiting:    &runtime.Waiting{Since: at, Tries: 4, Why: "port 5432\nis in use"},
		Trial:      &runtime.Trial{Kind: "update", Slot: "b", Attempt: 1, Limit: runtime.Duration(time.Minute)},
		LastUpdate: &runtime.Outcome{Kind: "rollback", Time: at, Why: "it panics"},
	}
	var b strings.Builder
	if err := (&session{}).writeStatus(&b, []MachineStatus{{Name: "sql", State: "ready", Supervision: s}}); err != nil {
		t.Fatal(err)
	}
	want := `sql ready
wanted up restarts always, at most 10 in a row
ended 3 times, 2 in a row last 2026-01-02T03:04:05Z: Kernel panic not syncing
waiting 4 tries since 2026-01-02T03:04:05Z: port 5432 is in use
slot a active, sha256:111111111111 /x
slot b previous, sha256:222222222222 /y
update slot b being tried, 1m0s to become healthy
last rollback 2026-01-02T03:04:05Z reverted: it panics
`
	if got := squeeze(b.String()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
