package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/disk/bootable"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/release"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/artifact"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// ReleaseResult is what release prints.
type ReleaseResult struct {
	Directory string   `json:"directory"`
	Name      string   `json:"name"`
	Version   string   `json:"version"`
	Index     int64    `json:"index,omitempty"`
	Bundles   []string `json:"bundles"`
	Files     int      `json:"files"`
	// Pushed are the references by digest, by recipe.
	Pushed map[string]string `json:"pushed,omitempty"`
}

type releaseFlags struct {
	output, keyFile, rotations, last, push string
	spec                                   release.Spec
	disks, archs                           []string
}

// noDisk is the format of a release without disks.
const noDisk = "none"

func (s *session) releaseCommand() *cobra.Command {
	var f releaseFlags
	r := BuildRequest{}
	cmd := &cobra.Command{
		Use:   "release RECIPE...",
		Short: "Build, sign and put together what is given to others",
		Long: `Release builds the bundles of recipes for all their architectures, from the cache
where it can, and puts together one directory: the bundles with their provenance
and bills of materials, disks of them, the packages as a repository, notes on what
has changed since the last release, sums, and release.json, which names every file
by digest. With a key, the bundles and the list are signed. What stood in the
directory, another release, is replaced in one step.

With --push the bundles of each recipe go to a registry as one index, from which
every architecture pulls its own, with signatures and descriptions as referrers.

Two machines that release the same recipes and locks make the same bytes, but for
the signatures and the packages' own.`,
		Example: `  sovereign-build release recipes/sql -o release-1.4 --release 1.4 --key-file release.key
  sovereign-build release recipes/sql -o release-1.5 --release 1.5 --last release-1.4 \
    --key-file release.key --push oci://registry.example/team/sql:1.5`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return operands("RECIPE")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			result, err := s.release(cmd.Context(), args, f, r)
			if err != nil {
				return err
			}
			return s.printer().result(result, func(w io.Writer) error {
				if _, err := fmt.Fprintf(w, "%s %s: %s, %d files in %s\n", result.Name, result.Version, strings.Join(result.Bundles, ", "), result.Files, result.Directory); err != nil {
					return err
				}
				for _, name := range slices.Sorted(maps.Keys(result.Pushed)) {
					if _, err := fmt.Fprintf(w, "pushed %s%s\n", ociPrefix, result.Pushed[name]); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "", "`directory` that gets the release")
	keyFileFlag(cmd, &f.keyFile)
	flags.StringVar(&f.rotations, "rotations", "", "`FILE` with the rotations that lead to the key")
	flags.StringVar(&f.spec.Version, "release", "", "`version` of the release (default: the day of the newest bundle)")
	flags.StringVar(&f.spec.Name, "name", "", "`name` of a release of several recipes (default: the recipe's)")
	flags.Int64Var(&f.spec.Index, "index", 0, "`number` that is higher than that of every release before (default: the last one's and 1, or the seconds since 1970)")
	flags.StringVar(&f.last, "last", "", "`directory` of the release before, for the notes and the index")
	flags.StringVar(&f.push, "push", "", "`oci://REF` to push to; of several recipes each goes to REF's repository/NAME")
	flags.StringArrayVar(&f.disks, "disk", []string{string(bootable.Terminal)}, "`format` of a disk to make of each bundle, images.tar.gz for Android's Terminal app, or none")
	flags.StringArrayVar(&f.archs, "arch", nil, "`architecture` to build (default: all of the recipe); may be given more than once")
	r.Shared.addFlags(cmd)
	flags.StringVar(&r.ProgressMode, "progress", "auto", "how progress is shown on standard error: auto, plain, tty, rawjson or quiet")
	flags.BoolVar(&r.Offline, "offline", false, "make no network call; every input must be in the store")
	flags.IntVarP(&r.Jobs, "jobs", "j", 2, "`number` of steps that run at once")
	return exits(cmd, fault.Environment, fault.Source, fault.Step, fault.Verification)
}

func (s *session) release(ctx context.Context, recipes []string, f releaseFlags, r BuildRequest) (_ *ReleaseResult, err error) {
	if f.output == "" {
		return nil, fault.Errorf(fault.Usage, "--output is missing: where to put the release").Hintf("run sovereign-build release RECIPE -o DIR")
	}
	for _, d := range f.disks {
		if err := oneOf("--disk", d, string(bootable.Terminal), noDisk); err != nil {
			return nil, err
		}
		if d == noDisk {
			if len(f.disks) > 1 {
				return nil, fault.Errorf(fault.Usage, "--disk %s and --disk of a format exclude each other", noDisk)
			}
			break
		}
		f.spec.Disks = append(f.spec.Disks, bootable.Format(d))
	}
	if f.push != "" && !strings.HasPrefix(f.push, ociPrefix) {
		return nil, fault.Errorf(fault.Usage, "--push %q does not begin with %s", f.push, ociPrefix)
	}
	spec := f.spec
	spec.Dir = f.output
	if f.keyFile != "" || s.env(keyVariable) != "" {
		key, err := s.secretKey(f.keyFile)
		if err != nil {
			return nil, err
		}
		spec.Key = &key
	}
	if f.rotations != "" {
		if spec.Rotations, err = readSmall(f.rotations, signature.MaxSize); err != nil {
			return nil, err
		}
	}
	if spec.Last = f.last; spec.Last != "" {
		before, _, _, err := release.Read(spec.Last)
		if err != nil {
			return nil, err
		}
		if spec.Index == 0 && before.Index > 0 {
			spec.Index = before.Index + 1
		}
		if spec.Key != nil && spec.Index <= before.Index {
			return nil, fault.Errorf(fault.Usage, "--index %d is not above %d, the last release's", spec.Index, before.Index)
		}
	}
	if spec.Index == 0 {
		spec.Index = newIndex()
	}
	// Beside the release, so that nothing of dist/ is touched.
	work, err := os.MkdirTemp(filepath.Dir(filepath.Clean(f.output)), ".release-")
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer func() { err = errors.Join(err, fault.Wrap(fault.Environment, os.RemoveAll(work))) }()
	names, newest, err := s.buildAll(ctx, recipes, f.archs, work, r, &spec)
	if err != nil {
		return nil, err
	}
	if spec.Version == "" {
		spec.Version = time.Unix(newest, 0).UTC().Format("2006.01.02")
	}
	if isDir(work, "packages") {
		spec.Packages = filepath.Join(work, "packages")
	}
	l, err := release.Make(ctx, spec)
	if err != nil {
		return nil, err
	}
	result := &ReleaseResult{Directory: f.output, Name: l.Name, Version: l.Version, Index: l.Index, Bundles: l.Bundles, Files: len(l.Files)}
	if f.push == "" {
		return result, nil
	}
	result.Pushed = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var dirs []string
		for _, d := range names[name] {
			dirs = append(dirs, filepath.Join(f.output, d))
		}
		to := strings.TrimPrefix(f.push, ociPrefix)
		if len(names) > 1 {
			ref, err := registry.Parse(to)
			if err != nil {
				return nil, err
			}
			to = ref.Context().Name() + "/" + name + ":" + ref.Identifier()
		}
		ref, err := artifact.PushIndex(ctx, &registry.Client{Progress: s.meter("pushed")}, dirs, l.Version, to)
		if err != nil {
			return nil, err
		}
		result.Pushed[name] = ref.String()
	}
	return result, nil
}

// buildAll builds the recipes' bundles below work. names are the bundles'
// directories by recipe, newest the latest of their time stamps.
func (s *session) buildAll(ctx context.Context, recipes, archs []string, work string, r BuildRequest, spec *release.Spec) (names map[string][]string, newest int64, err error) {
	names = map[string][]string{}
	for _, from := range recipes {
		rec, err := recipe.Load(from)
		if err != nil {
			return nil, 0, err
		}
		of := archs
		if len(of) == 0 {
			of = rec.Architectures
		}
		for _, arch := range of {
			one := r
			one.Recipe, one.Arch, one.Output, one.Frozen = from, arch, work, true
			if one, err = s.checkBuild(one); err != nil {
				return nil, 0, err
			}
			made, err := s.Builder.Build(ctx, one)
			if err != nil {
				return nil, 0, err
			}
			m, err := bundle.Load(made.Bundle)
			if err != nil {
				return nil, 0, err
			}
			newest = max(newest, m.SourceDate)
			spec.Bundles = append(spec.Bundles, made.Bundle)
			names[m.Name] = append(names[m.Name], m.Name+"-"+m.Arch)
		}
	}
	return names, newest, nil
}
