package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

func (s *session) secretCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Change the secrets of a running machine",
		Long: `Secret changes what sovereign-build credentials shows: values that only the
running guest holds, readable by one service, on its data disk. The service
takes a new value up at once.`,
		Example: `  sovereign-build secret rotate sql
  sovereign-build secret set sql tailscale/auth-key --from-file key.txt`,
	}
	cmd.AddCommand(s.secretRotateCommand(), s.secretSetCommand())
	return exits(parent(cmd))
}

// changed is what the commands below print with --json.
type changed struct {
	Name   string            `json:"name"`
	Secret runtime.SecretRef `json:"secret"`
}

func (s *session) secretRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate NAME [SERVICE/SECRET]",
		Short: "Have the guest generate a new password",
		Long: `Rotate has the guest generate a new value for a secret, for PostgreSQL the
password of the user postgres, and has the service take it up. Connections that
are open stay; new ones need the new value: sovereign-build dsn and credentials
print it. Without SERVICE/SECRET it is the one secret that the machine's URLs
name.`,
		Example: `  sovereign-build secret rotate sql
  sovereign-build secret rotate sql postgresql/password && sovereign-build dsn sql`,
		Args: nameAndSecret,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			var ref runtime.SecretRef
			if len(args) == 2 {
				ref, err = parseSecret(args[1])
			} else {
				ref, err = onlySecret(cmd.Context(), m)
			}
			if err != nil {
				return err
			}
			if err := m.RotateSecret(cmd.Context(), ref); err != nil {
				return err
			}
			return s.printer().result(changed{m.Name(), ref}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s/%s of %s is new; see it: sovereign-build credentials %[3]s\n", oneLine(ref.Service), oneLine(ref.Name), m.Name())
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) secretSetCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "set NAME SERVICE/SECRET --from-file FILE|-",
		Short: "Hand a secret over to a service",
		Long: `Set hands a value to a service that asks for one in its recipe (given: true),
such as an auth key, from a file or from standard input: never by an argument,
which any process of this machine can read. Typed at a terminal it is not shown.
One line end at its end is left out.`,
		Example: `  sovereign-build secret set sql tailscale/auth-key --from-file key.txt
  pass show tailscale | sovereign-build secret set sql tailscale/auth-key --from-file -`,
		Args: operands("NAME", "SERVICE/SECRET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseSecret(args[1])
			if err != nil {
				return err
			}
			if file == "" {
				return fault.Errorf(fault.Usage, "--from-file is missing").Hintf("give a file, or - for standard input")
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			value, err := s.readSecret(file)
			if err != nil {
				return err
			}
			if err := m.SetSecret(cmd.Context(), ref, value); err != nil {
				return err
			}
			return s.printer().result(changed{m.Name(), ref}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s/%s of %s is set\n", ref.Service, ref.Name, m.Name())
				return err
			})
		},
	}
	cmd.Flags().StringVar(&file, "from-file", "", "read the value from `FILE`; - is standard input")
	return exits(cmd, fault.Environment, fault.Device)
}

// readSecret reads a value: nothing of it may get into an error.
func (s *session) readSecret(file string) (string, error) {
	var in io.Reader = s.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fault.Wrap(fault.Environment, err)
		}
		defer f.Close()
		in = f
	} else if tty, ok := terminal.Of(s.Stdin); ok {
		fmt.Fprint(s.Stderr, "secret: ")
		value, err := terminal.Password(tty)
		fmt.Fprintln(s.Stderr)
		return value, err
	}
	data, err := io.ReadAll(io.LimitReader(in, agent.MaxSecret+3))
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if value == "" || len(value) > agent.MaxSecret {
		return "", fault.Errorf(fault.Usage, "the secret in %s has %d bytes: want 1 to %d", file, len(value), agent.MaxSecret)
	}
	return value, nil
}

func nameAndSecret(cmd *cobra.Command, args []string) error {
	if len(args) == 2 {
		return nil
	}
	return operands("NAME")(cmd, args)
}

func parseSecret(s string) (runtime.SecretRef, error) {
	service, name, ok := strings.Cut(s, "/")
	if !ok || service == "" || name == "" || strings.Contains(name, "/") {
		return runtime.SecretRef{}, fault.Errorf(fault.Usage, "%q is not SERVICE/SECRET", s).
			Hintf("write for example postgresql/password")
	}
	return runtime.SecretRef{Service: service, Name: name}, nil
}

// onlySecret is the one that the machine's URLs name.
func onlySecret(ctx context.Context, m *runtime.Machine) (runtime.SecretRef, error) {
	known, err := m.Secrets(ctx)
	if err != nil {
		return runtime.SecretRef{}, err
	}
	if len(known) == 1 {
		return known[0], nil
	}
	var names []string
	for _, ref := range known {
		names = append(names, ref.Service+"/"+ref.Name)
	}
	e := fault.Errorf(fault.Usage, "SERVICE/SECRET is missing: the URLs of %s name %d secrets", m.Name(), len(known))
	if len(names) > 0 {
		return runtime.SecretRef{}, e.Hintf("choose one of: %s", strings.Join(names, ", "))
	}
	return runtime.SecretRef{}, e.Hintf("its recipe lists them")
}
