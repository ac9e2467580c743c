package cli

import (
	"context"
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
guest has made a new one needs dsn once more.

With a machine on another device, dsn prints a URL that leads there through this
command, and goes on until Ctrl-C: use the URL meanwhile, elsewhere.`,
		Example: `  psql "$(sovereign-build dsn sql)"
  sovereign-build dsn sql --device ssh:nas`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if port < 0 || port > 65535 {
				return fault.Errorf(fault.Usage, "--port %d is not a port", port)
			}
			return s.runDSN(cmd.Context(), args[0], port)
		},
	}
	cmd.Flags().IntVar(&port, "port", 0, "`port` of the guest (default: the first that has a URL)")
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) runDSN(ctx context.Context, name string, port int) error {
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	c, err := m.Credentials(ctx, port)
	if err != nil {
		return err
	}
	print := func(url string) error {
		return s.printer().result(map[string]string{"name": name, "url": url}, func(w io.Writer) error {
			return writeValue(w, "the URL", url)
		})
	}
	if !s.remote() {
		return print(c.URL)
	}
	f, err := s.forward(m, c.Port, 0)
	if err != nil {
		return err
	}
	defer f.close()
	if err := print(c.At(f.address)); err != nil {
		return err
	}
	s.printer().note("sovereign-build: the URL leads to " + s.link.device.Short() + " through this command; Ctrl-C ends it")
	return f.wait(ctx)
}
