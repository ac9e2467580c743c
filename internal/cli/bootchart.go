package cli

import (
	"bytes"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/bootchart"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

func (s *session) bootChartCommand() *cobra.Command {
	var svg string
	cmd := &cobra.Command{
		Use:   "boot-chart NAME",
		Short: "Show where the time of a machine's boot went",
		Long: `Boot-chart draws the phases of a running guest's boot, in milliseconds since its
kernel's start: the kernel, the steps of init, and each service until it was
healthy. --svg writes an image as well.`,
		Example: `  sovereign-build boot-chart sql
  sovereign-build boot-chart sql --svg boot.svg`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			boot, err := m.Boot(cmd.Context())
			if err != nil {
				return err
			}
			if svg != "" {
				var image bytes.Buffer
				if err := bootchart.SVG(&image, "boot of "+m.Name(), boot); err != nil {
					return err
				}
				if err := atomicfile.Write(svg, image.Bytes(), 0o644); err != nil {
					return err
				}
			}
			result := struct {
				Name string `json:"name"`
				agent.Boot
			}{m.Name(), boot}
			return s.printer().result(result, func(w io.Writer) error {
				if len(boot.Phases) == 0 {
					_, err := fmt.Fprintln(w, "the guest tells no phases")
					return err
				}
				return bootchart.Text(w, boot, s.width())
			})
		},
	}
	cmd.Flags().StringVar(&svg, "svg", "", "write the chart as an SVG image to `FILE`")
	return exits(cmd, fault.Environment, fault.Device)
}

// width is the terminal's, or what COLUMNS says, or 80 characters.
func (s *session) width() int {
	if tty, ok := terminal.Of(s.Stdout); ok {
		if _, cols := terminal.Size(tty); cols > 0 {
			return int(cols)
		}
	}
	if n, err := strconv.Atoi(s.env("COLUMNS")); err == nil && n > 0 {
		return min(n, 400)
	}
	return 80
}
