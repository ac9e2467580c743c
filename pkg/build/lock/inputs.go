package lock

import (
	"path"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// NotLocked adds to an error about an input that is not locked, or not as it
// must be, what mends it. Recipe is the recipe's directory where it is known.
func NotLocked(name, recipe string, err *fault.Error) error {
	return remedy.By(remedy.Remedy{Kind: remedy.Update, Recipe: recipe, Inputs: []string{name}}, err.Hintf("lock %s", name))
}

// Count is how many inputs there are for people: the toolchain and the Go
// toolchain count as one each.
func (l *Lock) Count() int { return len(l.Sources) + len(l.Packages) + 2 }

// Inputs lists everything the lock pins by digest: sources, toolchain
// packages, Go toolchains, packages of repositories. Each has a name for
// people.
func (l *Lock) Inputs() []store.Blob {
	var all []store.Blob
	for _, s := range l.Sources {
		all = append(all, store.Blob{Name: s.Name + " " + s.Version, Digest: s.Digest, Size: s.Size})
	}
	for _, p := range l.Toolchain.Packages {
		all = append(all, store.Blob{Name: path.Base(p.File), Digest: p.Digest, Size: p.Size})
	}
	for _, m := range l.Go.Modules {
		all = append(all, store.Blob{Name: m.Name + "@" + m.Version, Digest: m.Digest, Size: m.Size})
	}
	for _, p := range l.Packages {
		all = append(all, store.Blob{Name: p.File(), Digest: p.Digest, Size: p.Size})
	}
	return all
}
