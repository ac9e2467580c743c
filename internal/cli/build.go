package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) buildCommand() *cobra.Command {
	r := BuildRequest{}
	cmd := &cobra.Command{
		Use:   "build RECIPE",
		Short: "Build a recipe's bundle",
		Long: `Build makes the bundle of a recipe, given the recipe's directory or file: the
kernel, the packages and the root file system, from the sources the lock pins.
What has not changed since an earlier build is not done again; a miss says why.
With --cache, results of compile steps are taken from where other machines have
put them: those that a key has signed which the recipe, the configuration
(sovereign/cache.yaml) or --cache-trust names. With --cache-push they are put
there. Both are of this program; --cache-from and --cache-to are BuildKit's own.

A build that had to lock something (packages of the recipe's repositories, or
with --relock-missing what is gone) saves the lock when it ends. With --frozen
that is an error instead, and so is whatever no lock pins.

Where sovereign.sums stands beside the recipe, each output is compared with what
it was on the machine that wrote the file; the first that differs is named.

With --json the last line of standard output is one object with the bundle's
directory and digest, the number of steps run and cached, and the seconds.`,
		Example: `  sovereign-build build recipes/sql
  sovereign-build build recipes/sql --arch arm64 --json
  sovereign-build build recipes/sql --check-sums
  sovereign-build build recipes/sql --cache oci://registry.example/team/cache --cache-trust ci.key.pub
  sovereign-build build recipes/sql --cache-push /srv/cache --cache-key-file ci.key
  sovereign-build build recipes/sql --engine tcp://builder.example:1234 \
    --engine-ca ca.pem --engine-cert me.pem --engine-key me.key`,
		Args: operands("RECIPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Recipe = args[0]
			return s.runBuild(cmd, r)
		},
	}
	r.addFlags(cmd)
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be done and why, and do nothing")
	cmd.Flags().BoolVar(&r.CheckSums, "check-sums", false, "fail when a step, or the bundle, is not what the recipe's sovereign.sums says")
	cmd.Flags().BoolVar(&r.WriteSums, "write-sums", false, "write what this build made into the recipe's sovereign.sums")
	cmd.Flags().BoolVar(&r.Frozen, "frozen", false, "refuse to change the lock, and to build in what no lock pins")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "check-sums", "write-sums")
	return exits(cmd, fault.Environment, fault.Source, fault.Step, fault.Verification, fault.Differ)
}

// addFlags adds the flags of every command that builds.
func (r *BuildRequest) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	r.addInputFlags(cmd)
	f.StringVar(&r.Engine, "engine", "", "`address` of a BuildKit daemon: unix://, tcp://, docker-container://, kube-pod://, ssh:// (default: a private daemon)")
	f.StringVar(&r.EngineTLS.CA, "engine-ca", "", "`file` with the certificate that a tcp:// engine's is signed by")
	f.StringVar(&r.EngineTLS.Cert, "engine-cert", "", "`file` with the certificate that a tcp:// engine knows this client by")
	f.StringVar(&r.EngineTLS.Key, "engine-key", "", "`file` with the key of --engine-cert")
	f.StringVar(&r.EngineTLS.ServerName, "engine-name", "", "`name` in a tcp:// engine's certificate (default: the address's)")
	f.StringArrayVar(&r.CacheFrom, "cache-from", nil, "`cache` that the engine may take results from: type=registry,ref=HOST/NAME, type=local,src=DIR or type=s3,…; may be given more than once")
	f.StringArrayVar(&r.CacheTo, "cache-to", nil, "`cache` that the engine puts results into: type=registry,ref=HOST/NAME,mode=max, type=local,dest=DIR or type=s3,…; may be given more than once")
	r.Shared.addFlags(cmd)
	f.DurationVar(&r.StepTimeout, "step-timeout", engine.DefaultStepTimeout, "most `time` that one step may take")
	f.StringVar(&r.ProgressMode, "progress", "auto", "how progress is shown on standard error: auto, plain, tty, rawjson or quiet")
	f.BoolVar(&r.Offline, "offline", false, "make no network call; every input must be in the store")
	f.BoolVar(&r.RelockMissing, "relock-missing", false, "lock another version of an input that every mirror says it does not have, once, and say so")
	f.IntVarP(&r.Jobs, "jobs", "j", 2, "`number` of steps that run at once")
}

// addInputFlags adds those that say what is built, and where to.
func (r *BuildRequest) addInputFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.Arch, "arch", "", "`architecture`, amd64 or arm64 (default: this machine's)")
	f.StringVarP(&r.Output, "output", "o", "dist", "`directory` that gets the bundle NAME-ARCH")
	f.StringArrayVar(&r.Repositories, "repository", nil, "further apk repository, a `URL` or directory; may be given more than once")
	f.StringArrayVar(&r.Keys, "key", nil, "public key `file` of a further repository; may be given more than once")
}

func (s *session) runBuild(cmd *cobra.Command, r BuildRequest) error {
	r, err := s.checkBuild(r)
	if err != nil {
		return err
	}
	if r.DryRun {
		return s.runDry(cmd, r)
	}
	result, err := s.Builder.Build(cmd.Context(), r)
	if err != nil {
		return err
	}
	return s.printer().result(result, func(w io.Writer) error { return writeBuild(w, result) })
}

// runDry prints a plan in the form of a build's result.
func (s *session) runDry(cmd *cobra.Command, r BuildRequest) error {
	began := time.Now()
	plan, err := s.Builder.Plan(cmd.Context(), r)
	if err != nil {
		return err
	}
	result := &BuildResult{Name: plan.Name, Arch: plan.Arch, Bundle: plan.Bundle, Digest: plan.Digest, Reasons: plan.Reasons(),
		Changed: plan.Changed, Seconds: time.Since(began).Seconds()}
	for _, step := range plan.Steps {
		if step.Engine && step.Cached {
			result.StepsCached++
		}
	}
	return s.printer().result(result, func(w io.Writer) error { return writePlan(w, plan) })
}

func (s *session) planCommand() *cobra.Command {
	r := BuildRequest{ProgressMode: "quiet", Jobs: 1}
	cmd := &cobra.Command{
		Use:   "plan RECIPE",
		Short: "Say what a build would do, and why",
		Long: `Plan finds out what build would do with a recipe: the steps that would run, and
what has changed since they ran last. It has no effects: nothing is fetched or
started, no lock is changed, and nothing is written.

What comes after a step that would run is not known before that has run: the
plan names the first step of each chain, and ports that wait for it. With --json
it lists the steps that are in the cache as well.

It is what build --dry-run prints.`,
		Example: `  sovereign-build plan recipes/sql
  sovereign-build plan recipes/sql --arch arm64 --json`,
		Args: operands("RECIPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Recipe = args[0]
			r, err := s.checkBuild(r)
			if err != nil {
				return err
			}
			plan, err := s.Builder.Plan(cmd.Context(), r)
			if err != nil {
				return err
			}
			return s.printer().result(plan, func(w io.Writer) error { return writePlan(w, plan) })
		},
	}
	r.addInputFlags(cmd)
	cmd.Flags().BoolVar(&r.Frozen, "frozen", false, "refuse what build --frozen refuses")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification)
}

func writePlan(w io.Writer, p *build.Plan) error {
	var b strings.Builder
	reasons := p.Reasons()
	if len(reasons) == 0 {
		b.WriteString("nothing to do\n")
	}
	for _, reason := range reasons {
		fmt.Fprintf(&b, "would run: %s\n", reason)
	}
	writeChanged(&b, p.Changed)
	_, err := io.WriteString(w, b.String())
	return err
}

func writeChanged(w io.Writer, changed []string) {
	if len(changed) > 0 {
		fmt.Fprintf(w, "built from a changed lock: %s\n", strings.Join(changed, ", "))
	}
}

// checkBuild finds out what is wrong with a request at once, and completes it.
func (s *session) checkBuild(r BuildRequest) (BuildRequest, error) {
	if err := oneOf("--arch", r.Arch, append(arch.Names(), "")...); err != nil {
		return r, err
	}
	if err := oneOf("--progress", r.ProgressMode, "auto", "plain", "tty", "rawjson", "quiet"); err != nil {
		return r, err
	}
	switch {
	case r.Frozen && r.RelockMissing:
		return r, fault.Errorf(fault.Usage, "--frozen and --relock-missing exclude each other")
	case r.Frozen && len(r.Repositories) > 0:
		return r, fault.Errorf(fault.Usage, "--frozen and --repository exclude each other: no lock pins what is in %s", r.Repositories[0]).
			Hintf("name the repository in the recipe")
	}
	if r.Jobs < 1 || r.Jobs > 64 {
		return r, fault.Errorf(fault.Usage, "--jobs %d is not between 1 and 64", r.Jobs)
	}
	// Found out here, a wrong variable costs a second and not a download.
	if _, err := lock.SourceDate(&lock.Lock{SourceDate: 1}, s.env("SOURCE_DATE_EPOCH")); err != nil {
		return r, err
	}
	if err := r.Shared.complete(s, r.Offline); err != nil {
		return r, err
	}
	r.CacheDir = s.cacheDir
	r.SourceDateEpoch = s.env("SOURCE_DATE_EPOCH")
	r.Progress = s.Stderr
	return r, nil
}

func writeBuild(w io.Writer, r *BuildResult) error {
	var b strings.Builder
	fetched := ""
	if r.StepsFetched > 0 {
		fetched = fmt.Sprintf(", %d from a shared cache", r.StepsFetched)
	}
	fmt.Fprintf(&b, "bundle  %s\ndigest  %s\nsteps   %d run, %d cached%s, %.1f s\n", r.Bundle, r.Digest, r.StepsRun, r.StepsCached, fetched, r.Seconds)
	for _, reason := range r.Reasons {
		fmt.Fprintf(&b, "ran     %s\n", reason)
	}
	writeChanged(&b, r.Changed)
	_, err := io.WriteString(w, b.String())
	return err
}

// oneOf checks the value of a flag.
func oneOf(flag, value string, allowed ...string) error {
	var words []string
	for _, a := range allowed {
		if value == a {
			return nil
		}
		if a != "" {
			words = append(words, a)
		}
	}
	return fault.Errorf(fault.Usage, "%s %q is not one of %s", flag, value, strings.Join(words, ", "))
}
