// Package cli is sovereign-build: the commands, their flags and their words.
//
// Arguments, an environment and three streams come in; an exit code comes out.
// The package decides nothing about builds or machines: it turns arguments
// into calls of pkg/build, pkg/runtime and pkg/kernel, and their results and
// errors into text or JSON. It never exits the process and keeps no state
// between two runs, so that tests call it like any function.
package cli

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// CLI is one call of the program.
type CLI struct {
	Args   []string // without the program's name
	Env    []string // KEY=VALUE
	Stdin  io.Reader
	Stdout io.Writer // results
	Stderr io.Writer // progress, notes and errors

	// Builder makes bundles; Wire sets it to the real one.
	Builder Builder
	// Dial leads to devices, also to this one; nil is the real way.
	Dial Dialer
}

// Run executes the command and returns the exit code. A cancelled ctx is
// Ctrl-C: the command cleans up and Run returns 130.
func (c *CLI) Run(ctx context.Context) int {
	s := &session{CLI: c, quiet: completing(c.Args)}
	root := s.root()
	root.SetArgs(c.Args)
	root.SetIn(c.Stdin)
	help := &helpWriter{w: c.Stdout}
	root.SetOut(help)
	root.SetErr(c.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	err = s.link.close(err)
	if err == nil {
		err = help.err
	}
	if err == nil {
		return 0
	}
	var t told
	if errors.As(err, &t) {
		return t.code
	}
	class := fault.ClassOf(err)
	if ctx.Err() != nil {
		// What was under way when Ctrl-C came may have failed in its own
		// words; the cause is the same.
		class, err = fault.Cancelled, errors.New("cancelled")
	}
	// A wrong flag is found before --json is read.
	s.json = s.json || slices.Contains(c.Args, "--json")
	code := int(class)
	if passesOn(cmd) && class != fault.Cancelled {
		code = notRun
	}
	s.printer().fail(class, code, err)
	return code
}

// helpWriter keeps the error that cobra does not look at when it prints help.
type helpWriter struct {
	w   io.Writer
	err error
}

func (h *helpWriter) Write(b []byte) (int, error) {
	n, err := h.w.Write(b)
	if err != nil {
		h.err = fault.Wrap(fault.Environment, err)
	}
	return n, err
}

// told ends a command whose result has already said why it is no success.
type told struct{ code int }

func (t told) Error() string { return "exit code " + strconv.Itoa(t.code) }

// env returns the value of an environment variable, "" if it is not set.
func (c *CLI) env(name string) string {
	for _, kv := range slices.Backward(c.Env) {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// session is a CLI with the flags all commands share.
type session struct {
	*CLI
	json     bool
	cacheDir string
	device   string // what --device says
	quiet    bool   // nobody can be asked
	link     *link  // nil until it is used
}

// completing says whether a shell asks for completions.
func completing(args []string) bool {
	return len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd)
}

// root builds the tree of commands anew for each run: cobra keeps parsed
// values in it.
func (s *session) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sovereign-build",
		Short: "Build virtual machines from recipes and run them",
		Long: `sovereign-build turns a recipe into a bundle, a verified kernel and root file
system built from pinned sources, and runs the bundle as a virtual machine.`,
		Example: `  sovereign-build build recipes/sql
  sovereign-build run sql --detach
  psql "$(sovereign-build dsn sql)"
  sovereign-build stop sql`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		DisableAutoGenTag: true,
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.PersistentFlags().BoolVar(&s.json, "json", false, "print results and errors as JSON")
	root.PersistentFlags().StringVar(&s.cacheDir, "cache-dir", "", "directory of the content store and the engine (default: sovereign in the user's cache directory)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fault.Errorf(fault.Usage, "%w", err).Hintf("run %s --help for the flags", cmd.CommandPath())
	})
	// It is in a topic, or cobra writes a heading above nothing.
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help", GroupID: "program"})
	s.addTopics(root)
	s.complete(root)
	finish(root)
	return root
}

// parent makes a command that only holds others.
func parent(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknownCommand(cmd, args[0])
	}
	return cmd
}

func unknownCommand(cmd *cobra.Command, name string) error {
	e := fault.Errorf(fault.Usage, "unknown command %q for %s", name, cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return e.Hintf("did you mean %s %s?", cmd.CommandPath(), near[0])
	}
	return e.Hintf("run %s --help for the commands", cmd.CommandPath())
}

// optional is operands for one that need not be given.
func optional(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return operands(name)(cmd, args)
	}
}

// operands checks the number of arguments and names the one that is missing.
func operands(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fault.Errorf(fault.Usage, "%s: %s is missing", cmd.CommandPath(), names[len(args)]).
				Hintf("run %s", cmd.UseLine())
		case len(args) > len(names):
			return fault.Errorf(fault.Usage, "%s: one argument too many: %q", cmd.CommandPath(), args[len(names)]).
				Hintf("run %s", cmd.UseLine())
		}
		return nil
	}
}
