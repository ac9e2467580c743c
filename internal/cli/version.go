package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the Makefile through the linker, and only there.
var version string

// versionInfo is what version prints.
type versionInfo struct {
	Version  string `json:"version"`            // of the module, "(devel)" from a checkout
	Revision string `json:"revision,omitempty"` // of the checkout
	Changed  bool   `json:"changed"`            // the checkout had changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (s *session) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    `Version prints the version and what the program was built with.`,
		Example: `  sovereign-build version --json`,
		Args:    operands(),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := readVersion()
			return s.printer().result(v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "sovereign-build %s %s (%s, %s)\n", v.Version, v.Revision, v.Go, v.Platform)
				return err
			})
		},
	}
	return exits(cmd)
}

func readVersion() versionInfo {
	v := versionInfo{Version: "(unknown)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	if version != "" {
		v.Version = version
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			v.Revision = setting.Value
		case "vcs.modified":
			v.Changed = setting.Value == "true"
		}
	}
	return v
}
