package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (s *session) completionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a shell's completion script",
		Long: `Completion prints a script that teaches a shell to complete commands and flags,
and the names of machines, their services and their secrets.`,
		Example:   `  source <(sovereign-build completion bash)`,
		Args:      operands("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish"},
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

// complete teaches the commands what their operands can be, by the words of
// their usage lines: NAME is a machine, SERVICE one of its services,
// SERVICE/SECRET a secret that its URLs name, PORT one of its ports.
func (s *session) complete(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		s.complete(sub)
	}
	words := strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(cmd.Use))[1:]
	if cmd.ValidArgs != nil || cmd.ValidArgsFunction != nil || len(words) == 0 || !strings.HasPrefix(words[0], "NAME") {
		return
	}
	cmd.ValidArgsFunction = func(called *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			files := cobra.ShellCompDirectiveNoFileComp
			if words[0] != "NAME" {
				files = cobra.ShellCompDirectiveDefault // a bundle's directory will do
			}
			return lines(s.names(called.Context())), files
		}
		if len(args) >= len(words) && !strings.HasSuffix(cmd.Use, "...]") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		switch word := words[min(len(args), len(words)-1)]; {
		case word == "SERVICE/SECRET":
			return lines(s.ofMachine(called.Context(), args[0], secretNames)), cobra.ShellCompDirectiveNoFileComp
		case strings.HasPrefix(word, "SERVICE"):
			return lines(s.ofMachine(called.Context(), args[0], (*runtime.Machine).LogNames)), cobra.ShellCompDirectiveNoFileComp
		case strings.HasPrefix(word, "PORT"):
			return lines(s.ofMachine(called.Context(), args[0], portNames)), cobra.ShellCompDirectiveNoFileComp
		case word == "BUNDLE":
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// lines makes each word one line of what the shell is given.
func lines(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = oneLine(w)
	}
	return out
}

// completeLimit is how long a shell waits for a device's answer.
const completeLimit = 3 * time.Second

// names and ofMachine complete nothing where there is an error: the command
// itself will say it.
func (s *session) names(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	h, err := s.host()
	if err != nil {
		return nil
	}
	machines, err := h.Machines(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, m := range machines {
		names = append(names, m.Name)
	}
	return names
}

func (s *session) ofMachine(ctx context.Context, name string, get func(*runtime.Machine, context.Context) ([]string, error)) []string {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	m, err := s.machine(name)
	if err != nil {
		return nil
	}
	words, err := get(m, ctx)
	if err != nil {
		return nil
	}
	return words
}

func secretNames(m *runtime.Machine, ctx context.Context) ([]string, error) {
	refs, err := m.Secrets(ctx)
	var names []string
	for _, ref := range refs {
		names = append(names, ref.Service+"/"+ref.Name)
	}
	return names, err
}

func portNames(m *runtime.Machine, ctx context.Context) ([]string, error) {
	manifest, err := m.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range manifest.Ports {
		names = append(names, strconv.Itoa(p.Port))
	}
	return names, nil
}
