package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// fake stands in for pkg/build and pkg/runtime: it keeps what it was asked
// and answers with err, or a good result.
type fake struct {
	statuses    func() []MachineStatus // nil: one machine that is ready
	manySecrets bool

	err   error
	build BuildRequest
	lock  LockRequest
	// outdated is what there is of newer versions.
	outdated []source.Outdated

	run   RunRequest
	calls []string
	watch func(ctx context.Context) error
	up    UpRequest
	// result and why are what an update comes to.
	result, why string
}

func (f *fake) Build(_ context.Context, r BuildRequest) (*BuildResult, error) {
	f.build = r
	f.calls = append(f.calls, "build")
	if f.err != nil {
		return nil, f.err
	}
	return &BuildResult{Name: "sql", Arch: "amd64", Bundle: "dist/sql-amd64", Digest: "sha256:12", StepsRun: 1, StepsCached: 20, Seconds: 2.5,
		Reasons: []string{"zlib 1.3.1 (amd64): build.sh changed"}, Changed: []string{"tzdata"}}, nil
}

func (f *fake) Plan(_ context.Context, r BuildRequest) (*build.Plan, error) {
	f.build = r
	f.calls = append(f.calls, "plan")
	return &build.Plan{Name: "sql", Arch: "amd64", Steps: []build.PlannedStep{
		{Step: "kernel amd64", Reason: "config changed", Engine: true}, {Step: "port zlib amd64", Cached: true, Engine: true},
	}}, f.err
}

func (f *fake) Repro(_ context.Context, r BuildRequest, only []string) (*ReproResult, error) {
	f.build = r
	f.calls = append(f.calls, "repro "+strings.Join(only, ","))
	if f.err != nil {
		return nil, f.err
	}
	return &ReproResult{Name: "sql", Arch: "amd64", Same: len(only) == 0, First: "sha256:12", Second: "sha256:13", Kept: "/cache/repro/sql",
		Steps: []build.ReproStep{{Name: "port zlib amd64", Outputs: []build.ReproOutput{{Name: "apk zlib", First: store.FromBytes([]byte("1")), Second: store.FromBytes([]byte("2")),
			Changes: []rootfs.Change{{Path: "usr/lib/libz.so.1", Kind: rootfs.Changed, Bytes: &rootfs.BytesChange{Offset: 40, Before: "00", After: "ff"}}}}}}}}, nil
}

func (f *fake) Lock(_ context.Context, r LockRequest) (*LockResult, error) {
	f.lock = r
	return &LockResult{Lock: "recipes/sql/sovereign.lock", Inputs: 12, Changes: []string{"zlib 1.3 → 1.3.1"}, Notes: []string{"zlib: 1.3.2 is listed"}}, f.err
}

func (f *fake) Outdated(_ context.Context, r LockRequest) (*OutdatedResult, error) {
	f.lock = r
	return &OutdatedResult{Lock: "recipes/sql/sovereign.lock", Inputs: 12, Outdated: f.outdated}, f.err
}

func (f *fake) Start(_ context.Context, r RunRequest, report func(string)) (*Machine, error) {
	f.run = r
	f.calls = append(f.calls, "start")
	if f.err != nil {
		return nil, f.err
	}
	report("booting")
	return &Machine{Name: "sql", Ports: map[string]int{"5432": 40001, "80": 40002}, Accel: "tcg"}, nil
}

func (f *fake) Watch(ctx context.Context, _ string, _ func(string)) error {
	f.calls = append(f.calls, "watch")
	return f.watch(ctx)
}

func (f *fake) Stop(ctx context.Context, name string, _ time.Duration) (*StopResult, error) {
	f.calls = append(f.calls, "stop "+name)
	if ctx.Err() != nil {
		return nil, errors.New("the stop was cancelled too")
	}
	return &StopResult{Name: name, WasRunning: true, Seconds: 1.5}, f.err
}

func (f *fake) URL(context.Context, string, int) (string, error) {
	return "postgres://postgres:secret@127.0.0.1:40001/postgres?sslmode=disable", f.err
}

func (f *fake) Status(context.Context, string) ([]MachineStatus, error) {
	if f.statuses != nil {
		return f.statuses(), f.err
	}
	return []MachineStatus{{Name: "sql", State: "ready", Ports: map[string]int{"5432": 40001},
		Services: []ServiceStatus{{Name: "postgresql", State: "running", Healthy: true}}}}, f.err
}

// call runs the CLI with fakes and returns its exit code and streams.
func call(t *testing.T, ctx context.Context, f *fake, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &CLI{Args: args, Env: []string{"SOURCE_DATE_EPOCH=17"}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Builder: f, Runtime: f}
	code = c.Run(ctx)
	return code, out.String(), errs.String()
}

func TestBuild(t *testing.T) {
	f := &fake{}
	code, out, _ := call(t, t.Context(), f, "build", "recipes/sql", "--arch", "arm64", "-o", "out", "--repository", "a", "--repository", "b", "--offline", "-j", "4")
	if code != 0 {
		t.Fatalf("exit %d", code)
	}
	want := BuildRequest{Recipe: "recipes/sql", Arch: "arm64", Output: "out", Jobs: 4, Repositories: []string{"a", "b"}, Offline: true, SourceDateEpoch: "17", ProgressMode: "auto", StepTimeout: engine.DefaultStepTimeout}
	got := f.build
	got.Progress = nil
	if a, b := mustJSON(t, got), mustJSON(t, want); a != b {
		t.Errorf("\ngot  %s\nwant %s", a, b)
	}
	wantOut := `bundle  dist/sql-amd64
digest  sha256:12
steps   1 run, 20 cached, 2.5 s
ran     zlib 1.3.1 (amd64): build.sh changed
built from a changed lock: tzdata
`
	if out != wantOut {
		t.Errorf("\ngot  %s\nwant %s", out, wantOut)
	}

	_, out, _ = call(t, t.Context(), f, "build", "recipes/sql", "--json")
	wantOut = `{"name":"sql","arch":"amd64","bundle":"dist/sql-amd64","digest":"sha256:12","steps_run":1,"steps_cached":20,"seconds":2.5,"reasons":["zlib 1.3.1 (amd64): build.sh changed"],"changed":["tzdata"]}` + "\n"
	if out != wantOut {
		t.Errorf("\ngot  %s\nwant %s", out, wantOut)
	}
}

func TestPlan(t *testing.T) {
	f := &fake{}
	code, out, errs := call(t, t.Context(), f, "plan", "recipes/sql", "--arch", "arm64", "--frozen")
	if code != 0 || errs != "" || out != "would run: kernel amd64: config changed\n" || !f.build.Frozen || f.build.Arch != "arm64" || f.calls[0] != "plan" {
		t.Errorf("exit %d, %v, %+v, %q, stderr %q", code, f.calls, f.build, out, errs)
	}
	_, out, _ = call(t, t.Context(), f, "plan", "recipes/sql", "--json")
	want := `{"name":"sql","arch":"amd64","steps":[{"step":"kernel amd64","cached":false,"reason":"config changed","engine":true},{"step":"port zlib amd64","cached":true,"engine":true}]}` + "\n"
	if out != want {
		t.Errorf("\ngot  %s\nwant %s", out, want)
	}
	// A dry run is a plan in the form of a build's result.
	f.calls = nil
	code, out, _ = call(t, t.Context(), f, "build", "recipes/sql", "--dry-run")
	if code != 0 || out != "would run: kernel amd64: config changed\n" || f.calls[0] != "plan" {
		t.Errorf("exit %d, %v, %q", code, f.calls, out)
	}
	_, out, _ = call(t, t.Context(), f, "build", "recipes/sql", "--dry-run", "--json")
	var result BuildResult
	if err := json.Unmarshal([]byte(out), &result); err != nil || result.StepsCached != 1 || len(result.Reasons) != 1 || result.Arch != "amd64" {
		t.Errorf("%s, %v", out, err)
	}
	for _, args := range [][]string{{"build", "r", "--frozen", "--relock-missing"}, {"build", "r", "--frozen", "--repository", "x"}, {"plan", "r", "--frozen", "--repository", "x"}} {
		if code, _, errs := call(t, t.Context(), f, args...); code != int(fault.Usage) {
			t.Errorf("%v: exit %d, %s", args, code, errs)
		}
	}
}

func TestRepro(t *testing.T) {
	f := &fake{}
	code, out, errs := call(t, t.Context(), f, "repro", "recipes/sql", "--only", "port zlib", "--only", "root", "--arch", "arm64")
	if code != int(fault.Differ) || errs != "" || f.calls[0] != "repro port zlib,root" || f.build.Arch != "arm64" || f.build.Recipe != "recipes/sql" {
		t.Errorf("exit %d, %v, %+v, stderr %q", code, f.calls, f.build, errs)
	}
	for _, want := range []string{"DIFFERS port zlib amd64\n    apk zlib\n  ~ /usr/lib/libz.so.1\n", "byte 40: 00, ff", "1 of 1 steps differ", "kept in /cache/repro/sql"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	code, out, _ = call(t, t.Context(), f, "repro", "recipes/sql", "--json")
	var got ReproResult
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || !got.Same {
		t.Errorf("exit %d, %v, %q", code, err, out)
	}
	// One object, though it ends with an error's code.
	code, out, errs = call(t, t.Context(), f, "repro", "recipes/sql", "--json", "--only", "root")
	if code != int(fault.Differ) || strings.Count(out, "\n") != 1 || errs != "" {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
}

func TestErrors(t *testing.T) {
	for class, name := range map[fault.Class]string{
		fault.Usage: "usage", fault.Environment: "environment", fault.Source: "source", fault.Step: "step",
		fault.Verification: "verification", fault.Differ: "differ", fault.Device: "device", fault.Internal: "internal",
	} {
		f := &fake{err: fault.Errorf(class, "it broke").Hintf("mend it")}
		code, out, errs := call(t, t.Context(), f, "build", "x")
		if code != int(class) || out != "" || errs != "sovereign-build: it broke\nhint: mend it\n" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", name, code, out, errs)
		}
		code, out, errs = call(t, t.Context(), f, "build", "x", "--json")
		var got failure
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%s: %v in %q", name, err, out)
		}
		want := failure{Error: "it broke", Class: name, Code: int(class), Hint: "mend it"}
		if code != int(class) || !reflect.DeepEqual(got, want) || errs != "" {
			t.Errorf("%s: exit %d, %+v, stderr %q", name, code, got, errs)
		}
	}
}

func TestFailedStep(t *testing.T) {
	step := &engine.StepError{Name: "zlib 1.3.1-r0 (amd64)", ExitCode: 2, Tail: []string{"cc: oh no", "make: stop"}, Log: "/logs/zlib.log"}
	f := &fake{err: fault.Errorf(fault.Step, "%w", step)}
	code, _, errs := call(t, t.Context(), f, "build", "x")
	want := "sovereign-build: step \"zlib 1.3.1-r0 (amd64)\" ended with exit code 2; its whole log is /logs/zlib.log\n  | cc: oh no\n  | make: stop\n"
	if code != int(fault.Step) || errs != want {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
	_, out, _ := call(t, t.Context(), f, "build", "x", "--json")
	if want := `"log":"/logs/zlib.log","tail":["cc: oh no","make: stop"]`; !strings.Contains(out, want) {
		t.Errorf("stdout %q has no %s", out, want)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &fake{err: fault.Errorf(fault.Step, "signal: interrupt")}
	code, _, errs := call(t, ctx, f, "build", "x")
	if code != 130 || errs != "sovereign-build: cancelled\n" {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
}

func newBundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRunDetached(t *testing.T) {
	f, dir := &fake{}, newBundle(t)
	code, out, _ := call(t, t.Context(), f, "run", dir, "--detach", "--json", "--port", "5432:15432", "--memory", "1GiB", "--accel", "tcg")
	if want := `{"name":"sql","ports":{"5432":40001,"80":40002},"accel":"tcg"}` + "\n"; code != 0 || out != want {
		t.Errorf("exit %d\ngot  %s\nwant %s", code, out, want)
	}
	if f.run.Bundle != dir || f.run.Ports[5432] != 15432 || f.run.MemoryMiB != 1024 || f.run.Accel != "tcg" || f.run.Timeout != 5*time.Minute {
		t.Errorf("request %+v", f.run)
	}
	_, out, errs := call(t, t.Context(), f, "run", dir, "-d")
	want := `sql is ready, port 80 at 127.0.0.1:40002, port 5432 at 127.0.0.1:40001
connect: psql "$(sovereign-build dsn sql)"
stop:    sovereign-build stop sql
`
	if out != want || errs != "booting\n" {
		t.Errorf("\ngot  %s\nwant %s\nstderr %q", out, want, errs)
	}
}

func TestRunForeground(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{watch: func(ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() }}
	code, out, errs := call(t, ctx, f, "run", newBundle(t))
	if got := strings.Join(f.calls, ", "); code != 0 || got != "start, watch, stop sql" {
		t.Errorf("exit %d after %s, stderr %q", code, got, errs)
	}
	if strings.Contains(out, "secret") {
		t.Errorf("the password is on the terminal: %s", out)
	}

	f = &fake{watch: func(context.Context) error { return fault.Errorf(fault.Device, "the guest has died") }}
	if code, _, _ := call(t, t.Context(), f, "run", newBundle(t)); code != int(fault.Device) {
		t.Errorf("exit %d when the guest died", code)
	}
}

func TestSmallCommands(t *testing.T) {
	tests := []struct{ args, want string }{
		{"dsn sql", "postgres://postgres:secret@127.0.0.1:40001/postgres?sslmode=disable\n"},
		{"dsn sql --json", `{"name":"sql","url":"postgres://postgres:secret@127.0.0.1:40001/postgres?sslmode=disable"}` + "\n"},
		{"stop sql", "sql is stopped, after 1.5 s\n"},
		{"stop sql --json", `{"name":"sql","was_running":true,"forced":false,"seconds":1.5}` + "\n"},
		{"status", "sql          ready             \n  port 5432  127.0.0.1:40001   \n  postgresql  running, healthy  0 restarts \n"},
		{"status sql --json", `{"machines":[{"name":"sql","state":"ready","ports":{"5432":40001},"services":[{"name":"postgresql","state":"running","healthy":true,"restarts":0}]}]}` + "\n"},
		{"lock recipes/sql --update zlib", "zlib 1.3 → 1.3.1\nnote: zlib: 1.3.2 is listed\nwrote recipes/sql/sovereign.lock, 12 inputs\n"},
		{"lock recipes/sql --outdated", "recipes/sql/sovereign.lock: nothing newer is listed for its 12 inputs\n"},
		{"lock recipes/sql --outdated --json", `{"lock":"recipes/sql/sovereign.lock","inputs":12,"outdated":null}` + "\n"},
	}
	for _, tt := range tests {
		code, out, errs := call(t, t.Context(), &fake{}, strings.Fields(tt.args)...)
		if code != 0 || squeeze(out) != squeeze(tt.want) {
			t.Errorf("%s: exit %d %s\ngot  %q\nwant %q", tt.args, code, errs, out, tt.want)
		}
	}
}

func TestLockOutdated(t *testing.T) {
	f := &fake{outdated: []source.Outdated{
		{Name: "pg", Locked: "17.11", Newer: []source.Offer{
			{Version: "17.13", Where: "debian:trixie/pg=17.13-1", Why: "listed, but the archive answers 404 for pg.tar"},
			{Version: "17.12", Where: "debian:trixie-security/pg=17.12-1", Available: true}},
			BeyondSeries: &source.Offer{Version: "18.1", Where: "debian:trixie/pg=18.1-1", Available: true}},
		{Name: "toolchain", Locked: "bookworm, 2 packages", Newer: []source.Offer{{Version: "bookworm, 2 packages, 1 others", Where: "debian:bookworm", Available: true, Packages: []string{"make 2"}}}},
	}}
	want := `pg 17.11
  17.13  debian:trixie/pg=17.13-1: listed, but the archive answers 404 for pg.tar
  17.12  debian:trixie-security/pg=17.12-1
  18.1   debian:trixie/pg=18.1-1 (not in the declared series)
toolchain bookworm, 2 packages
  bookworm, 2 packages, 1 others  debian:bookworm: make 2
recipes/sql/sovereign.lock: newer versions are listed for 2 of its 12 inputs; lock --update NAME takes one
`
	code, out, errs := call(t, t.Context(), f, "lock", "--outdated", "recipes/sql")
	if code != 0 || squeeze(out) != squeeze(want) || f.lock.Recipe != "recipes/sql" {
		t.Errorf("exit %d %s\n%s", code, errs, out)
	}
	for _, args := range []string{"--outdated --check", "--outdated --update zlib", "--check --update zlib"} {
		if code, _, errs := call(t, t.Context(), &fake{}, append(strings.Fields("lock recipes/sql"), strings.Fields(args)...)...); code != int(fault.Usage) {
			t.Errorf("%s: exit %d %s", args, code, errs)
		}
	}
}

// Every command has a summary, an example and its exit codes.
func TestHelp(t *testing.T) {
	s := &session{CLI: &CLI{}}
	root := s.root()
	for _, cmd := range append(root.Commands(), root.Commands()[0].Commands()...) {
		if cmd.Hidden {
			continue
		}
		if cmd.Short == "" || cmd.Example == "" || !strings.Contains(cmd.Long, "EXIT STATUS\n\n    0  success\n") {
			t.Errorf("help of %s lacks something", cmd.CommandPath())
		}
	}
}

// squeeze takes the widths of columns out of a comparison.
func squeeze(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return strings.Join(lines, "\n")
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
