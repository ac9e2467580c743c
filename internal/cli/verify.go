package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/build/compare"
	"github.com/sovereign-build/sovereign/pkg/build/licenses"
	"github.com/sovereign-build/sovereign/pkg/build/verify"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/artifact"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// ociPrefix tells a reference to a registry from a directory.
const ociPrefix = "oci://"

// VerifyResult is what verify prints.
type VerifyResult struct {
	Verified bool `json:"verified"`
	*verify.Report
}

func (s *session) verifyCommand() *cobra.Command {
	var keyFile, recipe string
	var rebuild bool
	var sigstore verify.Sigstore
	r := BuildRequest{}
	cmd := &cobra.Command{
		Use:   "verify BUNDLE|DIR|FILE|oci://REF",
		Short: "Check a bundle or a release, line by line",
		Long: `Verify checks everything that a bundle, or a release of several, says of itself:
who signed it, that every file is the one that was signed, that the file system
leads to the root hash which the guest holds each block to, that the provenance is
about these files and names all of the lock, and that the bills of materials are
what the image holds. It reads nothing else, and no network but that of oci://.

Each line says what was checked, or what was not and why. The first that is not
true is the last line, and the exit code is 6.

A signature says nothing without the key: give the one that you have from
elsewhere with --key. Without it, the key is the one that the bundle names itself.

With --sigstore-bundle there has to be a signature of Sigstore's too, on the
manifest of the bundle or on release.json, as cosign sign-blob or attest-blob
makes it: by this identity, and of those that --sigstore-root names. No network is
asked. The program sovereign-sigstore checks it.

A file is the signed report of an audit (audit --sign), with its signature beside
it. That rows of it failed is no lie.

With --rebuild the lock is taken out of the provenance and the bundle is built
again from the recipe; the first byte that differs is named.`,
		Example: `  sovereign-build verify dist/sql-amd64
  sovereign-build verify release-1.4 --key release.key.pub
  sovereign-build verify oci://registry.example/team/sql:1.4 --key release.key.pub --json
  sovereign-build verify dist/sql-amd64 --rebuild --recipe recipes/sql
  sovereign-build verify dist/sql-amd64 --sigstore-bundle manifest.json.sigstore.json --sigstore-root trusted_root.json \
    --sigstore-identity releases@example.com --sigstore-issuer https://accounts.example.com`,
		Args: operands("BUNDLE, DIR, FILE or oci://REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var o verify.Options
			if keyFile != "" {
				var err error
				if o.Key, err = readKey(keyFile); err != nil {
					return err
				}
			}
			if sigstore != (verify.Sigstore{}) {
				if err := sigstore.Check(); err != nil {
					return err
				}
				o.Sigstore = &sigstore
			}
			if !s.json {
				o.Tell = func(c verify.Check) { _ = clean(s.Stdout, func(w io.Writer) error { return writeCheck(w, c) }) }
			}
			if info, err := os.Stat(args[0]); err == nil && info.Mode().IsRegular() {
				if rebuild || o.Sigstore != nil {
					return fault.Errorf(fault.Usage, "%s is a file; --rebuild and --sigstore-bundle are for bundles and releases", args[0])
				}
				report, err := verify.Audit(cmd.Context(), args[0], o)
				return s.verified(report, err)
			}
			var rebuilt error
			report, err := s.verify(cmd.Context(), args[0], o, func(ctx context.Context, dir string) error {
				if rebuild {
					rebuilt = s.rebuild(ctx, dir, recipe, r)
				}
				return rebuilt
			})
			if report == nil {
				return err
			}
			if !rebuild {
				c := verify.Check{What: "rebuild", Result: verify.Skipped, Detail: "it was not asked for, with --rebuild"}
				if err == nil {
					report.Checks = append(report.Checks, c)
					if o.Tell != nil {
						o.Tell(c)
					}
				}
			} else if err == nil || rebuilt != nil && fault.ClassOf(rebuilt) == fault.Verification {
				c := verify.Check{What: "rebuild", Result: verify.OK, Detail: "the same bytes"}
				if rebuilt != nil {
					c.Result, c.Detail = verify.Failed, rebuilt.Error()
					if !s.json { // the error below has the rest
						c.Detail, _, _ = strings.Cut(c.Detail, ":\n")
					}
				}
				report.Checks = append(report.Checks, c)
				if o.Tell != nil {
					o.Tell(c)
				}
			}
			return s.verified(report, err)
		},
	}
	f := cmd.Flags()
	f.StringVar(&keyFile, "key", "", "`FILE` with the public key that has to have signed it, or to have been rotated to the one that did")
	f.BoolVar(&rebuild, "rebuild", false, "build it again and compare, which takes as long as a build")
	f.StringVar(&sigstore.Bundle, "sigstore-bundle", "", "`FILE` with a signature of Sigstore's that has to be there too, as cosign --bundle writes it")
	f.StringVar(&sigstore.Root, "sigstore-root", "", "`FILE` with those that are trusted for it: trusted_root.json")
	f.StringVar(&sigstore.Identity, "sigstore-identity", "", "`NAME` that has to have signed: an address of mail, or of a workflow")
	f.StringVar(&sigstore.IdentityRegexp, "sigstore-identity-regexp", "", "regular `expression` for the whole of the name, in its place")
	f.StringVar(&sigstore.Issuer, "sigstore-issuer", "", "`URL` of who has to have vouched for the name")
	f.StringVar(&sigstore.IssuerRegexp, "sigstore-issuer-regexp", "", "regular `expression` for the whole of that, in its place")
	f.StringVar(&recipe, "recipe", "", "`directory` of the recipe, for --rebuild (default: recipes/NAME)")
	return exits(cmd, fault.Environment, fault.Source, fault.Step, fault.Verification)
}

// verified ends the command with what a check came to.
func (s *session) verified(report *verify.Report, err error) error {
	if s.json && (err == nil || fault.ClassOf(err) == fault.Verification) {
		if printErr := s.printer().result(VerifyResult{err == nil, report}, nil); printErr != nil {
			return printErr
		}
		if err != nil {
			return told{int(fault.Verification)}
		}
	}
	return err
}

func writeCheck(w io.Writer, c verify.Check) error {
	what := c.What
	if c.Of != "" {
		what = c.Of + ": " + what
	}
	_, err := fmt.Fprintf(w, "%-12s %-28s %s\n", c.Result, oneLine(what), oneLine(c.Detail))
	return err
}

// verify checks what a name leads to; then is called for each bundle that is
// good.
func (s *session) verify(ctx context.Context, target string, o verify.Options, then func(context.Context, string) error) (_ *verify.Report, err error) {
	dir := target
	if ref, ok := strings.CutPrefix(target, ociPrefix); ok {
		if dir, err = os.MkdirTemp("", "sovereign-verify-"); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
		defer func() { err = errors.Join(err, fault.Wrap(fault.Environment, os.RemoveAll(dir))) }()
		return s.verifyRemote(ctx, ref, dir, o, then)
	}
	if _, err := os.Stat(dir); err != nil && !strings.ContainsRune(dir, filepath.Separator) {
		if dir, err = bundleFor(dir, func() (string, error) { return s.arch(ctx) }); err != nil {
			return nil, err
		}
	}
	report, err := verify.Dir(ctx, dir, o)
	if err != nil {
		return report, err
	}
	for _, d := range bundlesIn(dir) {
		if err := then(ctx, d); err != nil {
			return report, err
		}
	}
	return report, nil
}

// bundlesIn are the bundles of a directory that was verified.
func bundlesIn(dir string) []string {
	if _, err := os.Stat(filepath.Join(dir, bundle.ManifestFile)); err == nil {
		return []string{dir}
	}
	manifests, _ := filepath.Glob(filepath.Join(dir, "*", bundle.ManifestFile)) // the pattern is a good one
	var out []string
	for _, m := range manifests {
		out = append(out, filepath.Dir(m))
	}
	return out
}

// verifyRemote pulls the bundles that a reference names and checks each.
func (s *session) verifyRemote(ctx context.Context, ref, dir string, o verify.Options, then func(context.Context, string) error) (*verify.Report, error) {
	from, err := registry.Parse(ref)
	if err != nil {
		return nil, err
	}
	client := &registry.Client{}
	d, err := client.Get(ctx, from)
	if err != nil {
		return nil, err
	}
	pinned := map[string]string{"": from.Context().Digest(d.Digest.String()).String()}
	if archs, ok := artifact.Bundles(d.Manifest); ok {
		pinned = map[string]string{}
		for _, arch := range archs {
			one, _, err := artifact.Select(d.Manifest, arch)
			if err != nil {
				return nil, err
			}
			pinned[arch] = from.Context().Digest(one.Digest.String()).String()
		}
	}
	all := &verify.Report{}
	for _, arch := range slices.Sorted(maps.Keys(pinned)) {
		to := filepath.Join(dir, "bundle"+arch)
		var options []artifact.PullOption
		if o.Key != "" {
			options = append(options, artifact.WithKey(o.Key))
		}
		if _, err := artifact.Pull(ctx, client, pinned[arch], to, s.meter("pulled"), options...); err != nil {
			return all, err
		}
		report, err := verify.Bundle(ctx, to, o)
		for i := range report.Checks {
			report.Checks[i].Of = arch
		}
		all.Checks = append(all.Checks, report.Checks...)
		all.Name, all.Version, all.Index, all.Key = report.Name, report.Version, report.Index, report.Key
		if err != nil {
			return all, err
		}
		if err := then(ctx, to); err != nil {
			return all, err
		}
	}
	return all, nil
}

// rebuild builds a bundle again from its provenance's lock and compares.
func (s *session) rebuild(ctx context.Context, dir, recipe string, r BuildRequest) (err error) {
	p, err := attest.ReadProvenance(dir)
	if err != nil {
		return err
	}
	d := p.Predicate.BuildDefinition
	if recipe == "" {
		recipe = filepath.Join("recipes", d.ExternalParameters.Recipe)
	}
	out, err := os.MkdirTemp("", "sovereign-rebuild-")
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer func() { err = errors.Join(err, fault.Wrap(fault.Environment, os.RemoveAll(out))) }()
	r.Recipe, r.Arch, r.Output, r.Frozen, r.Jobs = recipe, d.ExternalParameters.Arch, out, true, 2
	r.ProgressMode = "plain"
	if r, err = s.checkBuild(r); err != nil {
		return err
	}
	r.SourceDateEpoch = fmt.Sprint(d.ExternalParameters.SourceDate)
	again, err := s.Builder.Rebuild(ctx, r, &d.InternalParameters.Lock)
	if err != nil {
		return err
	}
	report, err := compare.Bundles(ctx, dir, again.Bundle, out)
	if err != nil {
		return err
	}
	if report.Equal {
		return sameLicenses(dir, again.Bundle)
	}
	var b strings.Builder
	if err := report.WriteText(&b); err != nil {
		return err
	}
	return fault.Errorf(fault.Verification, "the rebuilt bundle is %s, and this one %s:\n%s", report.After, report.Before, b.String())
}

// sameLicenses compares the licences of a bundle with those that were found anew.
// One may be without them: in a build that got every step from others.
func sameLicenses(dir, again string) error {
	for _, name := range []string{bundle.LicensesFile, bundle.LicenseTextsFile} {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		if f := licenses.FormOf(have); name == bundle.LicensesFile && f != licenses.Form {
			return nil // another program's, which this one does not make
		}
		found, err := os.ReadFile(filepath.Join(again, name))
		if err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		if !bytes.Equal(have, found) {
			return fault.Errorf(fault.Verification, "%s is not what is found in the sources", name)
		}
	}
	return nil
}
