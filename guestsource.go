// Package sovereign carries the source of the programs that run in the guest.
//
// The build compiles them in its engine like any other port, with the pinned
// Go toolchain. Embedding their source means that a build, by the command line
// or by any program that imports pkg/build, always gets the guest that belongs
// to it, wherever that program was itself built.
package sovereign

import (
	"embed"
	"io/fs"
	"path"
	"strings"
)

//go:embed go.mod go.sum cmd/sovereign-init pkg/runtime/guest pkg/fault internal/atomicfile internal/muxhttp
var guest embed.FS

// GuestPackage is the path, in GuestSource, of the guest's main program.
const GuestPackage = "./cmd/sovereign-init"

// GuestSource calls fn for every file of the guest's source, sorted by name,
// tests and their data left out. Names are relative to the module's root.
func GuestSource(fn func(name string, content []byte) error) error {
	return fs.WalkDir(guest, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path.Base(name) == "testdata":
			return fs.SkipDir
		case d.IsDir() || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		content, err := guest.ReadFile(name)
		if err != nil {
			return err
		}
		return fn(name, content)
	})
}
