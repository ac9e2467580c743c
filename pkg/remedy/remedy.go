// Package remedy names what would mend an error, so that a program can offer it
// in its own way: sovereign-build as a command or a flag, another program as a
// button or by doing it.
//
// An error comes in and goes out with a [Remedy]. Its hint (package fault) says
// the same in words that fit every program. The package does nothing itself.
package remedy

import "errors"

// Kind is what would mend an error. Kinds are only ever added.
type Kind string

const (
	// Lock is to pin the recipe's inputs: (*build.Builder).UpdateLock.
	Lock Kind = "lock"
	// Update is to pin other versions of Inputs: UpdateLock with their names.
	Update Kind = "update"
	// Thaw is to let the lock change: without build.WithFrozenLock.
	Thaw Kind = "thaw"
	// WriteSums is to write the recipe's sums: build.WithSums(build.SumsWrite).
	WriteSums Kind = "write-sums"
	// ChooseArch is to choose an architecture: build.WithArch.
	ChooseArch Kind = "choose-arch"
	// ChooseCacheDir is to choose a cache directory: build.WithCacheDir.
	ChooseCacheDir Kind = "choose-cache-dir"
	// GoOnline is to let the network be used: without build.WithOffline.
	GoOnline Kind = "go-online"
	// UseEngine is to use an engine elsewhere: engine.WithAddress.
	UseEngine Kind = "use-engine"
	// GiveCertificates is to give an engine's certificates: engine.WithTLS.
	GiveCertificates Kind = "give-certificates"
	// RepairStore is to remove what is damaged: (*store.Store).Verify.
	RepairStore Kind = "repair-store"
	// ExportStore is to make an archive of inputs: transfer.Export.
	ExportStore Kind = "export-store"
	// BuildBundle is to make a bundle: (*build.Builder).Bundle.
	BuildBundle Kind = "build-bundle"
	// PushBundle is to push a bundle to a registry: artifact.Push.
	PushBundle Kind = "push-bundle"
)

// Remedy is what would mend an error.
type Remedy struct {
	Kind Kind
	// Recipe is the recipe's directory where it is known, else "".
	Recipe string
	// Inputs are the names of the inputs to pin anew, for Update.
	Inputs []string
}

// Error is an error that has a remedy.
type Error struct {
	Remedy
	Err error
}

// Error is the text of the error inside.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the error inside.
func (e *Error) Unwrap() error { return e.Err }

// By gives err a remedy.
func By(r Remedy, err error) error { return &Error{r, err} }

// Of returns the remedy of the outermost error in the chain that has one.
func Of(err error) (Remedy, bool) {
	var e *Error
	if !errors.As(err, &e) {
		return Remedy{}, false
	}
	return e.Remedy, true
}
