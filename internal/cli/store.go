package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/transfer"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// storeResult is what export and import print.
type storeResult struct {
	File string `json:"file"`
	store.Transfer
}

func (s *session) storeCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use:   "store",
		Short: "Carry a build's inputs to another machine, and keep the store in order",
		Long: `Store moves the inputs of builds between content stores, for machines without a
network, finds what is damaged in this machine's, and removes what nothing
needs.`,
		Example: `  sovereign-build store export inputs.tar recipes/sql
  sovereign-build store import inputs.tar
  sovereign-build build recipes/sql --offline
  sovereign-build store verify
  sovereign-build store gc --dry-run`,
	})
	cmd.AddCommand(s.storeExportCommand(), s.storeImportCommand(), s.storeVerifyCommand(), s.storeCollectCommand())
	return exits(cmd)
}

func (s *session) storeExportCommand() *cobra.Command {
	var offline bool
	cmd := &cobra.Command{
		Use:   "export FILE [RECIPE...]",
		Short: "Write all inputs of locks to one archive",
		Long: `Export writes everything the locks of the recipes pin to one tar archive: every
source, toolchain package and Go toolchain, and the Go modules of the ports.
What the content store lacks is fetched first. Without a recipe it is every
input the store holds. The same inputs give the same archive. FILE may be - for
standard output.`,
		Example: `  sovereign-build store export inputs.tar recipes/sql
  sovereign-build store export - recipes/sql | ssh builder sovereign-build store import -`,
		Args: atLeast("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" && s.json {
				return fault.Errorf(fault.Usage, "--json and the archive cannot both go to standard output").Hintf("name a file")
			}
			result := storeResult{File: args[0]}
			err := s.output(args[0], func(w io.Writer) (err error) {
				result.Transfer, err = s.export(cmd.Context(), w, args[1:], offline)
				return err
			})
			if err != nil {
				return err
			}
			if args[0] == "-" {
				return nil
			}
			return s.printer().result(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "wrote %s, %d inputs, %s\n", result.File, result.Blobs, mebibytes(result.Bytes))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "fetch nothing; an input that is not in the store is an error")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification)
}

func (s *session) storeImportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take an archive of inputs into the content store",
		Long: `Import takes what store export has written into this machine's content store,
each input verified. What is there already is skipped, so that the same command
continues an import that was interrupted. FILE may be - for standard input.`,
		Example: `  sovereign-build store import inputs.tar`,
		Args:    operands("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			result := storeResult{File: args[0]}
			err := s.input(args[0], func(r io.Reader) error {
				st, _, err := s.openStore()
				if err != nil {
					return err
				}
				result.Transfer, err = transfer.Import(cmd.Context(), r, st, s.blobs("read"))
				return err
			})
			if err != nil {
				return err
			}
			return s.printer().result(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "took %d inputs, %s, of them %d there already\n", result.Blobs, mebibytes(result.Bytes), result.Present)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Source, fault.Verification)
}

func (s *session) export(ctx context.Context, w io.Writer, recipes []string, offline bool) (store.Transfer, error) {
	st, cache, err := s.openStore()
	if err != nil {
		return store.Transfer{}, err
	}
	mirrors, err := userMirrors()
	if err != nil {
		return store.Transfer{}, err
	}
	p := s.printer()
	fetcher, err := source.New(source.WithStore(st), source.WithCacheDir(cache), source.WithOffline(offline), source.WithMirrors(mirrors), source.WithProgress(func(e source.Event) {
		switch e.Kind {
		case source.Retried:
			p.note(fmt.Sprintf("sovereign-build: %s: %s", e.Name, e.Message))
		case source.Finished:
			p.note(fmt.Sprintf("sovereign-build: %s: fetched %s", e.Name, mebibytes(e.Done)))
		}
	}))
	if err != nil {
		return store.Transfer{}, err
	}
	buffered := bufio.NewWriterSize(w, 1<<20)
	t, err := transfer.Export(ctx, buffered, st, fetcher, recipes, s.blobs("wrote"))
	if err != nil {
		return t, err
	}
	return t, fault.Wrap(fault.Environment, buffered.Flush())
}

// openStore opens the content store that builds use, in the cache directory.
func (s *session) openStore() (*store.Store, string, error) {
	cache := s.cacheDir
	if cache == "" {
		var err error
		if cache, err = build.DefaultCacheDir(); err != nil {
			return nil, "", err
		}
	}
	st, err := store.Open(filepath.Join(cache, "store"))
	return st, cache, err
}

// blobs notes a line now and then.
func (s *session) blobs(verb string) store.Progress {
	p := s.printer()
	said := time.Now()
	return func(b store.Blob, n, of int) {
		if now := time.Now(); now.Sub(said) >= meterEvery {
			said = now
			p.note(fmt.Sprintf("sovereign-build: %s %d of %d, now %s", verb, n-1, of, b.Name))
		}
	}
}

// output gives write standard output for "-", else a file that takes its name
// when it is whole.
func (s *session) output(name string, write func(io.Writer) error) error {
	if name == "-" {
		return write(s.Stdout)
	}
	return replaceFile(name, func(f *os.File) error { return write(f) })
}

// input gives read standard input for "-", else the file.
func (s *session) input(name string, read func(io.Reader) error) error {
	if name == "-" {
		return read(s.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return fault.Wrap(fault.Usage, err)
	}
	return errors.Join(read(f), f.Close())
}

// atLeast checks that the named arguments are there; more may follow.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return operands(names...)(cmd, args)
		}
		return nil
	}
}
