package build

import (
	"runtime"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// arch is an architecture under the names the field has for it.
type arch struct {
	kernel.Arch        // Go's name, which is ours too, and the kernel's
	Apk         string // Alpine's, the compiler's and ELF's: "x86_64"
}

// HostArch is this machine's architecture in the names recipes use.
func HostArch() string { return runtime.GOARCH }

// findArch returns the architecture named, if the recipe is made for it.
func findArch(name string, declared []string) (arch, error) {
	if !slices.Contains(declared, name) {
		return arch{}, remedy.By(remedy.Remedy{Kind: remedy.ChooseArch},
			fault.Errorf(fault.Usage, "architecture %q is not one the recipe is made for (%s)", name, strings.Join(declared, ", ")).
				Hintf("choose one of these"))
	}
	k, err := kernel.ArchOf(name)
	if err != nil {
		return arch{}, err
	}
	return arch{Arch: k, Apk: map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[name]}, nil
}
