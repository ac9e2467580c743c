package cli

import (
	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) completionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "completion bash|zsh|fish",
		Short:   "Print a shell's completion script",
		Long:    `Completion prints a script that teaches a shell to complete commands and flags.`,
		Example: `  source <(sovereign-build completion bash)`,
		Args:    operands("SHELL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(s.Stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(s.Stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(s.Stdout, true)
			}
			return fault.Errorf(fault.Usage, "no completion for %q", args[0]).Hintf("use one of bash, zsh, fish")
		},
	}
	return exits(cmd)
}
