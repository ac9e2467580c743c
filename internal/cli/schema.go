package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/docs/schema"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func (s *session) schemaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema " + strings.Join(schema.Kinds(), "|"),
		Short: "Print the JSON Schema of a kind of file",
		Long: `Schema prints the JSON Schema of recipe.yaml, port.yaml or sources.yaml, for
editors that check and complete YAML while it is written.`,
		Example: `  sovereign-build schema recipe > recipe.schema.json`,
		Args:    operands("KIND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(schema.Kinds(), args[0]) {
				return fault.Errorf(fault.Usage, "no schema for %q", args[0]).
					Hintf("use one of %s", strings.Join(schema.Kinds(), ", "))
			}
			data, err := schema.Of(args[0])
			if err != nil {
				return err
			}
			_, err = s.Stdout.Write(data)
			return err
		},
	}
	return exits(cmd)
}
