package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// statusText says what an exit code means, in the words of
// docs/exit-codes.md.
func statusText(c fault.Class) string {
	switch c {
	case fault.Usage:
		return "a wrong flag, argument, recipe or lock"
	case fault.Environment:
		return "this machine lacks something: a tool, space, a right"
	case fault.Source:
		return "an input could not be fetched"
	case fault.Step:
		return "a build step failed; its log is named"
	case fault.Verification:
		return "a digest, signature or kernel requirement is not met"
	case fault.Differ:
		return "outputs differ"
	case fault.Device:
		return "the hypervisor or the guest did not do its part"
	case fault.Stale:
		return "the data disk is not the one the machine had last"
	case fault.Cancelled:
		return "cancelled with Ctrl-C"
	default:
		return "an internal error"
	}
}

// exits notes which codes a command ends with beside 0, 1, 2 and 130, which
// are every command's.
func exits(cmd *cobra.Command, classes ...fault.Class) *cobra.Command {
	all := append([]fault.Class{fault.Internal, fault.Usage}, classes...)
	var b strings.Builder
	b.WriteString("EXIT STATUS\n\n    0  success\n")
	for _, c := range append(all, fault.Cancelled) {
		fmt.Fprintf(&b, "  %3d  %s\n", c, statusText(c))
	}
	cmd.Long = strings.TrimSpace(cmd.Long) + "\n\n" + strings.TrimRight(b.String(), "\n")
	return cmd
}

// finish makes the flags' help of all commands alike.
func finish(cmd *cobra.Command) {
	cmd.DisableAutoGenTag = true
	cmd.DisableFlagsInUseLine = false
	cmd.Flags().SortFlags = true
	cmd.InitDefaultHelpFlag()
	cmd.Flags().Lookup("help").Usage = "show this help"
	for _, sub := range cmd.Commands() {
		finish(sub)
	}
}
