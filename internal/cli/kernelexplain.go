package cli

import (
	"cmp"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	archs "github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
)

func (s *session) kernelExplainCommand() *cobra.Command {
	var source, arch string
	cmd := &cobra.Command{
		Use:   "explain CONFIG|FRAGMENT|RECIPE...",
		Short: "Say which symbols Kconfig drops, why, and what to add",
		Long: `Explain computes what the kernel's own Kconfig files make of fragments and, for
each symbol that would be lost, says which of its dependencies is not met and
which lines would keep it. It builds and runs nothing of the kernel.

Symbols that no fragment names are off, as in this project's kernels. A whole
.config among the files is the configuration to start from instead: symbols it
does not name have their defaults, as with make olddefconfig. With nothing else
given its own lines are what is explained. A recipe stands for its fragments
and, without --source, for its locked kernel, which must be in the content store
(a build puts it there).

What Kconfig files ask of the compiler is answered as clang 19 would. A symbol
that hangs on such an answer is marked.`,
		Example: `  sovereign-build kernel explain recipes/sql
  sovereign-build kernel explain recipes/sql my.config --arch arm64
  sovereign-build kernel explain my.config --source linux-6.12.tar.xz --arch amd64 --json
  sovereign-build kernel explain /boot/config-6.12 my.config --source /usr/src/linux`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return operands("CONFIG, FRAGMENT or RECIPE")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("--arch", arch, append(archs.Names(), "")...); err != nil {
				return err
			}
			in, err := readKernelInputs(args, arch)
			if err != nil {
				return err
			}
			if source = cmp.Or(source, in.recipe); source == "" {
				return fault.Errorf(fault.Usage, "%s: --source is missing", cmd.CommandPath()).
					Hintf("give the kernel's source, or a recipe whose locked kernel to take")
			}
			tree, err := s.kconfig(cmd.Context(), source, in.arch)
			if err != nil {
				return err
			}
			if in.base != nil {
				s.noteWarnings(in.base)
			}
			explained := kernel.Explain(tree, in.arch, in.base, in.asked)
			explained.Overrides = in.overrides
			return s.printer().result(explained, explained.WriteText)
		},
	}
	sourceFlags(cmd, &source, &arch)
	return exits(cmd, fault.Environment, fault.Source)
}

func sourceFlags(cmd *cobra.Command, source, arch *string) {
	cmd.Flags().StringVar(source, "source", "", "kernel source: its `directory`, its tarball, or a recipe for the one it locks")
	cmd.Flags().StringVar(arch, "arch", "", "`architecture`, amd64, arm64 or riscv64 (default: the configuration's, or this machine's)")
}

// kernelInputs is what the operands of explain come to.
type kernelInputs struct {
	arch      kernel.Arch
	base      *kernel.Config // a whole .config, or nil
	asked     *kernel.Merged
	overrides []kernel.Override
	recipe    string // the recipe among the operands, or ""
}

func readKernelInputs(args []string, arch string) (*kernelInputs, error) {
	in := &kernelInputs{}
	var files []string
	var fromRecipe *recipe.Recipe
	for _, arg := range args {
		if !isRecipe(arg) {
			files = append(files, arg)
			continue
		}
		if in.recipe != "" {
			return nil, fault.Errorf(fault.Usage, "%s: a second recipe beside %s", arg, in.recipe).
				Hintf("explain one recipe at a time")
		}
		in.recipe = arg
		var err error
		if fromRecipe, err = recipe.Load(arg); err != nil {
			return nil, err
		}
	}
	var fragments []*kernel.Config
	for _, file := range files {
		c, err := kernel.ReadConfig(file)
		if err != nil {
			return nil, fault.Wrap(fault.Usage, err)
		}
		switch {
		case !c.Whole():
			if c, err = kernel.ReadFragment(file, ""); err != nil {
				return nil, fault.Wrap(fault.Usage, err)
			}
			fragments = append(fragments, c)
		case in.base != nil:
			return nil, fault.Errorf(fault.Usage, "%s: a second whole .config beside %s", file, in.base.File).
				Hintf("give one .config and fragments; kernel diff compares two")
		default:
			in.base = c
			arch = cmp.Or(arch, c.Arch())
		}
	}
	var err error
	if in.arch, err = kernel.ArchOf(cmp.Or(arch, runtime.GOARCH)); err != nil {
		return nil, err
	}
	if fromRecipe != nil {
		own, err := recipeFragments(fromRecipe, in.arch.Go)
		if err != nil {
			return nil, err
		}
		fragments = append(own, fragments...)
	}
	if len(fragments) == 0 {
		fragments = append(fragments, in.base)
	}
	in.asked, in.overrides = kernel.Merge(fragments...)
	return in, nil
}

// isRecipe says whether an operand is a recipe's directory or file.
func isRecipe(arg string) bool {
	info, err := os.Stat(arg)
	return err == nil && (info.IsDir() || filepath.Base(arg) == recipe.FileName)
}

func recipeFragments(r *recipe.Recipe, arch string) ([]*kernel.Config, error) {
	var out []*kernel.Config
	for _, name := range r.Fragments(arch) {
		c, err := kernel.ReadFragment(r.Resolve(name).String(), filepath.Clean(name))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}
