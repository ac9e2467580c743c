package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/semver"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// Deployed is what deploy prints.
type Deployed struct {
	Device string `json:"device"`
	// Sovereignd is what was done about the device's: "kept", "installed" where
	// none was there, or "replaced" where an older one was; "" where device
	// install puts none.
	Sovereignd string `json:"sovereignd"`
	UpdateResult
}

// DeployPlan is what deploy --dry-run prints.
type DeployPlan struct {
	Device     string `json:"device"`
	Sovereignd string `json:"sovereignd"` // what would be done, as in Deployed
	runtime.Deployment
}

func (s *session) deployCommand() *cobra.Command {
	o := runFlags{}
	var dry bool
	cmd := &cobra.Command{
		Use:   "deploy BUNDLE|RECIPE",
		Short: "Put a bundle on a device and keep it running there",
		Long: `Deploy has a device run a bundle and keep it running, whatever was there before.
What is not as it should be is done, and nothing else:

  - A recipe, given by its directory or file, is built for the architecture of
    the device, into dist.
  - Where ssh or adb reaches the device, a sovereignd that is missing or older than
    this program's is installed, as device install does.
  - The device has to have room for all of it; else nothing is sent.
  - Only what the device lacks of the bundle is sent. Where the link breaks, the
    same command goes on where it was.
  - What arrived is verified there, file by file, before anything uses it.
  - Where there is no machine of that name it is installed and started, as by
    up. Else it is updated, as by update: when its services do not become healthy
    in time and stay so, the former bundle is started again by itself, the reason
    is printed, and the command ends with 8. Its data disk stays in any case.

BUNDLE is a bundle's directory, or a name for dist/NAME-ARCH. Flags that are not
given stay as they are; the others hold from the machine's next start, which an
update is.

With --dry-run nothing is changed on the device: it says what would travel and
what would be done. A recipe is built all the same, as nobody knows before what
is new in it.`,
		Example: `  sovereign-build deploy recipes/sql --device ssh:nas
  sovereign-build deploy recipes/sql --device adb:R58M12ABCDE
  sovereign-build deploy dist/sql-arm64 --device ssh:nas --dry-run
  sovereign-build deploy sql --memory 1GiB --port 5432:15432 --json`,
		Args: operands("BUNDLE or RECIPE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := o.check()
			if err == nil {
				err = trialTime(size.Timeout)
			}
			if err != nil {
				return err
			}
			// It is kept running, also where it was started by run once.
			r := o.upOptions(cmd.Flags(), size)
			r.Restart = runtime.RestartAlways
			return s.runDeploy(cmd.Context(), args[0], r, size.Timeout, dry)
		},
	}
	o.sizeFlags(cmd.Flags())
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would travel and what would be done, and change nothing on the device")
	return exits(cmd, fault.Environment, fault.Source, fault.Step, fault.Verification, fault.Device)
}

func (s *session) runDeploy(ctx context.Context, operand string, o runtime.UpOptions, limit time.Duration, dry bool) error {
	d, err := s.theDevice()
	if err != nil {
		return err
	}
	// A wrong operand is found out before anything is done on the device.
	kind, err := deployable(operand)
	if err != nil {
		return err
	}
	there, err := s.prepare(ctx, d, dry)
	if err != nil {
		return err
	}
	dir := operand
	switch kind {
	case aRecipe:
		dir, err = s.buildFor(ctx, operand, there.arch)
	case aName:
		dir, err = bundleFor(operand, func() (string, error) { return there.arch, nil })
	}
	if err != nil {
		return err
	}
	if dry {
		plan, err := s.planDeploy(ctx, dir, there)
		if err != nil {
			return err
		}
		r := DeployPlan{Device: d.String(), Sovereignd: there.sovereignd, Deployment: *plan}
		return s.printer().result(r, func(w io.Writer) error { return writeDeployPlan(w, r) })
	}
	h, err := s.host()
	if err != nil {
		return err
	}
	u, err := h.Deploy(ctx, dir, "", o, limit, progress(s.printer().note))
	if err != nil {
		return err
	}
	r := Deployed{Device: d.String(), Sovereignd: there.sovereignd, UpdateResult: newUpdateResult(u.Status.Name, u)}
	return s.writeOutcome(r, r.UpdateResult)
}

// What an operand of deploy is.
type deployKind int

const (
	aBundle deployKind = iota
	aRecipe
	aName // of a bundle in dist
)

func deployable(operand string) (deployKind, error) {
	isFile := func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && info.Mode().IsRegular()
	}
	switch {
	case isFile(filepath.Join(operand, bundle.ManifestFile)):
		return aBundle, nil
	case isFile(filepath.Join(operand, recipe.FileName)) || isFile(operand):
		return aRecipe, nil
	case filepath.Base(operand) == operand:
		return aName, nil
	}
	return 0, fault.Errorf(fault.Usage, "%s: there is neither a bundle nor a recipe here", operand).
		Hintf("name a directory with a %s or a %s", bundle.ManifestFile, recipe.FileName)
}

// buildFor builds a recipe as build does, for an architecture.
func (s *session) buildFor(ctx context.Context, name, arch string) (dir string, err error) {
	r, err := s.checkBuild(BuildRequest{
		Recipe: name, Arch: arch, Output: "dist", ProgressMode: "auto", Jobs: 2, StepTimeout: engine.DefaultStepTimeout,
	})
	if err != nil {
		return "", err
	}
	built, err := s.Builder.Build(ctx, r)
	if err != nil {
		return "", err
	}
	return built.Bundle, nil
}

// preparedDevice is a device that can be deployed to.
type preparedDevice struct {
	arch       string
	sovereignd string // what was done about it, or would be
	// silent: nobody answers there yet, as nothing was done.
	silent bool
}

// What is done about a device's sovereignd.
const (
	sovereigndKept      = "kept"
	sovereigndInstalled = "installed"
	sovereigndReplaced  = "replaced"
)

// prepare sees to it that a device has a sovereignd, and one that is not older
// than this program's. With dry it only says what is to be done.
func (s *session) prepare(ctx context.Context, d device.Device, dry bool) (preparedDevice, error) {
	if !d.Installs() {
		arch, err := s.arch(ctx)
		return preparedDevice{arch: arch}, err
	}
	facts, err := device.Look(ctx, d)
	if err != nil {
		return preparedDevice{}, err
	}
	p := preparedDevice{arch: facts.Arch(), sovereignd: sovereigndKept}
	if facts.Digest == "" {
		p.sovereignd = sovereigndInstalled
	} else if old, err := s.outdated(ctx, facts); err != nil {
		return p, err
	} else if old {
		p.sovereignd = sovereigndReplaced
	}
	if p.sovereignd == sovereigndKept {
		return p, nil
	}
	p.silent = dry && p.sovereignd == sovereigndInstalled
	if dry {
		return p, nil
	}
	programs, err := device.Beside()
	if err != nil {
		return p, err
	}
	// The next request is for the new one.
	h, err := s.host()
	if err == nil {
		err = fault.Wrap(fault.Device, h.Close())
	}
	if err != nil {
		return p, err
	}
	installed, err := device.Install(ctx, d, programs, s.printer().note)
	if err != nil {
		return p, err
	}
	p.arch = installed.Facts.Arch()
	return p, rememberDevice(ctx, d, true)
}

// outdated says whether the sovereignd of a device is to be replaced by this
// program's: it is another one, and not a newer one.
func (s *session) outdated(ctx context.Context, facts device.Facts) (bool, error) {
	programs, err := device.Beside()
	if err != nil {
		return false, err
	}
	ours, err := programs.For(facts.Arch())
	if err != nil {
		// There is none to replace it by; whether it will do is for the
		// conversation with it to say.
		s.printer().note(err.Error() + "; the one that is there is kept")
		return false, nil
	}
	ours.Close()
	if ours.Digest == facts.Digest {
		return false, nil
	}
	h, err := s.host()
	if err != nil {
		return false, err
	}
	info, err := h.Info(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return false, err
		}
		return true, nil // it does not work, or speaks an older protocol
	}
	return !newer(info.Version, readVersion().Version), nil
}

// newer compares versions; one that is none is newer than nothing.
func newer(a, b string) bool {
	return semver.IsValid(a) && semver.IsValid(b) && semver.Compare(a, b) > 0
}

// planDeploy is the device's own word, or where nobody answers yet, all of it.
func (s *session) planDeploy(ctx context.Context, dir string, there preparedDevice) (*runtime.Deployment, error) {
	if there.silent {
		return runtime.PlanFirst(dir, "")
	}
	h, err := s.host()
	if err != nil {
		return nil, err
	}
	return h.PlanDeploy(ctx, dir, "")
}

func writeDeployPlan(out io.Writer, r DeployPlan) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	t := r.Transfer
	switch r.Sovereignd {
	case sovereigndInstalled, sovereigndReplaced:
		fmt.Fprintf(w, "%s: sovereignd would be %s\n", oneLine(r.Device), r.Sovereignd)
	}
	switch {
	case r.From == "":
		fmt.Fprintf(w, "%s would be installed, with %.19s\n", r.Name, t.Digest)
	case r.From == t.Digest && r.Wanted == runtime.Up:
		fmt.Fprintf(w, "%s has that bundle already, and is wanted up\n", r.Name)
	case r.From == t.Digest:
		fmt.Fprintf(w, "%s has that bundle already, and would be wanted up\n", r.Name)
	default:
		fmt.Fprintf(w, "%s would be updated, from %.19s to %.19s\n", r.Name, r.From, t.Digest)
	}
	for _, f := range t.Files {
		what := mebibytes(f.Bytes)
		switch {
		case f.There:
			what = "is there"
		case f.Chunks > 0:
			what += fmt.Sprintf(", %d of %d chunks", f.Missing, f.Chunks)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", f.File, mebibytes(f.Size), what)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	line := fmt.Sprintf("%s of %s would travel, compressed", mebibytes(t.Bytes), mebibytes(t.Size))
	if t.Free > 0 {
		line += fmt.Sprintf("; %s are free there", mebibytes(t.Free))
	}
	_, err := fmt.Fprintln(out, line)
	return err
}
