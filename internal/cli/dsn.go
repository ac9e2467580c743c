package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) dsnCommand() *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use:   "dsn NAME",
		Short: "Print the URL of a running machine's service, password included",
		Long: `Dsn prints how a client on this machine reaches the service: its URL with the
loopback port and the password, which it asks the guest for. The password was
generated in the guest and is written nowhere on this machine.

Where the URL names the service's certificate, by which a client tells the guest
from any other program at that port, dsn fetches that too and keeps it in the
machine's directory. A client that is refused for its certificate after the
guest has made a new one needs dsn once more.`,
		Example: `  psql "$(sovereign-build dsn sql)"`,
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if port < 0 || port > 65535 {
				return fault.Errorf(fault.Usage, "--port %d is not a port", port)
			}
			url, err := s.Runtime.URL(cmd.Context(), args[0], port)
			if err != nil {
				return err
			}
			return s.printer().result(map[string]string{"name": args[0], "url": url}, func(w io.Writer) error {
				return writeValue(w, "the URL", url)
			})
		},
	}
	cmd.Flags().IntVar(&port, "port", 0, "`port` of the guest (default: the first that has a URL)")
	return exits(cmd, fault.Device)
}
