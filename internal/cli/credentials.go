package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// credentials is what credentials --json prints.
type credentials struct {
	Name    string        `json:"name"`
	URLs    []portURL     `json:"urls"`
	Secrets []secretValue `json:"secrets"`
}

type portURL struct {
	Port int    `json:"port"` // the guest's
	Name string `json:"name"`
	URL  string `json:"url"`
}

type secretValue struct {
	runtime.SecretRef
	Value string `json:"value"`
}

func (s *session) credentialsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "credentials NAME [SERVICE/SECRET]",
		Short: "Print the passwords of a running machine",
		Long: `Credentials asks the guest for what its owner needs to get in: the URLs of its
ports, passwords included, and those passwords. With SERVICE/SECRET it prints
that value alone, also of a secret or certificate that no URL names. They lie on
the guest's data disk and nowhere on this machine; mind where the output goes.`,
		Example: `  sovereign-build credentials sql
  sovereign-build credentials sql postgresql/password`,
		Args: nameAndSecret,
		RunE: func(cmd *cobra.Command, args []string) error {
			var refs []runtime.SecretRef
			if len(args) == 2 {
				ref, err := parseSecret(args[1])
				if err != nil {
					return err
				}
				refs = []runtime.SecretRef{ref}
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			c := credentials{Name: m.Name(), URLs: []portURL{}, Secrets: []secretValue{}}
			if refs == nil {
				if refs, err = m.Secrets(cmd.Context()); err != nil {
					return err
				}
				if err := c.urls(cmd.Context(), m); err != nil {
					return err
				}
			}
			for _, ref := range refs {
				value, err := m.Secret(cmd.Context(), ref)
				if err != nil {
					return err
				}
				c.Secrets = append(c.Secrets, secretValue{ref, value})
			}
			return s.printer().result(c, func(w io.Writer) error {
				if len(args) == 2 {
					return writeValue(w, args[1], c.Secrets[0].Value)
				}
				return c.write(w)
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

func (c *credentials) urls(ctx context.Context, m *runtime.Machine) error {
	manifest, err := m.Manifest(ctx)
	if err != nil {
		return err
	}
	for _, p := range manifest.Ports {
		if p.URL == "" {
			continue
		}
		v, err := m.Credentials(ctx, p.Port)
		if err != nil {
			return err
		}
		c.URLs = append(c.URLs, portURL{p.Port, p.Name, v.URL})
	}
	return nil
}

// writeValue writes a value as it is, or not at all.
func writeValue(w io.Writer, name, value string) error {
	if printable.Text(value) != value {
		return fault.Errorf(fault.Device, "%s has characters that a terminal would obey", name).
			Hintf("see them escaped: add --json")
	}
	_, err := fmt.Fprintln(w, value)
	return err
}

// quoted is a value as it is, or between quotes with escapes where it is not
// fit for a line of a table.
func quoted(value string) string {
	if printable.Line(value) != value {
		return strconv.QuoteToASCII(value)
	}
	return value
}

func (c *credentials) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, u := range c.URLs {
		fmt.Fprintf(w, "%s, port %d\t%s\n", oneLine(u.Name), u.Port, quoted(u.URL))
	}
	for _, v := range c.Secrets {
		fmt.Fprintf(w, "%s/%s\t%s\n", oneLine(v.Service), oneLine(v.Name), quoted(v.Value))
	}
	if len(c.URLs)+len(c.Secrets) == 0 {
		fmt.Fprintf(w, "no port of %s has a URL\n", c.Name)
	}
	return w.Flush()
}
