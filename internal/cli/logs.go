package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
)

func (s *session) logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs NAME [SERVICE...]",
		Short: "Print what services have written",
		Long: `Logs prints the newest part of what services wrote, as the guest keeps it in
memory: of all services, each line with its service's name, or of those that are
named. The service init is sovereign-init's own. With --follow lines come
as they are written, until Ctrl-C. Control characters are left out. With --json
each line is an object.

The whole logs are files on the data disk; sovereign-build console shows the
kernel's.`,
		Example: `  sovereign-build logs sql
  sovereign-build logs sql postgresql --follow
  sovereign-build logs sql init`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return operands("NAME")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			services := args[1:]
			names := services
			if len(names) == 0 {
				if names, err = m.LogNames(cmd.Context()); err != nil {
					return err
				}
			}
			return m.Logs(cmd.Context(), services, follow, s.logPrinter(names, len(services) != 1))
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as lines are written")
	return exits(cmd, fault.Environment, fault.Device)
}

// logPrinter prints lines of the services, each with its service's name where
// they are to be told apart.
func (s *session) logPrinter(services []string, named bool) func(runtime.LogLine) error {
	p := s.printer()
	width := 0
	for _, name := range services {
		width = max(width, utf8.RuneCountInString(name))
	}
	return func(l runtime.LogLine) error {
		l.Text = strings.ReplaceAll(tail.Clean(l.Text), "\n", " ")
		return fault.Wrap(fault.Environment, p.result(l, func(w io.Writer) (err error) {
			if !named {
				_, err = fmt.Fprintln(w, l.Text)
			} else {
				_, err = fmt.Fprintf(w, "%-*s | %s\n", width, oneLine(l.Service), l.Text)
			}
			return err
		}))
	}
}
