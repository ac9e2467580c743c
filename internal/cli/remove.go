package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) removeCommand() *cobra.Command {
	var data, yes bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a machine, and with --data its data",
		Long: `Remove forgets a machine that is down and removes its bundles, its logs and what
is known of it. Its data disk is kept, and is found again by the next up or run
of that name; with --data it is removed too, also where an earlier remove has
kept it, and wherever a link leads. That cannot be undone.

It asks first; without a terminal to ask at, --yes is needed.`,
		Example: `  sovereign-build remove sql
  sovereign-build remove sql --data --yes`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := s.confirmRemove(args[0], data); err != nil {
					return err
				}
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			kept, err := m.Remove(cmd.Context(), data)
			if err != nil {
				return err
			}
			result := RemoveResult{args[0], kept}
			return s.printer().result(result, func(w io.Writer) error { return s.writeRemove(w, result) })
		},
	}
	cmd.Flags().BoolVar(&data, "data", false, "remove the data disk as well")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return exits(cmd, fault.Environment, fault.Device)
}

// confirmRemove asks whether a machine is to be removed.
func (s *session) confirmRemove(name string, data bool) error {
	what := "its data disk is kept"
	if data {
		what = "with all its data, which cannot be undone"
	}
	return s.confirm("remove "+name, what)
}

// confirm asks at the terminal whether to do something, of which what is said.
// Any answer but yes is a no, and a no is an error: scripts must see that nothing
// was done.
func (s *session) confirm(do, what string) error {
	tty, ok := terminal.Of(s.Stdin)
	if !ok || s.json {
		return fault.Errorf(fault.Usage, "nobody can be asked whether to %s", do).
			Hintf("say --yes if it is")
	}
	fmt.Fprintf(s.Stderr, "%s: %s. Do it? [y/N] ", do, what)
	answer, err := bufio.NewReader(io.LimitReader(tty, 1<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fault.Wrap(fault.Environment, err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return fault.Errorf(fault.Cancelled, "nothing was done: %s", do)
}

func (s *session) writeRemove(w io.Writer, r RemoveResult) error {
	text := r.Name + " is removed\n"
	if r.Data != "" {
		text = fmt.Sprintf("%s is removed; its data disk is kept: %s%s\n", r.Name, oneLine(r.Data), s.there())
	}
	_, err := io.WriteString(w, text)
	return err
}
