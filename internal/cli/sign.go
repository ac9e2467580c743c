package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// SignResult is what sign prints.
type SignResult struct {
	Bundle string `json:"bundle"`
	signature.Statement
	Signed []string `json:"signed"` // the files that were written
}

func (s *session) signCommand() *cobra.Command {
	var file, rotations string
	o := attest.Options{}
	cmd := &cobra.Command{
		Use:   "sign BUNDLE",
		Short: "Sign a bundle",
		Long: `Sign verifies a bundle and signs it: manifest.json.minisig, which the program
minisign reads as well, says who vouches for it, in which version, and with which
index. The index only grows: a machine refuses what is older than what it had.
The files that describe the bundle (provenance and lists of its parts) are under
the signature too, and the provenance gets one in its own format.

The bundle's recipe has to name the key (release: key); without one, nothing asks
for a signature. The bundle's own bytes stay as they are.`,
		Example: `  sovereign-build sign dist/sql-amd64 --key-file release.key
  SOVEREIGN_KEY="$(pass show release)" sovereign-build sign dist/sql-amd64 --release 1.4 --index 14`,
		Args: operands("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := bundleFor(args[0], func() (string, error) { return s.arch(cmd.Context()) })
			if err != nil {
				return err
			}
			if o.Key, err = s.secretKey(file); err != nil {
				return err
			}
			if rotations != "" {
				if o.Rotations, err = readSmall(rotations, signature.MaxSize); err != nil {
					return err
				}
			}
			if o.Index == 0 {
				o.Index = newIndex()
			}
			signed, files, err := attest.Sign(cmd.Context(), dir, o)
			if err != nil {
				return err
			}
			return s.printer().result(SignResult{dir, *signed, files}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "signed %s, version %s, index %d, by %s\n", dir, signed.Version, signed.Index, signed.Key)
				return err
			})
		},
	}
	keyFileFlag(cmd, &file)
	f := cmd.Flags()
	f.StringVar(&rotations, "rotations", "", "`FILE` with the rotations that lead to the key, as key rotate writes it")
	f.StringVar(&o.Version, "release", "", "`version` for people (default: the day of the bundle's time stamp)")
	f.Int64Var(&o.Index, "index", 0, "`number` that is higher than that of every bundle before (default: the seconds since 1970)")
	return exits(cmd, fault.Environment, fault.Verification)
}

// newIndex is higher than every one of before, as far as clocks go.
func newIndex() int64 { return time.Now().Unix() }
