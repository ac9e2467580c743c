package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// Variables of the environment that secrets of repositories may come by.
const (
	repositoryKeyVariable = "SOVEREIGN_REPOSITORY_KEY"
	secretVariable        = "SOVEREIGN_REPOSITORY_SECRET"
)

func (s *session) repositoryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repository",
		Short: "Places for backups",
		Long: `Repository makes and names the places that backups go to: a directory on the
device, SFTP, S3, WebDAV, or a server of kopia. They are kopia's repositories
(https://kopia.io), always encrypted; the program kopia reads them too.`,
		Example: `  sovereign-build repository init home /mnt/disk/backups
  sovereign-build repository init away sftp://me@nas/backups --identity-file id_ed25519 --known-hosts nas.pub
  sovereign-build repository list`,
	}
	cmd.AddCommand(s.repositoryInitCommand(true), s.repositoryInitCommand(false), s.repositoryListCommand(), s.repositoryVerifyCommand(), s.repositoryForgetCommand())
	return exits(parent(cmd))
}

// secretFiles are where the secrets of a repository come from.
type secretFiles struct{ key, secret, identity, knownHosts string }

func (f *secretFiles) flags(flags *pflag.FlagSet) {
	flags.StringVar(&f.key, "key-file", "", "`FILE` with the key that encrypts the repository, or with the password at a kopia server; - is standard input (or "+repositoryKeyVariable+")")
	flags.StringVar(&f.secret, "secret-file", "", "`FILE` with the store's own password, or S3's secret access key (or "+secretVariable+")")
	flags.StringVar(&f.identity, "identity-file", "", "`FILE` with a private key for SFTP, without a passphrase")
	flags.StringVar(&f.knownHosts, "known-hosts", "", "`FILE` with the SFTP host's public key, as ssh's known_hosts has it")
}

func (s *session) readSecrets(f secretFiles) (backup.Secrets, error) {
	v := backup.Secrets{Key: s.env(repositoryKeyVariable), Secret: s.env(secretVariable)}
	for _, from := range []struct {
		file string
		to   *string
	}{{f.key, &v.Key}, {f.secret, &v.Secret}} {
		if from.file == "" {
			continue
		}
		var err error
		if *from.to, err = s.readSecret(from.file); err != nil {
			return v, err
		}
	}
	for _, from := range []struct {
		file string
		to   *string
	}{{f.identity, &v.Identity}, {f.knownHosts, &v.KnownHosts}} {
		if from.file == "" {
			continue
		}
		text, err := os.ReadFile(from.file)
		if err != nil {
			return v, fault.Wrap(fault.Environment, err)
		}
		*from.to = string(text)
	}
	return v, nil
}

// RepositoryResult is what repository init and add print.
type RepositoryResult struct {
	backup.Repository
	// Key is there once: when it was made.
	Key string `json:"key,omitempty"`
}

func (s *session) repositoryInitCommand(initialize bool) *cobra.Command {
	var f secretFiles
	verb, short := "add", "Have a device know a repository that is there"
	long := `Add has the device know a repository that was made before, here or elsewhere,
and opens it to see whether the key is its own. The key comes from a file or the
environment, never by an argument: it stands on the recovery sheet.`
	if initialize {
		verb, short = "init", "Make a repository"
		long = `Init makes a repository and has the device know it. Without --key-file, and
without ` + repositoryKeyVariable + `, a key of 160 random bits is made, and printed
once, on a recovery sheet: write it down, or keep that file. Who loses the key
has lost the backups; nobody can help.

The device's sovereignd keeps what opens the repository in a file of its state
directory, for its user alone, as it makes backups by itself.`
	}
	cmd := &cobra.Command{
		Use: verb + " REPOSITORY URL", Short: short, Long: long,
		Example: `  sovereign-build repository ` + verb + ` home /mnt/disk/backups
  sovereign-build repository ` + verb + ` cloud s3://KEY-ID@s3.example.org/bucket --secret-file s3.txt --device ssh:phone`,
		Args: operands("REPOSITORY", "URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			secrets, err := s.readSecrets(f)
			if err != nil {
				return err
			}
			given := secrets.Key != ""
			if !given && !initialize {
				return fault.Errorf(fault.Usage, "the repository's key is missing").Hintf("give --key-file FILE, or - for standard input")
			}
			h, err := s.host()
			if err != nil {
				return err
			}
			r := backup.Repository{Name: args[0], URL: args[1]}
			key, err := h.AddRepository(cmd.Context(), r, secrets, initialize)
			if err != nil {
				return err
			}
			result := RepositoryResult{Repository: r}
			if !given {
				result.Key = key
			}
			return s.printer().result(result, func(w io.Writer) error { return s.writeRepository(w, result, initialize) })
		},
	}
	f.flags(cmd.Flags())
	return exits(cmd, fault.Environment, fault.Source, fault.Device)
}

func (s *session) writeRepository(w io.Writer, r RepositoryResult, initialize bool) error {
	if !initialize {
		_, err := fmt.Fprintf(w, "%s is known%s: %s\n", r.Name, s.there(), oneLine(r.URL))
		return err
	}
	fmt.Fprintf(w, "%s is made: %s\n", r.Name, oneLine(r.URL))
	if r.Key == "" {
		return nil
	}
	_, err := fmt.Fprintf(w, `
------------------------------ RECOVERY SHEET ------------------------------
  repository  %s
  key         %s

  With these two, and what opens the store itself, all of it is restored:
    sovereign-build repository add %s '%s' --key-file -
    sovereign-build backups --from %[3]s
    sovereign-build restore NAME --from %[3]s
  or, without this program, by kopia (https://kopia.io).
  This key is shown now and never again. Keep it away from the device.
----------------------------------------------------------------------------
`, oneLine(r.URL), r.Key, r.Name, oneLine(r.URL))
	return err
}

func (s *session) repositoryListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the repositories that a device knows",
		Long:    `List names the repositories that the device knows, and where they are.`,
		Example: `  sovereign-build repository list --json`,
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := s.host()
			if err != nil {
				return err
			}
			list, err := h.Repositories(cmd.Context())
			if err != nil {
				return err
			}
			return s.printer().result(map[string]any{"repositories": list}, func(out io.Writer) error {
				w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
				if len(list) == 0 {
					fmt.Fprintf(w, "no repository is known %s\n", s.place())
				}
				for _, r := range list {
					fmt.Fprintf(w, "%s\t%s\n", oneLine(r.Name), oneLine(r.URL))
				}
				return w.Flush()
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) repositoryForgetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "forget REPOSITORY",
		Short:   "Have a device not know a repository any more",
		Long:    `Forget removes what the device has of a repository: its URL, its key, its cache. The backups in it stay, for whoever has the key.`,
		Example: `  sovereign-build repository forget home`,
		Args:    operands("REPOSITORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.host()
			if err != nil {
				return err
			}
			if err := h.ForgetRepository(cmd.Context(), args[0]); err != nil {
				return err
			}
			return s.printer().result(map[string]string{"name": args[0]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is forgotten; what is in it stays\n", args[0])
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) repositoryVerifyCommand() *cobra.Command {
	percent := 5.0
	cmd := &cobra.Command{
		Use:   "verify [REPOSITORY]",
		Short: "Look for all that the backups of a repository need",
		Long: `Verify looks whether all that the backups lead to is in the repository, and reads
a part of it, which is held to the sums that were taken from the disks. --read
100 reads all. Whether a machine comes up from it is for backup drill to say.`,
		Example: `  sovereign-build repository verify home --read 100`,
		Args:    optional("REPOSITORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.runVerify(cmd.Context(), "", "", strings.Join(args, ""), percent)
		},
	}
	cmd.Flags().Float64Var(&percent, "read", percent, "`percent` of the disks' content that is read")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

// BackupVerifyResult is what the verify commands print.
type BackupVerifyResult struct {
	Machine    string `json:"machine,omitempty"`
	Repository string `json:"repository,omitempty"`
	runtime.Verified
}

func (s *session) runVerify(ctx context.Context, machine, id, repository string, percent float64) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	v, err := withProgress(ctx, s, machine, "read", func(ctx context.Context) (runtime.Verified, error) {
		return h.VerifyBackups(ctx, machine, id, repository, percent)
	})
	if err != nil {
		return err
	}
	return s.printer().result(BackupVerifyResult{machine, repository, v}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d backups are whole; %s of disks were read and are what they were (%.1f s)\n", v.Backups, mebibytes(v.Read), v.TookS)
		return err
	})
}
