// Package hints says what to do about an error in the words of the command
// line: the error's own hint, and the command or flag that its remedy is.
package hints

import (
	"cmp"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// Of is the hint of an error, empty where there is nothing to say.
func Of(err error) string {
	hint := fault.HintOf(err)
	r, ok := remedy.Of(err)
	if !ok {
		return hint
	}
	command := commandOf(r)
	if hint == "" || command == "" {
		return hint + command
	}
	return hint + ": " + command
}

// commandOf is the command or the flag, empty for a remedy that is none.
func commandOf(r remedy.Remedy) string {
	recipe := cmp.Or(r.Recipe, "RECIPE")
	switch r.Kind {
	case remedy.Lock:
		return "sovereign-build lock " + recipe
	case remedy.Update:
		return "sovereign-build lock --update " + strings.Join(r.Inputs, " --update ") + " " + recipe
	case remedy.Thaw:
		return "sovereign-build build " + recipe + ", without --frozen"
	case remedy.WriteSums:
		return "sovereign-build build --write-sums " + recipe
	case remedy.ChooseArch:
		return "--arch"
	case remedy.ChooseCacheDir:
		return "--cache-dir DIRECTORY"
	case remedy.GoOnline:
		return "leave --offline out"
	case remedy.UseEngine:
		return "--engine ADDRESS"
	case remedy.GiveCertificates:
		return "--engine-ca, --engine-cert, --engine-key"
	case remedy.RepairStore:
		return "sovereign-build store verify --repair"
	case remedy.ExportStore:
		return "sovereign-build store export"
	case remedy.BuildBundle:
		return "sovereign-build build " + recipe
	case remedy.PushBundle:
		return "sovereign-build oci push BUNDLE REFERENCE"
	}
	return ""
}
