package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/terminal"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Variables of the environment that hold what no argument may.
const (
	keyVariable      = "SOVEREIGN_KEY"          // the text of a secret key
	passwordVariable = "SOVEREIGN_KEY_PASSWORD" // that it is encrypted with
)

// KeyResult is what the commands on keys print.
type KeyResult struct {
	Key signature.Key `json:"key"`
	// Files are those that were written.
	Files     []string             `json:"files,omitempty"`
	Rotations []signature.Rotation `json:"rotations,omitempty"`
}

func (s *session) keyCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use:   "key",
		Short: "Make and show the keys that bundles are signed with",
		Long: `Key makes the keys that sign bundles. They are minisign's: the program minisign
reads them, and what they sign. A secret key is a file, or the environment
variable SOVEREIGN_KEY; its password is asked for at the terminal, or is the
variable SOVEREIGN_KEY_PASSWORD. Neither is ever an argument.`,
		Example: `  sovereign-build key new release.key
  sovereign-build key show release.key`,
	})
	cmd.AddCommand(s.keyNewCommand(), s.keyShowCommand(), s.keyRotateCommand())
	return exits(cmd)
}

func (s *session) keyNewCommand() *cobra.Command {
	var plain bool
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "Make a key",
		Long: `New makes a key: the secret half in FILE, which only its owner can read and which
a password protects, and the public half in FILE.pub, which goes into the recipe
(release: key). A file that is there is left alone.`,
		Example: `  sovereign-build key new release.key
  sovereign-build key new throw-away.key --no-password --json`,
		Args: operands("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			password := ""
			if !plain {
				var err error
				if password, err = s.newPassword(); err != nil {
					return err
				}
			}
			key, err := signature.NewKey()
			if err != nil {
				return err
			}
			secret, err := key.File(password)
			if err != nil {
				return err
			}
			public, err := key.Public().File()
			if err != nil {
				return err
			}
			files := []string{args[0], args[0] + ".pub"}
			for _, file := range files {
				if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
					return fault.Errorf(fault.Usage, "%s is there already, and a key is not replaced", file).Hintf("name another file")
				}
			}
			if err := writeNew(files[0], secret, 0o600); err != nil {
				return err
			}
			if err := writeNew(files[1], public, 0o644); err != nil {
				return err
			}
			return s.printer().result(KeyResult{Key: key.Public(), Files: files}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s\nsecret half in %s, public half in %s\n", key.Public(), files[0], files[1])
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&plain, "no-password", false, "do not encrypt the secret key: for machines that nobody types at")
	return exits(cmd, fault.Environment)
}

// writeNew writes a file that is not there.
func writeNew(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	_, err = f.Write(text)
	return fault.Wrap(fault.Environment, errors.Join(err, f.Sync(), f.Close()))
}

func (s *session) keyShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Show a public key, or what rotations say",
		Long: `Show prints the public key of a file with a public or a secret key, or the
rotations that key rotate has written. A secret key is not printed.`,
		Example: `  sovereign-build key show release.key.pub
  sovereign-build key show release.rotations --json`,
		Args: operands("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.showKey(args[0])
			if err != nil {
				return err
			}
			return s.printer().result(r, func(w io.Writer) error {
				for _, v := range r.Rotations {
					if _, err := fmt.Fprintf(w, "%s is followed by\n%s from index %d on\n", v.From, v.To, v.Index); err != nil {
						return err
					}
				}
				if r.Rotations != nil {
					return nil
				}
				_, err := fmt.Fprintln(w, r.Key)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Verification)
}

func (s *session) showKey(file string) (*KeyResult, error) {
	text, err := readSmall(file, signature.MaxSize)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(text, []byte("\ntrusted comment: ")) {
		all, err := signature.ParseRotations(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return &KeyResult{Key: all[len(all)-1].To, Rotations: all}, nil
	}
	if key, err := signature.ParseKey(text); err == nil {
		return &KeyResult{Key: key}, nil
	}
	secret, err := s.parseSecretKey(file, text)
	if err != nil {
		return nil, err
	}
	return &KeyResult{Key: secret.Public()}, nil
}

func (s *session) keyRotateCommand() *cobra.Command {
	var file, to, output string
	var index int64
	cmd := &cobra.Command{
		Use:   "rotate --key-file OLD --to NEW.pub --rotations FILE",
		Short: "Have another key follow a key",
		Long: `Rotate signs with a key that another one follows it, and adds that to a file of
rotations. Sign with the new key and --rotations then: machines that know the old
key learn of the new one, and from then on take nothing of the old one, another
rotation least of all. Keep the file with the recipe: a machine that was away for
several rotations needs them all.`,
		Example: `  sovereign-build key new next.key
  sovereign-build key rotate --key-file release.key --to next.key.pub --rotations release.rotations
  sovereign-build sign dist/sql-amd64 --key-file next.key --rotations release.rotations`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, args []string) error {
			for flag, value := range map[string]string{"--to": to, "--rotations": output} {
				if value == "" {
					return fault.Errorf(fault.Usage, "%s is missing", flag).Hintf("run %s", cmd.UseLine())
				}
			}
			key, err := s.secretKey(file)
			if err != nil {
				return err
			}
			next, err := readKey(to)
			if err != nil {
				return err
			}
			before, err := readSmall(output, signature.MaxSize)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if index == 0 {
				index = newIndex()
			}
			text, err := signature.Rotate(key, next, index, before)
			if err != nil {
				return err
			}
			if err := atomicfile.Write(output, text, 0o644); err != nil {
				return err
			}
			all, err := signature.ParseRotations(text)
			if err != nil {
				return err
			}
			return s.printer().result(KeyResult{Key: next, Files: []string{output}, Rotations: all}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is followed by\n%s from index %d on; written to %s\n", key.Public(), next, index, output)
				return err
			})
		},
	}
	keyFileFlag(cmd, &file)
	cmd.Flags().StringVar(&to, "to", "", "`FILE` with the public key that follows")
	cmd.Flags().StringVar(&output, "rotations", "", "`FILE` that gets the rotation, behind those that are in it")
	cmd.Flags().Int64Var(&index, "index", 0, "first `index` that the new key signs (default: the seconds since 1970)")
	return exits(cmd, fault.Environment, fault.Verification)
}

func keyFileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "key-file", "", "`FILE` with the secret key (default: the environment variable "+keyVariable+")")
}

// secretKey reads the key of --key-file, or of the environment.
func (s *session) secretKey(file string) (signature.SecretKey, error) {
	text := []byte(s.env(keyVariable))
	switch {
	case file != "":
		var err error
		if text, err = readSmall(file, signature.MaxSize); err != nil {
			return signature.SecretKey{}, err
		}
	case len(text) == 0:
		return signature.SecretKey{}, fault.Errorf(fault.Usage, "--key-file is missing, and %s is not set", keyVariable).
			Hintf("make a key: sovereign-build key new FILE")
	default:
		file = keyVariable
	}
	return s.parseSecretKey(file, text)
}

func (s *session) parseSecretKey(from string, text []byte) (signature.SecretKey, error) {
	password := s.env(passwordVariable)
	if !signature.Encrypted(text) {
		password = ""
	} else if password == "" {
		tty, ok := terminal.Of(s.Stdin)
		if !ok {
			return signature.SecretKey{}, fault.Errorf(fault.Usage, "%s: the key has a password, and there is no terminal to ask for it", from).
				Hintf("set %s", passwordVariable)
		}
		fmt.Fprintf(s.Stderr, "password of %s: ", from)
		var err error
		password, err = terminal.Password(tty)
		fmt.Fprintln(s.Stderr)
		if err != nil {
			return signature.SecretKey{}, err
		}
	}
	key, err := signature.ParseSecretKey(text, password)
	if err != nil {
		return key, fmt.Errorf("%s: %w", from, err)
	}
	return key, nil
}

// newPassword is that of a key that is being made.
func (s *session) newPassword() (string, error) {
	if password := s.env(passwordVariable); password != "" {
		return password, nil
	}
	tty, ok := terminal.Of(s.Stdin)
	if !ok {
		return "", fault.Errorf(fault.Usage, "there is no terminal to ask for a password").
			Hintf("set %s, or give --no-password", passwordVariable)
	}
	var both [2]string
	for i, prompt := range []string{"password of the new key: ", "once more: "} {
		fmt.Fprint(s.Stderr, prompt)
		var err error
		both[i], err = terminal.Password(tty)
		fmt.Fprintln(s.Stderr)
		if err != nil {
			return "", err
		}
	}
	switch {
	case both[0] != both[1]:
		return "", fault.Errorf(fault.Usage, "the two passwords are not the same")
	case both[0] == "":
		return "", fault.Errorf(fault.Usage, "the password is empty").Hintf("give --no-password for a key without one")
	}
	return both[0], nil
}

// readKey reads a public key.
func readKey(file string) (signature.Key, error) {
	text, err := readSmall(file, signature.MaxSize)
	if err != nil {
		return "", err
	}
	key, err := signature.ParseKey(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// readSmall reads a file of at most limit bytes.
func readSmall(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if int64(len(text)) > limit {
		return nil, fault.Errorf(fault.Usage, "%s is larger than %d bytes", file, limit)
	}
	return text, nil
}
