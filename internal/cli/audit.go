package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/audit/image"
	"github.com/sovereign-build/sovereign/pkg/audit/live"
	"github.com/sovereign-build/sovereign/pkg/build/verify"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) auditCommand() *cobra.Command {
	var disturb bool
	var sign, keyFile string
	cmd := &cobra.Command{
		Use:   "audit NAME|BUNDLE",
		Short: "Prove the field guide's 22 items, by looking",
		Long: `Audit holds a bundle or a running machine against the 22 traps of the field
guide (docs/field-guide.md), and says of each what it looked at, what it saw and
what that comes to:

  proven          it is as it should be
  failed          it is not, and how to mend it
  not proven      it cannot be seen here, and why: this is no pass
  not applicable  there is no such trap here, and how that is known

What contains a slash is a bundle's directory; anything else is a machine, or,
where there is no such machine here, a bundle in dist. Of a bundle the root
image, the packages and the kernel's .config are looked at. A machine is asked
from within: devices, settings, SQL, the log of its kernel. That takes less than
a minute and changes nothing.

--disturb also tries what can only be tried: the data disk is frozen for a
second, every service and PostgreSQL's postmaster are killed and have to heal,
and so is the sovereignd of this computer. Connections break, nothing that was
committed is lost.

--sign writes the report to a file as well, as JSON, and its signature, which
minisign reads too, beside it; verify checks both. Of a machine it says when.`,
		Example: `  sovereign-build audit dist/sql-amd64
  sovereign-build audit sql
  sovereign-build audit sql --disturb --json
  sovereign-build audit sql --sign sql-audit.json --key-file release.key
  sovereign-build verify sql-audit.json --key release.key.pub`,
		Args: operands("NAME or BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var key signature.SecretKey
			if sign != "" {
				var err error // before a minute of looking
				if key, err = s.secretKey(keyFile); err != nil {
					return err
				}
			} else if keyFile != "" {
				return fault.Errorf(fault.Usage, "--key-file signs the report that --sign writes, and that is missing")
			}
			facts, err := s.facts(cmd.Context(), args[0], disturb)
			if err != nil {
				return err
			}
			report := audit.Judge(facts)
			if sign != "" {
				if err := signAudit(report, sign, key, time.Now()); err != nil {
					return err
				}
			}
			return s.writeAudit(args[0], report)
		},
	}
	cmd.Flags().BoolVar(&disturb, "disturb", false, "try also what disturbs the machine: kills that have to heal, a freeze")
	cmd.Flags().StringVar(&sign, "sign", "", "`FILE` that gets the report, and FILE.minisig its signature")
	keyFileFlag(cmd, &keyFile)
	cmd.AddCommand(s.auditCVECommand())
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

// signAudit writes a report and its signature.
func signAudit(r *audit.Report, path string, key signature.SecretKey, now time.Time) error {
	if r.Kind == audit.KindMachine {
		r.Time = now.UTC().Format(time.RFC3339)
	}
	text, err := r.Marshal()
	if err != nil {
		return err
	}
	note, err := signature.SignNote(key, audit.Note, text)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(path, text, 0o644); err != nil {
		return err
	}
	return atomicfile.Write(path+verify.SignatureSuffix, note, 0o644)
}

// facts looks at a bundle, or at a machine.
func (s *session) facts(ctx context.Context, name string, disturb bool) (*audit.Facts, error) {
	_, err := os.Stat(filepath.Join(name, bundle.ManifestFile))
	isBundle := err == nil || strings.ContainsRune(name, filepath.Separator)
	if !isBundle {
		known, err := s.knows(ctx, name)
		if err != nil {
			return nil, err
		}
		isBundle = !known
	}
	if !isBundle {
		h, err := s.host()
		if err != nil {
			return nil, err
		}
		return live.Look(ctx, h, name, live.Options{Here: !s.remote(), Disturb: disturb, Report: s.printer().note})
	}
	if disturb {
		return nil, fault.Errorf(fault.Usage, "--disturb is for a machine, and %s is none", name).
			Hintf("start it with %s", s.command("up "+shellWord(name)))
	}
	dir, err := bundleFor(name, func() (string, error) { return s.arch(ctx) })
	if err != nil {
		return nil, err
	}
	s.printer().note("looking at " + dir)
	return image.Look(ctx, dir)
}

// knows says whether the device has a machine of that name.
func (s *session) knows(ctx context.Context, name string) (bool, error) {
	h, err := s.host()
	if err != nil {
		return false, err
	}
	all, err := h.Machines(ctx)
	if err != nil {
		return false, err
	}
	for _, m := range all {
		if m.Name == name {
			return true, nil
		}
	}
	return false, nil
}

// verdictWords are the verdicts for people.
var verdictWords = map[audit.Verdict]string{
	audit.Proven: "proven", audit.Failed: "FAILED", audit.NotProven: "not proven", audit.NotApplicable: "not applicable",
}

// writeAudit ends with 6 when a row failed.
func (s *session) writeAudit(name string, r *audit.Report) error {
	err := s.printer().result(r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s %s (%s), bundle %s\n\n", r.Kind, oneLine(r.Name), oneLine(r.Arch), oneLine(r.Bundle))
		for _, row := range r.Rows {
			fmt.Fprintf(w, "%2d  %-14s  %s: %s\n", row.Number, verdictWords[row.Verdict], row.Part, row.Item)
			line := func(what, text string) {
				if text != "" {
					fmt.Fprintf(w, "    %s: %s\n", what, oneLine(text))
				}
			}
			line("looked at", row.Looked)
			line("seen", row.Seen)
			line("why", row.Why)
			mend := row.Mend
			if command := s.remedyCommand(name, row.Remedy); command != "" {
				mend += ": " + command
			}
			if row.Verdict == audit.NotProven {
				line("to prove it", mend)
			} else {
				line("to mend it", mend)
			}
		}
		c := r.Counts
		_, err := fmt.Fprintf(w, "\n%d proven, %d failed, %d not proven, %d not applicable\n", c.Proven, c.Failed, c.NotProven, c.NotApplicable)
		return err
	})
	if err == nil && !r.OK() {
		return told{int(fault.Verification)}
	}
	return err
}

// remedyCommand is the command that a remedy is, "" for one that is none.
func (s *session) remedyCommand(name string, r audit.Remedy) string {
	name = shellWord(name)
	switch r {
	case audit.Rebuild:
		return "sovereign-build build RECIPE"
	case audit.RunIt, audit.KeepUp:
		return s.command("up " + name)
	case audit.Disturb:
		return s.command("audit " + name + " --disturb")
	case audit.ResetSetting:
		return s.command("psql " + name + " -- --command 'ALTER SYSTEM RESET …'")
	case audit.Reindex:
		return s.command("reindex " + name)
	case audit.GiveAuthKey:
		return s.command("secret set " + name + " tailscale/auth-key --from-file FILE")
	case audit.ReadLog:
		return s.command("logs " + name)
	}
	return ""
}
