package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// callWith is call with standard input.
func callWith(t *testing.T, ctx context.Context, f *fake, in string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &CLI{Args: args, Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errs, Builder: f, Dial: f.dial}
	code = c.Run(ctx)
	return code, out.String(), errs.String()
}

func TestExec(t *testing.T) {
	tests := []struct {
		args      []string
		code      int
		out, errs string
	}{
		{[]string{"exec", "sql", "--", "cat"}, 0, "", ""},
		{[]string{"exec", "sql", "-i", "--user", "postgres", "-e", "A=1=2", "-w", "/tmp", "--", "cat", "-n"}, 0, "typed", ""},
		{[]string{"exec", "sql", "fails"}, 7, "", "it fails"},
		{[]string{"exec", "sql", "missing"}, notRun, "", "sovereign-build: guest agent: exec [\"missing\"]: no program missing\n"},
		{[]string{"exec", "other", "--", "true"}, notRun, "", "sovereign-build: there is no instance \"other\"\n"},
		{[]string{"exec", "sql"}, notRun, "", "sovereign-build: sovereign-build exec: COMMAND is missing\nhint: run sovereign-build exec NAME -- COMMAND [ARGUMENT...] [flags]\n"},
		{[]string{"exec", "sql", "-e", "A", "--", "true"}, notRun, "", "sovereign-build: --env \"A\" is not NAME=VALUE\n"},
		{[]string{"exec", "sql", "-t", "--", "sh"}, notRun, "", "sovereign-build: --tty needs a terminal as standard input\nhint: leave --tty out\n"},
		{[]string{"exec", "sql", "--json", "--", "fails"}, 7, `{"name":"sql","exit_code":7,"stdout":"","stderr":"it fails","truncated":false}` + "\n", ""},
		{[]string{"exec", "sql", "--json", "-i", "--", "cat"}, 0, `{"name":"sql","exit_code":0,"stdout":"typed","stderr":"","truncated":false}` + "\n", ""},
		{[]string{"exec", "sql", "--json", "--", "missing"}, notRun, `{"error":"guest agent: exec [\"missing\"]: no program missing","class":"device","code":125,"hint":""}` + "\n", ""},
		{[]string{"psql", "sql"}, 0, "typed", ""},
		{[]string{"psql", "sql", "extra"}, notRun, "", "sovereign-build: sovereign-build psql: one argument too many: \"extra\"\nhint: run sovereign-build psql NAME [-- ARGUMENT...] [flags]\n"},
		{[]string{"psql", "sql", "--", "-c", "select 1"}, 0, "typed", ""},
	}
	for _, tt := range tests {
		code, out, errs := callWith(t, t.Context(), &fake{}, "typed", tt.args...)
		if code != tt.code || out != tt.out || errs != tt.errs {
			t.Errorf("%q: exit %d, %q, %q", tt.args, code, out, errs)
		}
	}
	f := &fake{}
	callWith(t, t.Context(), f, "", "exec", "sql", "-u", "ann", "-e", "A=1=2", "-w", "/tmp", "--", "cat", "--", "-n")
	callWith(t, t.Context(), f, "", "psql", "sql", "--", "-c", "select 1")
	want := `exec ["cat" "--" "-n"] as "ann" in "/tmp" with map[A:1=2], exec ["psql" "-c" "select 1"] as "postgres" in "" with map[]`
	if got := strings.Join(f.calls, ", "); got != want {
		t.Errorf("\ngot  %s\nwant %s", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, _, _ := callWith(t, ctx, f, "", "exec", "sql", "--", "hangs"); code != 130 {
		t.Errorf("cancelled: exit %d", code)
	}
}

func TestLimited(t *testing.T) {
	var l limited
	for range 3 {
		if n, err := l.Write(make([]byte, 1<<19)); n != 1<<19 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if !l.cut || l.Len() != 1<<20 {
		t.Errorf("%d bytes, cut %v", l.Len(), l.cut)
	}
}

func TestLogs(t *testing.T) {
	tests := []struct{ args, out, call string }{
		{"logs sql", "init       | up\npostgresql | [31mready\n", "logs init false, logs forge false, logs postgresql false, logs tailscale false"},
		{"logs sql init -f", "up\n", "logs init true"},
		{"logs sql --json", `{"service":"init","text":"up"}` + "\n" + `{"service":"postgresql","text":"[31mready"}` + "\n", "logs init false, logs forge false, logs postgresql false, logs tailscale false"},
	}
	for _, tt := range tests {
		f := &fake{}
		code, out, errs := call(t, t.Context(), f, strings.Fields(tt.args)...)
		if code != 0 || out != tt.out || strings.Join(f.calls, ", ") != tt.call {
			t.Errorf("%s: exit %d %s %q %v", tt.args, code, errs, out, f.calls)
		}
	}
}

func TestSecretCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("tskey-1\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args, in string
		code     int
		call     string
		stderr   string
	}{
		{"secret set sql tailscale/auth-key --from-file " + file, "", 0, `set {tailscale auth-key} "tskey-1"`, ""},
		{"secret set sql tailscale/auth-key --from-file -", "tskey-2\n", 0, `set {tailscale auth-key} "tskey-2"`, ""},
		{"secret set sql tailscale/auth-key --from-file -", "\n", 2, "", "has 0 bytes"},
		{"secret set sql tailscale/auth-key --from-file -", strings.Repeat("x", agent.MaxSecret+1), 2, "", "want 1 to 4096"},
		{"secret set sql tailscale/auth-key", "", 2, "", "--from-file is missing"},
		{"secret set sql auth-key --from-file -", "", 2, "", `"auth-key" is not SERVICE/SECRET`},
		{"secret set sql tailscale/auth-key --from-file /nowhere", "", 3, "", "no such file"},
		{"secret rotate sql", "", 0, "rotate {postgresql password}", ""},
		{"secret rotate sql forge/token", "", 0, "rotate {forge token}", ""},
		{"secret rotate sql forge/a/b", "", 2, "", "is not SERVICE/SECRET"},
		{"secret rotate", "", 2, "", "NAME is missing"},
	}
	for _, tt := range tests {
		f := &fake{}
		code, out, errs := callWith(t, t.Context(), f, tt.in, strings.Fields(tt.args)...)
		if code != tt.code || strings.Join(f.calls, ",") != tt.call || !strings.Contains(errs, tt.stderr) || strings.Contains(out+errs, "tskey") {
			t.Errorf("%s: exit %d, %q, %q, %v", tt.args, code, out, errs, f.calls)
		}
	}
	code, _, errs := call(t, t.Context(), &fake{fakeHost: fakeHost{manySecrets: true}}, "secret", "rotate", "sql")
	if code != 2 || !strings.Contains(errs, "choose one of: postgresql/password, forge/token") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestInstanceCommands(t *testing.T) {
	tests := []struct{ args, want string }{
		{"credentials sql", "postgresql, port 5432 postgres://postgres:value%20of%20password@127.0.0.1:40001/5432\npostgresql/password value of password\n"},
		{"credentials sql tailscale/auth-key", "value of auth-key\n"},
		{"credentials sql --json", `{"name":"sql","urls":[{"port":5432,"name":"postgresql","url":"postgres://postgres:value%20of%20password@127.0.0.1:40001/5432"}],"secrets":[{"service":"postgresql","name":"password","value":"value of password"}]}` + "\n"},
		{"secret rotate sql --json", `{"name":"sql","secret":{"service":"postgresql","name":"password"}}` + "\n"},
		{"balloon sql 256MiB", "sql has 256.0 MiB of 512.0 MiB\n"},
		{"balloon sql --json", `{"name":"sql","now":536870912,"max":536870912}` + "\n"},
		{"grow sql 16GiB", "the data disk of sql has 16GiB, it had 8GiB; its file system too\n"},
		{"grow sql 64GiB", "the data disk of sql has 64GiB, it had 8GiB; its file system grows at the next boot\n"},
		{"grow sql 16GiB --json", `{"name":"sql","before":8589934592,"size":17179869184,"online":true}` + "\n"},
		{"boot-chart sql --json", `{"name":"sql","phases":[{"name":"kernel","start_ms":0,"end_ms":800},{"name":"postgresql: setup","start_ms":800,"end_ms":1000}]}` + "\n"},
	}
	for _, tt := range tests {
		code, out, errs := call(t, t.Context(), &fake{}, strings.Fields(tt.args)...)
		if code != 0 || squeeze(out) != squeeze(tt.want) {
			t.Errorf("%s: exit %d %s\ngot  %q\nwant %q", tt.args, code, errs, out, tt.want)
		}
	}
	for _, args := range []string{"grow sql much", "grow sql", "balloon sql 1GB", "balloon"} {
		if code, _, errs := call(t, t.Context(), &fake{}, strings.Fields(args)...); code != int(fault.Usage) {
			t.Errorf("%s: exit %d %s", args, code, errs)
		}
	}
	svg := filepath.Join(t.TempDir(), "b.svg")
	code, out, _ := call(t, t.Context(), &fake{}, "boot-chart", "sql", "--svg", svg)
	if image, err := os.ReadFile(svg); err != nil || code != 0 || !bytes.HasPrefix(image, []byte("<svg")) || !strings.Contains(out, "kernel") {
		t.Errorf("exit %d, %v, %q", code, err, out)
	}
}

func TestReindex(t *testing.T) {
	f := &fake{}
	code, out, errs := call(t, t.Context(), f, "reindex", "sql", "--json")
	if code != 0 || out != `{"exit_code":0,"name":"sql"}`+"\n" || errs != "nothing to do\n" || !strings.Contains(f.calls[0], `as "postgres"`) {
		t.Errorf("exit %d, %q, %q, %v", code, out, errs, f.calls)
	}
}

func TestConsole(t *testing.T) {
	code, out, errs := callWith(t, t.Context(), &fake{}, "off\n", "console", "sql")
	if code != 0 || out != "the last lines\nhello\r\n" || errs != "" {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var heard bytes.Buffer
	c := &CLI{Args: []string{"console", "sql"}, Stdin: strings.NewReader(""), Stdout: writerFunc(func(p []byte) (int, error) {
		heard.Write(p)
		if strings.Contains(heard.String(), "hello") {
			cancel()
		}
		return len(p), nil
	}), Stderr: io.Discard, Dial: (&fake{}).dial}
	if code := c.Run(ctx); code != 0 {
		t.Errorf("ended from outside: exit %d", code)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// The escape key ends it, and nothing from it on is sent.
func TestEscape(t *testing.T) {
	for _, tt := range []struct {
		keys   string
		escape bool
		sent   string
		typed  bool
	}{
		{"ls\r\x03\x1dmore", true, "ls\r\x03", true},
		{"\x1d", true, "", true},
		{"ls\x1d", false, "ls\x1d", false},
		{"", true, "", false},
	} {
		var sent bytes.Buffer
		if typed, err := send(&sent, strings.NewReader(tt.keys), tt.escape); typed != tt.typed || err != nil || sent.String() != tt.sent {
			t.Errorf("%q: %q, %v, %v", tt.keys, sent.String(), typed, err)
		}
	}
}

func TestWatchStatus(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f := &fake{}
	starting := f.readyStatus()
	starting.Guest = nil
	f.statuses = []runtime.Status{starting, starting, f.readyStatus()}
	var out lineWriter
	out.each = func(line string) {
		if strings.Contains(line, "commits_per_second") {
			cancel()
		}
	}
	c := &CLI{Args: strings.Fields("status sql --watch --interval 100ms --json"), Stdout: &out, Stderr: &out, Dial: f.dial}
	code := c.Run(ctx)
	lines := out.lines
	if code != 0 || len(lines) < 3 || !strings.Contains(lines[0], `"running"`) || !strings.Contains(lines[1], `"ready"`) {
		t.Errorf("exit %d, %q", code, lines)
	}
	var got struct{ Machines []MachineStatus }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		t.Fatal(err)
	}
	m := got.Machines[0]
	if l := m.Load; l == nil || l.Memory != 256<<20 || l.MemoryMax != 512<<20 {
		t.Errorf("%+v", m.Load)
	}
	if l := m.Services[0].Load; l.Memory != 100<<20 || *l.CPU != 0.25 || *l.Commits != 20 {
		t.Errorf("%+v", l)
	}
	if got := m.Services[0].Load.String(); got != "25 % CPU, 100.0 MiB, 20 commits/s" {
		t.Error(got)
	}
	if code, _, _ := call(t, t.Context(), &fake{}, "status", "--watch", "--interval", "1ms"); code != int(fault.Usage) {
		t.Errorf("exit %d", code)
	}
	if code, _, errs := call(t, t.Context(), &fake{}, "status", "nobody", "--watch"); code != int(fault.Usage) {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// lineWriter has each line that is written.
type lineWriter struct {
	lines []string
	each  func(string)
}

func (l *lineWriter) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		l.lines = append(l.lines, line)
		l.each(line)
	}
	return len(p), nil
}

func TestStatusText(t *testing.T) {
	var b strings.Builder
	err := (&session{}).writeStatus(&b, []MachineStatus{{Name: "sql", State: "degraded", Message: "postgresql", Data: &DataStatus{Size: 8 << 30, Free: 100 << 20, NearlyFull: true}, Clock: "unset",
		Services: []ServiceStatus{
			{Name: "postgresql", State: "running", Healthy: true, Message: "m", Warning: "collations have changed"},
			{Name: "tailscale", State: "backoff", Optional: true, Restarts: 3, Message: "no key"},
		}}})
	want := `sql degraded postgresql
 data disk 100.0 MiB of 8192.0 MiB are free nearly full: sovereign-build grow sql SIZE makes it larger
 clock unset the guest's time is wrong: it found no clock and no time server
 postgresql running, healthy 0 restarts warning: collations have changed
 tailscale backoff, not healthy (optional) 3 restarts no key
`
	if err != nil || squeeze(b.String()) != squeeze(want) {
		t.Errorf("%v\ngot  %s\nwant %s", err, b.String(), want)
	}
	m := MachineStatus{}.guest(&agent.Status{Clock: agent.ClockNTP, Data: &agent.Data{Size: 10 << 30, Free: 1 << 30}})
	if m.Clock != "ntp" || m.Data.NearlyFull {
		t.Errorf("%+v %+v", m, m.Data)
	}
	for _, d := range []agent.Data{{Size: 10 << 30, Free: 1<<30 - 1000}, {Size: 1 << 30, Free: 200 << 20}} {
		if m := (MachineStatus{}).guest(&agent.Status{Data: &d}); !m.Data.NearlyFull {
			t.Errorf("%+v is not nearly full", d)
		}
	}
}

func TestDoctor(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Chdir(t.TempDir()) // no bundle here
	code, out, errs := call(t, t.Context(), &fake{}, "doctor", "--json", "--only", "run", "--cache-dir", t.TempDir())
	var got struct {
		Healthy  bool
		Findings []struct{ For, Check, Level, Text, Mend string }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Findings) < 5 || code != 0 && code != int(fault.Environment) || got.Healthy != (code == 0) {
		t.Errorf("exit %d, %v, %q, %q", code, err, out, errs)
	}
	for _, f := range got.Findings {
		if f.For != "run" || f.Level != "ok" && f.Mend == "" {
			t.Errorf("%+v", f)
		}
	}
	// Without PATH there is no QEMU.
	t.Setenv("PATH", t.TempDir())
	code, out, _ = call(t, t.Context(), &fake{}, "doctor")
	if code != int(fault.Environment) || !strings.Contains(out, "needed things are missing") || !strings.Contains(out, "to mend: on Debian, apt-get install qemu") {
		t.Errorf("exit %d, %q", code, out)
	}
	for _, args := range []string{"doctor --only both", "doctor ./nothing", "doctor a b"} {
		if code, _, _ := call(t, t.Context(), &fake{}, strings.Fields(args)...); code != int(fault.Usage) {
			t.Errorf("%s: exit %d", args, code)
		}
	}
}

func TestCompletion(t *testing.T) {
	tests := []struct{ args, want string }{
		{"logs", "forge sql :4"},
		{"logs sql", "init forge postgresql tailscale :4"},
		{"logs sql init", "init forge postgresql tailscale :4"},
		{"logs nobody", ":4"},
		{"exec", "forge sql :4"},
		{"secret rotate", "forge sql :4"},
		{"secret rotate sql", "postgresql/password :4"},
		{"secret rotate sql postgresql/password", ":4"},
		{"stop", "forge sql :4"},
		{"stop sql", ":4"},
		{"run", "forge sql :0"},
		{"forward sql", "5432 80 :4"},
		{"status --device", "local :4"},
		{"completion", "bash zsh fish :4"},
	}
	for _, tt := range tests {
		code, out, errs := call(t, t.Context(), &fake{}, append(append([]string{"__complete"}, strings.Fields(tt.args)...), "")...)
		if got := strings.Join(strings.Fields(out), " "); code != 0 || got != tt.want {
			t.Errorf("%s: exit %d %q, want %q (%s)", tt.args, code, got, tt.want, errs)
		}
	}
}

func TestProgress(t *testing.T) {
	var said []string
	report := progress(func(line string) { said = append(said, line) })
	report(runtime.Event{Phase: runtime.PhaseKernel, Text: "the kernel boots"})
	if len(said) != 1 || !strings.HasSuffix(said[0], " s  kernel   the kernel boots") {
		t.Errorf("%q", said)
	}
}
