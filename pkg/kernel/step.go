package kernel

import (
	_ "embed" // the scripts
	"fmt"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Files the steps read and write. Paths of inputs are absolute in the step,
// names of outputs relative to its output directory.
const (
	SourceInput    = "/src/linux"            // source tarball
	FragmentsInput = "/src/fragments.config" // Merged.Bytes
	PatchesInput   = "/src/patches"          // directory of PatchInput's files
	ConfigFile     = "kernel.config"         // both steps: the final .config
	NotesFile      = "kconfig.notes"         // both steps: see ParseNotes
	ReleaseFile    = "kernel.release"        // build step: "6.12.107-sovereign"
)

// Arch is an architecture a kernel is built for.
type Arch struct {
	Go    string // "amd64": the name in recipes and bundles
	Linux string // "x86": ARCH= of the kernel's makefiles
	Image string // "bzImage": the file the build step leaves
}

// ArchOf returns the architecture of that Go name; another name is an error of
// class fault.Usage.
func ArchOf(goarch string) (Arch, error) {
	if a, ok := arch.Of(goarch); ok {
		return Arch{Go: a.Go, Linux: a.Kernel, Image: a.Image}, nil
	}
	return Arch{}, fault.Errorf(fault.Usage, "no kernel for architecture %q", goarch).
		Hintf("use %s", arch.Choice())
}

var (
	//go:embed scripts/common.sh
	commonScript string
	//go:embed scripts/config.sh
	configScript string
	//go:embed scripts/build.sh
	buildScript string
	//go:embed scripts/build-image.sh
	buildImageScript string
)

// PatchInput is where the steps look for the patch that is i-th, from 0, of
// those applied to the source: a unified diff whose paths begin with a/ and b/.
// Name is the file's own, as errors show it, and ends in .patch.
func PatchInput(i int, name string) string {
	return fmt.Sprintf("%s/%04d-%s", PatchesInput, i, name)
}

// ConfigScript is the step that only makes the .config: ConfigFile and
// NotesFile, in about 30 CPU seconds. Run it and Verify before the build
// step, which costs minutes.
//
// The step's base is the toolchain image; inputs are SourceInput,
// FragmentsInput and as many of PatchInput as there are patches.
// SOURCE_DATE_EPOCH must be set; JOBS is the number of processors unless set;
// the output directory is $OUT, /out by default.
func ConfigScript(a Arch) string { return script(a, configScript) }

// BuildScript is the step that builds the kernel: Arch.Image, ReleaseFile and
// what the config step leaves. Inputs and environment are the same. It makes
// the .config anew, the same bytes as ConfigScript's.
func BuildScript(a Arch) string {
	// A kernel's step is known by its script, so that what is built already is
	// built by the same text for ever. It names the two first architectures.
	if a.Linux == "x86" || a.Linux == "arm64" {
		return script(a, buildScript)
	}
	return script(a, buildImageScript)
}

func script(a Arch, text string) string {
	return fmt.Sprintf("KARCH=%s\n", a.Linux) + commonScript + text
}
