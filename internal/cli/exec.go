package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// notRun is the exit code of exec and psql when the program in the guest was
// not run, or was lost: what env, timeout, chroot and docker have for it. All
// other codes are the program's own.
const notRun = 125

const passesOnKey = "passes on the guest's exit code"

// passesOn says whether a command's exit code is that of a program in the
// guest.
func passesOn(cmd *cobra.Command) bool { return cmd.Annotations[passesOnKey] != "" }

// exitsLike notes the exit codes of a command that passes on the guest's.
func exitsLike(cmd *cobra.Command, program string) *cobra.Command {
	cmd.Annotations = map[string]string{passesOnKey: "yes"}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fault.Errorf(fault.Usage, "%w", err).Hintf("write -- before what is for %s", program)
	})
	cmd.Long = strings.TrimSpace(cmd.Long) + fmt.Sprintf(`

EXIT STATUS

    0  success
  125  %s was not run, or was ended before its end because the
       connection was lost, standard input could not be read or an
       output could not be written; standard error says why, and
       --json prints an object with "error"
  130  cancelled with Ctrl-C
  any other code is that of %[1]s, and 128 and a signal's number where
  a signal ended it`, program)
	return cmd
}

// execFlags are what exec and psql share.
type execFlags struct {
	agent.ExecRequest
	input bool // pass standard input
}

func (s *session) execCommand() *cobra.Command {
	var o execFlags
	var env []string
	cmd := &cobra.Command{
		Use:   "exec NAME -- COMMAND [ARGUMENT...]",
		Short: "Run a program in a running machine",
		Long: `Exec runs a program in the guest, beside its services, and ends as the program
ends. What the program prints comes out here. It reads nothing unless --stdin is
given, so that exec in a loop does not swallow the loop's own input; with --tty
it gets a terminal of its own, which is what a shell wants.

The program ends when exec is ended. With --json its output is collected, up to
1 MiB of each stream, and printed as one object with the exit code.`,
		Example: `  sovereign-build exec sql -- ps
  sovereign-build exec sql -it -- sh
  sovereign-build exec sql -i --user postgres -- psql < schema.sql`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return operands("NAME", "COMMAND")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.Env, err = variables(env); err != nil {
				return err
			}
			o.Argv = args[1:]
			return s.runExec(cmd.Context(), args[0], o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.input, "stdin", "i", false, "pass standard input to the program")
	f.BoolVarP(&o.TTY, "tty", "t", false, "give the program a terminal")
	f.StringVarP(&o.User, "user", "u", "", "`user` of the guest (default: root)")
	f.StringVarP(&o.Dir, "workdir", "w", "", "working `directory` (default: the user's home)")
	f.StringArrayVarP(&env, "env", "e", nil, "set a variable, as `NAME=VALUE`; may be given more than once. Not for secrets: this machine's process list shows it")
	return exitsLike(cmd, "the program")
}

func variables(list []string) (map[string]string, error) {
	m := make(map[string]string, len(list))
	for _, kv := range list {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return nil, fault.Errorf(fault.Usage, "--env %q is not NAME=VALUE", kv)
		}
		m[name] = value
	}
	return m, nil
}

// runExec runs the program and ends with its exit code.
func (s *session) runExec(ctx context.Context, name string, o execFlags) error {
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	switch {
	case s.json && o.TTY:
		return fault.Errorf(fault.Usage, "--json collects the output, and --tty is for people").Hintf("leave one of them out")
	case s.json:
		return s.collect(ctx, m, o)
	}
	std := agent.ExecIO{Stdout: s.Stdout, Stderr: s.Stderr}
	if o.input {
		std.Stdin = s.Stdin
	}
	var code int
	if o.TTY {
		code, err = s.execTerminal(ctx, m, o.ExecRequest, std)
	} else {
		code, err = m.Exec(ctx, o.ExecRequest, std)
	}
	return ended(code, err)
}

func ended(code int, err error) error {
	if err == nil && code != 0 {
		return told{code}
	}
	return err
}

// execTerminal puts this terminal into raw mode for the time of the program.
func (s *session) execTerminal(ctx context.Context, m *runtime.Machine, r agent.ExecRequest, std agent.ExecIO) (code int, err error) {
	tty, ok := terminal.Of(s.Stdin)
	if !ok {
		return 0, fault.Errorf(fault.Usage, "--tty needs a terminal as standard input").Hintf("leave --tty out")
	}
	r.Rows, r.Cols = terminal.Size(tty)
	if _, set := r.Env["TERM"]; !set {
		r.Env = withTerm(r.Env, s.env("TERM"))
	}
	restore, err := terminal.Raw(tty)
	if err != nil {
		return 0, err
	}
	defer func() {
		if restoreErr := restore(); err == nil {
			err = restoreErr
		}
	}()
	// A closed window, too, must give the terminal back.
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGHUP)
	defer cancel()
	std.Resize = resizes(ctx, tty)
	return m.Exec(ctx, r, std)
}

func withTerm(env map[string]string, value string) map[string]string {
	if value == "" {
		value = "dumb"
	}
	out := map[string]string{"TERM": value}
	for k, v := range env {
		out[k] = v
	}
	return out
}

// resizes has the terminal's size whenever it changes, until ctx ends.
func resizes(ctx context.Context, tty *os.File) <-chan agent.Size {
	out := make(chan agent.Size)
	go func() {
		defer close(out)
		for range terminal.Resized(ctx) {
			rows, cols := terminal.Size(tty)
			select {
			case out <- agent.Size{Rows: rows, Cols: cols}:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// execResult is what exec --json prints.
type execResult struct {
	Name   string `json:"name"`
	Code   int    `json:"exit_code"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	// Truncated: there was more output.
	Truncated bool `json:"truncated"`
}

// collect runs the program with its output kept.
func (s *session) collect(ctx context.Context, m *runtime.Machine, o execFlags) error {
	var out, errs limited
	std := agent.ExecIO{Stdout: &out, Stderr: &errs}
	if o.input {
		std.Stdin = s.Stdin
	}
	code, err := m.Exec(ctx, o.ExecRequest, std)
	if err != nil {
		return err
	}
	r := execResult{Name: m.Name(), Code: code, Stdout: out.String(), Stderr: errs.String(), Truncated: out.cut || errs.cut}
	if err := s.printer().result(r, nil); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return ended(code, nil)
}

// limited keeps the first MiB.
type limited struct {
	bytes.Buffer
	cut bool
}

func (l *limited) Write(p []byte) (int, error) {
	const most = 1 << 20
	part := p[:min(len(p), most-l.Len())]
	l.cut = l.cut || len(part) < len(p)
	if _, err := l.Buffer.Write(part); err != nil {
		return 0, err
	}
	return len(p), nil
}
