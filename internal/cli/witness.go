package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/witness"
)

// witnessTokenVariable is the environment's, for who serves and who is told.
const witnessTokenVariable = "SOVEREIGN_WITNESS_TOKEN"

func (s *session) witnessCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "witness",
		Short: "Somebody elsewhere who remembers how new a machine's data is",
		Long: `A witness remembers, for each data disk, where its history had come to, and signs
what it says. A device tells it after each minute in which a disk was written to,
and asks it when a machine starts. Where the witness knows more than the disk, an
older copy was put back, with all that the device knew of it perhaps, or a copy of
the machine runs elsewhere: the services are stopped, and up, restart and
accept-rollback end with 9.

It is told a random name, a number and a hash: never what is on a disk, nor whose
it is. One that is away stops nothing.`,
		Example: `  sovereign-build witness serve /var/lib/witness --listen 0.0.0.0:7443
  sovereign-build witness add sql "https://nas:7443?fingerprint=…" --key-file token
  sovereign-build witness status sql`,
	}
	cmd.AddCommand(s.witnessServeCommand(), s.witnessAddCommand(), s.witnessStatusCommand(), s.witnessRemoveCommand())
	return exits(parent(cmd))
}

// WitnessServed is what witness serve prints when it answers.
type WitnessServed struct {
	URL   string `json:"url"`
	Key   string `json:"key"`   // that its answers are held to
	Token string `json:"token"` // the file that it is in; "" from the environment
}

func (s *session) witnessServeCommand() *cobra.Command {
	var listen, tokenFile, certFile, keyFile string
	cmd := &cobra.Command{
		Use:   "serve DIRECTORY",
		Short: "Be a witness, until Ctrl-C",
		Long: `Serve answers devices and keeps what they tell in DIRECTORY, a file for each data
disk's history, which is on the disk before it is answered. It can be any machine
that the devices reach and that is not put back with them: back DIRECTORY up, and
never put an older copy of it back without need; devices see that, and say so.

Who asks has a token: one of those in --token-file or in ` + witnessTokenVariable + `, one
a line, or else the one that is made and kept in DIRECTORY/token. A history
belongs to the token that first told of it: give each device its own. It listens
at this machine's loopback without TLS; anywhere else with TLS, by --tls-cert and
--tls-key, or a certificate of its own whose fingerprint stands in the URL that it
prints.`,
		Example: `  sovereign-build witness serve /var/lib/witness
  sovereign-build witness serve /var/lib/witness --listen 0.0.0.0:7443
  sovereign-build witness serve /var/lib/witness --listen 100.64.0.7:443 --tls-cert nas.crt --tls-key nas.key`,
		Args: operands("DIRECTORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (certFile == "") != (keyFile == "") {
				return fault.Errorf(fault.Usage, "--tls-cert and --tls-key go together")
			}
			return s.serveWitness(cmd.Context(), args[0], listen, tokenFile, certFile, keyFile)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:7443", "the `address` to listen at")
	f.StringVar(&tokenFile, "token-file", "", "`FILE` with the tokens of devices, one a line (or "+witnessTokenVariable+"; default DIRECTORY/token, which is made)")
	f.StringVar(&certFile, "tls-cert", "", "`FILE` with a certificate in PEM, and those behind it")
	f.StringVar(&keyFile, "tls-key", "", "`FILE` with its private key")
	return exits(cmd, fault.Environment)
}

func (s *session) serveWitness(ctx context.Context, dir, listen, tokenFile, certFile, keyFile string) (err error) {
	at, err := netip.ParseAddrPort(listen)
	if err != nil {
		return fault.Errorf(fault.Usage, "--listen %q: %w", listen, err).Hintf("write an address and a port: 0.0.0.0:7443")
	}
	w, err := witness.New(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fault.Wrap(fault.Environment, w.Close())) }()
	r := WitnessServed{Key: w.Verifier}
	var tokens []string
	if given := s.env(witnessTokenVariable); given != "" && tokenFile == "" {
		tokens, err = witness.ParseTokens(given)
	} else {
		tokens, r.Token, err = w.Tokens(tokenFile)
	}
	if err != nil {
		return err
	}
	var certificate *tls.Certificate
	if !at.Addr().IsLoopback() || certFile != "" {
		if certificate, err = w.Certificate(certFile, keyFile); err != nil {
			return err
		}
	}
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp"
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, network, listen)
	if err != nil {
		return fault.Errorf(fault.Environment, "listening: %w", err).Hintf("choose another address: --listen ADDRESS:PORT")
	}
	r.URL = "http://" + l.Addr().String()
	if certificate != nil {
		r.URL = "https://" + l.Addr().String()
		if certFile == "" {
			r.URL += "?fingerprint=" + witness.Fingerprint(certificate.Leaf)
		}
	}
	err = s.printer().result(r, func(out io.Writer) error {
		fmt.Fprintf(out, "answers at  %s\nkey         %s\n", r.URL, r.Key)
		if r.Token != "" {
			fmt.Fprintf(out, "token       in %s\n", oneLine(r.Token))
		}
		_, err := fmt.Fprintf(out, "on a device: sovereign-build witness add NAME URL --key-file TOKEN\n")
		return err
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return w.Serve(ctx, l, certificate, tokens, func(err error) { s.printer().note(err.Error()) })
}

// WitnessAdded is what witness add and remove print.
type WitnessAdded struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	Key  string `json:"key,omitempty"`
}

func (s *session) witnessAddCommand() *cobra.Command {
	var keyFile, key string
	cmd := &cobra.Command{
		Use:   "add NAME URL",
		Short: "Have a witness told of a machine's data disk",
		Long: `Add has the device of a machine tell a witness of the history of its data disk, and
ask it at each start. URL is what witness serve prints, with the name or address
that the device reaches it by. The token comes from a file or the environment,
never by an argument, and is kept by the device's sovereignd, for its user alone.

The public key that the witness signs by is taken as it says it the first time,
and held to from then on; --key says which it has to be. Said again, add changes
the token. A machine may have eight witnesses.`,
		Example: `  sovereign-build witness add sql "https://nas:7443?fingerprint=…" --key-file token
  sovereign-build witness add sql https://nas.example.ts.net --key-file token --device ssh:phone`,
		Args: operands("NAME", "URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			token := s.env(witnessTokenVariable)
			if keyFile != "" {
				var err error
				if token, err = s.readSecret(keyFile); err != nil {
					return err
				}
			}
			if token == "" {
				return fault.Errorf(fault.Usage, "the witness's token is missing").Hintf("give --key-file FILE, or - for standard input")
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			r := WitnessAdded{Name: args[0], URL: args[1]}
			if r.Key, err = m.AddWitness(cmd.Context(), r.URL, token, key); err != nil {
				return err
			}
			return s.printer().result(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is told of the data disk of %s; its answers are held to %s\n", oneLine(r.URL), r.Name, oneLine(r.Key))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&keyFile, "key-file", "", "`FILE` with the token that the witness gives a device; - is standard input (or "+witnessTokenVariable+")")
	cmd.Flags().StringVar(&key, "key", "", "the public `key` that the witness has to sign by")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

func (s *session) witnessRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove NAME URL",
		Short:   "Have a witness told no more",
		Long:    `Remove has a machine's device tell a witness no more. The witness keeps what it knows.`,
		Example: `  sovereign-build witness remove sql "https://nas:7443?fingerprint=…"`,
		Args:    operands("NAME", "URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			if err := m.RemoveWitness(cmd.Context(), args[1]); err != nil {
				return err
			}
			return s.printer().result(WitnessAdded{Name: args[0], URL: args[1]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is told no more of %s\n", oneLine(args[1]), args[0])
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

// WitnessesResult is what witness status prints.
type WitnessesResult struct {
	Name string `json:"name"`
	// Continuity is what the machine's host remembers.
	Continuity *runtime.Witnessed      `json:"continuity,omitempty"`
	Witnesses  []runtime.WitnessStatus `json:"witnesses"`
	// Stale is why the machine's services are held; "" where they are not.
	Stale string `json:"stale,omitempty"`
}

func (s *session) witnessStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Ask a machine's witnesses what they remember",
		Long: `Status has a machine's device ask each of its witnesses now, and shows what they
keep beside what the device itself remembers. It ends with 9 where the machine's
services are held, with 6 where a witness lies or was put back, with 4 where one
does not answer, and else with 0.`,
		Example: `  sovereign-build witness status sql
  sovereign-build witness status sql --json`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			status, err := m.Status(cmd.Context())
			if err != nil {
				return err
			}
			list, err := m.AskWitnesses(cmd.Context())
			if err != nil {
				return err
			}
			r := WitnessesResult{Name: args[0], Continuity: status.Continuity, Witnesses: list}
			stale := status.Stale()
			if stale != nil {
				r.Stale = stale.Error()
			}
			if err := s.printer().result(r, func(w io.Writer) error { return writeWitnesses(w, r) }); err != nil {
				return err
			}
			if stale != nil {
				return told{int(fault.Stale)}
			}
			for _, class := range []fault.Class{fault.Verification, fault.Source, fault.Usage} {
				for _, w := range list {
					if w.Class == class || class == fault.Verification && w.Alarm != "" {
						return told{int(class)}
					}
				}
			}
			return nil
		},
	}
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device, fault.Stale)
}

func writeWitnesses(out io.Writer, r WitnessesResult) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "REMEMBERS\tEPOCH\tSINCE\t")
	if c := r.Continuity; c != nil {
		fmt.Fprintf(w, "the machine's host\t%d\t%s\t\n", c.Epoch, c.Time.UTC().Format(time.RFC3339))
	}
	if len(r.Witnesses) == 0 {
		fmt.Fprintln(w, "nobody else\t\t\t")
	}
	for _, v := range r.Witnesses {
		switch {
		case v.Trouble != "":
			fmt.Fprintf(w, "%s\t\t\t%s\n", oneLine(v.URL), oneLine(v.Trouble))
		case v.Keeps == nil:
			fmt.Fprintf(w, "%s\tnothing\t\t%s\n", oneLine(v.URL), oneLine(v.Alarm))
		default:
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", oneLine(v.URL), v.Keeps.Epoch, v.Since.UTC().Format(time.RFC3339), oneLine(v.Alarm))
		}
	}
	if err := w.Flush(); err != nil || r.Stale == "" {
		return err
	}
	_, err := fmt.Fprintln(out, oneLine(r.Stale))
	return err
}

// writeWitnessed writes what is known of a machine's witnesses into its status.
func writeWitnessed(w io.Writer, list []runtime.WitnessStatus) {
	for _, v := range list {
		told := "not told yet"
		if v.Signed != nil {
			told = fmt.Sprintf("told epoch %d, %s", v.Signed.Epoch, v.At.UTC().Format(time.RFC3339))
		}
		fmt.Fprintf(w, "  witness\t%s\t%s\n", oneLine(v.URL), told)
		if v.Trouble != "" {
			fmt.Fprintf(w, "  away\t\t%s\n", oneLine(v.Trouble))
		}
		if v.Alarm != "" {
			fmt.Fprintf(w, "  ALARM\t\tthe witness: %s\n", oneLine(v.Alarm))
		}
	}
}
