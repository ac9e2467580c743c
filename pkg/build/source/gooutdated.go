package source

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// OutdatedModules says which of the modules that the go.mod in dir names itself
// have newer versions, by the module proxy. Updating is go's business (go get):
// go.mod and go.sum are then others. The notes say what could not be asked.
func (f *Fetcher) OutdatedModules(ctx context.Context, dir string) (Outdated, []string, error) {
	o := Outdated{}
	if f.offline {
		return o, nil, offlineError([]string{"lists of newer versions"})
	}
	path := filepath.Join(dir, "go.mod")
	text, err := readSmall(path)
	if err != nil {
		return o, nil, err
	}
	main, err := modfile.Parse(path, text, nil)
	if err != nil {
		return o, nil, fault.Wrap(fault.Usage, err)
	}
	work, err := os.MkdirTemp(filepath.Join(f.cache, "gomod"), "list-")
	if err != nil {
		return o, nil, store.FullDisk(f.cache, err)
	}
	defer os.RemoveAll(work)
	// The machine's own module cache knows only what it has.
	g := goRun{f: f, dir: work, modCache: filepath.Join(work, "mod"), proxiesOnly: true}
	var newer, notes []string
	direct := 0
	for _, r := range main.Require {
		if r.Indirect {
			continue
		}
		if direct++; direct == 1 {
			o.Locked = r.Mod.Version
		}
		out, err := g.run(ctx, "list", "-m", "-json", r.Mod.Path+"@latest")
		var latest struct{ Version string }
		if err == nil {
			if jerr := json.Unmarshal(out, &latest); jerr != nil || !semver.IsValid(latest.Version) {
				err = fault.Errorf(fault.Source, "go list names no version: %.100q", out)
			}
		}
		switch {
		case err != nil && !tryNext(ctx, err):
			return o, nil, err
		case err != nil:
			notes = append(notes, fmt.Sprintf("%s: %v", r.Mod.Path, err))
		case semver.Compare(latest.Version, r.Mod.Version) > 0:
			newer = append(newer, fmt.Sprintf("%s %s → %s", r.Mod.Path, r.Mod.Version, latest.Version))
		}
	}
	slices.Sort(newer)
	if len(newer) > 0 {
		o.Newer = []Offer{{Version: fmt.Sprintf("%d of %d modules it names have newer versions", len(newer), direct), Where: "go.mod", Available: true, Packages: newer}}
	}
	return o, notes, context.Cause(ctx)
}
