package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/port"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/sums"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// fake stands in for pkg/build and a sovereignd: it keeps what it was asked and
// answers with err, or a good result.
type fake struct {
	fakeHost
	build BuildRequest
	lock  LockRequest
	// outdated is what there is of newer versions.
	outdated []source.Outdated
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

func (f *fake) Rebuild(_ context.Context, r BuildRequest, _ *lock.Lock) (*BuildResult, error) {
	return f.Build(context.Background(), r)
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

// call runs the CLI with fakes and returns its exit code and streams.
func call(t *testing.T, ctx context.Context, f *fake, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &CLI{Args: args, Env: []string{"SOURCE_DATE_EPOCH=17"}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Builder: f, Dial: f.dial}
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
		f := &fake{fakeHost: fakeHost{err: fault.Errorf(class, "it broke").Hintf("mend it")}}
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

// An error about many things is a list under --json, and its sentences are for
// people.
func TestFindings(t *testing.T) {
	symbol := kernel.Lost{Asked: kernel.Asked{Setting: kernel.Setting{Symbol: "VIRTIO_BLK", Value: "y", Reason: "The root disk."}}, Got: "n", Loss: kernel.Dropped}
	for _, tt := range []struct {
		err                    error
		text, said, inFindings string
	}{
		{&kernel.UnmetError{File: "kernel.config", Unmet: []kernel.Unmet{{Set: "virtio", Lost: symbol}}},
			"kernel.config does not meet its kernel requirements:\n    virtio: CONFIG_VIRTIO_BLK must be y and is n: The root disk.\n",
			"kernel.config does not meet its kernel requirements", `{"set":"virtio","symbol":"VIRTIO_BLK","value":"y"`},
		{&kernel.LostError{Lost: []kernel.Lost{symbol}, Asked: 4},
			"kernel: 1 of 4 symbols asked for are not in the final .config\n",
			"kernel: 1 of 4 symbols asked for are not in the final .config", `{"symbol":"VIRTIO_BLK","value":"y"`},
		{&port.UnfitError{Port: "zlib", Problems: []apk.Problem{{Path: "usr/lib/libz.so", What: "points to /src"}}},
			"port zlib: 1 files are not fit for an image:\n    usr/lib/libz.so points to /src\n",
			"port zlib: 1 files are not fit for an image", `{"path":"usr/lib/libz.so","what":"points to /src"}`},
		{&build.StaleError{Lock: "a.lock", Stale: []source.Stale{{Name: "go", Why: "not locked", Missing: true}, {Name: "zlib", Why: "gone"}}},
			"a.lock is stale: go: not locked; zlib: gone\n",
			"a.lock is stale: go: not locked; zlib: gone", `{"name":"go","why":"not locked","missing":true,"undeclared":false},{"name":"zlib"`},
		{&build.SumsError{Sums: &build.Sums{Path: "s.sums", Differences: []sums.Difference{{Step: "root", Output: "root.img", Have: "sha256:1"}}}},
			"s.sums: root: root.img is not in the sums\n",
			"s.sums: root: root.img is not in the sums", `{"step":"root","output":"root.img","have":"sha256:1","same_inputs":false}`},
	} {
		f := &fake{fakeHost: fakeHost{err: fault.Errorf(fault.Verification, "%w", tt.err)}}
		if code, out, errs := call(t, t.Context(), f, "build", "x"); code != 6 || out != "" || !strings.HasPrefix(errs, "sovereign-build: "+tt.text) {
			t.Errorf("exit %d, stdout %q, stderr %q, want %q", code, out, errs, tt.text)
		}
		code, out, _ := call(t, t.Context(), f, "build", "x", "--json")
		var got failure
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 6 || got.Error != tt.said || !strings.Contains(out, `"findings":[`+tt.inFindings) {
			t.Errorf("exit %d, %v, %s", code, err, out)
		}
	}
}

func TestFailedStep(t *testing.T) {
	step := &engine.StepError{Name: "zlib 1.3.1-r0 (amd64)", ExitCode: 2, Tail: []string{"cc: oh no", "make: stop"}, Log: "/logs/zlib.log"}
	f := &fake{fakeHost: fakeHost{err: fault.Errorf(fault.Step, "%w", step)}}
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
	f := &fake{fakeHost: fakeHost{err: fault.Errorf(fault.Step, "signal: interrupt")}}
	code, _, errs := call(t, ctx, f, "build", "x")
	if code != 130 || errs != "sovereign-build: cancelled\n" {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
}

func TestRunDetached(t *testing.T) {
	f, dir := &fake{}, newBundle(t)
	code, out, errs := call(t, t.Context(), f, "run", dir, "--detach", "--json", "--port", "5432:15432", "--memory", "1GiB", "--accel", "tcg", "--bounce")
	if want := `{"name":"sql","ports":{"5432":40001,"80":40002},"accel":"tcg"}` + "\n"; code != 0 || out != want {
		t.Errorf("exit %d\ngot  %s\nwant %s\n%s", code, out, want, errs)
	}
	o := f.up
	if !o.Replace || o.Restart != runtime.RestartNever || o.Ports[5432] != 15432 || o.MemoryMiB != 1024 || o.Accel != "tcg" || *o.Outbound || !*o.Bounce {
		t.Errorf("options %+v", o)
	}
	_, out, errs = call(t, t.Context(), f, "run", dir, "-d")
	want := `sql is ready, port 80 at 127.0.0.1:40002, port 5432 at 127.0.0.1:40001
connect: psql "$(sovereign-build dsn sql)"
stop:    sovereign-build stop sql
`
	if out != want || !strings.Contains(errs, "  install  installing "+dir) || !strings.Contains(errs, "  ready    ready") {
		t.Errorf("\ngot  %s\nwant %s\nstderr %q", out, want, errs)
	}
	// On another computer, the words say so.
	_, out, _ = call(t, t.Context(), f, "run", dir, "-d", "--device", "exec:to 'nas'")
	want = `sql is ready, port 80 at 127.0.0.1:40002 of exec, port 5432 at 127.0.0.1:40001 of exec
connect: sovereign-build psql sql --device 'exec:to '\''nas'\'''
stop:    sovereign-build stop sql --device 'exec:to '\''nas'\'''
`
	if out != want {
		t.Errorf("\ngot  %s\nwant %s", out, want)
	}
}

func TestRunForeground(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{}
	stopping := runtime.Status{Name: "sql", State: runtime.Stopped}
	watches := 0
	f.watched = func(int) {
		if watches++; watches == 2 { // the first waited for the services
			cancel()
		}
	}
	code, out, errs := call(t, ctx, f, "run", newBundle(t))
	if got := strings.Join(f.calls, ", "); code != 0 || got != "install, down sql 2m0s" || !strings.HasSuffix(errs, "stopping sql\nsql is stopped, after 1.5 s\n") {
		t.Errorf("exit %d after %s, stderr %q", code, got, errs)
	}
	if strings.Contains(out, "value of") {
		t.Errorf("the password is on the terminal: %s", out)
	}

	for _, tt := range []struct {
		last runtime.Status
		code int
		want string
	}{
		{runtime.Status{Name: "sql", State: runtime.Exited, Dir: "/s/sql", Message: "Kernel panic"}, int(fault.Device), "sovereign-build: the machine of sql has ended by itself: Kernel panic\nhint: read /s/sql/console.log\n"},
		{stopping, 0, "sql was stopped\n"},
	} {
		f = &fake{}
		f.statuses = []runtime.Status{f.readyStatus(), f.readyStatus(), tt.last}
		if code, _, errs := call(t, t.Context(), f, "run", newBundle(t)); code != tt.code || !strings.HasSuffix(errs, tt.want) {
			t.Errorf("exit %d, %q", code, errs)
		}
	}
}

// A machine that does not start is given up by run, and says why; up goes on.
func TestRunDoesNotStart(t *testing.T) {
	for verb, want := range map[string]struct{ calls, hint string }{
		"run": {"install, down sql 2m0s", "hint: choose another\n"},
		"up":  {"install", "hint: choose another; sovereignd goes on trying\n"},
	} {
		f := &fake{}
		s := f.readyStatus()
		s.State, s.PID, s.Guest = runtime.Restarting, 0, nil
		s.Supervision.Waiting = &runtime.Waiting{Tries: 1, Why: "port 5432 is in use", Hint: "choose another"}
		f.statuses = []runtime.Status{s}
		code, _, errs := call(t, t.Context(), f, verb, newBundle(t), "--port", "5432:15432")
		if got := strings.Join(f.calls, ", "); code != int(fault.Environment) || got != want.calls || !strings.HasSuffix(errs, "sovereign-build: sql does not start: port 5432 is in use\n"+want.hint) {
			t.Errorf("%s: exit %d after %s, %q", verb, code, got, errs)
		}
	}
}

func TestSmallCommands(t *testing.T) {
	tests := []struct{ args, want string }{
		{"dsn sql", "postgres://postgres:value%20of%20password@127.0.0.1:40001/5432\n"},
		{"dsn sql --json", `{"name":"sql","url":"postgres://postgres:value%20of%20password@127.0.0.1:40001/5432"}` + "\n"},
		{"stop sql", "sql is stopped, after 1.5 s\n"},
		{"stop sql --json", `{"name":"sql","was_running":true,"forced":false,"seconds":1.5}` + "\n"},
		{"status", "forge stopped\nsql ready\n port 80 127.0.0.1:40002\n port 5432 127.0.0.1:40001\n postgresql running, healthy 0 restarts\n wanted up restarts always, at most 10 in a row\n"},
		{"status sql --json", `{"machines":[{"name":"sql","state":"ready","ports":{"5432":40001,"80":40002},"clock":"rtc","services":[{"name":"postgresql","state":"running","healthy":true,"restarts":0}],"supervision":{"wanted":"up","policy":{"restart":"always","limit":10},"sovereignd":true,"active":"","slots":null,"ends":{"total":0,"in_a_row":0},"gave_up":false}}]}` + "\n"},
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

// Every command has a summary, an example, its exit codes, and a topic of help.
func TestHelp(t *testing.T) {
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || cmd.Example == "" || !strings.Contains(cmd.Long, "EXIT STATUS\n\n    0  success\n") {
			t.Errorf("help of %s lacks something", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			look(sub)
		}
	}
	s := &session{CLI: &CLI{}}
	root := s.root()
	for _, cmd := range root.Commands() {
		look(cmd)
	}
	if !root.AllChildCommandsHaveGroup() {
		t.Error("a command is in no topic")
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
