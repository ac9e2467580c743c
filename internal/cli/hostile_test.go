package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// hostileWords are what a guest may say: it sets the clipboard, moves the
// cursor, turns the direction of writing, and forges lines of this program.
const hostileWords = "\x1b]52;c;ZXZpbA==\a\u009b2J\x1b[31m\u202e\u2066\x7f\xff\b\x00\nforged: line\r\nhint: forged\rforged: line\u2028forged: line\u0085forged: line\v\fforged: \t\tcell\x1b"

// hostile is a runtime whose guests say nothing else. With fails, that is what
// every error of it says too.
type hostile struct {
	*fake
	fails bool
}

func (h hostile) err() error {
	if h.fails {
		return fault.Errorf(fault.Device, "guest agent: %s", hostileWords).Hintf("look: %s", hostileWords)
	}
	return nil
}

func (h hostile) Names() ([]string, error) { return []string{"sql", hostileWords}, nil }

func (h hostile) Instance(context.Context, string) (Instance, error) {
	return hostileInstance{&fakeInstance{fake: h.fake}, h}, nil
}

func (h hostile) Start(ctx context.Context, r RunRequest, report func(string)) (*Machine, error) {
	m, err := h.fake.Start(ctx, r, report)
	report(hostileWords)
	return m, errors.Join(err, h.err())
}

func (h hostile) Watch(_ context.Context, _ string, report func(string)) error {
	report(hostileWords)
	return h.err()
}

func (h hostile) Up(ctx context.Context, r UpRequest, report func(string)) (*Machine, error) {
	m, err := h.fake.Up(ctx, r, report)
	report(hostileWords)
	return m, errors.Join(err, h.err())
}

func (h hostile) Stop(_ context.Context, name string, _ time.Duration) (*StopResult, error) {
	return &StopResult{Name: name, WasRunning: true, Forced: true, Why: hostileWords}, h.err()
}

func (h hostile) Restart(_ context.Context, name string, _, _ time.Duration, report func(string)) (*RestartResult, error) {
	report(hostileWords)
	return &RestartResult{StopResult: StopResult{Name: name, WasRunning: true, Forced: true, Why: hostileWords}}, h.err()
}

func (h hostile) Update(_ context.Context, name, _ string, _ time.Duration, report func(string)) (*UpdateResult, error) {
	return h.Rollback(context.Background(), name, 0, report)
}

func (h hostile) Rollback(_ context.Context, name string, _ time.Duration, report func(string)) (*UpdateResult, error) {
	report(hostileWords)
	return &UpdateResult{Name: name, Kind: "update", Result: updateReverted, Why: hostileWords}, h.err()
}

func (h hostile) URL(context.Context, string, int) (string, error) {
	return "postgres://owner:p@127.0.0.1:1/" + hostileWords, h.err()
}

func (h hostile) Status(context.Context, string) ([]MachineStatus, error) {
	return []MachineStatus{{
		Name: "sql", State: hostileWords, Message: hostileWords, Ports: map[string]int{"5432": 1},
		Data: &DataStatus{NearlyFull: true}, Clock: hostileWords,
		Services: []ServiceStatus{
			{Name: hostileWords, State: hostileWords, Message: hostileWords},
			{Name: hostileWords, State: hostileWords, Healthy: true, Warning: hostileWords},
		},
		Supervision: &Supervision{
			Wanted: runtime.Up, Active: "a", Slots: map[runtime.SlotName]runtime.Slot{"a": {Source: hostileWords}},
			Ends:       runtime.Ends{Total: 1, Last: &runtime.End{Why: hostileWords}},
			Trial:      &runtime.Trial{Why: hostileWords},
			LastUpdate: &runtime.Outcome{Why: hostileWords},
		},
	}}, h.err()
}

// hostileInstance is a machine of a hostile runtime.
type hostileInstance struct {
	*fakeInstance
	of hostile
}

func (i hostileInstance) Manifest() *bundle.Manifest {
	m := *i.fakeInstance.Manifest()
	m.Ports[0].Name = hostileWords
	return &m
}

func (i hostileInstance) URL(ctx context.Context, _ int) (string, error) { return i.of.URL(ctx, "", 0) }

func (i hostileInstance) Exec(_ context.Context, _ agent.ExecRequest, std agent.ExecIO) (int, error) {
	_, err := io.WriteString(std.Stdout, hostileWords)
	_, errs := io.WriteString(std.Stderr, hostileWords)
	return 0, errors.Join(err, errs, i.of.err())
}

func (i hostileInstance) Boot(context.Context) (agent.Boot, error) {
	return agent.Boot{Phases: []agent.Phase{{Name: hostileWords, EndMS: 1}}}, i.of.err()
}

func (i hostileInstance) LogNames() []string { return []string{hostileWords, "init"} }

func (i hostileInstance) Logs(_ context.Context, _ []string, _ bool, line func(runtime.LogLine) error) error {
	return errors.Join(line(runtime.LogLine{Service: hostileWords, Text: hostileWords}), i.of.err())
}

func (i hostileInstance) Secrets() []runtime.SecretRef {
	return []runtime.SecretRef{{Service: "postgresql", Name: hostileWords}}
}

func (i hostileInstance) Secret(context.Context, runtime.SecretRef) (string, error) {
	return hostileWords, i.of.err()
}

func (i hostileInstance) SetSecret(context.Context, runtime.SecretRef, string) error {
	return i.of.err()
}

func (i hostileInstance) RotateSecret(context.Context, runtime.SecretRef) error { return i.of.err() }

func (i hostileInstance) Memory(context.Context) (runtime.Memory, error) {
	return runtime.Memory{}, i.of.err()
}

func (i hostileInstance) Balloon(ctx context.Context, _ int64) (runtime.Memory, error) {
	return i.Memory(ctx)
}

func (i hostileInstance) Grow(context.Context, int64) (runtime.Grown, error) {
	return runtime.Grown{}, i.of.err()
}

func (i hostileInstance) ConsoleTail(int) string { return hostileWords }

// rawCommands carry a byte stream of the guest to whoever asked for it.
var rawCommands = []string{"exec", "psql", "console"}

// guestCommands are the command lines of all commands that take a machine's
// name, whatever is added to them later.
func guestCommands(t *testing.T) [][]string {
	t.Helper()
	dir := newBundle(t)
	more := map[string][]string{
		"run": {"--detach"}, "secret set": {"postgresql/password", "--from-file", "-"}, "grow": {"16GiB"}, "update": {dir},
	}
	var lines [][]string
	var walk func(path []string, cmd *cobra.Command)
	walk = func(path []string, cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(append(slices.Clone(path), sub.Name()), sub)
		}
		words := strings.Fields(cmd.Use)
		if len(path) == 0 || len(words) < 2 || !strings.HasPrefix(strings.TrimPrefix(words[1], "["), "NAME") || slices.Contains(rawCommands, path[0]) {
			return
		}
		name := "sql"
		if path[0] == "run" || path[0] == "doctor" {
			name = dir
		}
		line := append(slices.Clone(path), name)
		line = append(line, more[strings.Join(path, " ")]...)
		if cmd.Flags().Lookup("yes") != nil {
			line = append(line, "--yes")
		}
		lines = append(lines, line)
	}
	walk(nil, (&session{CLI: &CLI{}}).root())
	if len(lines) < 15 {
		t.Fatalf("only %q", lines)
	}
	return append(lines,
		[]string{"status"}, []string{"run", dir}, []string{"logs", "sql", "init"},
		[]string{"credentials", "sql", "postgresql/password"}, []string{"secret", "rotate", "sql", "postgresql/password"},
		[]string{cobra.ShellCompNoDescRequestCmd, "status", ""},
		[]string{cobra.ShellCompNoDescRequestCmd, "logs", "sql", ""},
		[]string{cobra.ShellCompNoDescRequestCmd, "credentials", "sql", ""},
	)
}

// Whatever a guest says, no command lets it drive a terminal or forge a line.
func TestHostileGuest(t *testing.T) {
	for _, line := range guestCommands(t) {
		for _, asJSON := range []bool{false, true} {
			for _, fails := range []bool{false, true} {
				args := line
				if asJSON {
					if line[0] == cobra.ShellCompNoDescRequestCmd {
						continue
					}
					args = append(slices.Clone(line), "--json")
				}
				h := hostile{&fake{}, fails}
				var out, errs bytes.Buffer
				c := &CLI{Args: args, Stdin: strings.NewReader("value"), Stdout: &out, Stderr: &errs, Builder: h.fake, Runtime: h}
				c.Run(t.Context())
				if out.Len()+errs.Len() == 0 {
					t.Errorf("%q says nothing: it is not tried", args)
				}
				for name, text := range map[string]string{"output": out.String(), "errors": errs.String()} {
					if why := obeyed(text); why != "" {
						t.Errorf("%q, fails %v: %s: %s\n%q", args, fails, name, why, text)
					}
					// What reindex shows are the lines of a program.
					if why := forged(text); why != "" && line[0] != "reindex" {
						t.Errorf("%q, fails %v: %s: %s\n%q", args, fails, name, why, text)
					}
				}
				if asJSON {
					for l := range strings.Lines(out.String()) {
						if !json.Valid([]byte(l)) {
							t.Errorf("%q: not JSON: %s", args, l)
						}
					}
				}
			}
		}
	}
}

// obeyed says what of a text a terminal would obey.
func obeyed(text string) string {
	if !utf8.ValidString(text) {
		return "it is not UTF-8"
	}
	for _, r := range text {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return fmt.Sprintf("it has the character %U", r)
		}
	}
	return ""
}

// forged is a line that passes for one of this program's own.
func forged(text string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "forged") || strings.HasPrefix(line, "hint: forged") {
			return "a line is forged: " + line
		}
	}
	return ""
}

// A value is printed as it is, or not at all.
func TestHostileSecret(t *testing.T) {
	h := hostile{&fake{}, false}
	var out, errs bytes.Buffer
	c := &CLI{Args: []string{"credentials", "sql", "postgresql/password"}, Stdout: &out, Stderr: &errs, Runtime: h}
	if code := c.Run(t.Context()); code != int(fault.Device) || out.Len() != 0 || !strings.Contains(errs.String(), "--json") {
		t.Errorf("exit %d, %q, %q", code, out.String(), errs.String())
	}
	errs.Reset()
	c.Args = append(c.Args, "--json")
	if code := c.Run(t.Context()); code != 0 {
		t.Fatalf("exit %d, %q", code, errs.String())
	}
	var got credentials
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Secrets[0].Value != strings.ToValidUTF8(hostileWords, "\ufffd") {
		t.Errorf("%v, %q", err, got.Secrets)
	}
}
