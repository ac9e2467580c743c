package build

import (
	"runtime"
	"slices"
	"strings"

	known "github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// arch is an architecture under the names the field has for it.
type arch struct {
	kernel.Arch        // Go's name, which is ours too, and the kernel's
	Apk         string // Alpine's: "x86_64"
	Target      string // clang's: "x86_64-linux-musl"
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
	row, _ := known.Of(name) // ArchOf has refused what is none
	return arch{Arch: k, Apk: row.Apk, Target: row.Target}, nil
}
