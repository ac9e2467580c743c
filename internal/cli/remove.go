package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// RemoveResult is what remove --json prints.
type RemoveResult struct {
	Name string `json:"name"`
	// Data is the data disk that was kept; empty where there is none any more.
	Data string `json:"data,omitempty"`
}

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
			result, err := s.Runtime.Remove(cmd.Context(), args[0], data)
			if err != nil {
				return err
			}
			return s.printer().result(result, func(w io.Writer) error { return writeRemove(w, result) })
		},
	}
	cmd.Flags().BoolVar(&data, "data", false, "remove the data disk as well")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return exits(cmd, fault.Environment)
}

// confirmRemove asks at the terminal. Any answer but yes is a no, and a no is
// an error: scripts must see that nothing was done.
func (s *session) confirmRemove(name string, data bool) error {
	tty, ok := terminal.Of(s.Stdin)
	if !ok || s.json {
		return fault.Errorf(fault.Usage, "nobody can be asked whether %s is to be removed", name).
			Hintf("say --yes if it is")
	}
	what := "its data disk is kept"
	if data {
		what = "with all its data, which cannot be undone"
	}
	fmt.Fprintf(s.Stderr, "remove %s, %s? [y/N] ", name, what)
	answer, err := bufio.NewReader(io.LimitReader(tty, 1<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fault.Wrap(fault.Environment, err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return fault.Errorf(fault.Cancelled, "%s was not removed", name)
}

func writeRemove(w io.Writer, r *RemoveResult) error {
	text := r.Name + " is removed\n"
	if r.Data != "" {
		text = fmt.Sprintf("%s is removed; its data disk is kept: %s\n", r.Name, r.Data)
	}
	_, err := io.WriteString(w, text)
	return err
}

func (machines) Remove(ctx context.Context, name string, data bool) (*RemoveResult, error) {
	r, err := runtime.Open("")
	if err != nil {
		return nil, err
	}
	kept, err := r.Remove(ctx, name, data)
	return &RemoveResult{Name: name, Data: kept}, err
}
